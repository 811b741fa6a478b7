"""Labels of points and faces as files."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from bixt3d.datasets.readers import load_cloud
from bixt3d.visualize import LabelledCloud
from bixt3d.visualize.labels import face_parts, label_names, note_source, write_labels, write_ply


def cloud(**changes: object) -> LabelledCloud:
    points = np.random.default_rng(0).normal(size=(50, 3)) * 1e6 + 4e6  # as on a map
    about: dict[str, object] = {
        "ids": [3, 5],
        "names": ["a", "b", "c", "body", "e", "han\ndle"],
        "prediction": np.where(np.arange(50) % 3 == 0, 5, 3),
        "confidence": np.linspace(0.5, 1, 50, dtype=np.float32),
        **changes,
    }
    return LabelledCloud("mug", points, **about)  # type: ignore[arg-type]


def test_another_library_reads_every_column(tmp_path: Path) -> None:
    made = cloud()
    read = trimesh.load(write_ply(made, tmp_path / "new" / "mug.ply"))
    np.testing.assert_array_equal(read.vertices, made.points)  # to the last digit
    np.testing.assert_array_equal(read.colors[:, :3], np.round(255 * made.colors("prediction")))
    columns = read.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(columns["part"].ravel(), made.prediction)
    np.testing.assert_array_equal(columns["confidence"].ravel(), made.confidence)


def test_truth_has_its_own_parts_and_names_stay_on_their_line(tmp_path: Path) -> None:
    truth = np.full(50, 5)
    path = write_ply(cloud(truth=truth), tmp_path / "mug.ply", "truth")
    columns = trimesh.load(path).metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(columns["part"].ravel(), truth)
    assert b"comment part 5 han dle\n" in path.read_bytes()


def test_a_mode_that_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode: expected one of prediction, confidence, got 'truth'"):
        write_ply(cloud(), tmp_path / "mug.ply", "truth")


def test_no_name_twice(tmp_path: Path) -> None:
    files = ["a/chair.off", "b/chair.obj", Path("b/chair.ply"), "mug.off"]
    named = ["a/chair_parts", "b/chair_parts", "b/chair_parts_2", "mug_parts"]
    assert label_names(files, tmp_path) == named
    assert label_names(["a/chair.off"], tmp_path) == ["chair_parts"]
    assert label_names(["a/chair.off"], tmp_path, ["."]) == ["a/chair_parts"]


def test_no_name_of_another_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    for folder, name in (("box", "s0_parts"), ("ball", "ball/s0_parts"), ("box", "s0_parts")):
        assert label_names([tmp_path / folder / "s0.xyz"], out) == [name]
        write_labels(cloud(), out, name, "npy")
        note_source(out, name, tmp_path / folder / "s0.xyz")
    rows = list(csv.reader((out / "sources.csv").read_text().splitlines()))
    sources = [str(tmp_path / folder / "s0.xyz") for folder in ("box", "ball")]
    assert rows == [["name", "file"], ["s0_parts", sources[0]], ["ball/s0_parts", sources[1]]]
    assert f"{sources[1]}: its labels are named ball/s0_parts, as s0_parts is another file's" in caplog.text
    assert label_names([tmp_path / "other/ball/s0.xyz"], out) == ["s0_parts_2"]
    (out / "mug_parts_faces.ply").touch()  # of nobody knows which file
    assert label_names([tmp_path / "box/mug.off"], out) == ["box/mug_parts"]


@pytest.mark.parametrize("ending", [".ply", ".las", ".laz", ".npy", "_faces.ply"])
def test_what_others_wrote_stays(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"city_parts{ending}").write_text("of a user")
    assert label_names(["scans/city.las"], tmp_path) == ["scans/city_parts"]


def test_coordinates_are_float_where_that_is_exact(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32).astype(np.float64)
    path = write_ply(replace(cloud(), points=points), tmp_path / "mug.ply")
    assert b"property float x\n" in path.read_bytes()
    np.testing.assert_array_equal(trimesh.load(path).vertices, points)
    assert b"property double x\n" in write_ply(cloud(), tmp_path / "far.ply").read_bytes()


def test_a_list_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "sources.csv").write_text("mine,too\n1,2\n")
    with pytest.raises(ValueError, match=r"sources.csv: expected a list name,file, got another file: choose"):
        label_names([tmp_path / "a.xyz"], tmp_path)
    with pytest.raises(ValueError, match="choose another folder"):
        note_source(tmp_path, "a_parts", tmp_path / "a.xyz")
    assert (tmp_path / "sources.csv").read_text() == "mine,too\n1,2\n"


def test_arrays_and_text(tmp_path: Path) -> None:
    made = cloud()
    table = np.load(write_labels(made, tmp_path / "new", "mug", "npy"))
    assert table.dtype.names == ("x", "y", "z", "part", "confidence")
    np.testing.assert_array_equal(np.c_[table["x"], table["y"], table["z"]], made.points)
    np.testing.assert_array_equal(table["part"], made.prediction)
    path = write_labels(made, tmp_path, "mug", "csv")
    rows = list(csv.DictReader(path.read_text().splitlines(keepends=True)))
    assert len(rows) == 50 and rows[0]["name"] == "han\ndle" and rows[1]["name"] == "body"
    assert [float(rows[7][axis]) for axis in "xyz"] == made.points[7].tolist()
    read = load_cloud(tmp_path / "new/mug.npy")  # what is written can be read
    np.testing.assert_array_equal(read.labels, made.prediction)
    with pytest.raises(ValueError, match="expected a form out of ply, npy, csv, mesh, got 'las'"):
        write_labels(made, tmp_path, "mug", "las")
    with pytest.raises(ValueError, match="mug: expected predicted parts, got none"):
        write_labels(LabelledCloud("mug", made.points), tmp_path, "mug", "npy")


def test_parts_are_written_by_the_numbers_of_the_files(tmp_path: Path) -> None:
    """In every form, and so a corrected file can go back to those that a model was trained on."""
    names = ["a", "b", "c", "body", "e", "handle"]
    made = cloud(codes=[0, 0, 0, 2, 0, 9], names=names, truth=np.full(50, 3))
    wanted = np.where(made.prediction == 3, 2, 9)
    for form in ("ply", "npy", "csv"):
        read = load_cloud(write_labels(made, tmp_path, "mug", form))
        np.testing.assert_array_equal(read.labels, wanted)
    rows = list(csv.DictReader((tmp_path / "mug.csv").read_text().splitlines(keepends=True)))
    assert rows[1]["part"] == "2" and rows[1]["name"] == "body"
    assert b"comment part 2 body\ncomment part 9 handle\n" in (tmp_path / "mug.ply").read_bytes()
    truth = load_cloud(write_ply(made, tmp_path / "truth.ply", "truth")).labels
    assert set(truth.tolist()) == {2}
    box = trimesh.creation.box()
    box.export(tmp_path / "box.off")
    faces = replace(
        made, points=box.triangles_center.copy(), prediction=np.full(12, 5), confidence=None, truth=None
    )
    path = write_labels(faces, tmp_path, "box", "mesh", tmp_path / "box.off")
    assert set(trimesh.load(path, process=False).metadata["_ply_raw"]["face"]["data"]["part"].ravel()) == {9}


def test_faces_of_the_mesh_itself(tmp_path: Path) -> None:
    """A box whose upper half is one part: its own vertices and faces come back, each with its part."""
    box = trimesh.creation.box((2, 2, 2)).subdivide().subdivide()
    box.export(tmp_path / "box.off")
    points = trimesh.sample.sample_surface(box, 3000, seed=0)[0]
    upper = np.where(points[:, 2] > 0, 5, 3)
    made = replace(cloud(), points=points, prediction=upper, confidence=None)
    path = write_labels(made, tmp_path, "box", "mesh", tmp_path / "box.off")
    assert path.name == "box_faces.ply"
    read = trimesh.load(path, process=False)
    np.testing.assert_allclose(read.vertices, box.vertices, atol=1e-6)
    np.testing.assert_array_equal(read.faces, box.faces)
    parts = read.metadata["_ply_raw"]["face"]["data"]["part"].ravel()
    middle = box.triangles_center[:, 2]
    clear = np.abs(middle) > 0.15
    np.testing.assert_array_equal(parts[clear], np.where(middle > 0, 5, 3)[clear])
    colors = {
        part: {tuple(c) for c in read.visual.face_colors[parts == part, :3].tolist()} for part in (3, 5)
    }
    assert len(colors[3]) == len(colors[5]) == 1 and colors[3] != colors[5]
    np.savetxt(tmp_path / "cloud.xyz", points)
    with pytest.raises(ValueError, match=r"cloud.xyz: expected a mesh, .* got a cloud"):
        write_labels(made, tmp_path, "box", "mesh", tmp_path / "cloud.xyz")


def test_most_of_a_faces_points_decide() -> None:
    vertices = np.array([[0.0, 0, 0], [6, 0, 0], [6, 6, 0], [0, 6, 0], [12, 0, 0], [12, 6, 0]])
    sizes, corners = np.array([4, 4]), np.array([0, 1, 2, 3, 1, 4, 5, 2])
    # Of the first square three corners are near part 7, its middle and a corner near part 2.
    points = np.array([[2.0, 2, 0], [2, 4, 0], [4, 2, 0], [4, 4, 0], [3, 3, 0], [9, 3, 0]])
    parts = np.array([7, 7, 7, 2, 2, 4])
    assert face_parts(vertices, sizes, corners, points, parts).tolist() == [7, 4]
