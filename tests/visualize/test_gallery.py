"""Clouds that are labelled when they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bixt3d import Predictor, create_model
from bixt3d.datasets import Preprocess, Split
from bixt3d.inference.loading import training_split
from bixt3d.metrics import iou_of, shape_iou
from bixt3d.tasks import Description
from bixt3d.visualize import Gallery
from bixt3d.visualize.browse import worst_first
from tests.models.randomize import randomize

PARTS_OF_CATEGORY = ((0, 1), (2, 3, 4))
CATEGORIES = ("mug", "table")
NAMES = ("body", "handle", "top", "leg", "shelf")
SIZES = {"dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4}


def segmenter(in_dims: int = 3, classes: Sequence[str] = CATEGORIES, config: Any = None) -> Predictor:
    torch.manual_seed(3)
    model = create_model("bixt_ti_partseg", num_parts=5, num_categories=2, in_dims=in_dims, **SIZES)
    randomize(model)
    facts = {
        "classes": list(classes),
        "parts_of_category": [list(ids) for ids in PARTS_OF_CATEGORY],
        "part_names": list(NAMES),
    }
    preprocess = Preprocess(32, "random", 64, ("normal",) if in_dims == 6 else ())
    named = (config or {}).get("data", {}).get("name", "")
    about = Description("part_segmentation", {"name": "", "args": {}}, facts, preprocess, named, config or {})
    model.description = about  # type: ignore[assignment]
    return Predictor(model, "cpu")


def classifier() -> Predictor:
    torch.manual_seed(3)
    model = create_model("bixt_ti_cls", num_classes=2, **SIZES)
    randomize(model)
    return Predictor(model, "cpu", classes=CATEGORIES, num_points=20)


def parts_split(channels: int = 3, **changes: Any) -> Split:
    """Three shapes of 40 stored points; the second has 30 of its own."""
    generator = torch.Generator().manual_seed(0)
    category = torch.tensor([1, 0, 1])
    ranges = ((2, 5), (0, 2), (2, 5))
    parts = torch.stack([torch.randint(low, high, (40,), generator=generator) for low, high in ranges])
    about: dict[str, Any] = {
        "label": category,
        "classes": CATEGORIES,
        "parts": parts,
        "category": category,
        "categories": CATEGORIES,
        "parts_of_category": PARTS_OF_CATEGORY,
        "part_names": NAMES,
        "count": torch.tensor([40, 30, 40]),
        "names": ("t1", "m1", "t2"),
        **changes,
    }
    points = torch.randn(3, 40, channels, generator=generator)
    points[..., 3:] = torch.nn.functional.normalize(points[..., 3:], dim=-1)
    return Split(points, **about)


def own_iou(prediction: Any, truth: Any, ids: Any) -> float:
    """Mean over the category's parts of intersection over union; a part in neither counts one."""
    values = []
    for part in ids:
        union = ((prediction == part) | (truth == part)).sum()
        values.append(((prediction == part) & (truth == part)).sum() / union if union else 1.0)
    return float(np.mean(values))


def test_gallery_of_a_split_says_what_the_predictor_says() -> None:
    predictor, split = segmenter(), parts_split()
    assert split.parts is not None
    gallery = Gallery.of_split(predictor, split)
    assert (gallery.titles, gallery.categories, len(gallery)) == (
        ("t1", "m1", "t2"),
        ("table", "mug", "table"),
        3,
    )
    for shape, seen in enumerate(gallery):
        own = 30 if shape == 1 else 40
        points, category = split.points[shape, :own].numpy(), gallery.categories[shape]
        expected = predictor.segment(points, category)
        assert seen.modes == ("prediction", "truth", "error", "confidence", "attention")
        np.testing.assert_array_equal(seen.prediction, expected.parts)
        np.testing.assert_array_equal(seen.confidence, expected.probabilities)
        np.testing.assert_allclose(seen.points, points, atol=1e-6)
        np.testing.assert_array_equal(seen.truth, split.parts[shape, :own])
        assert tuple(seen.ids) == PARTS_OF_CATEGORY[CATEGORIES.index(category)]
        assert tuple(seen.names) == NAMES and seen.category == category
        assert seen.verdict == f"IoU {own_iou(seen.prediction, seen.truth, seen.ids):.1%}"
        maps = predictor.attention(points, category).maps
        assert [layer.shape for layer in seen.attention] == [(4, own)] * 2
        for layer, expected_map in zip(seen.attention, maps, strict=True):
            np.testing.assert_allclose(layer, expected_map.mean(axis=0), rtol=1e-6)


def test_some_shapes_without_attention() -> None:
    gallery = Gallery.of_split(segmenter(), parts_split(), [2, 0], attention=False)
    assert gallery.titles == ("t2", "t1")
    assert gallery[0].modes == ("prediction", "truth", "error", "confidence")


def test_normals_are_given_only_to_a_model_that_takes_them() -> None:
    split = parts_split(channels=6)
    for channels in (3, 6):
        predictor = segmenter(in_dims=channels)
        seen = Gallery.of_split(predictor, split, [0])[0]
        expected = predictor.segment(split.points[0, :, :channels].numpy(), "table")
        np.testing.assert_array_equal(seen.prediction, expected.parts)
        assert seen.points.shape == (40, 3)


def test_colours_that_a_model_reads_are_shown() -> None:
    predictor = segmenter(in_dims=6)
    predictor.preprocess = replace(predictor.preprocess, features=("color",))
    cloud = np.random.default_rng(0).random((40, 6))
    truth = np.where(np.arange(40) < 9, -1, 0)
    whole, part = Gallery(predictor, [cloud, cloud], ["a", "b"], ["table"] * 2, [truth * 0, truth])
    assert whole.color is not None and part.color is None and "color" in whole.modes
    np.testing.assert_allclose(whole.color, cloud[:, 3:])
    for layer, shown in zip(whole.attention, part.attention, strict=True):
        np.testing.assert_array_equal(shown, layer[:, 9:])


def test_a_cloud_without_colours_has_none_to_show() -> None:
    """Where the training left colours out, zeros stand for those that a cloud lacks."""
    predictor = segmenter(in_dims=6)
    predictor.preprocess = replace(predictor.preprocess, features=("color",), optional=("color",))
    cloud = np.random.default_rng(0).random((40, 6))
    cloud[:, 3:] = 0
    assert "color" not in Gallery(predictor, [cloud], ["a"], ["table"])[0].modes


def test_ignored_parts_count_as_in_evaluation() -> None:
    """A part that does not count is no truth, no answer, and none of those that the IoU is over."""
    predictor, split = segmenter(config={"loss": {"ignore": [2]}}), parts_split()
    seen = Gallery.of_split(predictor, split, [0])[0]
    parts = split.parts[0][split.parts[0] != 2].tolist()
    assert list(seen.ids) == [3, 4] and seen.truth.tolist() == parts and 2 not in seen.prediction
    answer = torch.from_numpy(predictor.segment(split.points[0].numpy(), "table").parts)[None]
    told = (split.parts[:1], split.category[:1], PARTS_OF_CATEGORY, "pointnet2", 5)
    assert seen.verdict == f"IoU {float(iou_of(answer, *told, ignore=(-1, 2))):.1%}"


def test_a_cloud_is_labelled_when_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = segmenter()
    calls = []
    answer = predictor.answer
    monkeypatch.setattr(predictor, "answer", lambda *given: calls.append(0) or answer(*given))
    gallery = Gallery.of_split(predictor, parts_split())
    assert calls == []
    assert gallery[1] is gallery[1] is gallery[-2] and len(calls) == 1
    _ = gallery[2], gallery[1]
    assert len(calls) == 3  # only the latest is kept
    assert [seen.title for seen in gallery[1:]] == ["m1", "t2"]
    with pytest.raises(IndexError):
        gallery[3]


def test_shapes_without_names_are_numbered() -> None:
    assert Gallery.of_split(segmenter(), parts_split(names=()), [2]).titles == ("shape 2",)


def test_gallery_of_a_classifier() -> None:
    predictor, split = classifier(), parts_split()
    seen = Gallery.of_split(predictor, split)[1]
    expected = predictor(split.points[1, :30].numpy())
    assert seen.modes == ("attention", "shape") and seen.truth is None and seen.category == "mug"
    assert seen.scores == dict(zip(CATEGORIES, map(float, expected.probabilities), strict=True))
    assert seen.quality == float(expected.probabilities[CATEGORIES.index("mug")])
    assert seen.verdict == f"predicted {expected.label} {expected.probabilities.max():.1%}"
    assert seen.points.shape == (30, 3) and seen.attention[0].shape == (4, 30)
    few = Gallery(predictor, [np.zeros((5, 3)) + np.arange(5)[:, None]], ["t1"], [""])[0]
    assert few.points.shape == (5, 3) and few.attention[0].shape == (4, 5)


def test_names_of_files_that_are_no_text_can_be_shown() -> None:
    gallery = Gallery.of_files(segmenter(), ["a/caf\udce9.off", "Ünï 椅子.off"], "mug")
    assert gallery.titles == ("caf\\udce9.off", "Ünï 椅子.off")


def test_gallery_of_files(tmp_path: Path) -> None:
    predictor = segmenter()
    cloud = np.random.default_rng(0).normal(size=(50, 3))
    np.save(tmp_path / "scan.npy", cloud)
    gallery = Gallery.of_files(predictor, [tmp_path / "scan.npy", str(tmp_path / "none.npy")], "mug")
    seen = gallery[0]
    assert (seen.title, seen.category, seen.verdict) == ("scan.npy", "mug", "")
    assert seen.modes == ("prediction", "confidence", "attention")
    np.testing.assert_array_equal(seen.prediction, predictor.segment(cloud, "mug").parts)
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        gallery[1]
    np.testing.assert_array_equal(gallery[0].prediction, seen.prediction)  # the other ones are as before
    for category, message in (("", "needs to be told it"), ("cup", "expected one of mug, table, got 'cup'")):
        with pytest.raises(ValueError, match=message):
            Gallery.of_files(predictor, ["scan.npy"], category)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clouds": []}, "no clouds to look at"),
        ({"titles": ["a"]}, "for each of 2 clouds, and true parts of all or none, got 1, 2 and 0"),
        ({"categories": ["a", "b", "c"]}, "got 2, 3 and 0"),
        ({"truths": [None]}, "got 2, 2 and 1"),
    ],
)
def test_lists_of_one_length(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"clouds": [1, 2], "titles": ["a", "b"], "categories": ["x", "y"], "truths": []}
    with pytest.raises(ValueError, match=message):
        Gallery(segmenter(), **{**given, **change})


def test_split_of_other_categories_or_without_parts() -> None:
    with pytest.raises(ValueError, match="the model knows cup, table; the data set has mug, table"):
        Gallery.of_split(segmenter(classes=["cup", "table"]), parts_split())
    bare = Split(torch.zeros(1, 4, 3) + torch.arange(4.0)[:, None], torch.tensor([0]), CATEGORIES)
    with pytest.raises(ValueError, match="expected data with a part for each point, got a split without"):
        Gallery.of_split(segmenter(), bare)


def test_worst_first_looks_at_no_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = segmenter()
    gallery = Gallery.of_split(predictor, parts_split())
    quality = [seen.quality for seen in gallery]
    monkeypatch.setattr(predictor, "attention", None)
    assert [gallery.quality(index) for index in range(3)] == quality
    assert worst_first(gallery) == sorted(range(3), key=lambda index: quality[index] or 0)


def test_too_little_memory_for_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels are shown without it; another error of it is a bug, and ends all."""
    predictor = segmenter()

    def fails(error: Exception) -> Any:
        def attention(*_: Any) -> Any:
            raise error

        monkeypatch.setattr(predictor, "attention", attention)
        return Gallery.of_split(predictor, parts_split())[0]

    seen = fails(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert seen.modes == ("prediction", "truth", "error", "confidence")
    assert seen.verdict.endswith(" · too large for its attention")
    with pytest.raises(RuntimeError, match="shapes"):
        fails(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_up_is_that_of_the_model() -> None:
    predictor = segmenter()
    predictor.preprocess = replace(predictor.preprocess, up="z")
    seen = Gallery.of_split(predictor, parts_split(), [0])[0]
    assert seen.up == "z"
    np.testing.assert_allclose(seen.upright[:, 1], seen.points[:, 2])


@given(st.lists(st.tuples(st.integers(2, 4), st.integers(2, 4)), min_size=1, max_size=30))
def test_part_iou(labels: list[tuple[int, int]]) -> None:
    prediction, truth = np.array(labels).T
    assert shape_iou(prediction, truth, (2, 3, 4)) == pytest.approx(
        own_iou(prediction, truth, (2, 3, 4)), abs=1e-6
    )


def test_split_of_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not say what data it was trained on: give files"):
        training_split(segmenter(), "test")
    told = segmenter(config={"data": {"name": "shapenetpart", "root": str(tmp_path / "nowhere")}})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        training_split(told, "test")
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        training_split(told, "test", tmp_path / "elsewhere")


def test_parts_of_data_numbered_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data with one of the categories, whose parts are in another order: they get the model's numbers."""
    predictor = segmenter(config={"data": {"name": "shapenetpart", "root": "data"}})
    whole = parts_split()
    own = replace(
        whole.select([0, 2]),
        label=torch.zeros(2, dtype=torch.int64),
        category=torch.zeros(2, dtype=torch.int64),
        parts=4 - whole.parts[[0, 2]],
        classes=("table",),
        categories=("table",),
        parts_of_category=((0, 1, 2),),
        part_names=("shelf", "leg", "top"),
    )
    monkeypatch.setattr("bixt3d.inference.loading.read_split", lambda *_: own)
    split = training_split(predictor, "test")
    assert split.category.tolist() == [1, 1] and torch.equal(split.parts, whole.parts[[0, 2]])
    expected, found = (Gallery.of_split(predictor, one)[at] for one, at in ((whole, 2), (split, 1)))
    assert found.verdict == expected.verdict and found.category == "table"
    np.testing.assert_array_equal(found.prediction, expected.prediction)
    monkeypatch.setattr("bixt3d.inference.loading.read_split", lambda *_: replace(own, categories=("sofa",)))
    with pytest.raises(ValueError, match="the model knows mug, table; the data set has sofa"):
        training_split(predictor, "test")
