"""Stray points: which are found, the sphere of the others, and the same in an exported graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d import Predictor, Split, create_model
from bixt3d.datasets.cache import cached
from bixt3d.datasets.loader import arrange_split
from bixt3d.datasets.mapped import Mapped
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.strays import kept_rows, normalize_as, robust_sphere, stray_points
from bixt3d.inference.graph import RawModel
from tests.datasets.test_mapped import build, folder
from tests.datasets.test_mapped import split_of as split_of_files

__all__ = ["folder"]  # a fixture


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sphere(count: int, seed: int = 0) -> Tensor:
    """Points (count, 3) of the unit sphere, spread by Fibonacci's spiral, so that all are as far apart."""
    row = torch.arange(count, dtype=torch.float64) + 0.5
    height, turn = 1 - 2 * row / count, torch.pi * (1 + 5**0.5) * row
    flat = (1 - height**2).sqrt()
    points = torch.stack([flat * turn.cos(), height, flat * turn.sin()], -1)
    return points[torch.randperm(count, generator=seeded(seed))]


FAR_AWAY = torch.tensor([[5.0, 0, 0], [0, -7, 0], [0.2, 0.1, 0]], dtype=torch.float64)


def test_what_stands_apart_is_found_and_nothing_else() -> None:
    clouds = torch.stack([torch.cat([FAR_AWAY, sphere(400)]), torch.cat([sphere(400), FAR_AWAY])])
    found = stray_points(clouds)
    assert found[0].nonzero().flatten().tolist() == [0, 1, 2]
    assert found[1].nonzero().flatten().tolist() == [400, 401, 402]
    assert not stray_points(sphere(400)[None]).any()


def test_as_the_obvious_way_finds_it() -> None:
    cloud = torch.randn(200, 3, generator=seeded())
    apart = np.sort(np.linalg.norm(cloud.numpy()[:, None] - cloud.numpy()[None], axis=-1), 1)[:, 1:9].mean(1)
    expected = apart > 2.0 * np.sort(apart)[99]
    assert 0 < expected.sum() < 40
    assert stray_points(cloud[None])[0].tolist() == expected.tolist()


def test_points_at_one_place_count_once() -> None:
    own = torch.cat([FAR_AWAY, sphere(400)])
    again = torch.cat([own, own[:1].expand(20, -1), own[50:250]])
    found = stray_points(again[None])[0]
    assert found.nonzero().flatten().tolist() == [0, 1, 2, *range(403, 423)]


def test_an_uneven_cloud_has_none() -> None:
    dense = sphere(300) * 0.01
    cloud = torch.cat([dense, sphere(250)])  # 45 % of it are far apart, beside the others
    assert not stray_points(cloud[None]).any()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_clouds_of_few_points(count: int) -> None:
    assert not stray_points(sphere(count)[None]).any()


def test_sphere_of_the_others() -> None:
    points = torch.cat([3 * sphere(400) + 10, FAR_AWAY * 10])[None]
    moved = robust_sphere(points, points, stray_points(points))[0]
    torch.testing.assert_close(moved[:400].mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    assert float(moved[:400].norm(dim=-1).max()) == pytest.approx(1)
    assert float(moved.norm(dim=-1).max()) > 10


def test_kept_rows_begin_again() -> None:
    index, count = kept_rows(torch.tensor([[True, False, False, True, False], [False] * 5]))
    assert index.tolist() == [[1, 2, 4, 1, 2], [0, 1, 2, 3, 4]] and count.tolist() == [3, 5]


def split_of(clouds: Tensor, count: Tensor | None = None) -> Split:
    return Split(clouds.float(), torch.zeros(len(clouds), dtype=torch.int64), ("ball",), count=count)


def test_split_drops_them_and_says_how_many_are_left() -> None:
    clouds = torch.stack([torch.cat([FAR_AWAY, sphere(400)]), torch.cat([sphere(400), sphere(3, 1) * 1.0])])
    split = normalize_as(split_of(clouds), "robust", drop=True)
    assert split.normalized and split.count is not None and split.count[0] == 400
    torch.testing.assert_close(split.points[0, :400], sphere(400).float(), atol=1e-3, rtol=0)
    assert split.points[0, 400:].equal(split.points[0, :3])
    kept = normalize_as(split_of(clouds), "robust")
    assert kept.count is None and float(kept.points[0].norm(dim=-1).max()) > 5


def test_max_is_as_before() -> None:
    clouds = torch.cat([FAR_AWAY, sphere(40)])[None]
    split = normalize_as(split_of(clouds), "max", drop=True)
    assert float(split.points.norm(dim=-1).max()) == pytest.approx(1) and split.count is None


def test_rows_beyond_count_are_no_points() -> None:
    own = torch.cat([sphere(300), FAR_AWAY])
    centre = sphere(300).mean(0)
    farthest = (sphere(300) - centre).norm(dim=-1).max()
    clouds = torch.cat([own, own[torch.arange(100) % 303]])[None]
    split = normalize_as(split_of(clouds, torch.tensor([303])), "robust", drop=True)
    assert split.count is not None and split.count.tolist() == [300]
    assert torch.unique(split.points[0], dim=0).shape == (300, 3)
    expected = ((sphere(300) - centre) / farthest).float()
    torch.testing.assert_close(split.points[0, :300], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("drop", [True, False])
def test_clouds_in_files_as_those_in_memory(drop: bool, folder: Path) -> None:
    mapped = split_of_files(cached([folder / "source.txt"], "key", build, folder=folder), folder)
    held = replace(mapped, points=mapped.points.clone(), parts=mapped.parts.clone())  # type: ignore[union-attr]
    assert isinstance(mapped.points, Mapped) and not isinstance(held.points, Mapped)
    there, here = (normalize_as(split, "robust", drop) for split in (mapped, held))
    assert isinstance(there.points, Mapped) and isinstance(there.parts, Mapped) and here.parts is not None
    assert there.points.clone().equal(here.points) and there.parts.clone().equal(here.parts)
    assert there.count is not None and here.count is not None and there.count.equal(here.count)
    assert bool((here.count < mapped.count).any()) == drop  # type: ignore[operator]


class Seen(nn.Module):
    def forward(self, points: Tensor) -> Tensor:
        return points


@pytest.mark.parametrize("own", [20, 90, 300, 500])
@pytest.mark.parametrize("order", ["fps", "stored"])
def test_graph_sees_what_predictor_sees(own: int, order: str) -> None:
    preprocess = Preprocess(64, order, 200, normalization="robust")
    cloud = torch.cat([FAR_AWAY, 4 * sphere(own)])[torch.randperm(own + 3, generator=seeded(own))]
    seen = preprocess.choose(preprocess.normalize(cloud))
    assert seen.shape == (64, 3) and float(seen.norm(dim=-1).max()) < 1.1
    normal = F.normalize(cloud, dim=-1)
    raw = RawModel(Seen(), preprocess, per_point=False)
    assert raw(torch.stack([cloud, normal]))[0].equal(seen)


def test_training_sees_what_predictor_sees() -> None:
    preprocess = Preprocess(64, "fps", 203, normalization="robust")
    uneven = sphere(200) + 0.02 * torch.randn(200, 3, generator=seeded())  # no two as far from a third
    cloud = torch.cat([FAR_AWAY, uneven]).float().double()
    split = arrange_split(normalize_as(split_of(cloud[None]), "robust", drop=True), 64, "fps")
    torch.testing.assert_close(
        split.points[0], preprocess.choose(preprocess.normalize(cloud)), atol=1e-6, rtol=0
    )


def test_recorded_and_old_checkpoints_load() -> None:
    preprocess = Preprocess(64, "fps", normalization="robust")
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    old = {name: value for name, value in preprocess.to_dict().items() if name != "normalization"}
    assert Preprocess.from_dict(old).normalization == "max"
    with pytest.raises(ValueError, match="normalization: expected one of max, robust, got 'best'"):
        Preprocess(normalization="best")
    with pytest.raises(ValueError, match="expected num_points for an export"):
        RawModel(Seen(), Preprocess(normalization="robust"), per_point=False)


def test_exported_graph_sees_it_for_any_number_of_points() -> None:
    preprocess = Preprocess(64, "fps", 200, normalization="robust")
    several = torch.stack([sphere(150), sphere(150, 1)])
    sizes = ({1: torch.export.Dim("n", min=16, max=4000)},)
    graph = torch.export.export(
        RawModel(Seen(), preprocess, per_point=False), (several,), dynamic_shapes=sizes
    )
    for own in (40, 90, 500):
        cloud = torch.cat([4 * sphere(own), FAR_AWAY])
        found = graph.module()(torch.stack([cloud, cloud]))
        torch.testing.assert_close(found[1], preprocess.choose(preprocess.normalize(cloud)))


def test_predictor_takes_it_for_a_model_of_another_training() -> None:
    torch.manual_seed(0)
    model = create_model("bixt_ti_cls", num_classes=3, dim=16, num_heads=1, num_latents=4, depth=1)
    own = torch.cat([sphere(200), FAR_AWAY])
    plain, robust = (Predictor(model, normalization=way) for way in (None, "robust"))
    assert plain.preprocess.normalization == "max" and robust.preprocess.normalization == "robust"
    seen = robust(own.numpy()).points
    assert seen.shape == (200, 3)
    torch.testing.assert_close(torch.from_numpy(seen), sphere(200).float(), atol=1e-3, rtol=0)
    assert plain(own.numpy()).points.shape == (203, 3)
    with pytest.raises(ValueError, match="normalization: expected one of max, robust, got 'best'"):
        Predictor(model, normalization="best")
