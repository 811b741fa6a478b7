from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import bixt3d
from bixt3d.datasets import open_dataset
from bixt3d.datasets.cache import FOLDER
from bixt3d.datasets.modelnet40 import HDF5_FOLDER, NORMAL_FOLDER
from tests.markers import data_dir, needs_data
from tests.training.tiny import CLASSES as TINY
from tests.training.tiny import make_config, make_split

CLASSES = ["chair", "night_stand", "sofa"]


def in_spheres(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Clouds (n, P, 3) centred on their mean, the farthest point at distance 1."""
    centred = points - points.mean(axis=1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=2).max(axis=1)[:, None, None]


def write_hdf5(
    path: Path, count: int, points: int, *, seed: int, names: bool = True, **changes: Any
) -> dict[str, Any]:
    """Writes a file in the official layout; `changes` replace an array, or leave it out where None."""
    draw = np.random.default_rng(seed)
    arrays = {
        "data": in_spheres(draw.normal(size=(count, points, 3))).astype(np.float32),
        "label": (np.arange(count) % 3).astype(np.uint8)[:, None],
        "name": np.array([f"{seed}_{i:04d}".encode() for i in range(count)]) if names else None,
    }
    arrays |= changes
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            if value is not None:
                file.create_dataset(key, data=value)
    return arrays


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    """A data folder with 8 + 7 train shapes in two files, listed in reverse order, and 4 test shapes."""
    folder = tmp_path / HDF5_FOLDER
    folder.mkdir()
    (folder / "shape_names.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "train_files.txt").write_text(
        f"data/{HDF5_FOLDER}/ply_data_train1.h5\ndata/{HDF5_FOLDER}/ply_data_train0.h5\n"
    )
    (folder / "test_files.txt").write_text(f"data/{HDF5_FOLDER}/ply_data_test0.h5\n")
    write_hdf5(folder / "ply_data_train0.h5", 8, 16, seed=0)
    write_hdf5(folder / "ply_data_train1.h5", 7, 16, seed=1)
    write_hdf5(folder / "ply_data_test0.h5", 4, 16, seed=2)
    return tmp_path


def hdf5_arrays(path: Path) -> tuple[np.ndarray[Any, Any], list[int]]:
    with h5py.File(path) as file:
        return file["data"][()], file["label"][()].reshape(-1).tolist()


def test_hdf5_is_read_as_stored_in_the_order_of_the_list(
    hdf5: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    whole = open_dataset("modelnet40", hdf5, "trainval")
    (second, second_label), (first, first_label) = (
        hdf5_arrays(hdf5 / HDF5_FOLDER / f"ply_data_train{i}.h5") for i in (1, 0)
    )
    np.testing.assert_array_equal(whole.points.numpy(), np.concatenate([second, first]))
    assert whole.label.tolist() == second_label + first_label
    assert whole.classes == tuple(CLASSES)
    assert whole.names[:2] == ("1_0000", "1_0001") and whole.names[7] == "0_0000"
    assert "15 train shapes of 16 points" in caplog.text


def test_hdf5_root_may_be_the_folder_itself(hdf5: Path) -> None:
    expected = open_dataset("modelnet40", hdf5, "test").points
    own = (hdf5 / HDF5_FOLDER).rename(hdf5 / "some_other_name")
    assert torch.equal(open_dataset("modelnet40", str(own), "test").points, expected)


def test_train_and_val_add_up(hdf5: Path) -> None:
    parts = {split: open_dataset("modelnet40", hdf5, split) for split in ("train", "val", "trainval", "test")}
    assert sorted(parts["train"].names + parts["val"].names) == sorted(parts["trainval"].names)
    assert sorted(parts["val"].label.tolist()) == [0, 1, 2]
    assert len(parts["test"]) == 4
    again = open_dataset("modelnet40", hdf5, "val")
    assert again.names == parts["val"].names


def test_num_points_takes_the_first(hdf5: Path) -> None:
    whole, few = (open_dataset("modelnet40", hdf5, "test", num_points=n) for n in (None, 5))
    assert few.points.is_contiguous()
    assert torch.equal(few.points, whole.points[:, :5])
    assert torch.equal(open_dataset("modelnet40", hdf5, "test", num_points=16).points, whole.points)
    with pytest.raises(ValueError, match=r"num_points=17, but .*ply_data_test0\.h5 holds 16"):
        open_dataset("modelnet40", hdf5, "test", num_points=17)


def test_hdf5_cache(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_dataset("modelnet40", hdf5, "test")
    assert (hdf5 / HDF5_FOLDER / FOLDER / "modelnet40-test.npz").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", None)  # the second time no HDF5 file is opened
        second = open_dataset("modelnet40", hdf5, "test")
    assert torch.equal(first.points, second.points) and first.names == second.names
    new = write_hdf5(hdf5 / HDF5_FOLDER / "ply_data_test0.h5", 6, 16, seed=9)
    np.testing.assert_array_equal(open_dataset("modelnet40", hdf5, "test").points.numpy(), new["data"])


def test_hdf5_without_lists_reads_all_sorted(hdf5: Path) -> None:
    (hdf5 / HDF5_FOLDER / "train_files.txt").unlink()
    assert open_dataset("modelnet40", hdf5, "trainval").names[0] == "0_0000"
    for path in (hdf5 / HDF5_FOLDER).glob("ply_data_train*.h5"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no ply_data_train\*\.h5"):
        open_dataset("modelnet40", hdf5, "train")


@pytest.mark.parametrize(
    "changes",
    [
        {"label": np.array([0, 2, 1, 1], dtype=np.int32)},
        {"data": in_spheres(np.random.default_rng(7).normal(size=(4, 16, 3)))},
        {"name": None},
        {"name": np.arange(7)},
        {"extra": np.zeros(3)},
    ],
    ids=["flat label", "float64", "no names", "name is something else", "extra key"],
)
def test_hdf5_variants_are_read(hdf5: Path, changes: dict[str, Any]) -> None:
    arrays = write_hdf5(hdf5 / HDF5_FOLDER / "ply_data_test0.h5", 4, 16, seed=3, **changes)
    split = open_dataset("modelnet40", hdf5, "test")
    np.testing.assert_array_equal(split.points.numpy(), arrays["data"].astype(np.float32))
    assert split.label.tolist() == arrays["label"].reshape(-1).tolist()
    assert len(split.names) == (0 if "name" in changes else 4)


def test_names_only_where_all_files_hold_them(hdf5: Path) -> None:
    write_hdf5(hdf5 / HDF5_FOLDER / "ply_data_train0.h5", 8, 16, seed=0, names=False)
    assert open_dataset("modelnet40", hdf5, "trainval").names == ()


def test_names_of_variable_length_strings(hdf5: Path) -> None:
    names = np.array(["a", "längst", "c", "d"], dtype=object)
    write_hdf5(hdf5 / HDF5_FOLDER / "ply_data_test0.h5", 4, 16, seed=3, name=names)
    assert open_dataset("modelnet40", hdf5, "test").names == tuple(names)


def with_value(value: float) -> np.ndarray[Any, Any]:
    points = np.random.default_rng(0).normal(size=(4, 16, 3)).astype(np.float32)
    points[2, 3, 1] = value
    return points


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "it has no data; it holds label, name"),
        ({"label": None}, "it has no label; it holds data, name"),
        ({"data": np.zeros((4, 16, 6), np.float32)}, r"expected data \(n, P, 3\) float, got \(4, 16, 6\)"),
        ({"data": np.zeros((4, 16), np.float32)}, r"got \(4, 16\)"),
        ({"data": np.zeros((4, 0, 3), np.float32)}, r"got \(4, 0, 3\)"),
        ({"data": np.zeros((4, 16, 3), np.int32)}, "int32"),
        ({"data": with_value(np.nan)}, "shape 2: expected finite points, got NaN or infinity"),
        ({"data": with_value(np.uint32(0x7F800001).view(np.float32))}, "shape 2: expected finite points"),
        ({"data": with_value(-np.inf)}, "shape 2: expected finite points, got NaN or infinity"),
        ({"label": np.zeros((5, 1), np.uint8)}, r"for the 4 shapes of data, got \(5, 1\)"),
        ({"label": np.zeros((4, 3), np.uint8)}, r"got \(4, 3\)"),
        ({"label": np.zeros(4, np.float32)}, "whole-number label.*float32"),
        ({"label": np.array([0, 1, 2, 3], np.uint8)}, r"labels in 0\.\.2.*got 0\.\.3"),
        ({"label": np.array([0, -1, 2, 1], np.int8)}, r"got -1\.\.2"),
        ({"name": np.array([b"a", b"b"])}, r"expected name \(4,\)"),
    ],
)
def test_foreign_hdf5_is_named(hdf5: Path, changes: dict[str, Any], message: str) -> None:
    write_hdf5(hdf5 / HDF5_FOLDER / "ply_data_test0.h5", 4, 16, seed=3, **changes)
    with pytest.raises(ValueError, match=rf"ply_data_test0\.h5: .*{message}"):
        open_dataset("modelnet40", hdf5, "test")
    assert not (hdf5 / HDF5_FOLDER / FOLDER).exists()  # nothing wrong is kept


def test_a_group_is_not_an_array(hdf5: Path) -> None:
    path = hdf5 / HDF5_FOLDER / "ply_data_test0.h5"
    with h5py.File(path, "w") as file:
        file.create_group("data")
    with pytest.raises(ValueError, match="it has no data; it holds data"):
        open_dataset("modelnet40", hdf5, "test")


def test_damaged_hdf5_is_named(hdf5: Path) -> None:
    path = hdf5 / HDF5_FOLDER / "ply_data_test0.h5"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1], b"", b"<html>moved</html>" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"ply_data_test0\.h5: not a whole HDF5 file"):
            open_dataset("modelnet40", hdf5, "test")


def test_a_damaged_chunk_is_named(hdf5: Path) -> None:
    path = hdf5 / HDF5_FOLDER / "ply_data_test0.h5"
    with h5py.File(path, "w") as file:
        chunked = file.create_dataset(
            "data", data=np.ones((4, 16, 3), np.float32), compression="gzip", fletcher32=True
        )
        file["label"] = np.zeros(4, np.uint8)
        offset = chunked.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 4] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"ply_data_test0\.h5: not a whole HDF5 file"):
        open_dataset("modelnet40", hdf5, "test")


def test_files_of_different_point_counts(hdf5: Path) -> None:
    write_hdf5(hdf5 / HDF5_FOLDER / "ply_data_train0.h5", 8, 12, seed=0)
    with pytest.raises(ValueError, match=r"train0\.h5 holds 12 points .*train1\.h5 16: .*num_points=12"):
        open_dataset("modelnet40", hdf5, "train")
    with pytest.raises(ValueError, match=r"num_points=13, but .*train0\.h5 holds 12"):
        open_dataset("modelnet40", hdf5, "train", num_points=13)
    assert open_dataset("modelnet40", hdf5, "trainval", num_points=12).points.shape == (15, 12, 3)


def test_missing_files_are_named(hdf5: Path) -> None:
    folder = hdf5 / HDF5_FOLDER
    (folder / "ply_data_train1.h5").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"ply_data_train1\.h5 is missing, one of 1 that .*train_files\.txt"
    ):
        open_dataset("modelnet40", hdf5, "train")
    (folder / "shape_names.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"shape_names\.txt is missing"):
        open_dataset("modelnet40", hdf5, "test")
    with pytest.raises(FileNotFoundError, match=rf"{HDF5_FOLDER}.*data/README\.md"):
        open_dataset("modelnet40", hdf5 / "nowhere", "test")


def test_h5py_missing_says_what_to_install(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        open_dataset("modelnet40", hdf5, "test")


def test_a_file_without_permission_is_not_called_damaged(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Unable to synchronously open file")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(PermissionError, match=r"ply_data_test0\.h5: no permission"):
        open_dataset("modelnet40", hdf5, "test")


# Features of HDF5 files


def with_features(folder: Path, **extra: Any) -> dict[str, dict[str, Any]]:
    """Writes all files of the fixture with a colour and an intensity, or others, for each point."""
    written = {}
    for number, (name, count) in enumerate((("train0", 8), ("train1", 7), ("test0", 4))):
        draw = np.random.default_rng(number)
        features = {
            "color": draw.random((count, 16, 3)).astype(np.float32),
            "intensity": draw.normal(size=(count, 16)).astype(np.float32),
            **{key: make(draw, count) for key, make in extra.items()},
        }
        path = folder / HDF5_FOLDER / f"ply_data_{name}.h5"
        written[name] = write_hdf5(path, count, 16, seed=number, **features)
    return written


def test_hdf5_features_by_name(hdf5: Path) -> None:
    wide = {"fpfh": lambda draw, count: draw.normal(size=(count, 16, 5))}
    written = with_features(hdf5, **wide)
    whole = open_dataset("modelnet40", hdf5, "trainval", features=["intensity", "color", "fpfh:5"])
    assert whole.features == ("intensity", "color", "fpfh:5") and whole.points.dtype == torch.float32
    expected = [
        np.concatenate([one["data"], one["intensity"][..., None], one["color"], one["fpfh"]], axis=2)
        for one in (written["train1"], written["train0"])
    ]
    np.testing.assert_array_equal(whole.points.numpy(), np.concatenate(expected).astype(np.float32))
    few = open_dataset("modelnet40", hdf5, "test", 5, ["color"])
    np.testing.assert_array_equal(few.points[..., 3:].numpy(), written["test0"]["color"][:, :5])
    for features in (None, []):
        bare = open_dataset("modelnet40", hdf5, "test", features=features)
        assert bare.features == () and bare.channels == 3
    parts = [open_dataset("modelnet40", hdf5, split, features=["color"]) for split in ("train", "val")]
    assert sum(map(len, parts)) == 15 and {part.features for part in parts} == {("color",)}


def test_hdf5_features_in_the_plural_and_of_whole_numbers(hdf5: Path) -> None:
    def colors(draw: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
        return draw.integers(0, 256, (count, 16, 3)).astype(np.uint8)

    written = with_features(hdf5, color=lambda draw, count: None, colors=colors)
    split = open_dataset("modelnet40", hdf5, "test", features=["color"])
    np.testing.assert_allclose(split.points[..., 3:].numpy(), written["test0"]["colors"] / 255, atol=1e-6)


def test_hdf5_normals_of_other_lengths_are_scaled(hdf5: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = with_features(hdf5, normal=lambda draw, count: draw.normal(size=(count, 16, 3)))
    split = open_dataset("modelnet40", hdf5, "test", features=["normal"])
    normals = written["test0"]["normal"]
    expected = normals / np.linalg.norm(normals, axis=2, keepdims=True)
    np.testing.assert_allclose(split.points[..., 3:].numpy(), expected, atol=1e-5)
    assert "ply_data_test0.h5: normals of other lengths are scaled" in caplog.text
    path = hdf5 / HDF5_FOLDER / "ply_data_train0.h5"  # the second that is read
    write_hdf5(path, 8, 16, seed=0, normal=np.random.default_rng(0).random((8, 16, 3)))
    with pytest.raises(ValueError, match=r"ply_data_train0\.h5: feature normal: expected vectors"):
        open_dataset("modelnet40", hdf5, "train", features=["normal"])


@pytest.mark.parametrize(
    ("features", "extra", "message"),
    [
        (["normal"], {}, "it has no feature normal; expected data.features out of color, .*intensity"),
        (
            ["own:2"],
            {"own": lambda draw, count: np.zeros((count, 16, 3))},
            r"own: expected \(4, 16, 2\), got",
        ),
        (["own:2"], {"own": lambda draw, count: np.zeros((count, 15, 2))}, r"got \(4, 15, 2\)"),
        (["own:2"], {"own": lambda draw, count: np.zeros((count, 16))}, r"got \(4, 16\)"),
        (
            ["own"],
            {"own": lambda draw, count: np.full((count, 16), np.nan)},
            "shape 0: expected finite points, got NaN or infinity",
        ),
        (["own"], {"own": lambda draw, count: np.full((count, 16), b"a")}, "expected numbers in own"),
        (
            ["normal"],
            {"normal": lambda draw, count: draw.random((count, 16, 3))},
            "feature normal: expected vec",
        ),
        (
            ["color"],
            {"color": lambda draw, count: -draw.random((count, 16, 3))},
            "feature color: expected red",
        ),
    ],
)
def test_hdf5_features_that_are_none(
    hdf5: Path, features: list[str], extra: dict[str, Any], message: str
) -> None:
    with_features(hdf5, **extra)
    with pytest.raises(ValueError, match=rf"ply_data_test0\.h5: .*{message}"):
        open_dataset("modelnet40", hdf5, "test", features=features)
    assert open_dataset("modelnet40", hdf5, "test", features=["intensity"]).channels == 4


def test_hdf5_features_of_some_files_alone(hdf5: Path) -> None:
    with_features(hdf5)
    write_hdf5(hdf5 / HDF5_FOLDER / "ply_data_train0.h5", 8, 16, seed=0)
    with pytest.raises(ValueError, match=r"ply_data_train0\.h5: it has no feature color"):
        open_dataset("modelnet40", hdf5, "train", features=["color"])


def test_hdf5_features_in_another_file_are_not_read(hdf5: Path, tmp_path: Path) -> None:
    with_features(hdf5, color=lambda draw, count: None)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["color"] = np.zeros((4, 16, 3), np.float32)
    with h5py.File(hdf5 / HDF5_FOLDER / "ply_data_test0.h5", "r+") as file:
        file["color"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "color")
    with pytest.raises(ValueError, match=r"ply_data_test0\.h5: color lies in another file"):
        open_dataset("modelnet40", hdf5, "test", features=["color"])


def test_hdf5_features_have_caches_of_their_own(hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_features(hdf5, own=lambda draw, count: draw.normal(size=(count, 16, 2)))
    choices: list[Any] = [None, [], ["color"], ["intensity", "color"], ["own:2"]]
    first = [open_dataset("modelnet40", hdf5, "test", features=features) for features in choices]
    names = sorted(path.name for path in (hdf5 / HDF5_FOLDER / FOLDER).iterdir())
    assert names == sorted(
        f"modelnet40-test{ending}.npz" for ending in ("", "-color", "-intensity-color", "-own.2")
    )
    monkeypatch.setattr(h5py, "File", None)  # no HDF5 file is opened again
    for features, split in zip(choices, first, strict=True):
        again = open_dataset("modelnet40", hdf5, "test", features=features)
        assert torch.equal(again.points, split.points) and again.features == split.features


def cloud(seed: int, rows: int = 30) -> np.ndarray[Any, Any]:
    draw = np.random.default_rng(seed)
    normal = draw.normal(size=(rows, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return np.concatenate([draw.uniform(-3, 9, size=(rows, 3)), normal], axis=1).round(6)


def write_cloud(path: Path, rows: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in rows))


@pytest.fixture
def normal(tmp_path: Path) -> Path:
    """A data folder with 3 train shapes and 1 test shape of each of three classes."""
    folder = tmp_path / NORMAL_FOLDER
    folder.mkdir()
    (folder / "modelnet40_shape_names.txt").write_text("\n".join(CLASSES))
    train = [f"{name}_{i:04d}" for i in range(1, 4) for name in CLASSES]
    test = [f"{name}_0100" for name in CLASSES]
    for part, names in (("train", train), ("test", test)):
        (folder / f"modelnet40_{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            write_cloud(folder / name.rpartition("_")[0] / f"{name}.txt", cloud(seed_of(name)))
    return tmp_path


def seed_of(name: str) -> int:
    return CLASSES.index(name.rpartition("_")[0]) * 1000 + int(name[-4:])


def test_normal_is_read_into_the_unit_sphere(normal: Path) -> None:
    split = open_dataset("modelnet40_normal", normal, "trainval", num_points=20)
    assert split.points.shape == (9, 20, 6)
    assert split.names[:3] == ("chair_0001", "night_stand_0001", "sofa_0001")
    assert split.label.tolist() == [0, 1, 2] * 3 and split.classes == tuple(CLASSES)
    for points, name in zip(split.points, split.names, strict=True):
        stored = cloud(seed_of(name))[:20]
        xyz = stored[:, :3] - stored[:, :3].mean(axis=0)
        xyz /= np.linalg.norm(xyz, axis=1).max()
        np.testing.assert_allclose(points[:, :3].numpy(), xyz, atol=1e-5)
        np.testing.assert_array_equal(points[:, 3:].numpy(), stored[:, 3:].astype(np.float32))


def test_normal_features(normal: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = open_dataset("modelnet40_normal", normal, "test", 8)
    assert both.features == ("normal",)
    bare = open_dataset("modelnet40_normal", normal, "test", 8, [])
    assert bare.features == () and torch.equal(bare.points, both.points[..., :3])
    with pytest.raises(ValueError, match="features: expected color, got normal"):
        open_dataset("modelnet40_normal", normal, "test", 8, ["color"])
    write_cloud(normal / NORMAL_FOLDER / "sofa" / "sofa_0100.txt", cloud(5) * [1, 1, 1, 2, 2, 2])
    scaled = open_dataset("modelnet40_normal", normal, "test", 8)
    torch.testing.assert_close(scaled.points[..., 3:].norm(dim=-1), torch.ones(3, 8), atol=1e-5, rtol=0)
    assert "sofa_0100.txt: normals of other lengths are scaled to length 1" in caplog.text
    colors = np.abs(cloud(5)) * [1, 1, 1, 255, 255, 255]
    write_cloud(normal / NORMAL_FOLDER / "night_stand" / "night_stand_0100.txt", colors)  # of one file alone
    message = r"night_stand_0100\.txt: feature normal: expected vectors of length 1.*as colours have"
    with pytest.raises(ValueError, match=message):
        open_dataset("modelnet40_normal", normal, "test", 8)


def test_normal_splits(normal: Path) -> None:
    own = normal / NORMAL_FOLDER
    train, val, test = (open_dataset("modelnet40_normal", own, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (6, 3, 3)
    assert not set(train.names) & set(val.names)
    assert test.num_points == 30  # None keeps all lines


def test_normal_cache_holds_the_first_lines(normal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bixt3d.datasets.modelnet40.CACHED_ROWS", 10)
    cache = normal / NORMAL_FOLDER / FOLDER
    few = open_dataset("modelnet40_normal", normal, "test", num_points=4)
    with monkeypatch.context() as patch:
        patch.setattr("bixt3d.datasets.modelnet40.read_rows", None)  # nothing is parsed again
        ten = open_dataset("modelnet40_normal", normal, "test", num_points=10)
    assert torch.equal(ten.points[:, :4, 3:], few.points[..., 3:])
    assert [path.name for path in cache.iterdir()] == ["modelnet40_normal-test-10.npz"]
    assert open_dataset("modelnet40_normal", normal, "test", num_points=11).num_points == 11
    assert open_dataset("modelnet40_normal", normal, "test").num_points == 30
    assert sorted(path.name for path in cache.iterdir()) == [
        f"modelnet40_normal-test-{rows}.npz" for rows in ("10", "11", "all")
    ]
    write_cloud(normal / NORMAL_FOLDER / "sofa" / "sofa_0100.txt", cloud(5, rows=31))
    changed = open_dataset("modelnet40_normal", normal, "test", num_points=4)
    np.testing.assert_array_equal(
        changed.points[2, :, 3:].numpy(), cloud(5, rows=31)[:4, 3:].astype(np.float32)
    )


def test_normal_shorter_file_is_named(normal: Path) -> None:
    write_cloud(normal / NORMAL_FOLDER / "sofa" / "sofa_0100.txt", cloud(5, rows=7))
    with pytest.raises(ValueError, match=r"num_points=8, but .*sofa/sofa_0100\.txt holds 7"):
        open_dataset("modelnet40_normal", normal, "test", num_points=8)
    with pytest.raises(ValueError, match=r"sofa/sofa_0100\.txt holds 7 .* 30"):
        open_dataset("modelnet40_normal", normal, "test")
    assert open_dataset("modelnet40_normal", normal, "test", num_points=7).num_points == 7


def test_normal_bad_files_are_named(normal: Path) -> None:
    folder = normal / NORMAL_FOLDER
    path = folder / "night_stand" / "night_stand_0100.txt"
    good = path.read_text().splitlines()
    path.write_text("\n".join([*good[:4], "1,2,3", *good[5:]]))
    with pytest.raises(ValueError, match=r"night_stand_0100\.txt, line 5: expected 6 numbers.*, got 3"):
        open_dataset("modelnet40_normal", normal, "test", num_points=8)
    path.write_text("\n".join([*good[:4], "1,2,3,4,5,six", *good[5:]]))
    with pytest.raises(
        ValueError, match=r"night_stand_0100\.txt, line 5: expected finite numbers, got 'six'"
    ):
        open_dataset("modelnet40_normal", normal, "test", num_points=8)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"night_stand_0100\.txt is missing, one of 1 .*modelnet40_test\.txt"
    ):
        open_dataset("modelnet40_normal", normal, "test")
    (folder / "modelnet40_test.txt").write_text("boat_0001\n")
    with pytest.raises(ValueError, match=r"modelnet40_test\.txt: expected <class>_<number>.*'boat_0001'"):
        open_dataset("modelnet40_normal", normal, "test")
    (folder / "modelnet40_test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"modelnet40_test\.txt is missing"):
        open_dataset("modelnet40_normal", normal, "test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("modelnet41", "test"),
            "modelnet40_normal, scenes, shapenetpart, shapes, got 'modelnet41'; did you mean 'modelnet40'?",
        ),
        (("zzz", "test"), "got 'zzz'$"),
        (("modelnet40", "tset"), "split: expected one of train, val, test, trainval, got 'tset'"),
        (("modelnet40", "test", 0), "num_points: expected a whole number above 0"),
        (("modelnet40", "test", True), "num_points"),
        (("modelnet40", "test", 5.0), "num_points"),
    ],
)
def test_open_dataset_refuses(tmp_path: Path, arguments: tuple[Any, ...], message: str) -> None:
    name, *rest = arguments
    with pytest.raises(ValueError, match=message):
        open_dataset(name, tmp_path, *rest)


def test_shapes_are_made_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = pytest.importorskip("bixt3d.datasets.synthetic.shapes")
    made = []

    def few(root: Path) -> Path:
        made.append(root)
        return write(root, per_class=3, num_points=32, progress=False)

    write = shapes.write_shapes
    monkeypatch.setattr(shapes, "write_shapes", few)
    train = open_dataset("shapes", tmp_path / "data", "train")
    val = open_dataset("shapes", tmp_path / "data" / "shapes", "val", num_points=8)
    whole = open_dataset("shapes", tmp_path / "data", "trainval")
    assert made == [tmp_path / "data"]
    assert len(train) + len(val) == len(whole) and val.num_points == 8
    own = tmp_path / "other" / "shapes"  # the data set's own folder, which is not there yet
    assert torch.equal(open_dataset("shapes", own, "trainval").points, whole.points)
    assert made == [tmp_path / "data", tmp_path / "other"]


@needs_data
def test_real_modelnet40(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = data_dir()
    whole, train, val, test = (
        open_dataset("modelnet40", root, s, 256) for s in ("trainval", "train", "val", "test")
    )
    assert len(whole) in (9840, 9843) and len(test) == 2468  # the official HDF5 lacks three shapes
    assert len(train) + len(val) == len(whole) and len(whole.classes) == 40
    assert whole.classes[0] == "airplane" and whole.classes[39] == "xbox"
    if whole.names:
        assert sorted(train.names + val.names) == sorted(whole.names) and not set(train.names) & set(
            val.names
        )
        assert all(
            n.rpartition("_")[0] == whole.classes[c]
            for n, c in zip(whole.names, whole.label.tolist(), strict=True)
        )
    share = val.label.bincount(minlength=40) / whole.label.bincount(minlength=40)
    assert 0.08 < float(share.min()) and float(share.max()) < 0.12
    assert float(test.points.norm(dim=-1).max()) < 1.01


# Place and size


def sphere(count: int, rows: int) -> np.ndarray[Any, Any]:
    """Points on spheres of radius 1 that are on a map."""
    points = np.random.default_rng(3).normal(size=(count, rows, 3))
    return points / np.linalg.norm(points, axis=2, keepdims=True) + [500_000.0, 5_400_000.0, 300.0]


def assert_spheres(points: torch.Tensor, placed: np.ndarray[Any, Any]) -> None:
    """The points are those of `placed`, moved and scaled alone, to a millionth."""
    np.testing.assert_allclose(points[..., :3].numpy(), in_spheres(placed), atol=1e-6)


@pytest.mark.parametrize("kind", ["f8", "f4"])
def test_hdf5_that_is_not_normalized_is_moved_at_loading(
    kind: str, hdf5: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By all points of each shape, also where fewer are asked for; each time with a note."""
    caplog.set_level(logging.INFO)
    placed = sphere(4, 16) if kind == "f8" else np.random.default_rng(3).uniform(-900, 900, (4, 16, 3))
    placed[1] = in_spheres(placed[1:2])[0] * 1.001 + 0.001  # as stored with few digits: this one stays
    write_hdf5(hdf5 / HDF5_FOLDER / "ply_data_test0.h5", 4, 16, seed=2, data=placed.astype(kind))
    for _ in range(2):
        caplog.clear()
        read = open_dataset("modelnet40", hdf5, "test")
        assert "3 of 4 clouds are not centred and scaled as stored" in caplog.text
    assert read.normalized
    assert_spheres(read.points[[0, 2, 3]], placed[[0, 2, 3]])
    np.testing.assert_array_equal(read.points[1].numpy(), placed[1].astype(np.float32))
    assert torch.equal(open_dataset("modelnet40", hdf5, "test", 5).points, read.points[:, :5])
    caplog.clear()
    open_dataset("modelnet40", hdf5, "train")
    assert "as stored" not in caplog.text


def test_classes_in_millimetres_score_alike_in_evaluation_and_prediction(tmp_path: Path) -> None:
    """A training and `Predictor` see the same clouds, wherever the files have them."""
    folder = tmp_path / HDF5_FOLDER
    folder.mkdir()
    (folder / "shape_names.txt").write_text("".join(f"{name}\n" for name in TINY))
    stored = {}
    for seed, part in enumerate(("train", "test")):
        made = make_split(64 if part == "train" else 40, seed=seed)
        stored[part] = made.points.double().numpy() * 870 + [4_000.0, -12_000.0, 90.0]
        label = made.label.numpy()
        write_hdf5(folder / f"ply_data_{part}0.h5", len(label), 32, seed=0, data=stored[part], label=label)
    changes = (
        "optim.lr=1e-2",
        "train.epochs=8",
        "train.ema_decay=0",
        "augment.shift=0",
        "train.batch_size=16",
    )
    where = ("data.name=modelnet40", f"data.root={tmp_path}", f"run.dir={tmp_path / 'run'}")
    result = bixt3d.train(make_config(*changes, *where))
    predictor = bixt3d.Predictor(tmp_path / "run" / "last", "cpu")
    found = [answer.index for answer in predictor(list(stored["test"]))]
    right = float(np.mean(np.array(found) == label))
    assert right == pytest.approx(result.last["oa"], abs=1e-6) and right > 0.6


def test_hdf5_height_is_computed_where_there_is_none(hdf5: Path) -> None:
    with_features(hdf5)
    draw = np.random.default_rng(2)
    placed = draw.normal(size=(4, 16, 3)) * 70 + 900
    test = hdf5 / HDF5_FOLDER / "ply_data_test0.h5"
    write_hdf5(test, 4, 16, seed=2, data=placed, intensity=draw.random((4, 16)).astype(np.float32))
    read = open_dataset("modelnet40", hdf5, "test", features=["height", "intensity"])
    normal = in_spheres(placed)
    above = normal[..., 1] - normal[..., 1].min(axis=1, keepdims=True)
    np.testing.assert_allclose(read.points[..., 3].numpy(), above, atol=1e-6)
    stored = draw.random((4, 16)).astype(np.float32)
    write_hdf5(test, 4, 16, seed=2, height=stored)
    read = open_dataset("modelnet40", hdf5, "test", features=["height"])
    np.testing.assert_array_equal(read.points[..., 3].numpy(), stored)


def test_hdf5_shape_at_one_place_is_named(hdf5: Path) -> None:
    placed = sphere(4, 16)
    placed[3] = placed[3, 0]
    write_hdf5(hdf5 / HDF5_FOLDER / "ply_data_test0.h5", 4, 16, seed=2, data=placed)
    with pytest.raises(
        ValueError, match=r"test0\.h5: shape 3: expected points at two places at least, got one"
    ):
        open_dataset("modelnet40", hdf5, "test")


def test_normal_text_on_a_map_keeps_its_shape(normal: Path) -> None:
    placed = sphere(3, 30)
    for name, points in zip(CLASSES, placed, strict=True):
        rows = np.concatenate([points, cloud(1)[:, 3:]], axis=1)
        path = normal / NORMAL_FOLDER / name / f"{name}_0100.txt"
        path.write_text("".join(",".join(f"{value:.9f}" for value in row) + "\n" for row in rows))
    assert_spheres(open_dataset("modelnet40_normal", normal, "test").points, placed)
    assert_spheres(open_dataset("modelnet40_normal", normal, "test", 12).points, placed[:, :12])
    write_cloud(normal / NORMAL_FOLDER / "sofa" / "sofa_0100.txt", cloud(5)[[0] * 30])
    with pytest.raises(
        ValueError, match=r"sofa_0100\.txt: expected points at two places at least, got 30 at one"
    ):
        open_dataset("modelnet40_normal", normal, "test", 8)


def test_normal_with_height(normal: Path) -> None:
    read = open_dataset("modelnet40_normal", normal, "test", 20, ["normal", "height"])
    above = read.points[..., 1] - read.points[..., 1].amin(1, keepdim=True)
    torch.testing.assert_close(read.points[..., 6], above, atol=1e-5, rtol=0)
