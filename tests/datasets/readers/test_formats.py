"""Every format in its variants: written by another program or byte by byte, and read to the same points."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from bixt3d.datasets.features import FeatureError
from bixt3d.datasets.readers import CONVERTERS, MESHES, is_cloud_file, load_cloud, read_cloud

Array = NDArray[Any]
COUNT = 50
MAP = np.array([500_000.0, 5_400_000.0, 300.0])  # metres east and north, as scans have them


def xyz(place: Array | float = 0.0) -> Array:
    return np.random.default_rng(0).normal(size=(COUNT, 3)).round(4) + place


def unit() -> Array:
    vectors = np.random.default_rng(1).normal(size=(COUNT, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def colors() -> Array:
    drawn = np.random.default_rng(2).integers(0, 256, (COUNT, 3)).astype(np.uint8)
    drawn[0] = 255
    return drawn


def labels() -> Array:
    return np.arange(COUNT) % 5


def ball() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=1)


def triangles_of(path: Path) -> Array:
    """The corners (T, 3, 3) that a file of triangles holds, before anything is drawn from them."""
    mesh = MESHES[path.suffix](path)
    assert (mesh.sizes == 3).all()
    return np.asarray(mesh.vertices.xyz[mesh.corners].reshape(-1, 3, 3), dtype=np.float64)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, features: tuple[str, ...] = ()) -> str:
    with pytest.raises(ValueError) as caught:
        read_cloud(path, features)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    for bug in ("KeyError", "IndexError", "UnboundLocalError", "TypeError", "Errno"):
        assert bug not in message
    return message.removeprefix(str(path)).lstrip(":, ")


# Meshes of other programs

WRITERS = [
    *[("trimesh", suffix, {}) for suffix in (".off", ".obj", ".stl", ".glb")],
    ("trimesh", ".stl", {"file_type": "stl_ascii"}),
    ("trimesh", ".ply", {"encoding": "ascii"}),
    ("trimesh", ".ply", {"encoding": "binary", "vertex_normal": True}),
    *[("meshio", ".ply", {"binary": binary}) for binary in (False, True)],
    *[("meshio", ".stl", {"binary": binary}) for binary in (False, True)],
    *[("meshio", suffix, {}) for suffix in (".off", ".obj")],
    *[("open3d", ".ply", {"write_ascii": ascii_}) for ascii_ in (False, True)],
    *[("open3d", suffix, {}) for suffix in (".obj", ".off", ".stl", ".glb", ".gltf")],
]


@pytest.mark.parametrize(("program", "suffix", "options"), WRITERS)
def test_meshes_of_other_programs(program: str, suffix: str, options: dict[str, Any], tmp_path: Path) -> None:
    mesh, path = ball(), tmp_path / f"ball{suffix}"
    if program == "trimesh":
        mesh.export(path, **options)
    elif program == "meshio":
        meshio = pytest.importorskip("meshio")
        meshio.Mesh(mesh.vertices, [("triangle", mesh.faces)]).write(path, **options)
    else:
        open3d = pytest.importorskip("open3d")
        made = open3d.geometry.TriangleMesh(
            open3d.utility.Vector3dVector(mesh.vertices), open3d.utility.Vector3iVector(mesh.faces)
        )
        made.compute_triangle_normals()
        assert open3d.io.write_triangle_mesh(str(path), made, **options)
    np.testing.assert_allclose(triangles_of(path), mesh.triangles, atol=1e-5)
    points = read_cloud(path, ("normal",), 400)
    length = np.linalg.norm(points[:, :3], axis=1)
    assert ((length > 0.9) & (length < 1 + 1e-6)).all()
    assert (np.einsum("nd,nd->n", points[:, :3], points[:, 3:]) > 0.9).all()


@pytest.mark.parametrize("suffix", [".off", ".obj", ".ply"])
def test_meshes_far_from_the_origin_keep_their_shape(suffix: str, tmp_path: Path) -> None:
    mesh = ball()
    mesh.apply_translation(MAP)
    path = tmp_path / f"ball{suffix}"
    if suffix == ".ply":
        plyfile = pytest.importorskip("plyfile")
        rows = np.array([tuple(v) for v in mesh.vertices], dtype=[(axis, "f8") for axis in "xyz"])
        faces = np.array([(list(f),) for f in mesh.faces], dtype=[("vertex_indices", "i4", (3,))])
        elements = [plyfile.PlyElement.describe(rows, "vertex"), plyfile.PlyElement.describe(faces, "face")]
        plyfile.PlyData(elements).write(str(path))
    else:
        mesh.export(path)
    np.testing.assert_allclose(read_cloud(path, (), 300).mean(0), MAP, atol=0.2)
    distance = np.linalg.norm(read_cloud(path, (), 300) - MAP, axis=1)
    assert ((distance > 0.9) & (distance < 1 + 1e-6)).all()


NORMALS_OF_VERTICES = {
    ".off": "NOFF\n{vertices} {faces} 0\n{rows}\n{triples}",
    ".obj": "{rows}\n{normals}\n{corners}",
    ".ply": "ply\nformat ascii 1.0\nelement vertex {vertices}\n{properties}\nelement face {faces}\n"
    "property list uchar int vertex_indices\nproperty float normal\nend_header\n{rows}\n{triples}",
}


@pytest.mark.parametrize("suffix", [".off", ".obj", ".ply", ".glb"])
def test_normals_of_a_mesh_are_those_of_its_faces(suffix: str, tmp_path: Path) -> None:
    """Not what lies between its vertices' normals, whichever way the format names these."""
    box, path = trimesh.creation.box(), tmp_path / f"box{suffix}"
    if suffix == ".glb":
        path.write_bytes(trimesh.exchange.gltf.export_glb(box.scene(), include_normals=True))
        assert b"NORMAL" in path.read_bytes()
    else:
        numbers = np.hstack([box.vertices, box.vertex_normals]).tolist()
        end = " 1" if suffix == ".ply" else ""
        write(
            path,
            NORMALS_OF_VERTICES[suffix].format(
                vertices=len(box.vertices),
                faces=len(box.faces),
                properties="\n".join(f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")),
                rows="\n".join(
                    f"v {row[0]} {row[1]} {row[2]}" if suffix == ".obj" else " ".join(map(str, row))
                    for row in numbers
                ),
                normals="\n".join(f"vn {row[3]} {row[4]} {row[5]}" for row in numbers),
                triples="\n".join(f"3 {a} {b} {c}{end}" for a, b, c in box.faces.tolist()),
                corners="\n".join(
                    "f " + " ".join(f"{at + 1}//{at + 1}" for at in face) for face in box.faces.tolist()
                ),
            ),
        )
    points = read_cloud(path, ("normal",), 200)
    axis = np.abs(points[:, 3:]).argmax(axis=1)
    np.testing.assert_allclose(np.abs(points[:, 3:]), np.eye(3)[axis], atol=1e-9)
    outside = np.take_along_axis(points[:, :3] * points[:, 3:], axis[:, None], axis=1)
    np.testing.assert_allclose(outside, 0.5, atol=1e-6)


# Polygons

ELL = np.array([[0, 0, 0], [2, 0, 0], [2, 1, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0.0]])


def polygon_file(path: Path, corners: Array) -> Path:
    size = len(corners)
    rows = [" ".join(map(repr, row)) for row in corners.tolist()]
    face = " ".join(map(str, range(size)))
    if path.suffix == ".off":
        return write(path, "\n".join(["OFF", f"{size} 1 0", *rows, f"{size} {face}", ""]))
    if path.suffix == ".obj":
        ordered = " ".join(str(number) for number in range(1, size + 1))
        return write(path, "\n".join([*(f"v {row}" for row in rows), f"f {ordered}", ""]))
    head = ["ply", "format ascii 1.0", f"element vertex {size}", *(f"property double {a}" for a in "xyz")]
    head += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    return write(path, "\n".join([*head, *rows, f"{size} {face}", ""]))


@pytest.mark.parametrize("suffix", [".off", ".obj", ".ply"])
@pytest.mark.parametrize("begin", range(6))
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("lifted", [0.0, 0.05])
def test_samples_of_a_concave_face_lie_inside(
    suffix: str, begin: int, backwards: bool, lifted: float, tmp_path: Path
) -> None:
    flat = np.roll(ELL, begin, axis=0)[:: -1 if backwards else 1].copy()
    flat[2, 2] += lifted  # no plane holds all of it
    turn = trimesh.transformations.random_rotation_matrix(np.array([0.3, 0.6, 0.1]))[:3, :3]
    points = read_cloud(polygon_file(tmp_path / f"ell{suffix}", flat @ turn.T), ("normal",), 3000)
    back, normal = points[:, :3] @ turn, points[:, 3:] @ turn
    x, y = back[:, 0], back[:, 1]
    outside = np.minimum(x, y) > 1 + 1e-9
    assert not outside.any() and back[:, :2].min() > -1e-9 and back[:, :2].max() < 2 + 1e-9
    for dark in ((x < 1) & (y < 1), (x > 1), (y > 1)):  # a third of its area each
        assert abs(dark.mean() - 1 / 3) < 0.05
    assert (normal[:, 2] * (-1 if backwards else 1) > -1e-9).all()


def test_convex_polygons_and_triangles_side_by_side(tmp_path: Path) -> None:
    rows = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n2 0 0\n"
    path = write(tmp_path / "a.off", f"OFF\n5 3 0\n{rows}4 0 1 2 3\n3 1 4 2\n2 0 1\n")
    points = read_cloud(path, (), 3000)
    assert abs((points[:, 0] < 1).mean() - 2 / 3) < 0.05 and points[:, :2].sum(1).max() <= 2 + 1e-9


# OBJ

TETRA = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
OBJ = {
    "relative": "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 5 0 0\nv 6 0 0\nv 5 1 0\nf -3 -2 -1\n",
    "tabs": "v\t0 0 0\nv\t1\t0\t0\nv\t0\t1\t0\nf\t1\t2\t3\n",
    "continued": "v 0 \\\n0 0\nv 1 0 0\nv 0 1 0\nf 1 \\\n 2 \\\n3\n",
    "continued CRLF": "v 0 0 0\r\nv 1 0 0\r\nv 0 1 0\r\nf 1 2\\\r\n 3\r\n",
    "CR": "v 0 0 0\rv 1 0 0\rv 0 1 0\rf 1 2 3\r",
    "indented": "  v 0 0 0\n\t v 1 0 0\n v 0 1 0\n   f 1 2 3\n",
    "colours": "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n",
    "fourth": "v 0 0 0 1.0\nv 1 0 0 1.0\nv 0 1 0 1.0\nf 1 2 3\n",
    "normals": "v 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 0 1\nf 1//1 2//1 3//1\n",
    "textures": "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n",
    "negative": "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvn 0 0 1\nf -3/-1/-1 -2/-1/-1 -1/-1/-1\n",
    "lines": "v 0 0 0\nv 1 0 0\nv 0 1 0\nl 1 2 3\np 1\nf 1 2 3\n",
    "groups": f"o a\n{TETRA}g one\ns 1\nusemtl v\nf 1 2 3\no b\ng two three\ns off\nf 1 2 4\n",
    "comments": "# v 9 9 9\nv 0 0 0 # first\nv 1 0 0\nv 0 1 0\nf 1 2 3 # f 9 9 9\n",
    "ahead": "f 1 2 3\nv 0 0 0\nv 1 0 0\nv 0 1 0\n",
    "mark": "\ufeffv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "no end": "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3",
}
PLACES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [6, 0, 0], [5, 1, 0.0]])
FOURTH = np.array([0, 0, 1.0])


@pytest.mark.parametrize("case", OBJ)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_obj(case: str, encoding: str, tmp_path: Path) -> None:
    content = OBJ[case] if encoding == "utf-8" else OBJ[case].lstrip("\ufeff")
    path = write(tmp_path / "a.obj", content.encode(encoding))
    expected = [PLACES[[0, 1, 2]]]
    if case == "relative":
        expected.append(PLACES[[3, 4, 5]])
    elif case == "groups":
        expected.append(np.stack([PLACES[0], PLACES[1], FOURTH]))
    np.testing.assert_array_equal(triangles_of(path), expected)


def test_obj_colours_and_clouds(tmp_path: Path) -> None:
    points = read_cloud(write(tmp_path / "a.obj", OBJ["colours"]), ("color",), 200)
    weights = np.stack([1 - points[:, 0] - points[:, 1], points[:, 0], points[:, 1]], axis=1)
    np.testing.assert_allclose(points[:, 3:], weights, atol=1e-6)
    rows = [f"v {x} {y} {z} {r} {g} {b}" for (x, y, z), (r, g, b) in zip(xyz(), colors() / 255, strict=True)]
    rows += [f"vn {x} {y} {z}" for x, y, z in unit()]
    path = write(tmp_path / "cloud.obj", "\n".join(rows))
    np.testing.assert_allclose(
        read_cloud(path, ("normal", "color")), np.hstack([xyz(), unit(), colors() / 255]), atol=1e-6
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 0\n", "line 4: expected a vertex of a face"),
        ("v 0 0 0\nf -1 -2 -3\n", "line 2: expected a vertex of a face"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "a face names vertex 8, of 3"),
        ("v 0 0 0\nv 1 0 0\nv 0 one 0\nf 1 2 3\n", "vertex 3: expected numbers, got '0 one 0'"),
        ("v 0 0\n", "line 1: expected 3 numbers of a vertex, got 2"),
        (
            "v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n",
            "expected finite numbers, got [nan, 0.0, 0.0] for vertex 1",
        ),
        ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "it holds no surface: its 1 faces have no area"),
        ("v 0 0 0\ncstype bezier\ncurv 0 1 1\n", "curves or surfaces of free form"),
        ("mtllib a.mtl\n", "it holds no vertices"),
    ],
)
def test_obj_that_cannot_be_read(content: str, message: str, tmp_path: Path) -> None:
    assert message in refused(write(tmp_path / "a.obj", content))


# PLY


@pytest.mark.parametrize("text", [True, False], ids=["text", "binary"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("real", ["f4", "f8"])
@pytest.mark.parametrize("extra", ["none", "before", "behind", "list"])
def test_ply_clouds_of_plyfile(text: bool, order: str, real: str, extra: str, tmp_path: Path) -> None:
    plyfile = pytest.importorskip("plyfile")
    place = MAP if real == "f8" else 0.0
    fields = [*((axis, real) for axis in "xyz"), *((f"n{axis}", "f4") for axis in "xyz")]
    fields += [*((name, "u1") for name in ("red", "green", "blue")), ("scalar_Label", "f4"), ("time", "i2")]
    if extra == "list":
        if order == ">" and not text:
            pytest.skip("plyfile writes rows with lists in the machine's own order")
        fields.insert(2, ("seen_by", "O"))
    rows = np.zeros(COUNT, dtype=fields)
    values = [*xyz(place).T, *unit().T, *colors().T, labels(), np.arange(COUNT) - 9]
    for name, value in zip([name for name, _ in fields if name != "seen_by"], values, strict=True):
        rows[name] = value
    if extra == "list":
        rows["seen_by"] = [np.arange(number % 4, dtype="u2") for number in range(COUNT)]
    cloud = plyfile.PlyElement.describe(rows, "vertex")
    edges = np.array([(0, 1), (1, 2)], dtype=[("vertex1", "i4"), ("vertex2", "i4")])
    other = plyfile.PlyElement.describe(edges, "edge")
    elements = {"before": [other, cloud], "behind": [cloud, other]}.get(extra, [cloud])
    path = tmp_path / "cloud.ply"
    plyfile.PlyData(elements, text, order, comments=["of another program"], obj_info=["x"]).write(str(path))
    read = read_cloud(path, ("normal", "color", "time"))
    expected = np.hstack([xyz(place), unit(), colors() / 255, np.arange(COUNT)[:, None] - 9])
    np.testing.assert_allclose(read, expected, atol=1e-4 if real == "f4" else 1e-6, rtol=0)
    held = load_cloud(path).labels
    assert held is not None and held.dtype == np.int64
    np.testing.assert_array_equal(held, labels())


QUAD = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0.0]])


def mixed_ply(order: str, count: str, index: str, *, end: str = "\n", name: str = "vertex_indices") -> bytes:
    """A quad and a triangle, with a property before and one behind their lists."""
    kinds = {
        "u1": "uchar",
        "i4": "int",
        "u4": "uint",
        "u2": "uint16",
        "i8": "int64",
        "i1": "int8",
        "f8": "double",
    }
    word = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}[order]
    head = ["ply", f"format {word} 1.0", "comment element nothing 3", "element vertex 5"]
    head += [*(f"property float64 {axis}" for axis in "xyz"), "element face 2", "property uchar red"]
    head += [f"property list {kinds[count]} {kinds[index]} {name}", "property double area", "end_header", ""]
    faces: list[tuple[int, list[int], float]] = [(7, [0, 1, 2, 3], 1.0), (8, [1, 4, 2], 0.5)]
    content = end.join(head).encode()
    if not order:
        rows = [" ".join(map(str, row)) for row in QUAD.tolist()]
        rows += [f"{red} {len(face)} {' '.join(map(str, face))} {area}" for red, face, area in faces]
        return content + end.join([*rows, ""]).encode()
    content += QUAD.astype(f"{order}f8").tobytes()
    for red, face, area in faces:
        content += np.array(red, "u1").tobytes() + np.array(len(face), order + count).tobytes()
        content += np.array(face, order + index).tobytes() + np.array(area, f"{order}f8").tobytes()
    return content


@pytest.mark.parametrize("order", ["", "<", ">"], ids=["text", "little", "big"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("count", "index"), [("u1", "i4"), ("i4", "u4"), ("i1", "u1"), ("u2", "i8"), ("u4", "u2")]
)
@pytest.mark.parametrize("name", ["vertex_indices", "vertex_index"])
def test_ply_faces_of_different_sizes(
    order: str, end: str, count: str, index: str, name: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.ply", mixed_ply(order, count, index, end=end, name=name))
    mesh = MESHES[".ply"](path)
    np.testing.assert_array_equal(mesh.vertices.xyz, QUAD)
    assert mesh.sizes.tolist() == [4, 3] and mesh.corners.tolist() == [0, 1, 2, 3, 1, 4, 2]
    assert mesh.faces["red"].tolist() == [7, 8] and mesh.faces["area"].tolist() == [1.0, 0.5]
    points = read_cloud(path, (), 3000)
    assert abs((points[:, 0] < 1).mean() - 2 / 3) < 0.05


@pytest.mark.parametrize("order", ["<", ">"])
def test_ply_cut_anywhere_is_refused(order: str, tmp_path: Path) -> None:
    whole = mixed_ply(order, "u1", "i4")
    for end in range(3, len(whole)):
        assert refused(write(tmp_path / "a.ply", whole[:end]))


def test_ply_strips(tmp_path: Path) -> None:
    head = "ply\nformat ascii 1.0\nelement vertex 6\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    rows = "".join(f"{x} {y} 0\n" for x, y in ((0, 0), (1, 0), (0, 1), (1, 1), (5, 5), (6, 5)))
    path = write(tmp_path / "a.ply", f"{head}{rows}8 0 1 2 3 -1 2 4 5\n")
    assert MESHES[".ply"](path).corners.reshape(-1, 3).tolist() == [[0, 1, 2], [3, 2, 1], [2, 4, 5]]


def test_labels_of_a_mesh(tmp_path: Path) -> None:
    """Of vertices the nearest corner's, of faces their own."""
    mesh = ball()
    corner = (mesh.vertices[:, 2] > 0).astype(int)
    head = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(corner)}",
        *(f"property float {a}" for a in "xyz"),
    ]
    faces = [f"3 {a} {b} {c}" for a, b, c in mesh.faces]
    lists = [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    rows = [" ".join(map(str, row)) for row in mesh.vertices]
    labelled = [f"{row} {label}" for row, label in zip(rows, corner, strict=True)]
    path = tmp_path / "a.ply"
    write(path, "\n".join([*head, "property int label", *lists, "end_header", *labelled, *faces, ""]))
    cloud = load_cloud(path, 500)
    sure = np.abs(cloud.xyz[:, 2]) > 0.5
    assert cloud.labels is not None
    np.testing.assert_array_equal(cloud.labels[sure], cloud.xyz[sure, 2] > 0)
    up = (mesh.face_normals[:, 2] > 0).astype(int)
    labelled = [f"{face} {label}" for face, label in zip(faces, up, strict=True)]
    write(path, "\n".join([*head, *lists, "property int label", "end_header", *rows, *labelled, ""]))
    cloud = load_cloud(path, 500)
    assert cloud.labels is not None
    np.testing.assert_array_equal(cloud.labels, cloud.named["normal"][:, 2] > 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"ply\n", b"plyx\n"), "expected a first line ply"),
        ((b"end_header", b"end"), "its header has no end"),
        ((b"format ascii", b"format text"), "expected a format out of ascii, binary_little_endian"),
        ((b"property float64 z", b"property real z"), "its property z is of an unknown type, real"),
        ((b"property float64 z", b"property float64 w"), "expected x, y and z among its names, got x, y, w"),
        ((b"element vertex 5", b"element vertex 0"), "it announces 2 elements, and holds 7 lines"),
        ((b"element vertex 5", b"element vertex 6"), "it announces 8 elements, and holds 7 lines"),
        (
            (b"1.0 1.0 0.0\n", b"1.0 1.0\n"),
            "vertex 3: expected 3 numbers with blanks between, got 2: '1.0 1.0'",
        ),
        ((b"1.0 1.0 0.0\n", b"1.0 1.0 z\n"), "vertex 3: expected finite numbers, got 'z'"),
        ((b"4 0 1 2 3", b"9 0 1 2 3"), "face 1: expected more numbers in its line"),
        (
            (b"vertex_indices", b"corners"),
            "its element face has no list vertex_indices, but red, corners, area",
        ),
    ],
)
def test_ply_that_cannot_be_read(change: tuple[bytes, bytes], message: str, tmp_path: Path) -> None:
    whole = mixed_ply("", "u1", "i4")
    assert change[0] in whole
    assert message in refused(write(tmp_path / "a.ply", whole.replace(*change, 1)))


# OFF


def off(kind: str, rows: Array, faces: str = "3 0 1 2\n", head: str = "") -> str:
    lines = "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows)
    return f"{kind}\n{head}{len(rows)} {faces.count(chr(10))} 0\n{lines}{faces}"


BARE = PLACES[:3]
UP = np.tile([0.0, 0, 1], (3, 1))
RED = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255.0]])
TEXTURE = np.full((3, 2), 0.5)


@pytest.mark.parametrize(
    "content",
    [
        off("OFF", BARE),
        off("off", BARE),
        off("OFF # a comment", BARE),
        off("COFF", np.hstack([BARE, RED])),
        off("COFF", np.hstack([BARE, RED[:, :3]])),
        off("COFF", np.hstack([BARE, RED / 510])),
        off("NOFF", np.hstack([BARE, UP])),
        off("CNOFF", np.hstack([BARE, UP, RED])),
        off("STOFF", np.hstack([BARE, TEXTURE])),
        off("STCNOFF", np.hstack([BARE, UP, RED, TEXTURE])),
        off("4OFF", np.hstack([BARE * 2, np.full((3, 1), 2)])),
        off("nOFF", BARE, head="3\n"),
        off("nOFF 3", BARE),
        off("OFF", BARE, "3 0 1 2 255 0 0\n"),
        off("OFF", BARE, "3 0 1 2 0.5 0.5 0.5 1\n"),
        off("OFF", BARE, "3 0 1 2 9\n"),
        off("OFF", BARE).replace("\n", "\r\n"),
        off("OFF", BARE).replace("OFF\n3 1 0", "OFF3 1 0"),
        off("NOFF", np.hstack([BARE, UP])).replace("NOFF\n", "NOFF "),
    ],
)
def test_off_kinds(content: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(triangles_of(write(tmp_path / "a.off", content)), [BARE])


@pytest.mark.parametrize("kind", ["OFF", "NOFF", "COFF", "CNOFF", "4OFF", "nOFF"])
def test_binary_off(kind: str, tmp_path: Path) -> None:
    beside = [np.ones((3, 1))] if "4" in kind else []
    beside += [UP] if "N" in kind else []
    beside += [RED / 255] if "C" in kind else []
    counts = np.array(([3] if "n" in kind else []) + [3, 1, 0], ">i4").tobytes()
    face = np.array([3, 0, 1, 2, 0], ">i4").tobytes()
    content = f"{kind} BINARY\n".encode() + counts + np.hstack([BARE, *beside]).astype(">f4").tobytes() + face
    path = write(tmp_path / "a.off", content)
    np.testing.assert_array_equal(triangles_of(path), [BARE])
    for end in range(len(kind) + 8, len(content)):
        assert refused(write(path, content[:end]))


def test_off_colours_normals_and_clouds(tmp_path: Path) -> None:
    rows = [f"{x} {y} {z}" for x, y, z in xyz().tolist()]
    rows = [f"{row} {r} {g} {b} 255" for row, (r, g, b) in zip(rows, colors().tolist(), strict=True)]
    path = write(tmp_path / "a.off", "\n".join(["COFF", f"{COUNT} 0 0", *rows, ""]))
    np.testing.assert_allclose(read_cloud(path, ("color",)), np.hstack([xyz(), colors() / 255]), atol=1e-9)
    table = np.hstack([xyz(), unit() * 2])
    path = write(
        path, f"NOFF\n{COUNT} 0 0\n" + "".join(" ".join(map(repr, row)) + "\n" for row in table.tolist())
    )
    np.testing.assert_allclose(read_cloud(path, None), np.hstack([xyz(), unit()]), atol=1e-9)
    points = read_cloud(write(tmp_path / "b.off", off("COFF", np.hstack([BARE, RED]))), ("color",), 99)
    weights = np.stack([1 - points[:, 0] - points[:, 1], points[:, 0], points[:, 1]], axis=1)
    np.testing.assert_allclose(points[:, 3:], weights, atol=1e-6)
    painted = off("OFF", BARE, "3 0 1 2 255 0 51\n")
    np.testing.assert_allclose(
        read_cloud(write(tmp_path / "c.off", painted), ("color",), 9)[:, 3:], [[1, 0, 0.2]] * 9
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("solid\n", "expected a first word OFF (or COFF, NOFF"),
        ("OFF\nmany few 0\n", "it does not say how many vertices and faces it holds: 'many few 0'"),
        ("nOFF\n4\n1 0 0\n0 0 0 0\n", "expected points of 3 dimensions"),
        (off("NOFF", BARE), "expected 6 numbers a vertex of NOFF, got 3"),
        (off("4OFF", np.hstack([BARE, np.zeros((3, 1))])), "fourth coordinate other than 0"),
        (off("OFF", BARE)[:-8], "it announces 3 vertices and 1 faces, and holds 3 lines"),
        (off("OFF", BARE, "4 0 1 2\n"), "face 1 announces '4' corners, and names 3"),
        (off("OFF", BARE, "3 0 1 -1\n"), "face 1: expected whole numbers, got '0 1 -1'"),
        (off("OFF", BARE, "3 0 1 2 a b c\n"), "colour of face 1: expected finite numbers, got 'a'"),
        (off("OFF", BARE, "0\n"), "it holds no surface: its 1 faces have no area"),
        (off("OFF", BARE, "3 0 1 7\n"), "a face names vertex 7, of 3 that count from 0"),
        (
            off("OFF", BARE).replace("1 0 0\n", "1 0\n"),
            "vertex 2: expected 3 numbers with blanks between, got 2",
        ),
    ],
)
def test_off_that_cannot_be_read(content: str, message: str, tmp_path: Path) -> None:
    assert message in refused(write(tmp_path / "a.off", content))


# STL


def test_stl_of_several_solids_and_of_odd_headers(tmp_path: Path) -> None:
    text = ball().export(file_type="stl_ascii")
    two = text.replace("solid", "solid a facet in its name", 1) + text.upper().replace("SOLID", "solid")
    assert len(triangles_of(write(tmp_path / "a.stl", two))) == 2 * len(ball().faces)
    data = bytearray(ball().export(file_type="stl"))
    data[:11] = b"solid facet"  # as some programs begin their binary files
    np.testing.assert_allclose(
        triangles_of(write(tmp_path / "b.stl", bytes(data))), ball().triangles, atol=1e-6
    )


def test_stl_that_is_cut_off_says_so(tmp_path: Path) -> None:
    text, data = ball().export(file_type="stl_ascii"), ball().export(file_type="stl")
    path = tmp_path / "a.stl"
    assert "it announces 80 facets, and ends after 39 of them" in refused(
        write(path, data[: 84 + 39 * 50 + 7])
    )
    assert "it begins 40 facets, of which 39 are whole" in refused(write(path, _cut(text, 40)))
    assert "without endsolid: cut off" in refused(write(path, text[: text.rindex("endsolid")]))
    assert refused(write(path, b"solid empty\nendsolid empty\n")) == "it holds no facets"
    assert refused(write(path, bytes(84))) == "it holds no facets"


def _cut(text: str, facets: int) -> str:
    """The text up to the middle of that facet."""
    at = -1
    for _ in range(facets):
        at = text.index("facet normal", at + 1)
    return text[: at + 30]


# glTF


def gltf(tmp_path: Path, accessors: list[dict[str, Any]], pieces: list[bytes], **changes: Any) -> Path:
    """A .gltf of one triangle primitive with its data beside it, a buffer view a piece."""
    data, views = b"", []
    for piece in pieces:
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(piece)})
        data += piece + bytes(-len(piece) % 4)
    tree: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"uri": "a.bin", "byteLength": len(data)}],
    }
    tree.update(changes)
    (tmp_path / "a.bin").write_bytes(data)
    return write(tmp_path / "a.gltf", json.dumps(tree))


def vectors(values: Array, **changes: Any) -> dict[str, Any]:
    """An accessor of these values."""
    kinds = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
    kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values.shape[1]]
    return {
        "bufferView": 0,
        "componentType": kinds[values.dtype.str[1:]],
        "count": len(values),
        "type": kind,
    } | changes


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2"])
@pytest.mark.parametrize("normalized", [False, True])
def test_gltf_of_whole_numbers(dtype: str, normalized: bool, tmp_path: Path) -> None:
    """As KHR_mesh_quantization has them, rows of four; normalised ones are fractions of the largest."""
    largest = np.iinfo(dtype).max
    corners = np.array([[0, 0, 0], [largest, 0, 0], [0, largest // 2, 0]], dtype)
    row = 4 * corners.itemsize
    padded = np.zeros((3, 4), dtype)
    padded[:, :3] = corners
    path = gltf(
        tmp_path,
        [vectors(corners, normalized=normalized)],
        [padded.tobytes()],
        extensionsRequired=["KHR_mesh_quantization"],
        bufferViews=[{"buffer": 0, "byteLength": 3 * row, "byteStride": row}],
        nodes=[{"mesh": 0, "scale": [2, 2, 2], "translation": [10, 0, 0]}],
    )
    expected = corners / largest if normalized else corners.astype(float)
    np.testing.assert_allclose(triangles_of(path), [expected * 2 + [10, 0, 0]], rtol=1e-12)


def test_gltf_sparse_and_interleaved_and_indexed(tmp_path: Path) -> None:
    rows = np.zeros(6, [("normal", "<f4", 3), ("place", "<f4", 3)])
    rows["place"] = PLACES
    index = np.array([[0], [1], [2], [5], [4], [3]], "u1")
    where, new = np.array([[4]], "u2"), np.array([[7, 7, 7]], "f4")
    sparse = {
        "count": 1,
        "indices": {"bufferView": 2, "componentType": 5123},
        "values": {"bufferView": 3},
    }
    accessors = [
        vectors(np.asarray(PLACES, "f4"), byteOffset=12, sparse=sparse),
        vectors(index, bufferView=1),
    ]
    path = gltf(tmp_path, accessors, [rows.tobytes(), index.tobytes(), where.tobytes(), new.tobytes()])
    tree = json.loads(path.read_text())
    tree["bufferViews"][0]["byteStride"] = 24
    tree["meshes"][0]["primitives"][0]["indices"] = 1
    path.write_text(json.dumps(tree))
    expected = PLACES.copy()
    expected[4] = 7
    np.testing.assert_array_equal(triangles_of(path), [expected[:3], expected[[5, 4, 3]]])
    del tree["accessors"][0]["bufferView"], tree["accessors"][0]["byteOffset"]  # then all others are 0
    path.write_text(json.dumps(tree))
    assert (triangles_of(path) == 7).sum() == 3


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (4, [[0, 1, 2], [3, 4, 5]]),
        (5, [[0, 1, 2], [3, 2, 1], [2, 3, 4], [5, 4, 3]]),
        (6, [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]),
    ],
)
def test_gltf_modes_and_nodes(mode: int, expected: list[list[int]], tmp_path: Path) -> None:
    matrix = trimesh.transformations.compose_matrix(
        scale=[1, 2, 3], angles=[0.1, 0.2, 0.3], translate=[4, 5, 6]
    )
    turn = trimesh.transformations.quaternion_about_axis(0.7, [1, 2, 3])  # w first
    nodes = [
        {"children": [1], "matrix": matrix.T.ravel().tolist()},
        {"mesh": 0, "rotation": [*turn[1:], turn[0]], "scale": [2, 1, 1], "translation": [0, 0, 9]},
        {"mesh": 0},  # in no scene
    ]
    corners = np.asarray(PLACES, "f4")
    primitives = [{"attributes": {"POSITION": 0}, "mode": mode}, {"attributes": {"POSITION": 0}, "mode": 1}]
    path = gltf(
        tmp_path, [vectors(corners)], [corners.tobytes()], nodes=nodes, meshes=[{"primitives": primitives}]
    )
    inner = trimesh.transformations.translation_matrix([0, 0, 9]) @ trimesh.transformations.quaternion_matrix(
        turn
    )
    whole = matrix @ inner @ np.diag([2, 1, 1, 1])
    places = trimesh.transformations.transform_points(PLACES, whole)
    np.testing.assert_allclose(triangles_of(path), places[np.array(expected)], atol=1e-5)


@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
def test_gltf_clouds_with_colours(kind: str, tmp_path: Path) -> None:
    points = xyz().astype("f4")
    largest = 1 if kind == "f4" else np.iinfo(kind).max
    painted = np.hstack([colors() / 255, np.ones((COUNT, 1))])
    stored = (painted * largest).round(0 if kind != "f4" else 8).astype(kind)
    normals = unit().astype("f4")
    accessors = [
        vectors(points),
        vectors(stored, bufferView=1, normalized=kind != "f4"),
        vectors(normals, bufferView=2),
    ]
    primitive = {"attributes": {"POSITION": 0, "COLOR_0": 1, "NORMAL": 2}, "mode": 0}
    pieces = [points.tobytes(), stored.tobytes(), normals.tobytes()]
    path = gltf(tmp_path, accessors, pieces, meshes=[{"primitives": [primitive]}])
    expected = np.hstack([xyz(), unit(), colors() / 255])
    np.testing.assert_allclose(read_cloud(path, ("normal", "color")), expected, atol=1e-5)


def test_gltf_with_its_data_in_it(tmp_path: Path) -> None:
    corners = np.asarray(PLACES, "f4")
    path = gltf(tmp_path, [vectors(corners)], [corners.tobytes()])
    tree = json.loads(path.read_text())
    text = base64.b64encode(corners.tobytes()).decode()
    tree["buffers"][0]["uri"] = f"data:application/octet-stream;base64,{text}"
    (tmp_path / "a.bin").unlink()
    path.write_text(json.dumps(tree))
    np.testing.assert_array_equal(triangles_of(path), PLACES.reshape(2, 3, 3))


@pytest.mark.parametrize(
    "uri", ["../a.bin", "/etc/hostname", "sub/a.bin", "file:///etc/hostname", "..%2Fa.bin", "link.bin"]
)
def test_gltf_with_data_elsewhere(uri: str, tmp_path: Path) -> None:
    corners = np.asarray(PLACES, "f4")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    path = gltf(tmp_path / "in", [vectors(corners)], [corners.tobytes()])
    for place in (tmp_path, tmp_path / "in" / "sub"):
        (place / "a.bin").write_bytes(corners.tobytes())
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "a.bin")
    tree = json.loads(path.read_text())
    tree["buffers"][0]["uri"] = uri
    path.write_text(json.dumps(tree))
    assert f"its data are in another file, {uri!r}, which is not read" in refused(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"extensionsRequired": ["KHR_draco_mesh_compression"]},
            "it requires KHR_draco_mesh_compression, which",
        ),
        ({"extensionsRequired": ["EXT_meshopt_compression"]}, "it requires EXT_meshopt_compression, which"),
        ({"asset": {"version": "1.0"}}, "expected glTF of version 2"),
        ({"nodes": [{"mesh": 3}]}, "it names 3 of its meshes, of which there are 1"),
        ({"nodes": [{"mesh": 0, "children": [0]}]}, "its node 0 stands at two places"),
        ({"scenes": [{"nodes": []}]}, "its scene holds no triangles and no points"),
        (
            {"buffers": [{"uri": "b.bin", "byteLength": 72}]},
            "its data are in 'b.bin', which is not beside it",
        ),
        ({"buffers": [{"uri": "a.bin", "byteLength": 99}]}, "its buffer 0 announces 99 bytes, and has 72"),
        (
            {"bufferViews": [{"buffer": 0, "byteLength": 72, "byteOffset": 8}]},
            "its buffer view 0 reaches from",
        ),
        (
            {"meshes": [{"primitives": [{"attributes": {}}]}]},
            "expected a whole .gltf file, got one that is damaged",
        ),
    ],
)
def test_gltf_that_cannot_be_read(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    corners = np.asarray(PLACES, "f4")
    assert message in refused(gltf(tmp_path, [vectors(corners)], [corners.tobytes()], **changes))


def test_data_of_a_gltf_are_no_cloud(tmp_path: Path) -> None:
    corners = np.asarray(PLACES, "f4")
    path = gltf(tmp_path, [vectors(corners)], [corners.tobytes()])
    (tmp_path / "a.bin").rename(tmp_path / "buffer_0.bin")
    path.write_text(path.read_text().replace("a.bin", "buffer_0.bin"))
    assert is_cloud_file(path) and not is_cloud_file(tmp_path / "buffer_0.bin")
    assert "the data of the .gltf file beside it" in refused(tmp_path / "buffer_0.bin")
    (tmp_path / "buffer_0.bin").rename(tmp_path / "a.bin")
    assert "the data of the .gltf file beside it" in refused(tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(b"")
    assert is_cloud_file(tmp_path / "b.bin")  # a scan, for all that is known


# LAS and LAZ


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize(("version", "form"), [("1.2", 0), ("1.2", 3), ("1.3", 3), ("1.4", 6), ("1.4", 7)])
def test_las(suffix: str, version: str, form: int, tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=form, version=version)
    header.offsets, header.scales = MAP.round(-3), np.full(3, 1e-4)
    header.add_extra_dim(laspy.ExtraBytesParams("scalar_part", "u1"))
    cloud = laspy.LasData(header)
    cloud.xyz = xyz(MAP)
    cloud.intensity = np.arange(COUNT) * 9
    cloud.classification = labels()
    cloud["scalar_part"] = np.ones(COUNT)
    if form in (3, 7):
        cloud.red, cloud.green, cloud.blue = (colors().astype("u2") * 257).T
    path = tmp_path / f"a{suffix}"
    cloud.write(path)
    read = load_cloud(path)
    assert read.xyz.dtype == np.float64
    np.testing.assert_allclose(read.xyz, xyz(MAP), atol=1e-4, rtol=0)
    assert read.labels is not None
    np.testing.assert_array_equal(read.labels, labels())
    np.testing.assert_array_equal(read_cloud(path, ("intensity",))[:, 3], np.arange(COUNT) * 9)
    if form in (3, 7):
        np.testing.assert_allclose(read_cloud(path, ("color",))[:, 3:], colors() / 255, atol=1e-6)
        cloud.red, cloud.green, cloud.blue = colors().T  # of 8 bits, as many programs leave them
        cloud.write(path)
        np.testing.assert_allclose(read_cloud(path, ("color",))[:, 3:], colors() / 255, atol=1e-6)
        cloud.red = cloud.green = cloud.blue = np.zeros(COUNT)
        cloud.write(path)
    assert "it has no feature color" in refused(path, ("color",))


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_that_is_damaged(suffix: str, tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    cloud = laspy.create(point_format=3)
    cloud.xyz = xyz()
    path = tmp_path / f"a{suffix}"
    cloud.write(path)
    whole = path.read_bytes()
    for end in range(20, len(whole) - 1, 31):
        assert refused(write(path, whole[:end]))
    assert "announces" in refused(write(path, whole[:100] + b"\xff" * 4 + whole[104:]))
    assert refused(write(path, b"LOST" + whole[4:])) == "expected a first word LASF"
    empty = laspy.create(point_format=3)
    empty.write(path)
    assert refused(path) == "it holds no points"


def test_las_without_laspy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "laspy", None)
    with pytest.raises(ImportError, match=r'a\.las: .*pip install "bixt3d\[las\]"'):
        read_cloud(write(tmp_path / "a.las", b"LASF"))


# Text


def table(separator: str, columns: Array, head: str = "") -> str:
    return head + "".join(separator.join(map(repr, row)) + "\n" for row in columns.tolist())


@pytest.mark.parametrize("suffix", [".txt", ".xyz", ".csv", ".asc", ".pts"])
@pytest.mark.parametrize("separator", [" ", ",", ";", "\t", ", ", "  "])
@pytest.mark.parametrize(
    "head",
    [
        "",
        "x,y,z,label\n",
        "# x y z label\n",
        "//X Y Z Label\n",
        "X;Y;Z;label\n",
        "# made by hand\n\n",
        f"{COUNT}\n",
    ]
    + [
        '"x","y","z","label"\r\n',
        "x [m],y [m],z [m],label\n",
        "\ufeffx\ty\tz\tlabel\n",
        "% a comment: x y z\n",
    ],
)
def test_text(suffix: str, separator: str, head: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{suffix}", table(separator, np.hstack([xyz(MAP), labels()[:, None]]), head))
    cloud = load_cloud(path)
    np.testing.assert_allclose(cloud.xyz, xyz(MAP), atol=1e-6, rtol=0)
    if "abel" in head:
        assert cloud.columns is None and cloud.labels is not None
        np.testing.assert_array_equal(cloud.labels, labels())
    elif suffix == ".pts" and head.strip().isdecimal():
        np.testing.assert_array_equal(cloud.named["intensity"], labels())
    else:
        assert cloud.columns is not None
        np.testing.assert_array_equal(cloud.columns[:, 0], labels())


def test_columns_of_csv_by_name(tmp_path: Path) -> None:
    """In any order, with others among them, and text that is no number."""
    names = "id,nx,ny,nz,Z,y,x,Red,Green,Blue,Classification,kind,Intensity"
    columns = [np.arange(COUNT)[:, None], unit(), xyz()[:, ::-1], colors(), labels()[:, None]]
    rows = [",".join(map(repr, row)) + f",car,{at}.5" for at, row in enumerate(np.hstack(columns).tolist())]
    path = write(tmp_path / "a.csv", "\n".join([names, *rows]))
    expected = np.hstack([xyz(), colors() / 255, np.arange(COUNT)[:, None] + 0.5, unit()])
    np.testing.assert_allclose(read_cloud(path, ("color", "intensity", "normal")), expected, atol=1e-12)
    held = load_cloud(path).labels
    assert held is not None
    np.testing.assert_array_equal(held, labels())


def test_pts_of_a_scanner(tmp_path: Path) -> None:
    columns = np.hstack([xyz(), np.arange(COUNT)[:, None] * -10.0, colors()])
    path = write(tmp_path / "a.pts", table(" ", columns, f"{COUNT}\n"))
    expected = np.hstack([xyz(), colors() / 255, columns[:, 3:4]])
    np.testing.assert_allclose(read_cloud(path, ("color", "intensity")), expected, atol=1e-12)
    path = write(tmp_path / "b.pts", table(" ", np.hstack([xyz(), colors()]), f"{COUNT}\n"))
    np.testing.assert_allclose(read_cloud(path, ("color",)), expected[:, :6], atol=1e-12)


@pytest.mark.parametrize("suffix", [".pts", ".xyz", ".xyzn", ".xyzrgb"])
def test_text_of_open3d(suffix: str, tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz()))
    cloud.colors = open3d.utility.Vector3dVector(colors() / 255)
    cloud.normals = open3d.utility.Vector3dVector(unit())
    path = tmp_path / f"a{suffix}"
    assert open3d.io.write_point_cloud(str(path), cloud)
    path = path.rename(tmp_path / f"a{suffix if suffix in ('.pts', '.xyz') else '.txt'}")
    features = {".pts": ("color",), ".xyz": (), ".xyzn": ("normal",), ".xyzrgb": ("color",)}[suffix]
    beside = {"normal": unit(), "color": colors() / 255}
    expected = np.hstack([xyz(), *(beside[name] for name in features)])
    np.testing.assert_allclose(read_cloud(path, features), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "1,5 2,5 3,5\n0,5 1,5 2,5\n",
            "line 1: expected numbers such as 1.5, got decimal commas: '1,5 2,5 3,5'",
        ),
        ("1,5;2,5;3,5\n", "line 1: expected numbers such as 1.5, got decimal commas"),
        (
            "3\nwater\nO 0.0 0.0 0.1\nH 0.0 0.7 -0.4\nH 0.0 -0.7 -0.4\n",
            "line 3: expected a point, got an atom",
        ),
        ("a b c\n1 2 3\n", "line 1: expected numbers, or names such as x,y,z, got 'a b c'"),
        ("x,y,z\n1,2,3,4\n", "line 1 names 3 columns, and line 2 has 4"),
        ("x,y,z\n", "expected lines of numbers, got none"),
        ("1|2|3\n", "line 1: expected numbers, or names such as x,y,z, got '1|2|3'"),
        ("1 2 3\n4 5\n", "line 2: expected 3 numbers with blanks between, got 2: '4 5'"),
        ("1 2 3\n4 5 6 7\n", "line 2: expected 3 numbers with blanks between, got 4: '4 5 6 7'"),
        ("# x y z\n\n1;2;3\n4 5 6\n", "line 4: expected 3 numbers with semicolons between, got 1: '4 5 6'"),
        ("1,2,3,4\n4,5,6,\n", "line 2: expected a number, got an empty cell"),
        ("x,y,z,i\n1,2,3,4\n,,,a\n", "line 3: expected finite numbers, got 'a'"),
        ("x,y,z,i\na,b,c,1\n1,2,3,4\n", "line 2: expected finite numbers, got 'a'"),
        ("x,y,z\n,,\n,,\n", "expected lines of numbers, got none"),
        ("1,2,3\n" + ",,\n" * 10, "got 10 of 11 points that are NaN, the first in row 2"),
        ("1,2,3,,,\n4,5,6,0,0,1\n", "line 1: expected a number, got an empty cell"),
        ("1,2,3,4,\n5,6,7,,\n", "line 2: expected a number, got an empty cell"),
        (
            "x,y,z,nx,ny,nz\n1,2,3,,,\n4,5,6,0,0,1\n",
            "line 2: expected a number for nx, got an empty cell",
        ),
        ('x;y;z;c\n1;2;3;""\n4;5;6;7\n', "line 2: expected a number for c, got an empty cell"),
        ("x,y,z,a,b\n1,2,3,\n", "line 1 names 5 columns, and line 2 has 4"),
        ("5\n1 2 3\n4 5 6\n", "it announces 5 points in its first line, and holds 2"),
        ("1 2\n3 4\n", "expected points (N, 3), got an array (2, 2)"),
        # where a column is left out, too
        (
            "note,x,y,z,i\nc,4,5,6,1\na,3,1,2,3,2\nd,7,8,9,1\n",
            "line 3: expected 5 numbers with commas between, got 6: 'a,3,1,2,3,2'",
        ),
        ("x,y,z,i,note\n1,2,3,4,c\n1,2,3,0,5,c\n", "line 3: expected 5 numbers with commas between, got 6"),
        ("x,y,z,note\n1,2,3,c\n4,5,6\n", "line 3: expected 4 numbers with commas between, got 3: '4,5,6'"),
        ("x y z note\n1 2 3 c\n4 5 6\n", "line 3: expected 4 numbers with blanks between, got 3: '4 5 6'"),
        ('x,y,z,note\n1,2,3,"a,b"\n4,5,6,a,b\n', "line 3: expected 4 numbers with commas between, got 5"),
        (
            'x,y,z,note\n1,2,3,"a\n4,5,6,b\n7,8,9,c"\n',
            "line 2: expected a quote that ends in its line, got '1,2,3,\"a'",
        ),
        ('1,2,3\n4,5,"6\n', "line 2: expected a quote that ends in its line, got '4,5,\"6'"),
        ('1,2,3\n4,"5,5",6\n', "line 2: expected finite numbers, got '5,5'"),
        ("x\ty\tz\ti\n1\t2\t3\t4\n1\t2\t3\t\n", "line 3: expected a number for i, got an empty cell"),
        ("x\ty\tz\ti\n1\t2\t3\t4\n1\t2\t3\n", "line 3: expected 4 numbers with tabs between, got 3"),
        ("x\ty\tz\n1,5\t2,5\t3,5\n", "line 2: expected numbers such as 1.5, got decimal commas"),
    ],
)
def test_text_that_is_no_cloud(content: str, message: str, tmp_path: Path) -> None:
    assert message in refused(write(tmp_path / "a.txt", content))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("1,000.5 2,000.1 3,100\n", 1),
        ("x y z\n1,000.5 2 3\n", 2),
        ("1,000.5\t2,000.1\t-3,100.0\n", 1),
        ("x\ty\tz\n1,000.5\t2\t3\n", 2),
        ("1,000.5;2;3\n", 1),
        ("1.000,5;2;3\n", 1),
        ("1'000.5 2 3\n", 1),
        ("1,000,000 2 3\n", 1),
        ("1,000.5,2,000.1,3\n", 1),  # commas in numbers and between them: no five columns
        ("900,20,30\n" * 20 + "1,000.5,2,30\n", 21),
        ('x,y,z\n"1,000.5","2,000.1","3"\n', 2),
        ("900 20 30\n" * 20 + "1,000.5 20 30\n", 21),
    ],
)
def test_thousands_separators_are_named(content: str, line: int, tmp_path: Path) -> None:
    message = f"line {line}: expected numbers such as 1234.5, got thousands separators: "
    assert message in refused(write(tmp_path / "a.txt", content))


@pytest.mark.parametrize(
    ("content", "lost"),
    [
        ("x,y,z\n1,2,3\n,,\n4,5,6\n", 1),
        ("x,y,z\n,,\n1,2,3\n1,,3\n4,5,6\n", 2),
        (",,\n1,2,3\n4,5,6\n,,7\n", 2),
        ("x;y;z\n1;2;3\n ; ; \n4;5;6\n", 1),
        ('"x","y","z"\n"1","2","3"\n"","",""\n"4","5","6"\n', 1),
        ("x,y,z,i\n1,2,3,7\n,,,\nnan,nan,nan,\n,,,8\n4,5,6,9\n", 3),
        ("i,z,y,x,note\n7,3,2,1,a\n,,,,\n8,,,,b\n9,6,5,4,\n", 2),
        ("1,2,3,\n4,5,6,\n,,,\n", 1),
        ("x,y,z\n1,2,3,\n,,,\n4,5,6,\n", 1),
        ("x\ty\tz\ti\n\t\t\t5\n1\t2\t3\t7\n4\t5\t6\t9\n", 1),
        ("0,1,2,3\n1,,,\n2,4,5,6\n", 1),  # its first column counts the points
        ("0,1,2,3\n,,,\n1,4,5,6\n2,4,5,6\n", 1),
        ("4\n1,2,3\n,,\n4,5,6\n4,5,6\n", 1),
    ],
)
def test_points_whose_cells_are_empty_are_left_out_as_nan_are(
    content: str, lost: int, tmp_path: Path
) -> None:
    path, notes = write(tmp_path / "a.csv", content), list[str]()
    cloud = load_cloud(path, notes=notes)
    np.testing.assert_array_equal(np.unique(cloud.xyz, axis=0), [[1, 2, 3], [4, 5, 6]])
    assert cloud.columns is None
    if "i" in content:
        np.testing.assert_array_equal(cloud.named["i"], [7, 9])
    assert notes == [f"{path}: {lost} of {lost + len(cloud.xyz)} points are NaN and left out"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", [".stl", ".off", ".obj", ".ply", ".pcd", ".gltf", ".csv", ".pts"])
def test_a_mark_of_the_encoding_is_no_part_of_a_file(suffix: str, encoding: str, tmp_path: Path) -> None:
    plain = tmp_path / f"plain{suffix}"
    if suffix in (".csv", ".pts"):
        write(plain, table(",", xyz(), "x,y,z\n" if suffix == ".csv" else f"{COUNT}\n"))
    elif suffix == ".pcd":  # whose first line is one that counts
        head = f"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH {COUNT}\nHEIGHT 1\nPOINTS {COUNT}\nDATA ascii\n"
        write(plain, head + table(" ", xyz()))
    elif suffix == ".gltf":
        for name, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(ball())).items():
            write(plain if name.endswith(".gltf") else tmp_path / name, content)
    else:
        options = {".stl": {"file_type": "stl_ascii"}, ".ply": {"encoding": "ascii"}}.get(suffix, {})
        ball().export(plain, **options)
    marked = write(tmp_path / f"marked{suffix}", plain.read_bytes().decode().encode(encoding))
    np.testing.assert_array_equal(read_cloud(marked, ()), read_cloud(plain, ()))


@pytest.mark.parametrize(
    "content",
    [
        "1,2,3,\n4,5,6,\n",
        "1,2,3,,,\n4,5,6,,,\n",
        "1, 2, 3, ,\n4, 5, 6, ,\n",
        "1,2,3,\n4,5,6",  # but the last
        "x,y,z\n1,2,3,\n4,5,6,\n",
        "x,y,z\n1,2,3,,,\n4,5,6,,,\n",
        "x,y,z,\n1,2,3,\n4,5,6,\n",
        "x,y,z,nx,ny,nz\n1,2,3,,,\n4,5,6,,,\n",  # a column of nothing
        "x,y,z,remark\n1,2,3,\n4,5,6,tree\n",
        "# x,y,z\n1;2;3;\n4;5;6;\n",
    ],
)
def test_separators_that_end_lines(content: str, tmp_path: Path) -> None:
    cloud = load_cloud(write(tmp_path / "a.csv", content))
    np.testing.assert_array_equal(cloud.xyz, [[1, 2, 3], [4, 5, 6]])
    assert cloud.named == {} and cloud.columns is None
    if content.startswith("x,y,z\n"):
        wide = content.replace("z", "z,a").replace("3,", "3,7,").replace("6,", "6,8,")
        held = load_cloud(write(tmp_path / "b.csv", wide)).named
        np.testing.assert_array_equal(held["a"], [7, 8])


@pytest.mark.parametrize(
    "content",
    [
        "#x\ty\tz\tnx\tlabel\n1\t2\t3\t\t1\n4\t5\t6\t\t2\n",
        "#\tx\ty\tz\tlabel\n1\t2\t3\t1\n4\t5\t6\t2\n",
        "x\ty\tz\tnx\tlabel\n1\t2\t3\t\t1\n4\t5\t6\t\t2\t\n",
        "x\ty\tz\tlabel\tnx\n1\t2\t3\t1\t\n4\t5\t6\t2\t\n",
        "nx\tx\ty\tz\tlabel\n\t1\t2\t3\t1\n\t4\t5\t6\t2\n",
        "x\ty\tz\tnote\tlabel\n1\t2\t3\tbig chair\t1\n4\t5\t6\t\t2\n",
        "x\ty\tz\tnote\tlabel\n1\t2\t3\ta, b; c\t1\n4\t5\t6\tc\t2\n",
        'x\ty\tz\tnote\tlabel\n1\t2\t3\t"a\tb"\t1\n4\t5\t6\tc\t2\n',
        "x\ty\tz\tlabel\n1\t\t2\t3\t1\n4\t5\t\t6\t2\n",  # tabs that align
        "x\ty\tz\tlabel\n1 2 3 1\n4 5 6 2\n",
    ],
)
def test_columns_between_tabs(content: str, tmp_path: Path) -> None:
    cloud = load_cloud(write(tmp_path / "a.txt", content))
    np.testing.assert_array_equal(cloud.xyz, [[1, 2, 3], [4, 5, 6]])
    assert list(cloud.named) == ["label"] and cloud.named["label"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        'x,y,z,note\n1,2,3,"a,b"\n4,5,6,c\n',
        'x,y,z,note\n1,2,3,c\n4,5,6,"a,b"\n',
        'x,y,z,note\n1,2,3,"a;b"\n4,5,6,"a ""b"", c"\n',
        'x,y,z,note\n1,2,3,"a,b",\n4,5,6,c,\n',
        'x,y,z,note\n1,2,3,5" pipe\n4,5,6,c\n',
        '"note, long","x","y","z"\n"a;b","1","2","3"\n"",4,5,6\n',
        'x y z note\n1 2 3 "big,  chair"\n4 5 6 c\n',
    ],
)
def test_separators_in_quotes(content: str, tmp_path: Path) -> None:
    cloud = load_cloud(write(tmp_path / "a.csv", content))
    np.testing.assert_array_equal(cloud.xyz, [[1, 2, 3], [4, 5, 6]])
    assert cloud.named == {} and cloud.columns is None


# Arrays


@pytest.mark.parametrize("key", ["points", "x"])
@pytest.mark.parametrize(
    "value",
    [np.zeros(3), np.float64(2), np.zeros((COUNT + 1, 3)), np.zeros((0, 3))],
    ids=["offset", "number", "longer", "empty"],
)
def test_arrays_of_another_length_are_no_features(key: str, value: Any, tmp_path: Path) -> None:
    path, points = tmp_path / "a.npz", xyz()
    points[3] = np.nan
    held = {"points": points} if key == "points" else dict(zip("xyz", points.T, strict=True))
    np.savez(path, **held, normals=value, offset=value, height=value, label=labels())
    cloud = load_cloud(path)
    assert list(cloud.named) == ["label"] and len(cloud.xyz) == COUNT - 1
    assert cloud.labels is not None and cloud.labels.tolist() == np.delete(labels(), 3).tolist()
    assert read_cloud(path, None).shape == (COUNT - 1, 3)
    shape = np.shape(value)
    for feature, name in (("normal", "normal"), ("offset:3", "offset"), ("height", "height")):
        said = f"feature {name}: expected {COUNT} rows, one a point, got an array {shape}"
        assert refused(path, (feature,)) == said


def test_coordinates_in_a_grid(tmp_path: Path) -> None:
    x, y, z = np.ones((3, 4, 5))
    np.savez(tmp_path / "a.npz", x=x, y=y, z=z)
    assert refused(tmp_path / "a.npz") == (
        "expected one number a point in each of x, y, z, got (4, 5), (4, 5), (4, 5): save them as (N,)"
    )


def test_coordinates_of_different_lengths(tmp_path: Path) -> None:
    x, y, z = xyz().T
    np.savez(tmp_path / "a.npz", x=x, y=y, z=z[1:])
    assert refused(tmp_path / "a.npz") == "expected as many numbers in each of x, y, z, got 50, 50, 49"
    np.savez(tmp_path / "a.npz", x=x[0], y=y[0], z=z[0])
    assert refused(tmp_path / "a.npz") == "expected x, y and z among its names, got x, y, z"
    np.savez(tmp_path / "a.npz", x=x[:0], y=y[:0], z=z[:0])
    assert refused(tmp_path / "a.npz") == "it holds no points"


def test_structured_arrays(tmp_path: Path) -> None:
    rows = np.zeros(
        COUNT, [("label", "<i4"), ("X", ">f8"), ("Y", "<f8"), ("Z", "<f8"), ("rgb", "u1", 3), ("name", "S4")]
    )
    rows["X"], rows["Y"], rows["Z"] = xyz(MAP).T
    rows["label"], rows["rgb"] = labels(), colors()
    for shape in ((COUNT,), (5, COUNT // 5)):
        np.save(tmp_path / "a.npy", rows.reshape(shape))
        points = read_cloud(tmp_path / "a.npy", ("color",))
        np.testing.assert_allclose(points, np.hstack([xyz(MAP), colors() / 255]), rtol=1e-12)
        held = load_cloud(tmp_path / "a.npy").labels
        assert held is not None
        np.testing.assert_array_equal(held, labels())
    np.save(tmp_path / "a.npy", rows[["X", "Y", "rgb"]])
    assert refused(tmp_path / "a.npy") == "expected x, y and z among its names, got X, Y, rgb"
    x, y, z = xyz().T
    np.savez(tmp_path / "a.npz", x=x, y=y, z=z, label=labels())
    np.testing.assert_array_equal(
        read_cloud(tmp_path / "a.npz", ("label",)), np.hstack([xyz(), labels()[:, None]])
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 2048), "got (3, 2048): transpose it"),
        ((6, 2048), "got (6, 2048): transpose it"),
        ((3, 17), "got (3, 17): transpose it"),
        ((5, 3, 2048), "got a batch (5, 3, 2048): save its clouds one a file, transposed"),
        (
            (48, 64, 3),
            "got (48, 64, 3): save array.reshape(-1, 3) if it is one cloud, as of a depth camera; of a batch "
            "save the clouds one a file",
        ),
        (
            (6, 48, 64),
            "got (6, 48, 64): save array.reshape(6, -1).T if it is one cloud, as of a depth camera",
        ),
        ((48, 64, 1), "got an array (48, 64, 1)"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".txt"])
def test_transposed_clouds(shape: tuple[int, ...], message: str, suffix: str, tmp_path: Path) -> None:
    array, path = np.random.default_rng(0).normal(size=shape), tmp_path / f"a{suffix}"
    if suffix == ".txt":
        if len(shape) == 3:
            pytest.skip("text has rows and columns")
        np.savetxt(path, array)
    else:
        np.save(path, array) if suffix == ".npy" else np.savez(path, points=array)
    assert refused(path).endswith(message)


def test_kitti(tmp_path: Path) -> None:
    strength = np.random.default_rng(3).random((COUNT, 1))
    rows = np.hstack([xyz() * 20, strength]).astype("<f4")
    path = write(tmp_path / "000000.bin", rows.tobytes())
    np.testing.assert_array_equal(read_cloud(path, ("intensity",)), rows.astype(float))
    for content in (
        rows.tobytes()[:-1],
        rows.astype("<f8").tobytes(),
        rows.astype(">f4").tobytes(),
        b"text " * 16,
    ):
        assert "expected a scan of KITTI" in refused(write(path, content))
    five = np.hstack([rows, np.ones((COUNT, 1))]).astype("<f4")  # nuScenes has a fifth number
    assert "expected a scan of KITTI" in refused(write(path, five[:48].tobytes()))


# NaN, normals, other kinds


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".txt", ".csv", ".ply", ".pcd", ".off", ".obj"])
def test_points_that_are_nan_are_left_out_and_counted(suffix: str, tmp_path: Path) -> None:
    path, points = tmp_path / f"a{suffix}", np.hstack([xyz(), labels()[:, None]])
    points[[3, 7], [1, 2]] = np.nan

    def save() -> None:
        if suffix in (".txt", ".csv"):
            write(path, table(",", points, "x,y,z,label\n" if suffix == ".csv" else ""))
        elif suffix == ".npy":
            np.save(path, points)
        elif suffix == ".npz":
            np.savez(path, points=points[:, :3], label=points[:, 3])
        elif suffix == ".ply":
            head = ["ply", "format binary_little_endian 1.0", f"element vertex {COUNT}"]
            head += [f"property double {name}" for name in ("x", "y", "z", "label")]
            write(path, "\n".join([*head, "end_header", ""]).encode() + points.tobytes())
        elif suffix == ".pcd":
            head = f"VERSION 0.7\nFIELDS x y z label\nSIZE 8 8 8 8\nTYPE F F F F\nWIDTH {COUNT}\nHEIGHT 1\n"
            write(path, f"{head}POINTS {COUNT}\nDATA binary\n".encode() + points.tobytes())
        elif suffix == ".off":
            write(path, f"OFF\n{COUNT} 0 0\n" + table(" ", points[:, :3]))
        else:
            write(path, "".join(f"v {row}\n" for row in table(" ", points[:, :3]).splitlines()))

    save()
    notes: list[str] = []
    kept = np.delete(points, [3, 7], axis=0)
    np.testing.assert_allclose(read_cloud(path, (), notes=notes), kept[:, :3], atol=1e-12)
    unnamed = [f"{path}: 1 column after xyz is left out"] * (suffix in (".npy", ".txt"))
    assert notes == [f"{path}: 2 of {COUNT} points are NaN and left out", *unnamed]
    held = load_cloud(path, notes=notes)
    if held.labels is not None:
        np.testing.assert_array_equal(held.labels, kept[:, 3])
    points[:46, 0] = np.nan
    save()
    assert f"got 46 of {COUNT} points that are NaN, the first in row 1" in refused(path)
    points[:, 0] = 1
    points[4, 2] = np.inf
    points[[3, 7], [1, 2]] = 0
    save()
    assert "expected finite numbers, got 1.0" in refused(path) and "inf for xyz of point 5" in refused(path)


@pytest.mark.parametrize("suffix", [".npy", ".xyz", ".txt", ".csv"])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_colours_are_refused_as_normals_by_their_columns(suffix: str, scale: float, tmp_path: Path) -> None:
    path, points = tmp_path / f"a{suffix}", np.hstack([xyz(), labels()[:, None], colors() / 255 * scale])
    np.save(path, points) if suffix == ".npy" else write(path, table(",", points))
    with pytest.raises(FeatureError) as caught:
        read_cloud(path, ("own", "normal"))
    message = str(caught.value)
    assert message.startswith(f"{path}: feature normal: expected vectors of length 1")
    assert "name what they are, such as data.features=[color]" in message
    assert "(own is column 4, normal is column 5 to 7); name what" in message
    notes: list[str] = []
    points[:, 4:] = unit() * 10
    np.save(path, points) if suffix == ".npy" else write(path, table(",", points))
    np.testing.assert_allclose(read_cloud(path, ("own", "normal"), notes=notes)[:, 4:], unit(), atol=1e-9)
    assert notes == [f"{path}: normals of other lengths are scaled to length 1"]


@pytest.mark.parametrize("suffix", CONVERTERS)
def test_other_kinds_name_what_converts_them(suffix: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path / f"a{suffix}", "x"))
    assert message.endswith(f"got {suffix}; convert it with {CONVERTERS[suffix]}")
