from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray

from bixt3d.datasets.features import FeatureError
from bixt3d.datasets.layouts import list_splits
from bixt3d.datasets.readers import MESHES, SUFFIXES, clouds_in, read_cloud
from bixt3d.datasets.spheres import heights
from bixt3d.inference.clouds import find_clouds
from tests.datasets.readers.test_pcd import pcd

ROOT = Path(__file__).resolve().parents[3]
EXTENTS = np.array([1.0, 2.0, 4.0])
CENTRE = np.array([10.0, -3.0, 0.5])


def box() -> trimesh.Trimesh:
    return trimesh.creation.box(EXTENTS, trimesh.transformations.translation_matrix(CENTRE))


def cloud(columns: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(40, columns)).round(5)


def assert_on_box(points: NDArray[Any]) -> None:
    """Every point lies on a face of the box, and every face has points, evenly by area."""
    inside = (points[:, :3] - CENTRE) / (EXTENTS / 2)  # (N, 3), -1..1
    assert np.abs(inside).max() <= 1 + 1e-5
    on_face = np.isclose(np.abs(inside), 1.0, atol=1e-5)  # (N, 3)
    assert on_face.any(1).all()
    area = np.array([8.0, 4.0, 2.0]) / 14  # of the pair of faces across each axis
    assert np.allclose(on_face.mean(0), area, atol=0.05)


@pytest.mark.parametrize("suffix", MESHES)
def test_meshes_are_sampled_on_their_surface(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"box{suffix}"
    box().export(path)
    points = read_cloud(path)
    assert points.shape == (2048, 3) and points.dtype == np.float64 and points.flags.c_contiguous
    assert_on_box(points)


@pytest.mark.parametrize("suffix", MESHES)
def test_normals_are_those_of_the_faces(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"box{suffix}"
    box().export(path)
    points = read_cloud(path, ("normal",), num_samples=300)
    assert points.shape == (300, 6) and points.dtype == np.float64
    inside, normals = (points[:, :3] - CENTRE) / (EXTENTS / 2), points[:, 3:]
    assert np.allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    # The coordinate that the normal points along is at its extreme, on the same side.
    assert np.allclose((inside * normals).sum(1), 1.0, atol=1e-4)
    assert np.array_equal(points[:, :3], read_cloud(path, num_samples=300))


@pytest.mark.parametrize("suffix", MESHES)
def test_sampling_repeats_by_its_seed(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"box{suffix}"
    box().export(path)
    np.random.seed(1)
    first = read_cloud(path, num_samples=100)
    np.random.seed(2)
    assert np.array_equal(first, read_cloud(path, num_samples=100))
    assert not np.array_equal(first, read_cloud(path, num_samples=100, seed=1))
    assert read_cloud(path, num_samples=7).shape == (7, 3)


def test_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    box().export(tmp_path / "box.off")
    (tmp_path / "box.off").rename(tmp_path / "BOX.OFF")
    assert_on_box(read_cloud(tmp_path / "BOX.OFF"))


@pytest.mark.parametrize("header", ["OFF8 12 0\n", "OFF\n8 12 0\n", "OFF\n# made by hand\n8 12 0\n"])
def test_off_headers_as_modelnet_has_them(header: str, tmp_path: Path) -> None:
    """Hundreds of ModelNet40's files run the counts into the first word, as in `OFF490 518 0`."""
    mesh = box()
    body = "".join("{} {} {}\n".format(*vertex) for vertex in mesh.vertices)
    body += "".join("3 {} {} {}\n".format(*face) for face in mesh.faces)
    path = tmp_path / "box.off"
    path.write_text(header + body)
    assert_on_box(read_cloud(path))


def test_off_with_polygons(tmp_path: Path) -> None:
    path = tmp_path / "square.off"
    path.write_text("OFF\n4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n")
    points = read_cloud(path, ("normal",))
    assert np.allclose(points[:, 2], 0) and np.allclose(np.abs(points[:, 5]), 1)
    assert np.allclose(points[:, :2].mean(0), 0.5, atol=0.05)  # both triangles of it
    assert points[:, 0].min() < 0.02 and points[:, 0].max() > 0.98


def test_scene_of_several_meshes_stands_as_placed(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    for number, place in enumerate(([-5.0, 0.0, 0.0], [5.0, 0.0, 0.0])):
        scene.add_geometry(
            trimesh.creation.icosphere(subdivisions=1),
            node_name=f"ball {number}",
            transform=trimesh.transformations.translation_matrix(place),
        )
    path = tmp_path / "two.glb"
    path.write_bytes(scene.export(file_type="glb"))
    points = read_cloud(path)
    left, right = points[points[:, 0] < 0], points[points[:, 0] > 0]
    assert len(left) == pytest.approx(1024, abs=100)
    assert np.allclose(left.mean(0), [-5, 0, 0], atol=0.15)
    assert np.allclose(right.mean(0), [5, 0, 0], atol=0.15)


def test_ply_without_faces_is_a_cloud(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    trimesh.PointCloud(cloud(3)).export(path)
    assert np.allclose(read_cloud(path, num_samples=5), cloud(3), atol=1e-6)  # PLY stores float32


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_ply_clouds_with_normals(encoding: str, tmp_path: Path) -> None:
    path, points = tmp_path / "cloud.ply", unit(cloud(6)).astype(np.float32)
    names = ("x", "y", "z", "nx", "ny", "nz")
    header = [
        *("ply", f"format {encoding if encoding == 'ascii' else 'binary_little_endian'} 1.0"),
        "element vertex 40",
        *(f"property {'uchar' if name == 'red' else 'float'} {name}" for name in (*names, "red")),
        *("end_header", ""),
    ]
    table = np.zeros(40, dtype=[*((name, "<f4") for name in names), ("red", "u1")])
    for name, column in zip(names, points.T, strict=True):
        table[name] = column
    rows = "".join(" ".join(map(str, row)) + "\n" for row in table.tolist()).encode()
    path.write_bytes("\n".join(header).encode() + (rows if encoding == "ascii" else table.tobytes()))
    for features, channels in (((), 3), (("normal",), 6), (None, 6)):
        np.testing.assert_allclose(read_cloud(path, features), points[:, :channels], atol=1e-6)


def test_ply_clouds_of_open3d(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    made = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(cloud(6)[:, :3]))
    made.normals = open3d.utility.Vector3dVector(unit(cloud(6))[:, 3:])
    for ascii_ in (False, True):
        open3d.io.write_point_cloud(str(tmp_path / "cloud.ply"), made, write_ascii=ascii_)
        np.testing.assert_allclose(read_cloud(tmp_path / "cloud.ply", None), unit(cloud(6)), atol=1e-5)


def unit(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points with columns 4 to 6 of length 1."""
    length = np.linalg.norm(points[:, 3:6], axis=1, keepdims=True)
    return np.concatenate([points[:, :3], points[:, 3:6] / length, points[:, 6:]], axis=1)


def test_pcd_clouds(tmp_path: Path) -> None:
    names = ("x", "y", "z", "normal_x", "normal_y", "normal_z")
    points = unit(cloud(6))
    path = tmp_path / "scan.pcd"
    path.write_bytes(pcd(dict(zip(names, points.T, strict=True))))
    for features, channels in (((), 3), (("normal",), 6), (None, 6)):
        assert np.array_equal(read_cloud(path, features), points[:, :channels])
    path.write_bytes(pcd(dict(zip(names[:3], points.T, strict=False)), "ascii"))
    assert np.array_equal(read_cloud(path, None), points[:, :3])
    assert "it has no feature normal" in refused(path, ("normal",))


@pytest.mark.parametrize("suffix", [*MESHES, ".npy"])
def test_normals_where_there_are_some(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"box{suffix}"
    np.save(path, unit(cloud(7))) if suffix == ".npy" else box().export(path)
    assert np.array_equal(read_cloud(path, None), read_cloud(path, ("normal",)))


@pytest.mark.parametrize(
    ("columns", "normals"),
    [
        (unit(cloud(6))[:, 3:], True),
        (unit(cloud(6))[:, 3:].round(2), True),
        (-unit(cloud(6))[:, 3:].astype(np.float32), True),
        (np.where(np.arange(40)[:, None] < 39, 0.0, [[0, 0, 1]]), True),  # most of them unknown
        (np.zeros((40, 3)), False),
        (cloud(6)[:, 3:], False),
        (np.full((40, 3), 255.0), False),
        (np.full((40, 3), np.nan), False),
        (np.full((40, 3), 1e200), False),
        (np.where(np.arange(40)[:, None] < 39, [[0, 0, 1]], [[0, 0, 1.2]]), False),
        (np.ones((40, 2)), False),
    ],
)
def test_columns_are_normals_where_they_are_unit_vectors(
    columns: NDArray[Any], normals: bool, tmp_path: Path
) -> None:
    points = np.concatenate([cloud(3), columns], axis=1)
    np.save(tmp_path / "cloud.npy", points)
    assert np.array_equal(read_cloud(tmp_path / "cloud.npy", None), points if normals else cloud(3))


@pytest.mark.parametrize("suffix", [".xyz", ".txt"])
@pytest.mark.parametrize("separator", [" ", ",", "\t"], ids=["blank", "comma", "tab"])
@pytest.mark.parametrize("features", [(), ("own:3",)])
def test_text_clouds(suffix: str, separator: str, features: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / f"cloud{suffix}"
    rows = [separator.join(map(repr, row.tolist())) for row in cloud(7)]
    path.write_text("\n" + "\n".join(rows) + "\n\n")
    assert np.array_equal(read_cloud(path, features), cloud(7)[:, : 6 if features else 3])


@pytest.mark.parametrize("break_", ["\f", "\v", "\x1c"])
def test_lines_end_where_editors_end_them(break_: str, tmp_path: Path) -> None:
    """str.splitlines also ends them at a form feed: a blank between numbers everywhere else."""
    rows = "\n".join(" ".join(map(repr, row.tolist())) for row in cloud(3)).replace(" ", break_, 1)
    ply = "ply\nformat ascii 1.0\nelement vertex 40\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    announced = (
        "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 40\nHEIGHT 1\nPOINTS 40\nDATA ascii\n"
    )
    for suffix, head in (("xyz", ""), ("ply", f"{ply}end_header\n"), ("pcd", announced)):
        path = tmp_path / f"cloud.{suffix}"
        path.write_text(head + rows + "\n")
        assert np.allclose(read_cloud(path), cloud(3), atol=1e-6), suffix


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32, np.uint8, ">f8"])
def test_npy_clouds_of_any_number_type(dtype: Any, tmp_path: Path) -> None:
    stored = (np.abs(cloud(6)) * 50).astype(dtype)
    np.save(tmp_path / "cloud.npy", stored)
    for features, channels in (((), 3), (("own:3",), 6)):
        points = read_cloud(tmp_path / "cloud.npy", features)
        assert points.dtype == np.float64 and points.flags.c_contiguous
        assert np.array_equal(points, stored[:, :channels].astype(np.float64))


def test_npz_clouds(tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", points=cloud(3), label=np.array(4))
    np.savez_compressed(tmp_path / "lone.npz", anything=cloud(3))
    expected = cloud(3)
    assert np.array_equal(read_cloud(tmp_path / "named.npz"), expected)
    assert np.array_equal(read_cloud(str(tmp_path / "lone.npz")), expected)
    np.savez(tmp_path / "two.npz", a=cloud(3), b=cloud(3))
    with pytest.raises(
        ValueError, match=r"two\.npz: .*expected a key out of points, xyz, positions, or one array, got a, b"
    ):
        read_cloud(tmp_path / "two.npz")


@pytest.mark.parametrize("suffix", [".xyz", ".npy", ".off"])
def test_coordinates_of_a_map_keep_their_digits(suffix: str, tmp_path: Path) -> None:
    """Metres east and north of a scan: float32 would round them to half a metre."""
    path, place = tmp_path / f"scan{suffix}", np.array([500_000.0, 5_400_000.0, 300.0])
    if suffix == ".off":
        trimesh.creation.box(EXTENTS, trimesh.transformations.translation_matrix(place)).export(path)
        assert np.isclose(np.abs(read_cloud(path) - place), EXTENTS / 2, atol=1e-3).any(1).all()
    else:
        points = cloud(3) + place
        np.save(path, points) if suffix == ".npy" else np.savetxt(path, points, fmt="%.6f")
        assert np.allclose(read_cloud(path), points, atol=1e-6, rtol=0)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.off"):
        read_cloud(tmp_path / "gone.off")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.ply: it is a folder"):
        read_cloud(tmp_path / "folder.ply")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_file(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"scan{suffix}").touch()
    with pytest.raises(ValueError, match=rf"scan\{suffix}: the file is empty"):
        read_cloud(tmp_path / f"scan{suffix}")


def test_off_file_without_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.off").write_text("OFF\n")
    with pytest.raises(ValueError, match=r"a\.off: .*does not say how many vertices and faces"):
        read_cloud(tmp_path / "a.off")


def test_cloud_without_the_normals_that_are_needed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", cloud(3))
    with pytest.raises(ValueError, match=r"a\.npy: it has no feature normal; expected a file with it"):
        read_cloud(tmp_path / "a.npy", ("normal",))


@pytest.mark.parametrize("name", ["scan.e57", "scan"])
def test_unknown_kind_names_the_known(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("1 2 3\n")
    with pytest.raises(ValueError, match=rf"{name}: expected one of \.off, .*\.npz, got"):
        read_cloud(tmp_path / name)


def refused(path: Path, features: tuple[str, ...] = ()) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_cloud(path, features)
    assert type(caught.value) in (ValueError, FeatureError)  # not a subclass from some library
    return str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\n\n", b"not a shape\n", bytes(range(256)) * 8, b"PK\x03\x04"])
def test_garbage_is_refused_by_name(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("suffix", [suffix for suffix in MESHES if suffix != ".obj"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
def test_truncated_mesh(suffix: str, share: float, tmp_path: Path) -> None:
    """OBJ has no counts: what is left of it is a mesh of its own."""
    path = tmp_path / f"cut{suffix}"
    trimesh.creation.icosphere(subdivisions=2).export(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated_array(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    np.save(path, cloud(3)) if suffix == ".npy" else np.savez(path, points=cloud(3))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path)


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_are_not_opened(suffix: str, tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / f"objects{suffix}"
    objects = np.array([Trap(sprung), None], dtype=object)
    np.save(path, objects) if suffix == ".npy" else np.savez(path, points=objects)
    assert "without objects" in refused(path)
    path.write_bytes(pickle.dumps(Trap(sprung)))
    refused(path)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("array", "came"),
    [
        (np.zeros((0, 3)), r"\(0, 3\)"),
        (np.zeros((5, 2)), r"\(5, 2\)"),
        (np.zeros(6), r"\(6,\)"),
        (np.zeros((2, 5, 3)), r"\(2, 5, 3\)"),
        (np.array(1.0), r"\(\)"),
        (np.full((5, 3), np.nan), "finite"),
        (np.full((5, 3), np.inf), "finite"),
        (np.zeros((5, 3), dtype=bool), "bool"),
        (np.zeros((5, 3), dtype=complex), "complex"),
        (np.full((5, 3), "a"), "<U1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_are_no_clouds(array: NDArray[Any], came: str, tmp_path: Path) -> None:
    np.save(tmp_path / "odd.npy", array)
    assert re.search(came, refused(tmp_path / "odd.npy"))


def test_bad_line_of_a_text_cloud_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cloud.xyz"
    path.write_text("0 0 0\n1 1 1\n1 two 3\n")
    assert "line 3" in refused(path)
    path.write_text("0 0 0\n1 1\n")
    assert "line 2" in refused(path)


def test_too_few_columns(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "cloud.txt", cloud(3))
    assert "it has no feature normal" in refused(tmp_path / "cloud.txt", ("normal",))
    trimesh.PointCloud(cloud(3)).export(tmp_path / "cloud.ply")
    assert "it has no feature normal" in refused(tmp_path / "cloud.ply", ("normal",))


@pytest.mark.parametrize("suffix", [".off", ".ply", ".obj"])
def test_mesh_without_area(suffix: str, tmp_path: Path) -> None:
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    flat.export(tmp_path / f"flat{suffix}")
    assert "no surface" in refused(tmp_path / f"flat{suffix}")


def test_mesh_with_nan(tmp_path: Path) -> None:
    path = tmp_path / "nan.off"
    path.write_text("OFF\n3 1 0\n0 0 0\nnan 0 0\n0 1 0\n3 0 1 2\n")
    refused(path)


@pytest.mark.parametrize("line", ["v 1", "v 1 2", "v -0"])
def test_obj_vertices_of_too_few_numbers(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.obj"
    path.write_text(f"{line}\n")
    refused(path)


def test_face_without_its_vertex(tmp_path: Path) -> None:
    path = tmp_path / "hole.off"
    path.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n")
    refused(path)


def test_files_are_read_without_torch(tmp_path: Path) -> None:
    """Features included, so that an exported model is served where PyTorch is not installed."""
    rows = np.random.default_rng(0).normal(size=(50, 6))
    rows[:, 3:] *= 3 / np.linalg.norm(rows[:, 3:], axis=1, keepdims=True)
    np.savetxt(tmp_path / "scan.xyz", rows, header="x y z nx ny nz", comments="")
    program = (
        "import sys; sys.modules['torch'] = None; import numpy;"
        "from bixt3d.datasets.readers import read_cloud;"
        "points = read_cloud(sys.argv[1], ('normal', 'height'));"
        "numpy.save(sys.argv[2], points)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "scan.xyz"), str(tmp_path / "read.npy")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "read.npy")
    np.testing.assert_allclose(found[:, :3], rows[:, :3])
    np.testing.assert_allclose(found[:, 3:6], rows[:, 3:] / 3, atol=1e-6)
    np.testing.assert_allclose(found[:, 6:], heights(torch.from_numpy(rows[:, :3])).numpy())


def linked(base: Path) -> Path:
    """A folder of a class, a link to another, and links that lead back."""
    for name in (
        "sets/train/cup/a.npy",
        "elsewhere/b.npy",
        "elsewhere/deep/c.npy",
        "elsewhere/.hidden/d.npy",
    ):
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, cloud(3))
    for link, target in (
        ("sets/train/bowl", "elsewhere"),
        ("sets/train/cup/up", "sets"),
        ("elsewhere/deep/round", "elsewhere"),
        ("sets/train/itself", "sets/train/itself"),
        ("sets/train/.secret", "elsewhere"),
    ):
        try:
            (base / link).symlink_to(base / target, target_is_directory=True)
        except OSError:
            pytest.skip("links cannot be made here")
    return base / "sets"


def test_links_to_folders_are_followed_as_a_training_does_it(tmp_path: Path) -> None:
    sets = linked(tmp_path)
    found = [path.relative_to(sets).as_posix() for path in clouds_in(sets)]
    assert found == ["train/bowl/b.npy", "train/bowl/deep/c.npy", "train/cup/a.npy"]
    assert set(list_splits(sets)["train"].files) == {"bowl/b.npy", "cup/a.npy"}
    (tmp_path / "elsewhere/read.me").touch()
    clouds, others = find_clouds([sets])
    assert clouds == clouds_in(sets) and others == [sets / "train/bowl/read.me"]
