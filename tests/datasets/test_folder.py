"""A user's own folder: what is read and how, which points, which splits, broken files, and the cache."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bixt3d import open_dataset
from bixt3d.config import config_from, override
from bixt3d.datasets.folder import STORED_POINTS, read_folder
from bixt3d.datasets.readers import MESHES, SUFFIXES, read_cloud
from bixt3d.datasets.split import Split
from bixt3d.training.splits import open_splits
from tests.datasets.readers.test_formats import gltf, vectors
from tests.datasets.readers.test_pcd import pcd

SCANS = (".las", ".laz", ".bin")  # they name no normals
EXTENTS = np.array([1.0, 2.0, 4.0])


def box(place: float = 7.0, size: float = 1.0) -> trimesh.Trimesh:
    return trimesh.creation.box(
        size * EXTENTS, trimesh.transformations.translation_matrix([place, -place, 0])
    )


def cloud(seed: int = 0, points: int = 60, normals: bool = True, place: float = 5.0) -> NDArray[np.float64]:
    draw = np.random.default_rng(seed)
    xyz = draw.normal(size=(points, 3)) * [1, 2, 3]
    directions = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    return np.concatenate([xyz + place, directions], axis=1)[:, : 6 if normals else 3]


def write(path: Path, points: NDArray[Any] | None = None) -> Path:
    """Write a box to a mesh's path, and points to a cloud's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    points = cloud() if points is None else points
    suffix = path.suffix.lower()
    if suffix in MESHES:
        path.write_bytes(_bytes(box().export(file_type=suffix[1:])))
    elif suffix == ".pcd":
        names = ("x", "y", "z", "normal_x", "normal_y", "normal_z")
        path.write_bytes(pcd({name: column for name, column in zip(names, points.T, strict=False)}))
    elif suffix in (".las", ".laz"):
        import laspy

        header = laspy.LasHeader(point_format=0)
        header.scales = np.full(3, 1e-6)
        scan = laspy.LasData(header)
        scan.xyz, scan.intensity = points[:, :3], np.arange(len(points))
        scan.write(path)
    elif suffix == ".bin":
        np.concatenate([points[:, :3], np.arange(len(points))[:, None]], axis=1).astype("<f4").tofile(path)
    elif suffix == ".npy":
        np.save(path, points)
    elif suffix == ".npz":
        np.savez(path, points=points)
    else:
        np.savetxt(path, points, fmt="%.9f")
    return path


def _bytes(content: str | bytes | dict[str, bytes]) -> bytes:
    if isinstance(content, dict):  # of a .gltf: its tree, and its data, which are written into the tree
        tree = json.loads(content["model.gltf"])
        for buffer in tree["buffers"]:
            data = base64.b64encode(content[buffer["uri"]]).decode()
            buffer["uri"] = f"data:application/octet-stream;base64,{data}"
        return json.dumps(tree).encode()
    return content.encode() if isinstance(content, str) else content


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """12 training and 3 test clouds of each of two classes."""
    for number, one_class in enumerate(("cup", "bowl")):
        for split, count in (("train", 12), ("test", 3)):
            for index in range(count):
                seed = 100 * number + index + 50 * (split == "test")
                write(tmp_path / "own" / split / one_class / f"{index:02d}.npy", cloud(seed))
    return tmp_path / "own"


def in_unit_sphere(points: NDArray[np.float64]) -> NDArray[np.float64]:
    xyz = points[:, :3] - points[:, :3].mean(0)
    return np.concatenate([xyz / np.linalg.norm(xyz, axis=1).max(), points[:, 3:]], axis=1)


def of(split: Split, name: str) -> torch.Tensor:
    return split.points[split.names.index(name)]


def assert_same_points(points: torch.Tensor, expected: NDArray[np.float64]) -> None:
    """Both hold the same rows, in whatever order."""
    mix = np.random.default_rng(0).normal(size=expected.shape[1])  # tells rows apart by one number
    found = points.numpy().astype(np.float64)
    found, expected = (rows[np.argsort(rows @ mix)] for rows in (found, expected))
    np.testing.assert_allclose(found, expected, atol=1e-5)


# What is read


def test_every_kind_of_file(tmp_path: Path) -> None:
    with_normals = [suffix for suffix in SUFFIXES if suffix not in SCANS]
    for suffix in with_normals:
        write(tmp_path / "train" / suffix[1:] / f"a{suffix}")
        write(tmp_path / "train" / suffix[1:] / f"b{suffix}".upper())
    split = open_dataset("folder", tmp_path, "trainval")
    assert (
        split.points.shape == (2 * len(with_normals), STORED_POINTS, 6)
        and split.points.dtype == torch.float32
    )
    assert split.classes == tuple(sorted(suffix[1:] for suffix in with_normals))
    for points, label, name in zip(split.points, split.label.tolist(), split.names, strict=True):
        assert split.classes[label] == name.partition("/")[0]
        xyz, normals = points[:, :3].numpy(), points[:, 3:].numpy()
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-6)
        if f".{split.classes[label]}" in MESHES:
            assert_box(xyz, normals)
        else:
            assert_same_points(points[:60], in_unit_sphere(cloud()))
    assert split.names == tuple(sorted(split.names)) and split.names[0] == "asc/B.ASC"


def test_scans_have_intensities(tmp_path: Path) -> None:
    for suffix in SCANS:
        write(tmp_path / "train" / suffix[1:] / f"a{suffix}")
        write(tmp_path / "train" / suffix[1:] / f"b{suffix}".upper())
    split = open_dataset("folder", tmp_path, "trainval", features=["intensity"])
    assert split.points.shape == (6, STORED_POINTS, 4) and split.classes == ("bin", "las", "laz")
    for points in split.points:
        expected = np.concatenate([in_unit_sphere(cloud()[:, :3]), np.arange(60)[:, None]], axis=1)
        assert_same_points(points[:60], expected)


def assert_box(xyz: NDArray[Any], normals: NDArray[Any]) -> None:
    """All points on the six sides of a box, by their area, with the sides' normals, in the unit sphere."""
    np.testing.assert_allclose(xyz.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(xyz, axis=1).max(), 1, atol=1e-5)
    axis, area = np.abs(normals).argmax(1), np.array([8.0, 4.0, 2.0]) / 28
    width = []
    for direction in range(3):
        ends = []
        for sign in (-1, 1):
            side = (axis == direction) & (np.sign(normals[:, direction]) == sign)
            assert side.mean() == pytest.approx(area[direction], abs=0.04)
            assert np.ptp(xyz[side, direction]) < 1e-5
            ends.append(xyz[side, direction].mean())
        width.append(ends[1] - ends[0])
    np.testing.assert_allclose(np.array(width) / width[0], EXTENTS, rtol=1e-4)


def test_a_cloud_gives_points_of_its_own_none_twice(root: Path) -> None:
    """Also where it is a map's, whose metres float32 would round, and stored line by line."""
    scan = np.zeros((20_000, 3))
    scan[:, 0] = np.arange(20_000) / 1000 + 500_000
    scan[:, 1] = 5_400_000
    write(root / "test" / "cup" / "scan.npy", scan)
    points = of(open_dataset("folder", root, "test"), "cup/scan.npy").numpy()
    assert points.shape == (2048, 3)
    along = (points[:, 0].astype(np.float64) * (19_999 / 2)) + 19_999 / 2  # 0..19,999, where it came from
    assert np.abs(along - along.round()).max() < 0.01 and len(np.unique(along.round())) == 2048
    assert np.abs(points[:, 1:]).max() < 1e-6
    for few in (32, 512, 2048):  # the first ones are spread over all of it
        assert abs(points[:few, 0].mean()) < 0.25 and np.ptp(points[:few, 0]) > 1.6
    assert np.abs(np.corrcoef(np.arange(2048), points[:, 0])[0, 1]) < 0.1


def test_a_mesh_of_any_size_and_place(tmp_path: Path) -> None:
    for name, place, size in (
        ("near", 0.0, 1.0),
        ("far", 1e6, 1e-3),
        ("large", 0.0, 1e6),
        ("small", 0, 1e-4),
    ):
        path = tmp_path / "train" / "box" / f"{name}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        box(place, size).export(path, digits=12)
    for points in open_dataset("folder", tmp_path, "trainval").points.numpy():
        assert np.abs(np.linalg.norm(points[:, :3], axis=1).max() - 1) < 1e-5
        np.testing.assert_allclose(np.abs(points[:, 3:]).max(1), 1, atol=1e-3)


def test_normals_are_those_of_read_cloud(tmp_path: Path) -> None:
    """The predictor reads a file by `read_cloud` and normalises it itself: the same shape must come out."""
    path = tmp_path / "train" / "ball" / "a.ply"
    path.parent.mkdir(parents=True)
    trimesh.creation.icosphere(subdivisions=1).export(path)
    stored = open_dataset("folder", tmp_path, "trainval").points[0].numpy()
    seen = in_unit_sphere(read_cloud(path, ("normal",), STORED_POINTS))
    faces = [np.unique(points[:, 3:].round(3) + 0.0, axis=0) for points in (stored, seen)]
    np.testing.assert_allclose(faces[0], faces[1], atol=2e-3)
    assert len(faces[0]) == 80
    for points in (stored, seen):
        assert (points[:, :3] * points[:, 3:]).sum(1).min() > 0.8  # outwards


# Which points


def test_points_depend_on_class_and_name_alone(root: Path, tmp_path: Path) -> None:
    for kind in ("off", "npy"):
        write(root / "train" / "cup" / f"x.{kind}", cloud(9, 5000))
    before = open_dataset("folder", root, "trainval")
    for kind in ("off", "npy"):
        shutil.copytree(root / "train", tmp_path / "other" / "train", dirs_exist_ok=True)
        write(tmp_path / "other" / "train" / "cup" / f"{kind}.txt")
        (tmp_path / "other" / "test" / "cup").mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / "other" / "train" / "cup" / f"x.{kind}", tmp_path / "other" / "test" / "cup")
        after = open_dataset("folder", tmp_path / "other", "test")
        assert torch.equal(of(before, f"cup/x.{kind}"), of(after, f"cup/x.{kind}"))
    shutil.copy(root / "train" / "cup" / "x.off", root / "train" / "cup" / "y.off")
    shutil.copy(root / "train" / "cup" / "x.npy", root / "train" / "cup" / "y.npy")
    again = open_dataset("folder", root, "trainval")
    for kind in ("off", "npy"):
        assert torch.equal(of(before, f"cup/x.{kind}"), of(again, f"cup/x.{kind}"))
        assert not torch.equal(of(again, f"cup/x.{kind}"), of(again, f"cup/y.{kind}"))


def test_num_points(root: Path) -> None:
    write(root / "test" / "cup" / "x.off")
    write(root / "test" / "cup" / "y.npy", cloud(3, 5000))
    whole, few = (open_dataset("folder", root, "test", n) for n in (None, 100))
    assert torch.equal(few.points, whole.points[:, :100]) and few.points.is_contiguous()
    many = open_dataset("folder", root, "test", 3000)
    assert many.points.shape == (8, 3000, 6)
    for name in ("cup/x.off", "cup/y.npy"):
        assert len(np.unique(of(many, name).numpy(), axis=0)) == 3000
    assert torch.equal(of(many, "cup/y.npy")[:2048], of(whole, "cup/y.npy"))  # the draw goes on


@given(own=st.integers(2, 80), num_points=st.integers(1, 100))
def test_too_few_points_repeat(own: int, num_points: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("few")
    write(root / "train" / "cup" / "a.npy", cloud(1, own))
    split = read_folder(root, "trainval", num_points)
    points = split.points[0].numpy()
    kept = min(own, num_points)
    assert len(np.unique(points, axis=0)) == kept
    np.testing.assert_array_equal(points, points[np.arange(num_points) % kept])
    assert (split.count is None) == (own >= num_points)
    if split.count is not None:
        assert split.count.tolist() == [own]


def test_repeated_points_are_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(root / "test" / "bowl" / "00.npy", cloud(1, 20))
    split = open_dataset("folder", root, "test", 50)
    assert split.count is not None and split.count.tolist() == [20, 50, 50, 50, 50, 50]
    assert (
        "test: 1 shapes have fewer than 50 points and repeat theirs; the fewest,\n  20, has bowl/00.npy"
        in (caplog.text)
    )
    caplog.clear()
    write(root / "train" / "bowl" / "00.npy", cloud(1, 20))
    parts = {name: open_dataset("folder", root, name, 50) for name in ("train", "val")}
    short = [name for name, part in parts.items() if part.count is not None and part.count.min() < 50]
    assert len(short) == 1 and caplog.text.count("repeat theirs") == 1  # of the one that has it
    caplog.clear()
    assert open_dataset("folder", root, "test", 20).count is None
    assert "repeat theirs" not in caplog.text


@pytest.mark.parametrize(("num_points", "short"), [(20, 0), (30, 1)])
@pytest.mark.parametrize("order", ["stored", "random", "fps"])
def test_repeated_points_are_logged_of_what_a_training_uses(
    order: str, num_points: int, short: int, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(root / "test" / "bowl" / "00.npy", cloud(1, 20))
    data = {"name": "folder", "root": str(root), "num_points": num_points, "order": order}
    open_splits(config_from({"data": data}), torch.device("cpu"), ("train", "test"), "train")
    assert caplog.text.count("repeat theirs") == short
    assert (f"test: 1 shapes have fewer than {num_points} points" in caplog.text) == bool(short)


# Splits and classes


def test_val_is_cut_from_train(root: Path) -> None:
    parts = {name: open_dataset("folder", root, name, 8) for name in ("train", "val", "trainval", "test")}
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 22,
        "val": 2,
        "trainval": 24,
        "test": 6,
    }
    assert sorted(parts["train"].names + parts["val"].names) == list(parts["trainval"].names)
    assert {part.classes for part in parts.values()} == {("bowl", "cup")}
    assert parts["val"].label.tolist() == [0, 1] and parts["test"].label.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_folder_val_is_val(root: Path) -> None:
    write(root / "val" / "cup" / "own.npy", cloud(7))
    parts = {name: open_dataset("folder", root, name, 8) for name in ("train", "val", "trainval", "test")}
    assert parts["val"].names == ("cup/own.npy",) and parts["val"].label.tolist() == [1]
    assert len(parts["train"]) == 24 and parts["trainval"].names == parts["train"].names + ("cup/own.npy",)
    assert len(parts["test"]) == 6


def test_missing_folders_say_what_to_do(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "test")
    assert len(open_dataset("folder", root, "train", 8)) == 22
    with pytest.raises(FileNotFoundError, match=r"no folder .*test: move files of each class there"):
        open_dataset("folder", root, "test")
    with pytest.raises(FileNotFoundError, match=r"no folder .*train: expected .*cup holds 00\.npy, 01\.npy"):
        open_dataset("folder", root / "train" / "cup", "train")
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder"):
        open_dataset("folder", tmp_path / "nowhere", "test")


def test_a_class_without_training_shapes(root: Path) -> None:
    write(root / "test" / "cups" / "00.npy")
    with pytest.raises(
        ValueError, match=r"test/cups: expected a class that train has .*bowl, cup.*mean 'cup'"
    ):
        open_dataset("folder", root, "train")
    shutil.rmtree(root / "test" / "cups")
    shutil.rmtree(root / "test" / "cup")  # a class may be missing in test
    assert open_dataset("folder", root, "test").classes == ("bowl", "cup")


def test_folders_without_shapes(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (root / "test" / "cups").mkdir()
    (root / "test" / "cups" / "photo.jpg").touch()
    assert len(open_dataset("folder", root, "test")) == 6
    assert "test: passed over: cups/photo.jpg (1 in all)" in caplog.text
    (root / "train" / "lid").mkdir()
    with pytest.raises(ValueError, match=r"lid: expected files of this class \(\.off, .*got none"):
        open_dataset("folder", root, "train")
    (root / "train" / "lid").rmdir()
    (root / "val").mkdir()
    with pytest.raises(ValueError, match=r"val: expected <class>/<file> .*got none"):
        open_dataset("folder", root, "train")


def test_other_files_are_counted_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for name in (".DS_Store", "cup/._00.npy", "cup/00.mtl", "cup/deep/00.npy", "notes.txt", ".git/a.npy"):
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).write_text("x")
    (root / "train" / "cup" / "gone.npy").symlink_to("nowhere")
    assert len(open_dataset("folder", root, "trainval")) == 24
    assert (
        "train: passed over: .DS_Store, .git, cup/._00.npy, ... (7 in all; 1 of them in no class's folder)"
        in caplog.text
    )


# Normals


@pytest.mark.parametrize(
    "bare",
    [
        cloud(3, normals=False),
        np.concatenate([cloud(3, normals=False), np.random.default_rng(0).integers(0, 255, (60, 3))], axis=1),
        np.concatenate([cloud(3, normals=False), np.random.default_rng(0).random((60, 3))], axis=1),
        np.concatenate([cloud(3, normals=False), np.zeros((60, 3))], axis=1),
        np.where(np.arange(360).reshape(60, 6) == 359, np.nan, cloud(3)),
    ],
    ids=["no columns", "colours of 255", "colours of 1", "zeros", "NaN"],
)
@pytest.mark.parametrize("where", ["train", "test"])
def test_one_file_without_normals(
    where: str, bare: NDArray[Any], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert open_dataset("folder", root, "train").channels == 6
    assert "22 shapes of 2 classes, 2048 points each, xyz and normal" in caplog.text
    write(root / where / "bowl" / "bare.npy", bare)
    parts = [open_dataset("folder", root, split) for split in ("train", "val", "test")]
    assert [part.channels for part in parts] == [3, 3, 3]
    assert f"xyz: 1 of 31 files have no normals,\n  as {where}/bowl/bare.npy" in caplog.text
    np.testing.assert_allclose(parts[0].points.norm(dim=-1).amax(1).numpy(), 1, atol=1e-6)


def test_normals_are_made_unit_and_may_be_unknown(tmp_path: Path) -> None:
    points = cloud()
    points[:, 3:] = (points[:, 3:] * 1.001).round(2)
    points[5, 3:] = 0
    write(tmp_path / "train" / "cup" / "a.txt", points)
    stored = open_dataset("folder", tmp_path, "trainval").points[0, :60]
    assert stored.shape == (60, 6)
    assert sorted(stored[:, 3:].norm(dim=1).round(decimals=5).tolist()) == [0.0] + [1.0] * 59


def test_no_normals_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path / "train" / "cup" / "a.xyz", cloud(normals=False))
    assert open_dataset("folder", tmp_path, "trainval").channels == 3
    assert "xyz: no file has normals" in caplog.text


# Features by name


def colored(seed: int) -> NDArray[np.float64]:
    """xyz, colour and intensity of 60 points (60, 7)."""
    draw = np.random.default_rng(seed)
    return np.concatenate(
        [cloud(seed, normals=False), draw.random((60, 3)), draw.normal(size=(60, 1))], axis=1
    )


@pytest.fixture
def colorful(tmp_path: Path) -> Path:
    """Ten training and four test clouds with colour and intensity, in several kinds of file."""
    folder = tmp_path / "own"
    for split, count in (("train", 10), ("test", 4)):
        for index in range(count):
            one_class, seed = ("cup", "bowl")[index % 2], index + 50 * (split == "test")
            points, place = colored(seed), folder / split / one_class
            place.mkdir(parents=True, exist_ok=True)
            xyz, color, intensity = points[:, :3], points[:, 3:6], points[:, 6]
            if index % 4 < 2:
                np.save(place / f"{index}.npy", points)
            elif index % 4 == 2:
                np.savez(place / f"{index}.npz", points=xyz, intensity=intensity, colors=color)
            else:
                values = {**dict(zip("xyzrgb", points.T, strict=False)), "intensity": intensity}
                (place / f"{index}.pcd").write_bytes(pcd(values, "binary_compressed"))
    return folder


@pytest.mark.parametrize(
    ("features", "columns"),
    [
        (["color", "intensity"], [0, 1, 2, 3, 4, 5, 6]),
        (["color"], [0, 1, 2, 3, 4, 5]),
        ([], [0, 1, 2]),
    ],
)
def test_features_are_read_by_name(
    colorful: Path, features: list[str], columns: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    split = open_dataset("folder", colorful, "trainval", features=features)
    assert split.features == tuple(features) and split.normalized and len(split) == 10
    for name, points in zip(split.names, split.points, strict=True):
        seed = int(Path(name).stem)
        assert_same_points(points[:60], in_unit_sphere(colored(seed))[:, columns])
    assert f"2048 points each, {' and '.join(['xyz', *features])}\n" in caplog.text
    assert open_dataset("folder", colorful, "val", features=features).features == tuple(features)
    assert open_dataset("folder", colorful, "test", 64, features).points.shape == (4, 64, len(columns))


def test_features_are_not_taken_unasked(colorful: Path) -> None:
    assert open_dataset("folder", colorful, "test").features == ()


def test_height_of_files_without_it(colorful: Path) -> None:
    for path in colorful.glob("*/*/*.npy"):  # whose fourth column would be it
        np.save(path, np.load(path)[:, :3])
    write(colorful / "test" / "cup" / "box.off")
    split = open_dataset("folder", colorful, "test", features=["height"])
    assert len(split) == 5
    for points in split.points:
        own = points[:, 1] - points[:, 1].min()
        torch.testing.assert_close(points[:, 3] - points[:, 3].min(), own, atol=1e-5, rtol=0)
        assert float(points[:, 3].min()) == pytest.approx(0, abs=1e-5)


def test_a_file_that_lacks_a_feature(colorful: Path) -> None:
    """It is not passed over as damaged: it is named, and so is what to do."""
    write(colorful / "test" / "cup" / "box.stl")
    for _ in range(2):  # nothing of it is kept
        with pytest.raises(
            ValueError, match=r"cup/box\.stl: it has no feature color; expected a file with it"
        ):
            open_dataset("folder", colorful, "test", features=["color"])
    assert open_dataset("folder", colorful, "train", features=["color"]).channels == 6  # other splits have it
    with pytest.raises(ValueError, match=r"bowl/1\.npy: feature normal: expected vectors of length 1"):
        open_dataset("folder", colorful, "train", features=["normal"])
    with pytest.raises(ValueError, match="features: color: expected the width 3, got 4"):
        open_dataset("folder", colorful, "train", features=["color:4"])


def test_normals_that_are_asked_for_are_scaled(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = cloud()
    points[:, 3:] *= 3
    for name in ("long", "longer"):
        write(root / "test" / "cup" / f"{name}.npy", points)
    assert open_dataset("folder", root, "test").channels == 3  # nobody says that they are normals
    split = open_dataset("folder", root, "test", features=["normal"])
    torch.testing.assert_close(of(split, "cup/long.npy")[:, 3:].norm(dim=1), torch.ones(2048))
    expected = r"test/cup/long.npy: normals of other lengths are scaled to length 1 (and 1 more file)"
    assert expected in caplog.text


def test_columns_that_are_left_out_are_told_once_a_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        for part in ("train/cup", "test/cup"):
            write(tmp_path / part / f"{number}.npy", cloud() * 7)
    open_dataset("folder", tmp_path, "train", features=[])
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said.endswith("0.npy: 3 columns after xyz are left out (and 5 more files)")


def test_each_choice_of_features_has_its_own_cache(colorful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices: list[Any] = [None, [], ["color"], ["color", "intensity"], ["own:4"], ["Höhe"], ["Größe"]]
    first = [open_dataset("folder", colorful, "trainval", features=features) for features in choices[:4]]
    names = sorted(path.name for path in (colorful / ".bixt3d_cache").glob("folder-train-*"))
    assert names == [
        "folder-train-2048-color-intensity.npz",
        "folder-train-2048-color.npz",
        "folder-train-2048-xyz.npz",
        "folder-train-2048.npz",
    ]
    for path in (*colorful.glob("*/*/*.npz"), *colorful.glob("*/*/*.pcd")):
        path.unlink()
    more = [open_dataset("folder", colorful, "trainval", features=features) for features in choices[4:]]
    first = [open_dataset("folder", colorful, "trainval", features=features) for features in choices[:4]]
    monkeypatch.setattr("bixt3d.datasets.folder.read_cloud", None)  # nothing is parsed again
    for features, split in zip(choices, first + more, strict=True):
        again = open_dataset("folder", colorful, "trainval", features=features)
        assert torch.equal(again.points, split.points) and again.features == split.features
    assert len(list((colorful / ".bixt3d_cache").glob("folder-train-*"))) == len(choices)


def test_the_trainer_takes_features_of_the_settings(colorful: Path) -> None:
    config = config_from(
        {
            "data": {
                "name": "folder",
                "root": str(colorful),
                "num_points": 32,
                "features": ["intensity", "color"],
            },
        }
    )
    with pytest.raises(ValueError, match="feature color: expected"):  # columns are in the other order
        open_splits(config, torch.device("cpu"), ("train",))
    config = override(config, data={"features": ["color", "intensity"], "order": "fps"})
    splits, _ = open_splits(config, torch.device("cpu"), ("train", "val", "test"), train="train")
    assert {split.features for split in splits.values()} == {("color", "intensity")}
    assert splits["train"].points.shape == (8, 32, 7)


# Files that cannot be read


def test_few_broken_files_are_left_out_and_named_every_time(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (root / "train" / "cup" / "05.npy").write_bytes(b"torn")
    (root / "train" / "bowl" / "zz.xyz").write_text("0 0 0\n1 one 1\n")
    for time in ("parsed", "from the cache"):
        caplog.clear()
        split = open_dataset("folder", root, "trainval")
        assert len(split) == 23 and "cup/05.npy" not in split.names, time
        for name, points in zip(split.names, split.points, strict=True):
            seed = 100 * (name[:3] == "bow") + int(name[-6:-4])
            assert_same_points(points[:60], in_unit_sphere(cloud(seed))), name  # nobody has another's points
        assert split.label.tolist() == [0] * 12 + [1] * 11
        (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
        text = record.getMessage()
        assert text.startswith("train: left out, cannot be read: 2 of 25 files\n  bowl/zz.xyz: ")
        assert text.count("zz.xyz") == 1 and "line 2: expected finite numbers, " in text
        assert "\n  cup/05.npy: expected a whole NumPy array" in text
        assert str(root) not in text
    caplog.clear()
    open_dataset("folder", root, "test")
    assert "cannot be read" not in caplog.text  # those of the split that is asked for


def test_many_broken_files_are_an_error(root: Path) -> None:
    for index in range(12, 16):
        (root / "train" / "cup" / f"{index}.npy").write_bytes(b"torn")
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"train: 4 of 28 files cannot be read, more than one in ten; .*:\n  cup/12\.npy"
        ):
            open_dataset("folder", root, "test")
    for index in range(12, 14):
        (root / "train" / "cup" / f"{index}.npy").unlink()
    assert len(open_dataset("folder", root, "trainval")) == 24


def test_a_class_of_broken_files_is_an_error(root: Path) -> None:
    write(root / "train" / "lid" / "00.npy").write_bytes(b"torn")
    with pytest.raises(
        ValueError, match=r"train/lid: none of its files can be read:\n  lid/00\.npy: expected"
    ):
        open_dataset("folder", root, "train")


def test_many_broken_files_are_counted(root: Path) -> None:
    for index in range(20, 40):
        (root / "train" / "cup" / f"{index}.npy").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"cup/29\.npy: [^\n]*\n  and 10 more$"):
        open_dataset("folder", root, "train")


def test_coordinates_without_end(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "train" / "cup" / "00.npy", cloud() * 1e200)
    assert len(open_dataset("folder", root, "trainval")) == 23
    assert "cup/00.npy: expected coordinates up to 1e+100" in caplog.text


def test_a_file_without_permission_is_not_called_broken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    npy = "bixt3d.datasets.readers.arrays.read_arrays"
    for kind, call in (("off", "pathlib.Path.read_bytes"), ("npy", npy), ("pcd", "pathlib.Path.read_bytes")):
        write(root / "train" / "cup" / f"locked.{kind}")
        with monkeypatch.context() as patch:
            patch.setattr(call, refuse)
            with pytest.raises(PermissionError, match=r"Permission denied: .*\."):
                read_cloud(root / "train" / "cup" / f"locked.{kind}")
    monkeypatch.setattr(npy, refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*00\.npy"):
        open_dataset("folder", root, "train")


# The cache


def test_a_cache_of_the_older_form_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr("bixt3d.datasets.cache.FORMAT", 2)
        first = open_dataset("folder", root, "train")
    place = root / ".bixt3d_cache/folder-train-2048.npz"
    with np.load(place) as stored:
        older = {name: stored[name] for name in stored.files if name != "rows"}
    older |= {"points": np.zeros((len(first), 2048, 6), np.float32), "own": np.full(len(first), 2048)}
    np.savez(place, **older)
    again = open_dataset("folder", root, "train")
    assert again.digests == first.digests and torch.equal(again.points, first.points)
    with np.load(place) as stored:
        assert "own" not in stored.files and stored["points"].ndim == 2


def test_files_are_parsed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {name: open_dataset("folder", root, name) for name in ("train", "val", "test")}
    assert sorted(path.name for path in (root / ".bixt3d_cache").iterdir()) == [
        "folder-test-2048.npz",
        "folder-train-2048.npz",
    ]
    monkeypatch.setattr("bixt3d.datasets.folder.read_cloud", None)
    for name, split in first.items():
        again = open_dataset("folder", root, name)
        assert torch.equal(again.points, split.points) and again.names == split.names
        assert torch.equal(again.label, split.label)
        assert torch.equal(open_dataset("folder", root, name, 512).points, split.points[:, :512])


def test_the_cache_notices_every_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def read(path: Path, *args: Any) -> NDArray[np.float64]:
        parsed.append(f"{path.parent.parent.name}/{path.parent.name}/{path.name}")
        return read_cloud(path, *args)

    monkeypatch.setattr("bixt3d.datasets.folder.read_cloud", read)

    def opened() -> tuple[Split, int]:
        parsed.clear()
        return open_dataset("folder", root, "trainval"), len(parsed)

    assert opened()[1] == 30 and opened()[1] == 0
    path = root / "train" / "cup" / "03.npy"
    write(path, cloud(77))
    split, count = opened()
    assert count == 24 and opened()[1] == 0  # the split that changed, not the other one
    assert_same_points(of(split, "cup/03.npy")[:60], in_unit_sphere(cloud(77)))
    os.utime(path, ns=(1, 1))
    assert opened()[1] == 24
    write(root / "train" / "cup" / "new.xyz")
    split, count = opened()
    assert count == 25 and "cup/new.xyz" in split.names
    path.rename(root / "train" / "cup" / "renamed.npy")
    split, count = opened()
    assert count == 25 and "cup/renamed.npy" in split.names and "cup/03.npy" not in split.names
    (root / "train" / "cup" / "renamed.npy").unlink()
    split, count = opened()
    assert count == 24 and len(split) == 24
    (root / "train" / "cup" / "notes.md").touch()
    assert opened()[1] == 0


def test_the_data_beside_a_gltf_count_as_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, parsed = tmp_path / "own", list[str]()
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "f4")

    def read(path: Path, *args: Any) -> NDArray[np.float64]:
        parsed.append(path.name)
        return read_cloud(path, *args)

    def opened(split: str) -> tuple[tuple[str, ...], int]:
        parsed.clear()
        return open_dataset("folder", root, split).digests, len(parsed)

    monkeypatch.setattr("bixt3d.datasets.folder.read_cloud", read)
    for split in ("train", "test"):
        (root / split / "cup").mkdir(parents=True)
        path = gltf(root / split / "cup", [vectors(corners)], [corners.tobytes()])
    first, count = opened("test")
    assert count == 2 and opened("trainval") == (first, 0)
    text, data = path.read_bytes(), path.with_name("a.bin")
    data.write_bytes((corners * [1, 9, 1]).astype("f4").tobytes())
    os.utime(data, ns=(1, 1))
    assert path.read_bytes() == text
    changed, count = opened("test")
    assert count == 1 and changed != first  # no copy of the training's any more
    assert opened("test") == (changed, 0) and opened("trainval") == (first, 0)
    data.rename(data.with_name("b.bin"))
    with pytest.raises(ValueError, match="which is not beside it"):
        opened("test")
    data.with_name("b.bin").rename(data)
    assert opened("test") == (changed, 1)


# On the way to a model


@pytest.mark.parametrize(
    ("order", "num_points"), [("stored", 64), ("fps", 64), ("random", 64), ("fps", 2500)]
)
def test_the_trainer_opens_it(order: str, num_points: int, root: Path) -> None:
    write(root / "train" / "cup" / "dense.npy", cloud(4, 4000))
    config = config_from(
        {"data": {"name": "folder", "root": str(root), "num_points": num_points, "order": order}}
    )
    splits, stored = open_splits(config, torch.device("cpu"), ("train", "val", "test"), train="train")
    assert stored == (num_points if order == "stored" else max(num_points, STORED_POINTS))
    drawn = order == "random"  # batches draw from all stored points
    assert splits["train"].points.shape[1:] == (STORED_POINTS if drawn else num_points, 6)
    assert splits["test"].points.shape == (6, num_points, 6)
    bare = override(config, data={"features": []})
    assert open_splits(bare, torch.device("cpu"), ("test",))[0]["test"].channels == 3


def test_it_has_no_parts(root: Path) -> None:
    config = config_from(
        {
            "data": {"name": "folder", "root": str(root), "order": "random"},
            "model": {"name": "bixt_ti_partseg"},
        }
    )
    with pytest.raises(ValueError, match="expected data with a part for each point, got a split without"):
        open_splits(config, torch.device("cpu"), ("test",))
