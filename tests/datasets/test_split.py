from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bixt3d.datasets.holdout import cut_train, hold_out
from bixt3d.datasets.spheres import normalize_split, unit_sphere
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
        ([4], r"0\.\.3 .*got 4\.\.4"),
        ([-1], r"got -1\.\.-1"),
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
        ({"points": torch.rand(4, 3, 100)}, r"got \(4, 3, 100\): transpose it$"),
        ({"points": np.full((4, 5, 3), 1e300)}, "in 4 shapes, first 0"),
        ({"points": np.ones((4, 5, 3), bool)}, "got ndarray"),
        ({"points": np.ma.masked_less(np.random.rand(4, 5, 3), 0.5)}, "got MaskedArray"),
        ({"label": np.array([0.0, 1, 0, 1])}, "label: expected .* got ndarray"),
        ({"label": [0, 1, 0]}, r"label: expected \(4,\) int64"),
        ({"label": [0, 1, 0, 2]}, r"got 0\.\.2"),
        ({"label": [True, False, True, False]}, "got list"),
        ({"label": [0, 1, 0, 10**30]}, r"label: expected \(4,\) int64"),
        ({"label": ["cup", "lamp", "cup", "lamp"]}, "got list"),
        ({"classes": "cup"}, "classes: expected a tuple of names"),
        ({"classes": [0, 1]}, "classes: expected a tuple of names"),
        ({"features": ("color",)}, r"features: expected 6 channels \(xyz 3, color 3\), got 3"),
        ({"points": torch.rand(4, 5, 6)}, "got numbers such as .*, as colours have of length"),
        (
            {"points": torch.rand(4, 5, 6), "features": ("normal",)},
            "points: feature normal: expected vectors",
        ),
        (
            {"points": torch.rand(4, 5, 6) * 255, "features": ("color",)},
            "points: feature color: .*got fractions up to",
        ),
        (
            {"points": torch.rand(4, 5, 6) - 2, "features": ("color",)},
            "points: feature color: .*from 0 to 1, got -",
        ),
        ({"points": torch.rand(4, 5, 3).half()}, "float16"),
        ({"points": np.full((4, 5, 3), "a")}, "got ndarray"),
        ({"points": torch.rand(4, 5, 3).tolist()}, "got list"),
        ({"points": torch.rand(0, 5, 3)}, "at least one shape"),
        ({"points": torch.rand(4, 0, 3)}, "at least one shape"),
        ({"points": nan_points()}, "NaN or infinity in 1 shape, first 2"),
        ({"points": torch.full((4, 5, 3), -float("inf"))}, "in 4 shapes, first 0"),
        ({"label": torch.tensor([0, 1, 0])}, r"label: expected \(4,\) int64, .*\(3,\)$"),
        ({"label": torch.tensor([0, 1, 0, 1], dtype=torch.int32)}, "int32"),
        ({"label": torch.tensor([0, 1, 0, 2])}, r"0\.\.1 \(2 classes\), got 0\.\.2"),
        ({"label": torch.tensor([0, 1, 0, -2])}, r"got -2\.\.1"),
        ({"classes": ()}, "classes: expected a tuple of names"),
        ({"classes": ("cup", "cup")}, "cup more than once"),
        ({"label": torch.zeros(4, dtype=torch.int64, device="meta")}, "one device, got cpu, meta"),
        ({"names": ("a",)}, "names: expected one for each of the 4"),
    ],
)
def test_split_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        some_split(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category": None}, "together, got parts: True, category: False"),
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
    with pytest.raises(ValueError, match="got 'test'"):
        cut_train(whole, "test")


def test_cut_train_of_clouds_in_their_own_unit_never_gives_val_the_most_points() -> None:
    scenes = Split(torch.randn(3, 15, 3), torch.zeros(3, dtype=torch.int64), ("s",), names=tuple("abc"))
    drawn = cut_train(scenes, "val").names[0]
    for unit in (False, True):
        for large in "abc":
            count = torch.tensor([15 if name == large else 3 + at for at, name in enumerate("abc")])
            whole = replace(scenes, count=count, normalized=unit)
            train, val = cut_train(whole, "train"), cut_train(whole, "val")
            assert sorted(train.names + val.names) == [*"abc"]
            smallest = "abc"[int(count.argmin())]
            assert val.names == ((smallest if large == drawn and not unit else drawn),)


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


# From one's own arrays


def colored() -> np.ndarray:
    """Clouds (4, 5, 8): xyz, colour, intensity and a label of one's own."""
    draw = np.random.default_rng(0)
    return np.concatenate(
        [draw.normal(size=(4, 5, 3)), draw.random((4, 5, 3)), draw.normal(size=(4, 5, 2))], 2
    )


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "g", "i1", "i8", "u2", "u8"])
@pytest.mark.parametrize("label_dtype", ["i8", "u1", "i4", ">i2", "u8"])
def test_arrays_of_numpy(dtype: str, label_dtype: str) -> None:
    points = (np.random.default_rng(0).random((4, 5, 3)) * 100).astype(dtype)
    split = Split(points, np.array([0, 1, 0, 1], label_dtype), np.array(["cup", "lamp"]))  # type: ignore[arg-type]
    assert split.points.dtype == torch.float32 and split.label.dtype == torch.int64
    np.testing.assert_array_equal(split.points.numpy(), points.astype(np.float32))
    assert split.label.tolist() == [0, 1, 0, 1] and split.classes == ("cup", "lamp")
    assert {type(name) for name in split.classes} == {str}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", ["read-only", "strided", "columns", "reversed"])
def test_arrays_of_any_layout(layout: str) -> None:
    points = np.random.default_rng(0).random((4, 5, 3), np.float32)
    label = np.array([0, 1, 0, 1])
    given = points.copy()
    if layout == "read-only":
        given.setflags(write=False)
        label.setflags(write=False)
    elif layout == "strided":
        given = np.repeat(points, 2, axis=1)[:, ::2]
    elif layout == "columns":
        given = np.asfortranarray(points)
    else:
        given = points[::-1].copy()[::-1]
    split = Split(given, label, ("cup", "lamp"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(split.points.numpy(), points)
    split.points.zero_()
    if layout == "read-only":
        np.testing.assert_array_equal(given, points)


def test_lists_of_numbers_and_names() -> None:
    split = some_split(
        label=[0, np.int32(1), 0, 1], classes=["cup", "lamp"], names=["a", "b", "c", "d"], count=[5, 4, 3, 2]
    )
    assert split.label.tolist() == [0, 1, 0, 1] and split.classes == ("cup", "lamp")
    assert (
        split.names == ("a", "b", "c", "d")
        and split.count is not None
        and split.count.tolist() == [5, 4, 3, 2]
    )
    parts = {**part_fields(), "category": [0, 1, 0, 1], "categories": ["Cup", "Lamp"]}
    split = some_split(**{**parts, "parts": parts["parts"].numpy(), "parts_of_category": [[0, 1], [2, 4]]})
    assert split.parts_of_category == ((0, 1), (2, 4)) and split.categories == ("Cup", "Lamp")
    assert split.category is not None and split.category.tolist() == [0, 1, 0, 1]


def test_features_in_the_range_of_other_programs(caplog: pytest.LogCaptureFixture) -> None:
    """Whole colours up to 255 and longer normals, as files have them, become the usual ones with a note."""
    draw = np.random.default_rng(0)
    colors, normals = draw.integers(0, 256, (4, 5, 3)).astype(np.uint8), draw.normal(size=(4, 5, 3))
    points = np.concatenate([draw.normal(size=(4, 5, 3)), colors, normals], 2)
    given = points.copy()
    split = some_split(points=points, features=["color", "normal"])
    np.testing.assert_allclose(split.points[..., 3:6].numpy(), colors / 255, atol=1e-6)
    unit = normals / np.linalg.norm(normals, axis=2, keepdims=True)
    np.testing.assert_allclose(split.points[..., 6:].numpy(), unit, atol=1e-6)
    np.testing.assert_array_equal(points, given)
    assert "points: colours up to 25" in caplog.text and "points: normals of other lengths" in caplog.text


def test_features_by_name() -> None:
    split = some_split(points=colored(), features=["color", "intensity", "own"])
    assert split.features == ("color", "intensity", "own") and split.channels == 8
    assert some_split(points=colored(), features=["color", "own"]).features == ("color", "own:2")
    assert some_split(points=colored(), features=["own"]).features == ("own:5",)
    assert some_split(points=colored(), features=[("own", 5)]).features == ("own:5",)
    assert split.select([1]).features == split[1:3].features == split.to("cpu").features == split.features


def test_a_choice_of_features() -> None:
    split = some_split(points=colored(), features=["color", "own:2"], normalized=True)
    turned = split.with_features(["own", "color"])
    assert turned.features == ("own:2", "color") and turned.normalized and turned.names == split.names
    assert torch.equal(turned.points, split.points[..., [0, 1, 2, 6, 7, 3, 4, 5]])
    assert turned.points.is_contiguous()
    bare = split.with_features([])
    assert bare.features == () and torch.equal(bare.points, split.points[..., :3])
    assert split.with_features(("color", "own:2")) is split
    with pytest.raises(ValueError, match="expected colour, got color, own:2; did you mean 'color'"):
        split.with_features(["colour"])
    with pytest.raises(ValueError, match="features: expected normal, got xyz alone"):
        some_split().with_features(["normal"])
    with pytest.raises(ValueError, match="features: expected each name once"):
        split.with_features(["own", "own"])


def test_first_points_and_without_parts() -> None:
    split = some_split(**part_fields(), count=[5, 2, 3, 4])
    few = split.first_points(3)
    assert torch.equal(few.points, split.points[:, :3]) and torch.equal(few.parts, split.parts[:, :3])
    assert few.count.tolist() == [3, 2, 3, 3] and few.points.is_contiguous()
    assert some_split().first_points(5).num_points == 5
    for wrong in (6, 0, -1):
        with pytest.raises(
            ValueError, match=f"num_points: expected 1 to 5, as each shape stores, got {wrong}"
        ):
            split.first_points(wrong)
    bare = split.without_parts()
    assert bare.parts is None and bare.category is None and bare.categories == bare.parts_of_category == ()
    assert torch.equal(bare.points, split.points) and repr(bare).endswith("2 classes)")


# As a data set of torch


def test_one_shape() -> None:
    split = some_split()
    for place in (0, 3, -1, np.int64(2), torch.tensor(1)):
        points, label = split[place]  # type: ignore[misc, index]
        assert torch.equal(points, split.points[int(place)]) and label == split.label[int(place)]
    assert split[1].points is not None and split[1]._fields == ("points", "label")  # type: ignore[union-attr]
    for wrong in (4, -5):
        with pytest.raises(IndexError):
            split[wrong]
    for other in ("a", 1.0, [0, 1]):
        with pytest.raises(TypeError):
            split[other]  # type: ignore[call-overload]


def test_one_shape_with_parts() -> None:
    split = some_split(**part_fields(), count=[5, 2, 3, 4])
    points, label, parts, category, own = split[1]  # type: ignore[misc]
    assert torch.equal(points, split.points[1]) and torch.equal(parts, split.parts[1])
    assert (int(label), int(category), int(own)) == (1, 1, 2)
    assert int(some_split(**part_fields())[1].own) == 5  # type: ignore[union-attr]


def test_slices_are_splits() -> None:
    split = some_split(**part_fields())
    assert split[1:3].names == ("b", "c") and split[::-2].names == ("d", "b") and len(split[:]) == 4
    assert torch.equal(split[1:3].parts, split.parts[1:3])
    with pytest.raises(ValueError, match="at least one position"):
        split[4:]


def test_iteration_ends() -> None:
    split = some_split()
    assert [int(label) for _, label in split] == [0, 1, 0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_data_loader_of_torch(workers: int) -> None:
    split = some_split(points=colored(), features=["color", "own:2"])
    loader = torch.utils.data.DataLoader(split, batch_size=3, num_workers=workers)  # type: ignore[arg-type]
    batches = list(loader)
    assert [tuple(batch.points.shape) for batch in batches] == [(3, 5, 8), (1, 5, 8)]
    assert torch.equal(torch.cat([batch.points for batch in batches]), split.points)
    assert torch.equal(torch.cat([label for _, label in batches]), split.label)
    parts = some_split(**part_fields(), count=[5, 2, 3, 4])
    shuffled = torch.utils.data.DataLoader(parts, batch_size=4, shuffle=True)  # type: ignore[arg-type]
    (batch,) = shuffled
    order = [next(i for i in range(4) if torch.equal(parts.points[i], cloud)) for cloud in batch.points]
    assert sorted(order) == [0, 1, 2, 3]
    assert torch.equal(batch.parts, parts.parts[order]) and torch.equal(batch.own, parts.count[order])
    assert torch.equal(batch.category, parts.category[order]) and torch.equal(batch.label, parts.label[order])


# From clouds of different sizes


def ragged() -> list[np.ndarray]:
    """Clouds of 7, 4 and 9 points of a map, with an intensity."""
    draw = np.random.default_rng(1)
    place = np.array([5e5, 5.4e6, 300.0, 0.0])
    return [draw.normal(size=(rows, 4)) + place for rows in (7, 4, 9)]


def test_clouds_of_different_sizes() -> None:
    clouds = ragged()
    before = [cloud.copy() for cloud in clouds]
    split = Split.from_clouds(
        clouds, [0, 1, 0], ["cup", "lamp"], features=["intensity"], names=["a", "b", "c"]
    )
    assert split.points.shape == (3, 9, 4) and split.points.dtype == torch.float32
    assert split.count is not None and split.count.tolist() == [7, 4, 9]
    assert split.features == ("intensity",) and split.normalized and split.names == ("a", "b", "c")
    for points, cloud, old in zip(split.points, clouds, before, strict=True):
        np.testing.assert_array_equal(cloud, old)
        own = torch.from_numpy(cloud)
        expected = torch.cat([unit_sphere(own[:, :3]), own[:, 3:]], 1).float()
        torch.testing.assert_close(points[: len(cloud)], expected, atol=1e-6, rtol=0)
        assert torch.equal(points, points[torch.arange(9) % len(cloud)])


def test_clouds_of_one_size_have_no_count() -> None:
    clouds = [torch.rand(6, 3), np.random.rand(6, 3).astype(np.float32), np.random.rand(6, 3).tolist()]
    split = Split.from_clouds(clouds, np.array([0, 1, 1]), ("cup", "lamp"))
    assert split.count is None and split.points.shape == (3, 6, 3)


def test_clouds_with_parts() -> None:
    parts = [np.arange(7) % 2, torch.tensor([2, 3, 2, 3], dtype=torch.int32), [0, 1, 1, 1, 1, 1, 1, 1, 0]]
    fields = {"parts_of_category": [[0, 1], [2, 3]], "features": ["intensity"]}
    split = Split.from_clouds(ragged(), [0, 1, 0], ["Cup", "Lamp"], parts, **fields)
    assert split.categories == ("Cup", "Lamp") and split.parts is not None
    assert split.category is not None and split.category.tolist() == [0, 1, 0]
    for row, own in zip(split.parts, parts, strict=True):
        assert row.tolist() == [int(own[place % len(own)]) for place in range(9)]
    told = {
        **fields,
        "category": [1, 0, 1],
        "categories": ["Lid", "Mug"],
        "parts_of_category": [[2, 3], [0, 1]],
    }
    split = Split.from_clouds(ragged(), [0, 0, 0], ["thing"], parts, **told)
    assert split.classes == ("thing",) and split.categories == ("Lid", "Mug")


@pytest.mark.parametrize(
    ("clouds", "message"),
    [
        ([], "clouds: expected at least one, got none"),
        ([np.zeros((0, 3)), np.ones((4, 3))], r"C the same for all, got \(0, 3\), \(4, 3\)"),
        ([np.random.rand(4, 3), np.random.rand(4, 6)], r"got \(4, 3\), \(4, 6\)"),
        ([np.random.rand(4)], r"got \(4,\)"),
        ([np.array(3.0)], r"got \(\)"),
        ([np.random.rand(2, 4, 3)], r"got \(2, 4, 3\)"),
        ([np.random.rand(4, 2)], "expected a float tensor"),
        ([np.ones((4, 3))], "cloud 0: expected points at two places at least"),
        (
            [np.random.rand(4, 3), np.random.rand(4, 3) * 1e200],
            r"cloud 1: expected coordinates up to 1e\+100",
        ),
        ([np.full((4, 3), np.nan)], "NaN or infinity"),
        ([np.random.rand(4, 3), np.full((4, 3), "a")], "cloud 1: expected numbers, got <U1"),
        ([np.ones((4, 3), complex)], "cloud 0: expected numbers, got complex128"),
        ([[[1.0, 2.0, 3.0], [1.0]]], "cloud 0: expected points"),
        ([None], "cloud 0: expected numbers"),
        ([np.random.rand(4, 4)], "features: expected the names"),
    ],
)
def test_clouds_that_are_none(clouds: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split.from_clouds(clouds, [0] * len(clouds), ("thing",))


@pytest.mark.parametrize(
    "parts",
    [
        [np.zeros(7, int), np.zeros(4, int)],
        [np.zeros(7, int), np.zeros(4, int), np.zeros(8, int)],
        [np.zeros(7, int), np.zeros(4, int), np.full(9, 0.5)],
        [np.zeros(7, int), np.zeros(4, int), np.zeros((9, 1), int)],
        [np.zeros(7, int), np.zeros(4, int), torch.zeros(9)],
        [np.zeros(7, int), np.zeros(4, int), ["a"] * 9],
    ],
)
def test_parts_that_do_not_fit_their_clouds(parts: list[object]) -> None:
    with pytest.raises(ValueError, match=r"parts: expected a whole number for each point \(7, 4, 9 \.\.\.\)"):
        Split.from_clouds(
            ragged(), [0, 0, 0], ["Cup"], parts, parts_of_category=[[0, 1]], features=["intensity"]
        )


def test_arrays_on_a_map_keep_their_shape(caplog: pytest.LogCaptureFixture) -> None:
    """A step of float32 is half a metre there: clouds are centred before they are rounded."""
    shape = np.random.default_rng(0).normal(size=(2, 50, 3))
    with caplog.at_level("WARNING"):
        split = Split(shape + [500_000.0, 5_400_000.0, 300.0], np.array([0, 0]), ["one"])
    assert "each cloud is moved to its centre" in caplog.text
    centred = shape - shape.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(split.points.numpy(), centred, atol=1e-6)
    caplog.clear()
    near = Split(shape + 3.0, np.array([0, 0]), ["one"])  # stays where it is
    np.testing.assert_allclose(near.points.numpy(), shape + 3.0, atol=1e-6)
    assert not caplog.records


def test_tensors_in_double_precision() -> None:
    """They are rounded to float32; on a map they are centred before, and normalised keep their shape."""
    ball = np.random.default_rng(0).normal(size=(4, 50, 3))
    ball /= np.linalg.norm(ball, axis=2, keepdims=True)
    centred = ball - ball.mean(axis=1, keepdims=True)
    expected = centred / np.linalg.norm(centred, axis=2).max(axis=1)[:, None, None]
    near = some_split(points=torch.from_numpy(ball))
    assert torch.equal(near.points, torch.from_numpy(ball).float())
    for place in ([20.0, 0.0, 0.0], [500_000.0, 5_400_000.0, 300.0]):
        for kind in (np.asarray, torch.from_numpy):
            placed = normalize_split(some_split(points=kind(ball + place)))
            np.testing.assert_allclose(placed.points.numpy(), expected, atol=1e-6)


def test_height_is_computed_where_there_is_none() -> None:
    xyz = torch.rand(2, 30, 3) * 4 + 7
    made = Split(xyz, torch.tensor([0, 0]), ("one",)).with_features(["height"])
    assert made.features == ("height",)
    above = xyz[..., 1] - xyz[..., 1].amin(1, keepdim=True)
    radius = (xyz - xyz.mean(1, keepdim=True)).norm(dim=-1).amax(1, keepdim=True)
    torch.testing.assert_close(made.points[..., 3], above / radius)
    own = Split(
        torch.cat([xyz, torch.ones(2, 30, 1)], -1), torch.tensor([0, 0]), ("one",), features=("height",)
    )
    assert own.with_features(["height"]) is own


@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_every_cloud_on_a_map_keeps_its_shape(kind: type) -> None:
    """Also beside one whose points all coincide, and in whole millimetres."""
    shape = np.random.default_rng(0).integers(-900, 900, (3, 50, 3)).astype(np.float64)
    points = shape + [500_000_000.0, 5_400_000_000.0, 300_000.0]
    points[1] = points[1, :1]
    split = Split(points.astype(kind), np.array([0, 0, 0]), ["one"])
    for cloud in (0, 2):
        centred = shape[cloud] - shape[cloud].mean(axis=0)
        np.testing.assert_allclose(split.points[cloud].numpy(), centred, atol=1e-3)


def test_height_of_clouds_of_different_sizes() -> None:
    """It is that of each cloud alone: points that are repeated count once."""
    clouds = [cloud[:, :3] for cloud in ragged()]
    together = Split.from_clouds(clouds, [0, 1, 0], ("cup", "lamp")).with_features(["height"])
    for points, cloud in zip(together.points, clouds, strict=True):
        alone = Split.from_clouds([cloud], [0], ("cup",)).with_features(["height"])
        torch.testing.assert_close(points[: len(cloud)], alone.points[0], atol=1e-6, rtol=0)
