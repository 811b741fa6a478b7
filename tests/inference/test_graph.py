"""Preprocessing as part of a graph: what Preprocess and Predictor do, by operations that export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bixt3d
from bixt3d.datasets.preprocess import Preprocess, scatter_keys
from bixt3d.inference.graph import RawModel, least_points
from tests.models.randomize import randomize


class Seen(nn.Module):
    """Returns the points that it is given."""

    def forward(self, points: Tensor) -> Tensor:
        return points


def clouds(count: int, channels: int = 3) -> Tensor:
    return torch.randn(2, count, channels, dtype=torch.float64) * 5 + 100


@pytest.mark.parametrize("order", ["stored", "fps"])
@pytest.mark.parametrize("own", [1, 2, 20, 39, 40, 41, 99, 100, 101, 350])
@pytest.mark.parametrize("up", [None, "z"])
def test_it_sees_what_a_predictor_sees(order: str, own: int, up: str | None) -> None:
    preprocess = Preprocess(40, order, 100, ("normal",), up)
    points = clouds(own, 6)
    seen = RawModel(Seen(), preprocess, per_point=False)(points)
    assert seen.shape == (2, 40, 6) and seen.dtype == torch.float32
    for cloud, of_cloud in zip(points, seen, strict=True):
        assert torch.equal(of_cloud, preprocess.choose(preprocess.normalize(cloud)))


@pytest.mark.parametrize("own", [20, 40, 90, 350])
def test_a_random_draw(own: int) -> None:
    preprocess = Preprocess(40, "random", 100)
    points = clouds(own)
    seen = RawModel(Seen(), preprocess, per_point=False)(points)
    rows = {tuple(row) for row in preprocess.normalize(points[0]).tolist()}
    drawn = [tuple(row) for row in seen[0].tolist()]
    assert len(set(drawn)) == min(own, 40) and set(drawn) <= rows
    assert own <= 40 or not torch.equal(seen[0], preprocess.normalize(points[0])[:40])


@pytest.mark.parametrize("order", ["stored", "fps"])
def test_all_points_where_no_number_is_said(order: str) -> None:
    preprocess = Preprocess(None, order)
    points = clouds(60)
    seen = RawModel(Seen(), preprocess, per_point=False)(points)
    assert torch.equal(seen[1], preprocess.choose(preprocess.normalize(points[1])))


@pytest.mark.parametrize("size", [None, 64])
@pytest.mark.parametrize("own", [30, 64, 65, 128, 200])
def test_each_point_is_labelled_in_its_place(size: int | None, own: int) -> None:
    """The logits of a point are those of the point, whichever pass it is in."""
    points = clouds(own)
    raw = RawModel(Seen(), Preprocess(size, "random"), per_point=True)
    assert torch.equal(raw(points), Preprocess().normalize(points))


def test_passes_are_those_of_evaluation_for_a_cloud_of_one_pass() -> None:
    """With as many points as the model takes there is no draw, and the order changes nothing but rounding."""
    torch.manual_seed(0)
    sizes = {"dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4, "drop_path": 0.0}
    model = bixt3d.create_model("bixt_ti_partseg", num_parts=5, num_categories=3, **sizes).eval()
    randomize(model, 0.2)
    points, category = clouds(64), torch.tensor([2, 0])
    with torch.no_grad():
        found = RawModel(model, Preprocess(64, "random"), per_point=True)(points, category)
        expected = model(Preprocess().normalize(points), category)  # type: ignore[operator]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_category_that_is_none_is_refused() -> None:
    """Also in an exported program, where -1 would be the last one."""
    sizes = {"dim": 12, "depth": 1, "num_heads": 2, "num_latents": 4, "drop_path": 0.0}
    model = bixt3d.create_model("bixt_ti_partseg", num_parts=5, num_categories=3, **sizes).eval()
    raw, points = RawModel(model, Preprocess(64, "random"), per_point=True), clouds(64)
    with pytest.raises(ValueError, match="category: expected 0 to 2, got"):
        raw(points, torch.tensor([2, -1]))
    program = torch.export.export(raw, (points, torch.tensor([2, 1])), strict=False).module()
    assert program(points, torch.tensor([2, 0])).shape == (2, 64, 5)
    for wrong in (-1, 3):
        with pytest.raises(IndexError):
            program(points, torch.tensor([2, wrong]))


def test_a_draw_is_even_and_takes_each_once() -> None:
    keys = scatter_keys(torch.arange(1 << 20))
    assert int(keys.min()) >= 0 and int(keys.max()) < 1 << 32
    order = keys.argsort()
    assert torch.equal(order.sort().values, torch.arange(1 << 20)) and len(keys.unique()) == 1 << 20
    for part in (order[:4096], order[4096:8192]):
        counts = torch.bincount(part * 64 >> 20, minlength=64)  # 64 on average in each 64th
        assert 30 < int(counts.min()) and int(counts.max()) < 100
    steps = order[1:5000] - order[:4999]
    assert steps.unique().numel() > 4900  # no lattice
    assert torch.equal(scatter_keys(torch.arange(5)), keys[:5])


def test_the_fewest_points() -> None:
    model = bixt3d.create_model("bixt_ti_cls_grouping", neighbors=6)
    assert least_points(model, Preprocess()) == model.least_points >= 6
    assert least_points(model, Preprocess(64)) == 2
