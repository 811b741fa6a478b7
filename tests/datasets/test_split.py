from __future__ import annotations

import numpy as np
import pytest
import torch

from bixt3d.datasets.holdout import cut_train, hold_out
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.datasets.split import Split
from tests.markers import needs_cuda


def some_split(**changes: object) -> Split:
    fields: dict[str, object] = {
        "points": torch.rand(4, 5, 3),
        "label": torch.tensor([0, 1, 0, 1]),
        "classes": ("cup", "lamp"),
        "names": ("a", "b", "c", "d"),
    }
    return Split(**{**fields, **changes})  # type: ignore[arg-type]


def part_fields() -> dict[str, object]:
    return {
        "parts": torch.tensor([[0, 1, 0, 1, 0], [2, 2, 2, 4, 2], [0, 0, 0, 0, 0], [4, 4, 2, 2, 2]]),
        "category": torch.tensor([0, 1, 0, 1]),
        "categories": ("Cup", "Lamp"),
        "parts_of_category": ((0, 1), (2, 4)),
    }


def test_split_says_what_it_holds() -> None:
    points = torch.cat([torch.rand(4, 5, 3), torch.tensor([0.0, 0.6, -0.8]).expand(4, 5, 3)], -1)
    split = some_split(points=points)
    assert (len(split), split.num_points, split.channels) == (4, 5, 6)
    assert split.features == ("normal",) and some_split().features == ()
    assert repr(split) == "Split(4 shapes, points (4, 5, 6) on cpu, 2 classes)"
    assert "2 categories with parts" in repr(some_split(**part_fields()))


def test_select_takes_every_field_along() -> None:
    split = some_split(**part_fields())
    picked = split.select([2, 1])
    assert torch.equal(picked.points, split.points[[2, 1]])
    assert picked.label.tolist() == [0, 1] and picked.category.tolist() == [0, 1]
    assert torch.equal(picked.parts, split.parts[[2, 1]])
    assert picked.names == ("c", "b") and picked.classes == split.classes
    assert picked.parts_of_category == split.parts_of_category
    masked = split.select(torch.tensor([False, True, True, False]))
    assert masked.names == ("b", "c")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "at least one"),
        ([4], r"0\.\.3 .*came 4\.\.4"),
        ([-1], r"came -1\.\.-1"),
        (torch.zeros(2, dtype=torch.bool), "int64"),
        (torch.zeros(4, dtype=torch.bool), "at least one"),
        ([0.5], "int64"),
    ],
)
def test_select_refuses(index: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        some_split().select(index)  # type: ignore[arg-type]


def test_to_moves_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []

    def record(tensor: torch.Tensor, device: str) -> torch.Tensor:
        moved.append((tuple(tensor.shape), device))
        return tensor

    split = some_split(**part_fields())
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", record)
        again = split.to("elsewhere")
    assert sorted(moved) == [(shape, "elsewhere") for shape in ((4,), (4,), (4, 5), (4, 5, 3))]
    assert again.names == split.names and again.parts_of_category == split.parts_of_category


@needs_cuda
def test_to_cuda() -> None:
    split = some_split(**part_fields()).to("cuda").select([3, 0])
    assert {split.points.device.type, split.label.device.type, split.parts.device.type} == {"cuda"}
    assert split.names == ("d", "a")


def nan_points() -> torch.Tensor:
    points = torch.rand(4, 5, 3)
    points[2, 1, 0] = float("nan")
    return points


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": torch.rand(4, 5)}, r"points: expected \(S, N, 3 \+ features\) float32, .*\(4, 5\)$"),
        ({"points": torch.rand(4, 5, 2)}, r"\(4, 5, 2\)$"),
        ({"points": torch.rand(4, 5, 4)}, "expected the names of what stands beside xyz in 4 channels"),
        ({"points": torch.rand(4, 5, 3).double()}, "float64"),
        ({"points": np.full((4, 5, 3), "a")}, "came ndarray"),
        ({"points": torch.rand(4, 5, 3).tolist()}, "came list"),
        ({"points": torch.rand(0, 5, 3)}, "at least one shape"),
        ({"points": torch.rand(4, 0, 3)}, "at least one shape"),
        ({"points": nan_points()}, "NaN or infinity in 1 shapes, first 2"),
        ({"points": torch.full((4, 5, 3), -float("inf"))}, "in 4 shapes, first 0"),
        ({"label": torch.tensor([0, 1, 0])}, r"label: expected \(4,\) int64, .*\(3,\)$"),
        ({"label": torch.tensor([0, 1, 0, 1], dtype=torch.int32)}, "int32"),
        ({"label": torch.tensor([0, 1, 0, 2])}, r"0\.\.1 \(2 classes\), came 0\.\.2"),
        ({"label": torch.tensor([0, 1, 0, -1])}, r"came -1\.\.1"),
        ({"classes": ()}, "classes: expected a tuple of names"),
        ({"classes": ("cup", "cup")}, "cup more than once"),
        ({"label": torch.zeros(4, dtype=torch.int64, device="meta")}, "one device, came cpu, meta"),
        ({"names": ("a",)}, "names: expected one for each of the 4"),
    ],
)
def test_split_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        some_split(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category": None}, "together, came parts: True, category: False"),
        ({"parts": None}, "together"),
        ({"categories": ()}, "together"),
        ({"parts_of_category": ((0, 1),)}, "for each of 2 categories"),
        ({"parts_of_category": ((0, 1), ())}, "for each of 2 categories"),
        ({"parts_of_category": ((0, 1), (-2, 4))}, "from 0 up"),
        ({"category": torch.tensor([0, 1, 2, 0])}, r"category: expected values in 0\.\.1"),
        ({"parts": torch.zeros(4, 6, dtype=torch.int64)}, r"parts: expected \(4, 5\) int64, .*\(4, 6\)$"),
        ({"parts": torch.full((4, 5), 5)}, r"parts: expected values in 0\.\.4"),
        ({"categories": ("Cup", "Cup")}, "Cup more than once"),
    ],
)
def test_part_split_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        some_split(**{**part_fields(), **changes})


def test_hold_out_is_stratified_and_complete() -> None:
    label = torch.tensor([0] * 40 + [1] * 3 + [2] * 1 + [3] * 97)[torch.randperm(141)]
    train, val = hold_out(label)
    assert train.dtype == val.dtype == torch.int64
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(141))
    assert torch.equal(train, train.sort().values) and torch.equal(val, val.sort().values)
    assert label[val].bincount(minlength=4).tolist() == [4, 1, 0, 10]  # a lone shape stays in train


def test_hold_out_never_takes_a_whole_class() -> None:
    train, val = hold_out(torch.tensor([0, 0, 1, 1]), fraction=0.9)
    assert len(train) == len(val) == 2


def test_hold_out_is_fixed_for_good() -> None:
    """These positions decide which shapes every trained model has seen: they must never move."""
    fixed = [6, 8, 10]
    label = torch.arange(30) % 3
    assert hold_out(label)[1].tolist() == fixed
    torch.manual_seed(5)
    np.random.seed(5)
    state = torch.get_rng_state()
    assert hold_out(label)[1].tolist() == fixed
    assert torch.equal(state, torch.get_rng_state())
    assert hold_out(label, seed=1)[1].tolist() != fixed


@pytest.mark.parametrize(
    ("label", "fraction"),
    [
        (torch.tensor([0.0, 1.0]), 0.1),
        (torch.zeros(2, 2, dtype=torch.int64), 0.1),
        (torch.zeros(0, dtype=torch.int64), 0.1),
        ([0, 1], 0.1),
        (torch.tensor([0, 0]), 0.0),
        (torch.tensor([0, 0]), 1.0),
        (torch.tensor([0, 0]), float("nan")),
    ],
)
def test_hold_out_refuses(label: torch.Tensor, fraction: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        hold_out(label, fraction)


def test_cut_train_adds_up() -> None:
    whole = some_split()
    train, val = cut_train(whole, "train"), cut_train(whole, "val")
    assert sorted(train.names + val.names) == ["a", "b", "c", "d"]
    assert len(val) == 2  # one of each class
    assert cut_train(whole, "trainval") is whole
    with pytest.raises(ValueError, match="came 'test'"):
        cut_train(whole, "test")


def test_cut_train_needs_two_of_a_class() -> None:
    lone = some_split(classes=("p", "q", "r", "s"), label=torch.arange(4))
    with pytest.raises(ValueError, match="trainval"):
        cut_train(lone, "val")


def test_unit_sphere() -> None:
    points = torch.randn(2, 3, 50, 3) * 7 + torch.tensor([5.0, -2.0, 1.0])
    before = points.clone()
    out = unit_sphere(points)
    assert torch.equal(points, before)
    assert out.shape == points.shape
    torch.testing.assert_close(out.mean(dim=-2), torch.zeros(2, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.norm(dim=-1).amax(dim=-1), torch.ones(2, 3))
    # only moved and scaled: distances keep their ratio
    ratio = (out[..., 0, :] - out[..., 1, :]).norm(dim=-1) / (points[..., 0, :] - points[..., 1, :]).norm(
        dim=-1
    )
    radius = (points - points.mean(-2, keepdim=True)).norm(dim=-1).amax(-1)
    torch.testing.assert_close(ratio, 1 / radius)
    torch.testing.assert_close(unit_sphere(points * 3 - 4), out, atol=1e-5, rtol=1e-4)


def test_unit_sphere_of_one_place_is_zero() -> None:
    assert torch.equal(unit_sphere(torch.ones(1, 4, 3)), torch.zeros(1, 4, 3))


@pytest.mark.parametrize(
    "points", [torch.rand(5, 2), torch.rand(3), torch.rand(0, 3), torch.ones(5, 3, dtype=torch.int64)]
)
def test_unit_sphere_refuses(points: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected a float tensor"):
        unit_sphere(points)
