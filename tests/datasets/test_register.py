"""Data sets of a user's own, known by a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bixt3d
from bixt3d import open_dataset, register_dataset
from bixt3d.config import config_from
from bixt3d.datasets import Split, hold_out, list_datasets, registry
from bixt3d.training.splits import open_splits

SIZES = {"train": 6, "val": 3, "test": 4, "trainval": 9}


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))


def made(split: str, points: int = 10) -> Split:
    """Clouds with colour and an own feature of two numbers."""
    draw = np.random.default_rng(SIZES[split])
    count = SIZES[split]
    clouds = [
        draw.normal(size=(count, points, 3)),
        draw.random((count, points, 3)),
        draw.normal(size=(count, points, 2)),
    ]
    label = np.arange(count) % 2
    return Split(np.concatenate(clouds, 2), label, ["a", "b"], features=["color", "own"])  # type: ignore[arg-type]


class Reader:
    """Readers of each form, which keep what they were told."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def plain(self, root: Path, split: str) -> Split:
        self.told = {"root": root, "split": split}
        return made(split)

    def points(self, root: Path, split: str, num_points: int | None) -> Split:
        self.told = {"num_points": num_points}
        return made(split, num_points or 12)

    def features(self, root: Path, split: str, *, features: tuple[str, ...] | None = None) -> Split:
        self.told = {"features": features}
        return made(split) if features is None else made(split).with_features(features)

    def both(self, root: Path, split: str, **options: Any) -> Split:
        self.told = options
        return made(split)


def test_a_name_is_known_everywhere(tmp_path: Path) -> None:
    reader = Reader()
    register_dataset("mine", reader.plain)
    assert "mine" in list_datasets() and list_datasets() == sorted(list_datasets())
    split = open_dataset("mine", str(tmp_path), "val")
    assert reader.told == {"root": tmp_path, "split": "val"} and len(split) == 3
    assert split.features == ("color", "own:2")
    assert bixt3d.open_dataset("mine", "~/data", "test") is not None
    assert reader.told["root"] == Path.home() / "data"
    with pytest.raises(
        ValueError, match="expected a data set out of .*mine, .*got 'mien'; did you mean 'mine'"
    ):
        open_dataset("mien", tmp_path, "test")
    with pytest.raises(ValueError, match="split: expected one of"):
        open_dataset("mine", tmp_path, "tests")


@pytest.mark.parametrize("form", ["plain", "points", "features", "both"])
def test_what_a_reader_is_not_told_is_cut_for_it(form: str, tmp_path: Path) -> None:
    reader = Reader()
    register_dataset("mine", getattr(reader, form))
    split = open_dataset("mine", tmp_path, "train", 5, ["own:2", "color"])
    assert split.points.shape == (6, 5, 8) and split.features == ("own:2", "color")
    whole = made("train", 5 if form == "points" else 10)
    assert torch.equal(split.points, whole.points[:, :5, [0, 1, 2, 6, 7, 3, 4, 5]])
    assert open_dataset("mine", tmp_path, "train", features=[]).channels == 3
    told = {"points": {"num_points": 5}, "features": {"features": ("own:2", "color")}}
    open_dataset("mine", tmp_path, "train", 5, ["own:2", "color"])
    if form == "both":
        assert reader.told.items() >= {**told["points"], **told["features"]}.items()
    elif form in told:
        assert reader.told == told[form]
    if form != "points":
        with pytest.raises(ValueError, match="num_points: expected 1 to 10, as each shape stores, got 11"):
            open_dataset("mine", tmp_path, "train", 11)
    with pytest.raises(ValueError, match="features: expected normal, got color, own:2"):
        open_dataset("mine", tmp_path, "train", features=["normal"])


def test_a_reader_that_gives_other_than_it_was_asked(tmp_path: Path) -> None:
    def deaf(root: Path, split: str, num_points: int | None, features: tuple[str, ...] | None) -> Split:
        return made(split)

    register_dataset("deaf", deaf)
    assert open_dataset("deaf", tmp_path, "test", 4, ["color"]).points.shape == (4, 4, 6)
    with pytest.raises(ValueError, match="features: expected intensity, got color, own:2"):
        open_dataset("deaf", tmp_path, "test", features=["intensity"])
    with pytest.raises(ValueError, match="num_points: expected 1 to 10"):
        open_dataset("deaf", tmp_path, "test", 20)


@pytest.mark.parametrize(
    "reader",
    [lambda root, split: made(split), partial(lambda extra, root, split: made(split), 3), Reader().both],
)
def test_any_callable(reader: Callable[..., Split], tmp_path: Path) -> None:
    register_dataset("mine", reader)
    assert len(open_dataset("mine", tmp_path, "test")) == 4


def test_a_name_may_be_given_again(tmp_path: Path) -> None:
    register_dataset("mine", Reader().plain)
    register_dataset("mine", lambda root, split: made("test"))
    assert len(open_dataset("mine", tmp_path, "train")) == 4


def test_what_is_refused(tmp_path: Path) -> None:
    for name in ("folder", "modelnet40", "modelnet40_normal", "shapenetpart", "shapes"):
        with pytest.raises(ValueError, match=f"name: {name} is a data set of the package"):
            register_dataset(name, Reader().plain)
    for wrong in ("", None, 3):
        with pytest.raises(ValueError, match="name: expected a name"):
            register_dataset(wrong, Reader().plain)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"reader: expected a function \(root, split\) -> Split, got Split"):
        register_dataset("mine", made("test"))  # type: ignore[arg-type]
    register_dataset("mine", lambda root, split: [1, 2])  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="data set mine: expected its reader to return a Split, got list"):
        open_dataset("mine", tmp_path, "test")


def test_settings_may_name_it() -> None:
    reader = Reader()
    register_dataset("mine", reader.plain)
    config = config_from(
        {"data": {"name": "mine", "root": "elsewhere", "num_points": 4, "features": ["color"]}}
    )
    splits, stored = open_splits(config, torch.device("cpu"), ("train", "val", "test"), train="train")
    assert {name: tuple(split.points.shape) for name, split in splits.items()} == {
        "train": (6, 4, 6),
        "val": (3, 4, 6),
        "test": (4, 4, 6),
    }
    assert reader.told["root"] == Path("elsewhere")
    for split in splits.values():
        assert split.normalized and split.features == ("color",)
    # Centre and radius are those of all stored points, not of the four that are kept.
    whole = made("test").points[..., :3]
    centred = whole - whole.mean(1, keepdim=True)
    expected = centred / centred.norm(dim=-1).amax(1)[:, None, None]
    torch.testing.assert_close(splits["test"].points[..., :3], expected[:, :4])


def test_nothing_is_made_where_it_may_not_be(tmp_path: Path) -> None:
    told = []

    def maker(root: Path, split: str, make: bool = True) -> Split:
        told.append(make)
        return made(split)

    register_dataset("maker", maker)
    open_dataset("maker", tmp_path, "test")
    open_dataset("maker", tmp_path, "test", make=False)
    assert told == [True, False]
    with pytest.raises(FileNotFoundError, match="shapes"):
        open_dataset("shapes", tmp_path, "test", make=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [FileNotFoundError("no file val.npy"), KeyError("val")])
def test_a_data_set_without_val_is_cut(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same shapes as `hold_out` takes, train and val apart, and both together in their order."""

    def read(root: Path, split: str) -> Split:
        if split not in ("train", "test"):
            raise error
        return replace(made(split), names=tuple(f"{split}{number}" for number in range(SIZES[split])))

    register_dataset("two", read)
    parts = {split: open_dataset("two", tmp_path, split) for split in SIZES}
    train, val = hold_out(made("train").label)
    assert parts["train"].names == tuple(f"train{number}" for number in train.tolist())
    assert parts["val"].names == tuple(f"train{number}" for number in val.tolist())
    assert parts["trainval"].names == tuple(f"train{number}" for number in range(6))
    assert parts["test"].names == ("test0", "test1", "test2", "test3")
    assert "two: no val split" in caplog.text and str(error) in caplog.text


def test_a_damaged_val_is_not_taken_for_none(tmp_path: Path) -> None:
    def read(root: Path, split: str) -> Split:
        if split == "val":
            raise ValueError("val.npy: damaged")
        return made(split)

    register_dataset("broken", read)
    with pytest.raises(ValueError, match="damaged"):
        open_dataset("broken", tmp_path, "train")
