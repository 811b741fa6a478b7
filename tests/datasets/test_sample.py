"""Meshes of benchmarks sampled anew: layouts, orientation, labels of faces, the same points every time."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh

from bixt3d import open_dataset
from bixt3d.cli import main
from bixt3d.datasets.sample import read_face_labels, sample_modelnet40, sample_psb


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    """ModelNet's layout: tall boxes, whose z points up, and flat ones, far from the origin."""
    for name, extents in {"tower": (1, 1, 4), "plate": (4, 4, 0.2)}.items():
        for split, numbers in {"train": (1, 2, 3), "test": (4,)}.items():
            folder = tmp_path / "ModelNet40" / name / split
            folder.mkdir(parents=True)
            for number in numbers:
                place = trimesh.transformations.translation_matrix((100, -50, number))
                trimesh.creation.box(extents, place).export(folder / f"{name}_{number:04d}.off")
    return tmp_path / "ModelNet40"


def test_modelnet40(meshes: Path, tmp_path: Path) -> None:
    main(["data", "sample", "modelnet40", str(meshes), str(tmp_path / "data")])
    folder = tmp_path / "data" / "modelnet40_ply_hdf5_2048"
    assert (folder / "shape_names.txt").read_text() == "plate\ntower\n"
    with h5py.File(folder / "ply_data_train0.h5") as file:
        points, label, names = file["data"][:], file["label"][:], [name.decode() for name in file["name"]]
    assert points.shape == (6, 1024, 3) and points.dtype == np.float32
    assert label.shape == (6, 1) and label.dtype == np.uint8
    expected = [f"{kind}_{number:04d}" for kind in ("plate", "tower") for number in (1, 2, 3)]
    assert sorted(names) == expected and names != expected
    assert [("plate", "tower")[int(row[0])] for row in label] == [name.split("_")[0] for name in names]
    np.testing.assert_allclose(points, points.round(3), atol=1e-7)
    np.testing.assert_allclose(points.mean(1), 0, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(points, axis=2).max(1), 1, atol=1e-3)
    extents = np.ptp(points, axis=1)  # (6, 3)
    for name, (x, y, z) in zip(names, extents, strict=True):
        assert y > 3 * max(x, z) if name.startswith("tower") else 10 * y < min(x, z)
    first, second = (points[names.index(f"tower_000{number}")] for number in (1, 2))
    assert not np.allclose(first, second)  # of equal boxes: draws of their own
    assert len(open_dataset("modelnet40", tmp_path / "data", "test")) == 2


def test_modelnet40_again(meshes: Path, tmp_path: Path) -> None:
    """The same seed gives the same points, whatever other shapes there are; what is there is not replaced."""
    one = sample_modelnet40(meshes, tmp_path / "one", 64)
    (meshes / "tower" / "train" / "tower_0001.off").unlink()
    two = sample_modelnet40(meshes, tmp_path / "two", 64)
    other = sample_modelnet40(meshes, tmp_path / "other", 64, seed=1)
    found = []
    for folder in (one, two, other):
        with h5py.File(folder / "ply_data_train0.h5") as file:
            names = [name.decode() for name in file["name"]]
            found.append(file["data"][names.index("plate_0002")])
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["modelnet40_ply_hdf5_2048"]
    with pytest.raises(FileExistsError, match="holds files already"):
        sample_modelnet40(meshes, tmp_path / "one", 64)
    (meshes / "tower" / "test" / "tower_0004.off").write_text("OFF\n1 1 0\n0 0 0\n3 0 1 2\n")
    with pytest.raises(ValueError, match=r"tower_0004\.off: a face names vertex 2"):
        sample_modelnet40(meshes, tmp_path / "three", 64)
    assert not list((tmp_path / "three").iterdir())


def test_modelnet40_of_many_classes(tmp_path: Path) -> None:
    """Labels of more than 256 classes take more than a byte, and are read again."""
    for number in range(257):
        path = tmp_path / f"many/class_{number:03d}/train/{number}.off"
        path.parent.mkdir(parents=True)
        path.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    folder = sample_modelnet40(tmp_path / "many", tmp_path / "data", 4)
    with h5py.File(folder / "ply_data_train0.h5") as file:
        label, names = file["label"][:, 0], [int(name) for name in file["name"]]
        assert file["label"].dtype == np.uint16
    np.testing.assert_array_equal(label, names)
    opened = open_dataset("modelnet40", tmp_path / "data", "trainval")
    assert len(opened.classes) == 257 and sorted(opened.label.tolist()) == list(range(257))


def labelled_boxes(folder: Path, form: str) -> Path:
    """Boxes whose faces are `top` where they look up, else `side`, in two categories."""
    for category in ("Cup", "Table"):
        (folder / category).mkdir(parents=True)
        for number in range(1, 5):
            box = trimesh.creation.box((1, 2, number))
            path = folder / category / f"{number}.off"
            box.export(path)
            labels = np.where(box.face_normals[:, 2] > 0.5, "top", "side")
            if form == "_labels.txt":
                pairs = [(part, np.flatnonzero(labels == part) + 1) for part in ("top", "side")]
                text = "".join(f"{part}\n{' '.join(map(str, faces))}\n\n" for part, faces in pairs)
                path.with_name(f"{number}_labels.txt").write_text(text)
            else:
                path.with_suffix(form).write_text("\n".join(labels) + "\n")
    return folder


@pytest.mark.parametrize("form", [".seg", ".labels", "_labels.txt"])
def test_psb(form: str, tmp_path: Path) -> None:
    source, out = labelled_boxes(tmp_path / "meshes", form), tmp_path / "data" / "psb"
    main(["data", "sample", "psb", str(source), str(out), "--num-points", "400"])
    parts = {"Cup": {"side": 0, "top": 1}, "Table": {"side": 2, "top": 3}}
    assert json.loads((out / "parts.json").read_text()) == parts
    total = 0
    for split in ("train", "val", "test"):
        opened = open_dataset("shapenetpart", out, split)
        total += len(opened)
        assert opened.features == ("normal",) and opened.points.shape[1:] == (400, 6)
        assert opened.parts is not None and opened.category is not None
        top = opened.parts % 2 == 1
        assert bool(
            ((opened.points[..., 5] > 0.9) == top).all()
        )  # each point has its face's label and normal
        assert bool((opened.parts // 2 == opened.category[:, None]).all())
    assert total == 8
    (source / "Cup" / "._1.off").touch()  # of another system, hidden
    again = sample_psb(source, tmp_path / "again", 400)
    assert again.parts == parts
    for path in out.rglob("*.txt"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(out)).read_bytes()


@pytest.mark.parametrize("form", [".seg", ".labels", "_labels.txt"])
def test_a_mark_of_the_encoding_is_no_label(form: str, tmp_path: Path) -> None:
    source = labelled_boxes(tmp_path / "meshes", form)
    plain = read_face_labels(source / "Cup" / "1.off")
    path = source / "Cup" / f"1{form}"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert read_face_labels(source / "Cup" / "1.off") == plain and "top" in plain
    sample_psb(source, tmp_path / "out", 400)
    names = tmp_path / "out" / "parts.json"
    names.write_text(names.read_text(), encoding="utf-8-sig")
    opened = open_dataset("shapenetpart", tmp_path / "out", "train")
    assert opened.part_names == ("side", "top", "side", "top")


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    source = labelled_boxes(tmp_path / "meshes", ".seg")
    (source / "Cup" / "1.seg").write_text("0\n1\n")
    with pytest.raises(ValueError, match=r"1\.off: expected a label for each of 12 faces, got 2"):
        sample_psb(source, tmp_path / "out")
    (source / "Cup" / "1.seg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.off: expected its labels beside it"):
        sample_psb(source, tmp_path / "out")
    listed = source / "Cup" / "1_labels.txt"
    for text in ("top\n1 2\nside\n2 3\n", "top\n1 2\nside\n4 5\n", "top\n1 2\nside\n", "top\n1 x\n"):
        listed.write_text(text)
        with pytest.raises(ValueError, match="expected"):
            read_face_labels(source / "Cup" / "1.off")
    with pytest.raises(ValueError, match="num_points: expected at least 1, got 0"):
        sample_psb(source, tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()
