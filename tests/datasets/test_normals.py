"""Estimated normals: of surfaces whose normals are known, in data sets, and where they cannot be known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bixt3d.datasets import Split, open_dataset
from bixt3d.datasets.normals import estimate_normals, estimate_split


def sphere(count: int = 2000) -> Tensor:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return points / points.norm(dim=-1, keepdim=True)


def cube(count: int = 3000) -> tuple[Tensor, Tensor]:
    """Points on a cube, and their outward normals."""
    random = torch.Generator().manual_seed(1)
    points = torch.rand(count, 3, generator=random, dtype=torch.float64) * 2 - 1
    face = torch.randint(0, 6, (count,), generator=random)
    axis, sign = face // 2, (face % 2 * 2 - 1).double()
    row = torch.arange(count)
    points[row, axis] = sign
    normal = torch.zeros(count, 3, dtype=torch.float64)
    normal[row, axis] = sign
    return points, normal


def degrees(first: Tensor, second: Tensor) -> Tensor:
    return torch.rad2deg(torch.arccos((first * second).sum(-1).clamp(-1, 1)))


def test_of_a_sphere_point_outward() -> None:
    points = sphere()
    off = degrees(estimate_normals(points), points)
    assert off.median() < 3 and off.quantile(0.99) < 10


def test_of_a_cube_away_from_its_edges() -> None:
    points, normal = cube()
    inside = (points.abs() > 0.6).sum(-1) == 1  # only its own face is near
    off = degrees(estimate_normals(points), normal)[inside]
    assert int(inside.sum()) > 800 and off.max() < 1e-3


@pytest.mark.parametrize("shift", [0.0, 5e6])
def test_place_and_scale_do_not_matter(shift: float) -> None:
    points = sphere(500)
    expected = estimate_normals(points)
    torch.testing.assert_close(estimate_normals(points * 3 + shift), expected, atol=1e-4, rtol=0)
    many = estimate_normals(torch.stack([points, points * 7]))
    torch.testing.assert_close(many, torch.stack([expected, expected]), atol=1e-6, rtol=0)
    assert estimate_normals(points.float()).dtype == torch.float32


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.stack([sphere(300), sphere(300) * 2])
    expected = estimate_normals(points)
    monkeypatch.setattr("bixt3d.datasets.normals.CHUNK", 64)
    torch.testing.assert_close(estimate_normals(points), expected)


def test_unknown_where_there_is_no_surface() -> None:
    line = torch.arange(20.0)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    assert estimate_normals(line).abs().max() == 0
    assert estimate_normals(torch.zeros(40, 3)).abs().max() == 0
    assert estimate_normals(torch.tensor([[0.0, 0, 0], [1, 1, 1]])).abs().max() == 0
    flat = torch.cat([torch.rand(5, 2), torch.zeros(5, 1)], -1)  # fewer points than neighbours
    torch.testing.assert_close(estimate_normals(flat).abs(), torch.tensor([0.0, 0, 1]).expand(5, 3))


def test_repeated_points_of_a_split_count_once() -> None:
    points = sphere(60).float()
    padded = points[torch.arange(200) % 60]
    split = Split(padded[None], torch.tensor([0]), ("ball",), count=torch.tensor([60]))
    made = estimate_split(split)
    assert made.features == ("normal",)
    expected = estimate_normals(points)[torch.arange(200) % 60]
    torch.testing.assert_close(made.points[0, :, 3:], expected)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("balls")
    for split in ("train", "test"):
        for name, scale in (("ball", (1, 1, 1)), ("egg", (1, 2, 1))):
            (root / split / name).mkdir(parents=True)
            for number in range(2):
                cloud = sphere(400).numpy() * scale
                np.savetxt(root / split / name / f"{number}.xyz", cloud)
    return root


def test_data_set_without_normals(root: Path) -> None:
    assert open_dataset("folder", root, "test").features == ()
    split = open_dataset("folder", root, "test", estimate_normals=True)
    assert split.features == ("normal",) and split.num_points == 2048
    ball = split.points[split.label == 0]
    off = degrees(ball[..., 3:].double(), torch.nn.functional.normalize(ball[..., :3].double(), dim=-1))
    assert off.median() < 6
    named = open_dataset("folder", root, "test", 100, ["normal", "height"], estimate_normals=True, up="z")
    assert named.features == ("normal", "height") and named.points.shape == (4, 100, 7)
    xyz_alone = open_dataset("folder", root, "test", features=[], estimate_normals=True)
    assert xyz_alone.features == ()


def test_normals_of_files_are_kept(tmp_path: Path) -> None:
    cloud = sphere(300)
    wrong = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(300, 3)
    for split in ("train", "test"):
        (tmp_path / split / "ball").mkdir(parents=True)
        for number in range(2):
            np.savetxt(tmp_path / split / "ball" / f"{number}.xyz", torch.cat([cloud, wrong], -1))
    split = open_dataset("folder", tmp_path, "test", estimate_normals=True)
    torch.testing.assert_close(split.points[0, :, 3:], wrong[:1].float().expand(2048, 3))


def test_feature_that_does_not_follow_from_others_is_still_missing(root: Path) -> None:
    with pytest.raises(ValueError, match="no feature color"):
        open_dataset("folder", root, "test", features=["normal", "color"], estimate_normals=True)
    with pytest.raises(ValueError, match="no feature normal"):
        open_dataset("folder", root, "test", features=["normal"])
