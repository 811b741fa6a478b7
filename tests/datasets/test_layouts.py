"""Layouts of a folder of shapes: which folders are splits and classes, and how others are cut."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from bixt3d import open_dataset
from bixt3d.datasets.layouts import NAMES, list_splits

COUNTS = {"train": 5, "val": 2, "test": 3}


def write(path: Path, seed: int = 0, place: float = 0.0) -> Path:
    """Write a cloud of 40 points."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(seed).normal(size=(40, 3)) + place)
    return path


def fill(base: Path, pattern: str, classes: tuple[str, ...] = ("cup", "bowl")) -> Path:
    """Write shapes with different names to each split of each class, by a pattern of folders."""
    for one_class in classes:
        for number, (split, count) in enumerate(COUNTS.items()):
            for index in range(count):
                name = f"{split}_{index}.npy"
                write(base / pattern.format(split=split, one=one_class) / name, 10 * number + index)
    return base


def read(base: Path) -> dict[str, tuple[str, ...]]:
    return {name: open_dataset("folder", base, name, 8).names for name in COUNTS}


def test_split_and_class_folders_may_be_either_way_round(tmp_path: Path) -> None:
    """ModelNet has its splits inside of its classes; the points of a shape are the same."""
    expected = {
        split: tuple(f"{one}/{split}_{index}.npy" for one in ("bowl", "cup") for index in range(count))
        for split, count in COUNTS.items()
    }
    outside, inside = fill(tmp_path / "a", "{split}/{one}"), fill(tmp_path / "b", "{one}/{split}")
    assert read(outside) == read(inside) == expected
    for split in (*COUNTS, "trainval"):
        first, second = (open_dataset("folder", base, split) for base in (outside, inside))
        assert torch.equal(first.points, second.points) and torch.equal(first.label, second.label)
        assert first.classes == second.classes == ("bowl", "cup")


def test_the_layout_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bixt3d.datasets.layouts")
    list_splits(fill(tmp_path / "a", "{split}/{one}"))
    list_splits(fill(tmp_path / "b", "{one}/{split}"))
    list_splits(fill(tmp_path / "c", "{one}"))
    (tmp_path / "a" / "train").rename(tmp_path / "a" / "Training")
    list_splits(tmp_path / "a")
    assert [record.getMessage().removeprefix(f"{tmp_path}/") for record in caplog.records] == [
        "a: found <split>/<class>, with train, val, test",
        "b: found <class>/<split>",
        "c: found <class>/<file> without splits: cut by a fixed seed, class by class, into 14 train, 2 val, "
        "4 test",
        "a: found <split>/<class>, with Training as train, val, test",
    ]


@pytest.mark.parametrize("pattern", ["{split}/{one}", "{one}/{split}"])
@pytest.mark.parametrize("other", [*NAMES, "Train", "VALID", "Test", "Validation"])
def test_splits_by_other_names(other: str, pattern: str, tmp_path: Path) -> None:
    meant = NAMES[other.lower()]
    base = fill(tmp_path / "own", pattern)
    expected = read(base)
    for folder in [path for path in base.rglob(meant) if path.is_dir()]:
        folder.rename(folder.with_name(f"{other}_")).rename(folder.with_name(other))
    assert read(base) == expected


def test_two_folders_of_one_split(tmp_path: Path) -> None:
    for pattern, where in (("{split}/{one}", "own"), ("{one}/{split}", "own/bowl")):
        base = fill(tmp_path / "own", pattern)
        shutil.copytree(tmp_path / where / "val", tmp_path / where / "Validation")
        with pytest.raises(
            ValueError, match=rf"{where}: expected one folder for val, got Validation and val"
        ):
            open_dataset("folder", base, "train")
        shutil.rmtree(base)


def test_folders_that_are_not_used_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = fill(tmp_path / "own", "{split}/{one}")
    (base / "val").rename(base / "vall")
    (base / "renders").mkdir()
    (base / ".cache").mkdir()
    assert "val" not in list_splits(base)
    assert "own: 2 folders are not used: renders, vall; did you mean 'val'?" in caplog.text
    caplog.clear()
    base = fill(tmp_path / "other", "{one}/{split}")
    (base / "cup" / "tset").mkdir()
    list_splits(base)
    assert "cup: 1 folders are not used: tset; did you mean 'test'?" in caplog.text


# Class folders alone


def test_class_folders_are_cut_by_a_fixed_seed(tmp_path: Path) -> None:
    """These numbers decide which shapes a model has seen: they must never move."""
    for index in range(20):
        write(tmp_path / "cup" / f"{index:02d}.npy", index)
    listings = list_splits(tmp_path)
    assert sorted(listings["test"].files) == [f"cup/{index}.npy" for index in ("08", "09", "13", "14")]
    assert sorted(listings["val"].files) == [f"cup/{index}.npy" for index in ("00", "06")]
    assert len(listings["train"].files) == 14


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_each_class_is_cut_alike(sizes: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("flat")
    for number, size in enumerate(sizes):
        (base / f"c{number}").mkdir()
        for index in range(size):
            (base / f"c{number}" / f"{index}.npy").touch()
    listings = list_splits(base)
    names = [name for listing in listings.values() for name in listing.files]
    assert sorted(names) == sorted(f"c{n}/{i}.npy" for n, size in enumerate(sizes) for i in range(size))
    for number, size in enumerate(sizes):
        count = {
            split: sum(name.startswith(f"c{number}/") for name in listing.files)
            for split, listing in listings.items()
        }
        assert count["train"] >= 1
        assert count.get("test", 0) == (0 if size == 1 else max(1, round(0.2 * size)))
        assert count.get("val", 0) == (0 if size < 3 else max(1, round(0.1 * size)))


def test_a_file_elsewhere_changes_nothing(tmp_path: Path) -> None:
    base = fill(tmp_path / "own", "{one}")
    before = read(base)
    first = open_dataset("folder", base, "test")
    for index in range(30):
        write(base / "lid" / f"{index}.npy", index)
    after = read(base)
    for split in COUNTS:
        assert tuple(name for name in after[split] if not name.startswith("lid")) == before[split]
    again = open_dataset("folder", base, "test")
    kept = [again.names.index(name) for name in first.names]
    assert torch.equal(again.points[kept], first.points)
    write(base / "cup" / "new.npy")
    moved = [set(before[split]) - set(read(base)[split]) for split in COUNTS]
    assert sum(map(len, moved)) <= 2


@pytest.mark.parametrize("pattern", ["{one}", "{split}/{one}", "{one}/{split}"])
def test_all_shapes_are_one_split(pattern: str, tmp_path: Path) -> None:
    """A model that was trained elsewhere is evaluated on all of a folder."""
    base = fill(tmp_path / "own", pattern)
    parts = [open_dataset("folder", base, name, 8) for name in COUNTS]
    whole = open_dataset("folder", base, "all", 8)
    assert whole.names == sum((part.names for part in parts), ()) and len(whole) == 20
    assert torch.equal(whole.points, torch.cat([part.points for part in parts]))
    assert torch.equal(whole.label, torch.cat([part.label for part in parts]))
    assert whole.classes == ("bowl", "cup")


def test_all_shapes_where_there_are_test_shapes_alone(tmp_path: Path) -> None:
    write(tmp_path / "test" / "cup" / "a.npy")
    assert open_dataset("folder", tmp_path, "all", 8).names == ("cup/a.npy",)
    with pytest.raises(ValueError, match="expected one of train, val, test, trainval, all, got 'whole'"):
        open_dataset("folder", tmp_path, "whole")
    with pytest.raises(ValueError, match="expected one of train, val, test, trainval, got 'all'"):
        open_dataset("shapes", tmp_path, "all")


def test_classes_too_small_for_a_test(tmp_path: Path) -> None:
    write(tmp_path / "cup" / "a.npy")
    assert open_dataset("folder", tmp_path, "trainval", 8).names == ("cup/a.npy",)
    with pytest.raises(FileNotFoundError, match="test: move files of each class there"):
        open_dataset("folder", tmp_path, "test")


# A folder for each shape


@pytest.mark.parametrize("model", ["model.obj", "models/model_normalized.obj", "model_normalized.obj"])
def test_a_folder_for_each_shape(model: str, tmp_path: Path) -> None:
    """ShapeNet's layout: the folder's name is the shape's; what lies beside the model is not looked at."""
    for one_class, extents in (("chair", (1, 2, 4)), ("table", (3, 3, 1))):
        for index in range(10):
            path = tmp_path / one_class / f"id{index}" / model
            path.parent.mkdir(parents=True)
            trimesh.creation.box(extents).export(path)
            path.with_suffix(".mtl").write_text("newmtl a\n")
            path.with_name("photo.npy").write_bytes(b"no cloud")
    parts = {name: open_dataset("folder", tmp_path, name, 512) for name in COUNTS}
    assert {name: len(part) for name, part in parts.items()} == {"train": 14, "val": 2, "test": 4}
    names = sorted(name for part in parts.values() for name in part.names)
    assert names == [f"{one}/id{index}" for one in ("chair", "table") for index in range(10)]
    for part in parts.values():
        for points, label in zip(part.points, part.label.tolist(), strict=True):
            sides = points[:, :3].amax(0) - points[:, :3].amin(0)
            expected = torch.tensor([(1.0, 2.0, 4.0), (3.0, 3.0, 1.0)][label])
            torch.testing.assert_close(sides / sides.max(), expected / expected.max(), atol=0.03, rtol=0)


def test_shape_folders_inside_of_splits(tmp_path: Path) -> None:
    write(tmp_path / "train" / "cup" / "a" / "model.npy")
    write(tmp_path / "train" / "cup" / "b.npy")
    write(tmp_path / "train" / "cup" / "c" / "other.npy")
    listing = list_splits(tmp_path)["train"]
    assert list(listing.files) == ["cup/a", "cup/b.npy"] and listing.others == ["cup/c"]


# What is refused, and what is said


def test_layouts_that_are_none(tmp_path: Path) -> None:
    base = fill(tmp_path / "own", "{one}/{split}")
    for name in ("loose.npy", "more.npy"):
        write(base / "cup" / name)
    with pytest.raises(
        ValueError, match=r"cup: expected the splits as folders.* got 2 shapes beside train, val"
    ):
        open_dataset("folder", base, "train")
    shutil.rmtree(base / "cup")
    write(base / "cup" / "loose.npy")
    with pytest.raises(ValueError, match=r"cup: expected the splits as folders.* got 1 shape\. data/README"):
        open_dataset("folder", base, "train")
    shutil.rmtree(base / "cup")
    write(base / "cup" / "test" / "a.npy")
    with pytest.raises(ValueError, match=r"cup: expected the splits as folders.* got no train"):
        open_dataset("folder", base, "train")


def test_scenes_without_a_table_of_labels(tmp_path: Path) -> None:
    for label, hint in (
        (np.arange(9) % 2, "folder; scenes, with a label a point, need a labels.yaml"),
        (0, ""),
    ):
        for split in ("train", "test"):
            (tmp_path / split).mkdir(exist_ok=True)
            rows = np.column_stack([np.random.default_rng(0).random((9, 3)), np.full(9, label)])
            head = "X,Y,Z,Classification"
            np.savetxt(tmp_path / split / "a.csv", rows, "%.4f", delimiter=",", header=head, comments="")
        with pytest.raises(ValueError, match=f"got 1 shape in no class's {hint}") as error:
            open_dataset("folder", tmp_path, "train")
        assert ("labels.yaml" in str(error.value)) == bool(hint)


def test_a_split_without_classes(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a.npy")
    write(tmp_path / "test" / "cup" / "a.npy")
    with pytest.raises(
        ValueError, match=r"train: expected <class>/<file> .* got 1 shape in no class's folder"
    ):
        open_dataset("folder", tmp_path, "train")
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(FileNotFoundError, match=r"no folder .*train: expected .* holds test\. data/README"):
        open_dataset("folder", tmp_path, "train")


def test_a_folder_above_or_below(tmp_path: Path) -> None:
    base = fill(tmp_path / "above" / "own", "{split}/{one}")
    with pytest.raises(ValueError, match=r"own/train is one split of .*own: name that folder"):
        open_dataset("folder", base / "train", "train")
    with pytest.raises(ValueError, match=r"expected <class>/<file> .*; .*own may be the folder to name"):
        open_dataset("folder", base.parent, "train")


def test_shapes_without_a_class_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for pattern in ("{split}/{one}", "{one}/{split}", "{one}"):
        base = fill(tmp_path / pattern.replace("/", "-"), pattern)
        where = base / "train" if pattern.startswith("{split}") else base
        for name in ("a.npy", "b.npy"):
            write(where / name)
        (where / "notes.md").touch()
        caplog.clear()
        open_dataset("folder", base, "train", 8)
        assert "train: passed over: a.npy, b.npy, notes.md (3 in all; 2 of them in no class's folder)" in (
            caplog.text
        )


@pytest.mark.parametrize("pattern", ["{split}/{one}", "{one}/{split}", "{one}"])
def test_damaged_files_are_named_by_class(
    pattern: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = fill(tmp_path / "own", pattern, tuple(f"c{number}" for number in range(6)))
    damaged, other, single = list(list_splits(base)["train"].files.values())[:3]
    damaged.write_bytes(b"torn")
    np.save(other, np.ones((40, 3)))
    values = np.random.default_rng(0).normal(size=(40, 3))
    assert len(open_dataset("folder", base, "train", 8)) == len(list_splits(base)["train"].files) - 2
    assert f"{damaged.name}: expected a whole NumPy array" in caplog.text
    assert f"{other.name}: expected points at two places at least, got 40 at one" in caplog.text
    np.save(single, values[:1])
    caplog.clear()
    open_dataset("folder", base, "train", 8)
    assert f"{single.name}: expected points at two places at least, got 1 at one" in caplog.text


@pytest.mark.parametrize("suffix", [".npy", ".txt"])
def test_a_sphere_on_a_map_keeps_its_shape(suffix: str, tmp_path: Path) -> None:
    ball = np.random.default_rng(0).normal(size=(100, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    path = tmp_path / "train" / "ball" / f"a{suffix}"
    path.parent.mkdir(parents=True)
    placed = ball + [500_000.0, 5_400_000.0, 300.0]
    np.save(path, placed) if suffix == ".npy" else np.savetxt(path, placed, fmt="%.9f")
    points = open_dataset("folder", tmp_path, "trainval", 100).points[0, :100].double().numpy()
    centred = placed - placed.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1).max()
    order = [np.lexsort(cloud.round(4).T) for cloud in (points, centred)]
    np.testing.assert_allclose(points[order[0]], centred[order[1]], atol=1e-6)


def test_files_of_other_kinds_name_a_converter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = fill(tmp_path / "own", "{split}/{one}")
    for name in ("a.e57", "b.E57", "c.mtl", "._d.npy"):
        (base / "test" / "cup" / name).touch()
    open_dataset("folder", base, "test", 8)
    assert caplog.text.count("test: .e57 is not read; convert it with CloudCompare") == 1
    assert ".mtl is not read" not in caplog.text
