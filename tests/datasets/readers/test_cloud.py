"""Every way in which a file names features of its points; other programs write the files that they can."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from bixt3d.datasets.features import FeatureError
from bixt3d.datasets.given import read_points
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.readers import load_cloud, read_cloud
from bixt3d.datasets.readers.cloud import FileCloud
from tests.datasets.readers.test_pcd import ENCODINGS, pcd

COUNT = 20
MESHES_WITH_COLORS = (".ply", ".obj", ".glb")
Array = NDArray[Any]


def xyz() -> Array:
    return np.random.default_rng(0).normal(size=(COUNT, 3)).round(4)


def unit(seed: int = 1, length: float = 1.0) -> Array:
    vectors = np.random.default_rng(seed).normal(size=(COUNT, 3))
    return length * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def colors() -> Array:
    """Red, green and blue from 0 to 255, all of the range."""
    drawn = np.random.default_rng(2).integers(0, 256, (COUNT, 3)).astype(np.uint8)
    drawn[0], drawn[1] = 0, 255
    return drawn


def strength(width: int = 1) -> Array:
    return np.random.default_rng(3).uniform(0, 500, (COUNT, width)).round(3)


def columns(values: dict[str, Array]) -> dict[str, Array]:
    """Columns x y z, and these."""
    return {**dict(zip("xyz", xyz().T, strict=True)), **values}


def ply(path: Path, values: dict[str, Array], encoding: str = "binary") -> Path:
    """A PLY cloud with properties of these names, each of its array's type."""
    kinds = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort", "i4": "int"}
    table = {name: value.reshape(COUNT) for name, value in columns(values).items()}
    header = ["ply", f"format {'ascii' if encoding == 'ascii' else 'binary_little_endian'} 1.0"]
    header += ["comment of another program", f"element vertex {COUNT}"]
    header += [f"property {kinds[value.dtype.str[1:]]} {name}" for name, value in table.items()]
    content = "\n".join([*header, "end_header", ""]).encode()
    rows = np.zeros(COUNT, dtype=[(name, value.dtype) for name, value in table.items()])
    for name, value in table.items():
        rows[name] = value
    text = "".join(" ".join(map(repr, row)) + "\n" for row in rows.tolist()).encode()
    path.write_bytes(content + (text if encoding == "ascii" else rows.tobytes()))
    return path


def three(names: tuple[str, str, str], values: Array, dtype: Any) -> dict[str, Array]:
    return {name: column.astype(dtype) for name, column in zip(names, values.T, strict=True)}


def assert_reads(path: Path, features: tuple[str, ...], expected: Array, atol: float = 1e-6) -> None:
    points = read_cloud(path, features)
    assert points.dtype == np.float64 and points.flags.c_contiguous
    np.testing.assert_allclose(points[:, :3], xyz(), atol=1e-6)
    np.testing.assert_allclose(points[:, 3:], expected, atol=atol)


# Files of Open3D


def of_open3d(path: Path, **options: bool) -> Path:
    """A cloud of Open3D with all that it names itself, and two attributes of a user's own."""
    open3d = pytest.importorskip("open3d")
    tensor = open3d.core.Tensor
    cloud = open3d.t.geometry.PointCloud(tensor(xyz().astype(np.float32)))
    cloud.point.normals = tensor(unit().astype(np.float32))
    cloud.point.colors = tensor(colors())
    cloud.point.intensities = tensor(strength().astype(np.float32))
    cloud.point["curvature"] = tensor(strength() / 1000)
    if path.suffix != ".pcd":  # of a PCD file Open3D writes single values alone
        cloud.point["fpfh"] = tensor(strength(5).astype(np.float32))
    assert open3d.t.io.write_point_cloud(str(path), cloud, **options)
    return path


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".ply", {"write_ascii": True}),
        (".ply", {"write_ascii": False}),
        (".pcd", {"write_ascii": True}),
        (".pcd", {"write_ascii": False, "compressed": False}),
        (".pcd", {"write_ascii": False, "compressed": True}),
        (".npz", {}),
    ],
)
def test_files_of_open3d(suffix: str, options: dict[str, bool], tmp_path: Path) -> None:
    path = of_open3d(tmp_path / f"cloud{suffix}", **options)
    near = 1e-5 if options.get("write_ascii") else 1e-6
    assert_reads(path, (), np.zeros((COUNT, 0)))
    assert_reads(path, ("normal",), unit(), near)
    assert_reads(path, ("color",), colors() / 255)
    assert_reads(path, ("intensity",), strength(), 1e-2)
    assert_reads(path, ("curvature",), strength() / 1000, near)
    together = np.concatenate([strength() / 1000, colors() / 255, unit()], axis=1)
    assert_reads(path, ("curvature", "color", "normal"), together, near)
    np.testing.assert_array_equal(read_cloud(path, None), read_cloud(path, ("normal",)))
    if suffix != ".pcd":
        assert_reads(path, ("fpfh:5", "color"), np.concatenate([strength(5), colors() / 255], 1), 1e-2)


# PLY


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
@pytest.mark.parametrize(
    ("feature", "values", "expected"),
    [
        ("normal", three(("nx", "ny", "nz"), unit(), "f4"), unit()),
        ("normal", three(("normal_x", "normal_y", "normal_z"), unit(), "f8"), unit()),
        ("color", three(("red", "green", "blue"), colors(), "u1"), colors() / 255),
        ("color", three(("red", "green", "blue"), colors().astype("f4"), "f4"), colors() / 255),
        ("color", three(("red", "green", "blue"), colors() / 255, "f4"), colors() / 255),
        ("color", three(("red", "green", "blue"), colors() * 257.0, "u2"), colors() / 255),
        ("color", three(("red", "green", "blue"), colors() // 255, "u1"), colors() // 255 / 255),  # of 255
        ("color", three(("r", "g", "b"), colors(), "u1"), colors() / 255),
        ("intensity", {"intensity": strength().astype("f4")}, strength()),
        ("intensity", {"Intensity": strength().astype("u2")}, np.floor(strength())),
        ("intensity", {"scalar_Intensity": strength().astype("f4")}, strength()),
        ("intensity", {"scalar_intensity": strength().astype("f8")}, strength()),
        ("intensity", {"reflectance": strength().astype("f8")}, strength()),
        ("height", {"height": strength().astype("f8")}, strength()),
        ("curvature", {"curvature": strength().astype("f4")}, strength()),
        ("curvature", {"scalar_curvature": strength().astype("f4")}, strength()),
        ("Scan_angle", {"Scan_angle": -strength().astype("i4")}, -np.floor(strength())),
        ("own:3", three(("own_0", "own_1", "own_2"), strength(3), "f4"), strength(3)),
    ],
)
def test_properties_of_ply(
    feature: str, values: dict[str, Array], expected: Array, encoding: str, tmp_path: Path
) -> None:
    others = {"quality": np.ones(COUNT, "f4"), "scalar_time": np.ones(COUNT, "f8")}
    path = ply(tmp_path / "cloud.ply", {**others, **values}, encoding)
    expected = expected.reshape(COUNT, -1)
    assert_reads(path, (feature,), expected, 1e-4)
    assert_reads(path, (feature, "quality"), np.concatenate([expected, np.ones((COUNT, 1))], 1), 1e-4)
    assert read_cloud(path).shape == (COUNT, 3)


def test_our_own_name_goes_first(tmp_path: Path) -> None:
    values = {"intensity": strength().astype("f4"), "reflectance": np.zeros(COUNT, "f4")}
    assert_reads(ply(tmp_path / "cloud.ply", values), ("intensity",), strength(), 1e-4)


@pytest.mark.parametrize("suffix", [".ply", ".glb", ".obj"])
def test_clouds_of_trimesh(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cloud{suffix}"
    trimesh.PointCloud(xyz(), colors()).export(path)
    assert_reads(path, ("color",), colors() / 255)
    trimesh.PointCloud(xyz()).export(path)
    with pytest.raises(FeatureError, match=rf"cloud\{suffix}: it has no feature color"):
        read_cloud(path, ("color",))


# PCD


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["rgb", "rgba"])
@pytest.mark.parametrize("dtype", ["f4", "u4", "i4"])
@pytest.mark.parametrize("alpha", [0, 255])
def test_packed_colours_of_pcd(encoding: str, name: str, dtype: str, alpha: int, tmp_path: Path) -> None:
    """With an alpha of 255, as PCL has it, the bits of many colours are no number as a float."""
    red, green, blue = colors().astype(np.uint32).T
    packed = (np.uint32(alpha) << 24 | red << 16 | green << 8 | blue).astype("<u4")
    if encoding == "ascii" and dtype == "f4":
        packed &= 0xFFFFFF  # PCL writes them as whole numbers else
    path = tmp_path / "scan.pcd"
    path.write_bytes(pcd(columns({name: packed.view(dtype), "ring": np.ones(COUNT, "u2")}), encoding))
    assert_reads(path, ("color",), colors() / 255)
    assert_reads(path, ("ring", "color"), np.concatenate([np.ones((COUNT, 1)), colors() / 255], 1))


def test_packed_colours_that_are_lost_as_text(tmp_path: Path) -> None:
    packed = np.full(COUNT, 0xFFFF0000, "<u4").view("f4")  # nan
    (tmp_path / "scan.pcd").write_bytes(pcd(columns({"rgb": packed}), "ascii"))
    assert read_cloud(tmp_path / "scan.pcd").shape == (COUNT, 3)
    with pytest.raises(FeatureError, match=r"scan\.pcd: it has no feature color"):
        read_cloud(tmp_path / "scan.pcd", ("color",))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("feature", "values", "expected"),
    [
        ("normal", three(("normal_x", "normal_y", "normal_z"), unit(), "f4"), unit()),
        ("color", three(("r", "g", "b"), colors(), "u1"), colors() / 255),
        ("color", three(("r", "g", "b"), colors() // 255, "u1"), colors() // 255 / 255),
        ("color", three(("red", "green", "blue"), colors() / 255, "f4"), colors() / 255),
        ("intensity", {"intensity": strength().astype("f4")}, strength()),
        ("intensity", {"intensity": strength().astype("u1")}, strength().astype("u1")),
        ("intensity", {"Intensity": strength().astype("f8")}, strength()),
        ("curvature", {"curvature": strength().astype("f4")}, strength()),
        ("fpfh:33", {"fpfh": strength(33).astype("f4")}, strength(33)),
        ("own:2", {"own": -strength(2).astype("i2")}, -np.floor(strength(2))),
        ("own:64", {"own": strength(64)}, strength(64)),
    ],
)
def test_fields_of_pcd(
    feature: str, values: dict[str, Array], expected: Array, encoding: str, tmp_path: Path
) -> None:
    path = tmp_path / "scan.pcd"
    around = {"_": np.zeros((COUNT, 3), "u1"), **values, "ring": np.full(COUNT, 7, "u2")}
    path.write_bytes(pcd(columns(around), encoding))
    expected = expected.reshape(COUNT, -1)
    assert_reads(path, (feature,), expected, 1e-4)
    assert_reads(path, ("ring", feature), np.concatenate([np.full((COUNT, 1), 7), expected], 1), 1e-4)


def test_fields_without_values_or_with_many_are_none(tmp_path: Path) -> None:
    path = tmp_path / "scan.pcd"
    content = pcd(columns({"empty": np.zeros((COUNT, 0), "f4"), "wide": strength(65)}))
    path.write_bytes(content)
    for feature in ("empty", "wide:65", "normal"):
        with pytest.raises(FeatureError, match=r"scan\.pcd: it has no feature "):
            read_cloud(path, (feature,))
    assert read_cloud(path, None).shape == (COUNT, 3)


# NPZ, NPY, text


@pytest.mark.parametrize("main", ["points", "xyz", "positions"])
@pytest.mark.parametrize(
    ("feature", "key", "value", "expected"),
    [
        ("normal", "normal", unit(), unit()),
        ("normal", "normals", unit().astype("f4"), unit()),
        ("color", "color", colors(), colors() / 255),
        ("color", "colors", colors().astype("f8"), colors() / 255),
        ("color", "colour", colors() / 255, colors() / 255),
        ("color", "rgb", colors(), colors() / 255),
        ("color", "colors", np.concatenate([colors(), colors()[:, :1]], axis=1), colors() / 255),
        ("intensity", "intensity", strength()[:, 0], strength()),
        ("intensity", "intensities", strength(), strength()),
        ("curvature", "curvature", strength()[:, 0], strength()),
        ("fpfh:33", "fpfh", strength(33), strength(33)),
        ("own:6", "own", strength(6).reshape(COUNT, 2, 3), strength(6)),
    ],
)
def test_keys_of_npz(
    main: str, feature: str, key: str, value: Array, expected: Array, tmp_path: Path
) -> None:
    path = tmp_path / "cloud.npz"
    others = {"label": np.array(3), "names": np.array(["a", "b"]), "faces": np.zeros((5, 3), int)}
    np.savez(path, **{main: xyz(), key: value, **others})  # type: ignore[arg-type]
    assert_reads(path, (feature,), expected)


def test_columns_in_the_order_of_the_features(tmp_path: Path) -> None:
    table = np.concatenate([xyz(), colors() / 255, strength(), unit(), strength(4)], axis=1)
    np.save(tmp_path / "cloud.npy", table)
    np.savez(tmp_path / "cloud.npz", table)
    np.savetxt(tmp_path / "cloud.txt", table, fmt="%.8f", delimiter=",")
    np.savetxt(tmp_path / "cloud.xyz", table, fmt="%.8f")
    for name in ("cloud.npy", "cloud.npz", "cloud.txt", "cloud.xyz"):
        for last, features in (
            (3, ()),
            (6, ("color",)),
            (7, ("color", "intensity")),
            (10, ("color", "intensity", "normal")),
            (14, ("color", "intensity", "normal", "own:4")),
        ):
            assert_reads(tmp_path / name, features, table[:, 3:last], 1e-7)
        assert read_cloud(tmp_path / name, None).shape == (COUNT, 3)  # its first columns are no normals
        with pytest.raises(
            FeatureError, match=rf"{name}: it has no feature own; .*14? columns without names"
        ):
            read_cloud(tmp_path / name, ("color", "intensity", "normal", "own:5"))


def test_names_go_before_columns(tmp_path: Path) -> None:
    table = np.concatenate([xyz(), strength(2)], axis=1)
    np.savez(tmp_path / "cloud.npz", points=table, color=colors())
    expected = np.concatenate([strength(2)[:, :1], colors() / 255, strength(2)[:, 1:]], axis=1)
    assert_reads(tmp_path / "cloud.npz", ("intensity", "color", "own"), expected)


# Meshes


def ball() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=2)


@pytest.mark.parametrize("suffix", MESHES_WITH_COLORS)
def test_colours_of_vertices(suffix: str, tmp_path: Path) -> None:
    """Each corner's colour is its place, so that a sample's colour is its own place."""
    mesh, path = ball(), tmp_path / f"ball{suffix}"
    mesh.visual.vertex_colors = np.round((mesh.vertices + 1) / 2 * 255).astype(np.uint8)
    mesh.export(path)
    points = read_cloud(path, ("color", "normal"), 500)
    assert points.shape == (500, 9)
    np.testing.assert_allclose(points[:, 3:6], (points[:, :3] + 1) / 2, atol=0.005)
    np.testing.assert_allclose(np.linalg.norm(points[:, 6:], axis=1), 1, atol=1e-6)
    assert ((points[:, :3] * points[:, 6:]).sum(1) > 0.9).all()
    np.testing.assert_array_equal(points[:, :3], read_cloud(path, (), 500))  # the same sample


def test_colours_of_faces(tmp_path: Path) -> None:
    """Each face's colour is its normal, so that a sample's colour is that of its face."""
    mesh, path = ball(), tmp_path / "ball.ply"
    mesh.visual.face_colors = np.round((mesh.face_normals + 1) / 2 * 255).astype(np.uint8)
    mesh.export(path)
    points = read_cloud(path, ("normal", "color"), 500)
    np.testing.assert_allclose(points[:, 6:], (points[:, 3:6] + 1) / 2, atol=0.005)


@pytest.mark.parametrize("suffix", [".off", ".stl", ".obj", ".ply", ".glb"])
def test_meshes_without_colours(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ball{suffix}"
    ball().export(path)
    with pytest.raises(
        FeatureError, match=rf"ball\{suffix}: it has no feature color; .* this one has normal"
    ):
        read_cloud(path, ("color",))


# Colours of 8 bits in 16


def in_16_bits(path: Path, values: Array) -> Path:
    """A file whose colours are these in fields of 16 bits, as a cloud or on a mesh, by the path's name."""
    wide = three(("red", "green", "blue"), values, "u2")
    if path.suffix == ".npz":
        np.savez(path, points=xyz(), colors=values.astype(">u2"))
    elif path.suffix == ".npy":
        rows = np.zeros(COUNT, [(name, "f8") for name in "xyz"] + [("rgb", "<u2", 3)])
        rows["x"], rows["y"], rows["z"] = xyz().T
        rows["rgb"] = values
        np.save(path, rows)
    elif path.suffix == ".pcd":
        path.write_bytes(pcd(columns(wide)))
    else:
        ply(path, wide)
    return path


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".npz", ".npy"])
def test_colours_of_8_bits_in_16(suffix: str, tmp_path: Path) -> None:
    path, notes = in_16_bits(tmp_path / f"cloud{suffix}", colors()), list[str]()
    np.testing.assert_allclose(read_cloud(path, ("color",), notes=notes)[:, 3:], colors() / 255, atol=1e-6)
    assert notes == [f"{path}: colours up to 255 in 16 bits are divided by 255"]
    assert read_cloud(path, (), notes=notes).shape == (COUNT, 3) and len(notes) == 1  # they are not asked for
    dark = colors() // 100  # 0 to 2
    assert_reads(in_16_bits(path, dark), ("color",), dark / 255)
    assert_reads(in_16_bits(path, dark * 0), ("color",), dark * 0)
    wide = colors() * np.uint16(257)
    np.testing.assert_allclose(
        read_cloud(in_16_bits(path, wide), ("color",), notes=notes)[:, 3:], wide / 65535, atol=1e-6
    )
    assert len(notes) == 1


def test_colours_that_are_no_numbers_are_told_where_they_are_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", points=xyz(), color=np.full((COUNT, 3), np.nan))
    assert_reads(tmp_path / "a.npz", (), np.zeros((COUNT, 0)))
    with pytest.raises(ValueError, match="expected finite numbers, got nan nan nan for color of point 1"):
        read_cloud(tmp_path / "a.npz", ("color",))


def test_colours_of_8_bits_in_16_and_points_that_are_nan(tmp_path: Path) -> None:
    """All points of a file say how its colours are meant, those that are left out, too."""
    points, color, notes = xyz(), colors().astype("u2"), list[str]()
    points[0], color[0] = np.nan, 60_000
    np.savez(tmp_path / "a.npz", points=points, color=color)
    read = read_cloud(tmp_path / "a.npz", ("color",), notes=notes)
    np.testing.assert_allclose(read[:, 3:], color[1:] / 65535)
    assert len(notes) == 1 and "NaN" in notes[0]


@pytest.mark.parametrize("most", [255, 65535])
@pytest.mark.parametrize("where", ["vertex", "face"])
def test_colours_of_a_mesh_in_16_bits(where: str, most: int, tmp_path: Path) -> None:
    path, notes = tmp_path / "triangles.ply", list[str]()
    names = ("red", "green", "blue")
    color = "".join(f"property ushort {name}\n" for name in names)
    head = "ply\nformat ascii 1.0\nelement vertex 4\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    head += color * (where == "vertex")
    head += "element face 2\nproperty list uchar int vertex_indices\n" + color * (where == "face")
    told = f" {most} 0 {most // 5}"
    rows = [f"{place}{told * (where == 'vertex')}\n" for place in ("0 0 0", "1 0 0", "1 1 0", "0 1 0")]
    rows += [f"3 {face}{told * (where == 'face')}\n" for face in ("0 1 2", "0 2 3")]
    path.write_text(f"{head}end_header\n{''.join(rows)}")
    points = read_cloud(path, ("color",), 50, notes=notes)
    np.testing.assert_allclose(points[:, 3:], np.tile([1, 0, 0.2], (50, 1)))
    assert len(notes) == (most == 255)


# Height


def test_height_is_computed_where_a_file_has_none(tmp_path: Path) -> None:
    ball().export(tmp_path / "ball.off")
    points = read_cloud(tmp_path / "ball.off", ("height", "normal"), 4000)
    np.testing.assert_allclose(points[:, 3], points[:, 1] + 1, atol=0.05)  # radius 1, lowest point -1
    assert points[:, 3].min() == 0
    places = [("m.npy", 1.0, 0.0), ("km.npy", 1e-3, 0.0), ("far.npy", 1.0, 1e6)]
    found = []
    for name, factor, place in places:
        np.save(tmp_path / name, xyz() * factor + place)
        found.append(read_cloud(tmp_path / name, ("height",))[:, 3])
    for height in found[1:]:
        np.testing.assert_allclose(height, found[0], atol=1e-8)  # in radii, wherever it stands
    radius = np.linalg.norm(xyz() - xyz().mean(0), axis=1).max()
    np.testing.assert_allclose(found[0], (xyz()[:, 1] - xyz()[:, 1].min()) / radius, atol=1e-12)
    table = np.concatenate([xyz(), unit()], axis=1)
    np.savetxt(tmp_path / "six.txt", table)
    seven = read_cloud(tmp_path / "six.txt", ("normal", "height"))
    np.testing.assert_allclose(seven, np.concatenate([table, found[0][:, None]], 1), atol=1e-12)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_height_of_points_that_are_not_finite(value: float, tmp_path: Path) -> None:
    bad = xyz()
    bad[3, 1] = value
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(ValueError, match=r"bad\.npy: expected finite numbers"):
        read_cloud(tmp_path / "bad.npy", ("height",))


# What a file lacks, or what it cannot be


def test_a_missing_feature_names_file_feature_and_remedy(tmp_path: Path) -> None:
    values = {
        **three(("red", "green", "blue"), colors(), "u1"),
        "scalar_Intensity": strength().astype("f4"),
        "curvature": strength().astype("f4"),
    }
    path = ply(tmp_path / "cloud.ply", values)
    with pytest.raises(FeatureError) as caught:
        read_cloud(path, ("color", "normal"))
    assert str(caught.value) == (
        f"{path}: it has no feature normal; expected a file with it, or a model and data.features without "
        "it; this one has color, intensity, curvature"
    )
    np.save(tmp_path / "bare.npy", xyz())
    with pytest.raises(FeatureError, match=r"bare\.npy: it has no feature color; .* has xyz alone$"):
        read_cloud(tmp_path / "bare.npy", ("color",))
    np.save(tmp_path / "six.npy", np.concatenate([xyz(), unit()], 1))
    with pytest.raises(FeatureError, match="this one has xyz alone, and 3 columns without names beside xyz$"):
        read_cloud(tmp_path / "six.npy", ("normal", "color"))
    with pytest.raises(FeatureError, match="it has no feature own; "):
        read_cloud(path, ("own:7",))
    with pytest.raises(FeatureError, match="it has no feature curvature; "):  # it is of another width
        read_cloud(path, ("curvature:2",))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".txt", ".ply", ".pcd"])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_colours_are_no_normals(suffix: str, scale: float, tmp_path: Path) -> None:
    path, values = tmp_path / f"cloud{suffix}", colors() / 255 * scale
    if suffix == ".npy":
        np.save(path, np.concatenate([xyz(), values], 1))
    elif suffix == ".npz":
        np.savez(path, points=xyz(), normals=values)
    elif suffix == ".txt":
        np.savetxt(path, np.concatenate([xyz(), values], 1))
    elif suffix == ".ply":
        ply(path, three(("nx", "ny", "nz"), values, "f4"))
    else:
        path.write_bytes(pcd(columns(three(("normal_x", "normal_y", "normal_z"), values, "f4"))))
    with pytest.raises(FeatureError, match="feature normal: expected vectors of length 1") as caught:
        read_cloud(path, ("normal",))
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "as colours have of length" in message
    assert "name what they are, such as data.features=[color]" in message
    assert read_cloud(path, None).shape == (COUNT, 3)


def test_colours_out_of_their_range(tmp_path: Path) -> None:
    for name, values in (("below.npy", -1.0 * colors()), ("above.npy", colors() * 257.0)):
        np.save(tmp_path / name, np.concatenate([xyz(), values], 1))
        with pytest.raises(
            FeatureError, match=rf"{name}: feature color: expected red, green and blue from 0"
        ):
            read_cloud(tmp_path / name, ("color",))


def test_normals_of_another_length_are_scaled_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("two.ply", "two.txt"):
        caplog.clear()
        path = tmp_path / name
        if path.suffix == ".ply":
            ply(path, three(("nx", "ny", "nz"), unit(length=2.0), "f4"))
        else:
            np.savetxt(path, np.concatenate([xyz(), unit(length=2.0)], 1))
        assert_reads(path, ("normal",), unit())
        (record,) = caplog.records
        assert record.getMessage() == f"{path}: normals of other lengths are scaled to length 1"
    # Where nothing is asked for, vectors are normals if the file names them so, or if they are of length 1.
    np.testing.assert_allclose(read_cloud(tmp_path / "two.ply", None)[:, 3:], unit(), atol=1e-6)
    assert read_cloud(tmp_path / "two.txt", None).shape == (COUNT, 3)


def test_text_colours_are_divided_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savetxt(tmp_path / "cloud.txt", np.concatenate([xyz(), colors()], 1))
    assert_reads(tmp_path / "cloud.txt", ("color",), colors() / 255)
    assert "cloud.txt: colours up to 255 are divided by 255" in caplog.text


@pytest.mark.parametrize(
    "normals",
    [
        np.zeros((COUNT, 3)),  # as programs write that know none
        np.where(np.arange(COUNT)[:, None] == 3, np.nan, unit()),
        np.where(np.arange(COUNT)[:, None] == 3, np.inf, unit()),
        colors() * 1.0,
    ],
    ids=["zero", "NaN", "infinity", "colours"],
)
def test_named_normals_that_are_none(normals: Array, tmp_path: Path) -> None:
    path = ply(tmp_path / "cloud.ply", three(("nx", "ny", "nz"), normals, "f8"))
    assert not load_cloud(path).has_normals()
    assert_reads(path, (), np.zeros((COUNT, 0)))
    assert read_cloud(path, None).shape == (COUNT, 3)


def test_features_that_are_not_finite(tmp_path: Path) -> None:
    values = strength()
    values[5] = np.nan
    path = ply(tmp_path / "cloud.ply", {"intensity": values})
    assert read_cloud(path).shape == (COUNT, 3)
    with pytest.raises(
        ValueError, match=r"cloud\.ply: expected finite numbers, got nan for intensity of point 6$"
    ):
        read_cloud(path, ("intensity",))
    np.savez(tmp_path / "cloud.npz", points=xyz(), own=np.ones(COUNT, bool))
    with pytest.raises(ValueError, match=r"cloud\.npz: expected finite numbers, got bool for own"):
        read_cloud(tmp_path / "cloud.npz", ("own",))


def test_wrong_names_are_refused_before_anything_else(tmp_path: Path) -> None:
    np.save(tmp_path / "cloud.npy", np.concatenate([xyz(), unit()], 1))
    for features in (("normal", "normal"), ("color:4",), ("a b",), 3):
        with pytest.raises(ValueError, match="features: "):
            read_cloud(tmp_path / "cloud.npy", features)  # type: ignore[arg-type]


def test_a_cloud_made_by_hand() -> None:
    cloud = FileCloud(xyz(), {"color": colors(), "own": strength()[:, 0]}, unit())
    assert cloud.feature("color") is not None and cloud.feature("height") is None
    assert cloud.has_normals()  # its columns
    taken = cloud.take(("own", "normal", "color", "height"), Path("made"))
    expected = np.concatenate([xyz(), strength(), unit(), colors() / 255], axis=1)
    np.testing.assert_allclose(taken[:, :-1], expected)


def test_a_depth_image_is_no_cloud(tmp_path: Path) -> None:
    """Its rows would be points, and most of its columns be left out. Wide features can be asked for."""
    depth = np.random.default_rng(0).random((48, 80))
    np.save(tmp_path / "depth.npy", depth)
    with pytest.raises(
        ValueError, match=r"depth.npy: expected xyz .*, got 77 columns more: make points of a .*=\[own:77\]"
    ):
        read_cloud(tmp_path / "depth.npy")
    assert read_cloud(tmp_path / "depth.npy", ["own:77"]).shape == (48, 80)
    assert read_cloud(tmp_path / "depth.npy", ["own:40"]).shape == (48, 43)
    with pytest.raises(ValueError, match=r"cloud: expected xyz .*, got 77 columns more"):
        read_points(depth, Preprocess())
    assert read_points(depth[:, :60], Preprocess()).shape == (48, 3)


def test_words_of_other_code_pages_stay_apart() -> None:
    words = np.array(["für".encode("latin-1"), "fär".encode("latin-1")])
    assert FileCloud(np.eye(3)[:2], {"label": words}).words.tolist() == ["für", "fär"]  # type: ignore[union-attr]


def test_columns_beyond_the_features_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savetxt(tmp_path / "a.txt", np.random.default_rng(0).random((9, 7)))
    assert read_cloud(tmp_path / "a.txt", ["color"]).shape == (9, 6)
    assert "a.txt: 1 column after color is left out" in caplog.text
    caplog.clear()
    assert read_cloud(tmp_path / "a.txt").shape == (9, 3)
    assert "a.txt: 4 columns after xyz are left out" in caplog.text


def test_fractions_are_no_colours_up_to_255(tmp_path: Path) -> None:
    """Such as an intensity that is taken for red, where features are named in another order than columns."""
    rows = np.random.default_rng(0).random((9, 7)) * 200
    np.savetxt(tmp_path / "a.txt", rows)
    with pytest.raises(ValueError, match="a.txt: feature color: .*fractions up to .*order of the columns"):
        read_cloud(tmp_path / "a.txt", ["intensity", "color"])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".npy"])
def test_a_column_that_counts_the_points_is_no_coordinate(
    suffix: str, first: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, xyz = tmp_path / f"table{suffix}", np.random.default_rng(0).normal(size=(30, 3)).round(5)
    table = np.c_[np.arange(first, first + 30), xyz]
    if suffix == ".npy":
        np.save(path, table)
    else:
        np.savetxt(path, table, delimiter="," if suffix == ".csv" else " ")
    np.testing.assert_allclose(read_cloud(path), xyz)
    assert "its first column counts the points" in caplog.text
    with pytest.raises(
        ValueError, match="cloud: expected x, y and z first, got a column that counts the points"
    ):
        read_points(table, Preprocess())
    caplog.clear()
    table[3, 0] += 0.5  # a coordinate after all
    np.save(tmp_path / "scan.npy", table)
    np.testing.assert_allclose(read_cloud(tmp_path / "scan.npy"), table[:, :3])
    assert read_points(table, Preprocess()).shape == (30, 3) and "counts the points" not in caplog.text


@pytest.mark.parametrize("odd", ["2.5", "nan", "inf", "-inf", "1e+300"])
def test_labels_that_are_no_whole_numbers_are_named(odd: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"x,y,z,label\n0,0,0,1\n1,0,0,2\n0,1,0,{odd}\n")
    message = f"expected whole numbers for labels, got {odd} in label, point 3"
    with pytest.raises(ValueError, match=re.escape(message)):
        _ = load_cloud(tmp_path / "a.csv").labels


@pytest.mark.parametrize("dtype", ["i1", "u1", "i8", "u8", "f2", "f4", "f8"])
def test_labels_of_any_number_type(dtype: str) -> None:
    values = np.array([0, 100, 7], dtype)
    labels = FileCloud(np.zeros((3, 3)), {"label": values}).labels
    assert labels is not None and labels.dtype == np.int64 and labels.tolist() == [0, 100, 7]
