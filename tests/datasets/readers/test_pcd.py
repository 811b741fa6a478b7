"""PCD files: those of Open3D, hand-made ones of every encoding, and every kind of broken header."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bixt3d.datasets.readers import load_cloud, read_cloud
from bixt3d.datasets.readers.pcd import _decompress

ENCODINGS = ("ascii", "binary", "binary_compressed")


def pack_lzf(content: bytes) -> bytes:
    """LZF without a single match: runs of up to 32 bytes as they are."""
    pieces = [content[at : at + 32] for at in range(0, len(content), 32)]
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


def pcd(
    columns: dict[str, NDArray[Any]], encoding: str = "binary", *, end: str = "\n", **changes: str
) -> bytes:
    """A PCD file of these columns, each (N,) or (N, count); `changes` replace lines of the header."""
    kinds = {"f": "F", "i": "I", "u": "U"}
    tables = {name: value.reshape(len(value), -1) for name, value in columns.items()}
    points = len(next(iter(tables.values())))
    lines = {
        "VERSION": "0.7",
        "FIELDS": " ".join(tables),
        "SIZE": " ".join(str(value.itemsize) for value in tables.values()),
        "TYPE": " ".join(kinds[value.dtype.kind] for value in tables.values()),
        "COUNT": " ".join(str(value.shape[1]) for value in tables.values()),
        "WIDTH": str(points),
        "HEIGHT": "1",
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(points),
        "DATA": encoding,
    } | changes
    header = end.join(
        ["# .PCD v0.7 - Point Cloud Data file format"] + [f"{k} {v}" for k, v in lines.items() if v]
    )
    body = b"".join(table[i].tobytes() for i in range(points) for table in tables.values())
    if encoding == "ascii":
        rows = [" ".join(repr(v) for t in tables.values() for v in t[i].tolist()) for i in range(points)]
        body = end.join([*rows, ""]).encode()
    if encoding == "binary_compressed":
        fields = b"".join(table.tobytes() for table in tables.values())
        packed = pack_lzf(fields)
        body = struct.pack("<II", len(packed), len(fields)) + packed
    return (header + end).encode() + body


def columns(points: int = 20, normals: bool = False, dtype: str = "f4") -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(0)
    names = ["x", "y", "z"] + (["normal_x", "normal_y", "normal_z"] if normals else [])
    return {name: draw.normal(size=points).astype(dtype) for name in names}


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "scan.pcd"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("normals", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_files_of_open3d(encoding: str, normals: bool, tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    draw = np.random.default_rng(1)
    xyz = draw.normal(size=(3000, 3)).round(2)  # values that repeat, so that LZF finds matches
    xyz[1000:] = xyz[0]
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz))
    cloud.colors = open3d.utility.Vector3dVector(draw.random((3000, 3)))
    expected = xyz
    if normals:
        directions = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
        cloud.normals = open3d.utility.Vector3dVector(directions)
        expected = np.concatenate([xyz, directions], axis=1)
    path = tmp_path / "scan.pcd"
    ascii_, compressed = encoding == "ascii", encoding == "binary_compressed"
    assert open3d.io.write_point_cloud(str(path), cloud, write_ascii=ascii_, compressed=compressed)
    assert f"DATA {encoding}\n".encode() in path.read_bytes()
    points = read_cloud(path, None)
    assert points.dtype == np.float64 and points.shape == expected.shape
    np.testing.assert_allclose(points, expected, atol=1e-6)
    np.testing.assert_array_equal(read_cloud(path), points[:, :3])
    again = open3d.io.read_point_cloud(str(path))
    np.testing.assert_allclose(points[:, :3], np.asarray(again.points), atol=1e-9)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1"])
def test_other_fields_are_passed_over(encoding: str, dtype: str, tmp_path: Path) -> None:
    values = {name: (value * 9).astype(dtype) for name, value in columns().items()}
    draw = np.random.default_rng(2)
    mixed = {
        "_": draw.integers(0, 255, (20, 3)).astype("u1"),
        "z": values["z"],
        "intensity": draw.random(20).astype("f8"),
        "x": values["x"],
        "histogram": draw.random((20, 5)).astype("f4"),
        "y": values["y"],
    }
    expected = np.stack([values[name].astype("f8") for name in "xyz"], axis=1)
    read = load_cloud(write(tmp_path, pcd(mixed, encoding)))
    np.testing.assert_allclose(read.xyz, expected, rtol=1e-7)
    assert sorted(read.named) == ["histogram", "intensity"]
    for name, value in read.named.items():
        np.testing.assert_allclose(value, mixed[name].reshape(20, -1), rtol=1e-7)
    assert read_cloud(tmp_path / "scan.pcd").shape == read_cloud(tmp_path / "scan.pcd", None).shape == (20, 3)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_without_a_measurement_are_no_points(encoding: str, tmp_path: Path) -> None:
    values = columns(normals=True)
    values["y"][[3, 7]] = np.nan
    values["normal_z"][0] = np.nan
    path = write(tmp_path, pcd(values, encoding))
    points = load_cloud(path)
    assert points.xyz.shape == (18, 3) and points.named["normal_z"].shape == (18, 1)
    np.testing.assert_allclose(points.xyz[:, 0], np.delete(values["x"], [3, 7]))
    np.testing.assert_allclose(points.named["normal_z"][:, 0], np.delete(values["normal_z"], [3, 7]))
    assert read_cloud(path, None).shape == (18, 3)  # a normal is missing
    with pytest.raises(ValueError, match=r"scan\.pcd: expected finite numbers"):
        read_cloud(path, ("normal",))
    values["z"][:] = np.nan
    with pytest.raises(ValueError, match=r"scan\.pcd: expected finite numbers, got 20 of 20 points"):
        load_cloud(write(tmp_path, pcd(values, encoding)))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "changes", [{"COUNT": ""}, {"POINTS": ""}, {"WIDTH": "5", "HEIGHT": "4"}, {"VIEWPOINT": ""}]
)
def test_headers_of_other_writers(encoding: str, changes: dict[str, str], tmp_path: Path) -> None:
    values = columns()
    expected = np.stack(list(values.values()), axis=1)
    for end in ("\n", "\r\n"):
        read = load_cloud(write(tmp_path, pcd(values, encoding, end=end, **changes)))
        np.testing.assert_allclose(read.xyz, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FIELDS": ""}, "as many entries in FIELDS, SIZE, TYPE and COUNT"),
        ({"FIELDS": "x y"}, "as many entries"),
        ({"SIZE": "4 4"}, "as many entries"),
        ({"SIZE": "4 4 3"}, r"field z: expected a type out of F4, .*, got F3"),
        ({"TYPE": "F F S"}, "field z: .* got S4"),
        ({"COUNT": "1 1 -1"}, "COUNT: expected a whole number, got '-1'"),
        ({"COUNT": "1 1 2"}, "fields x y z of one value each"),
        ({"FIELDS": "x y w"}, "expected the fields x y z of one value each, got x y w"),
        ({"WIDTH": "many"}, "WIDTH: expected a whole number, got 'many'"),
        ({"WIDTH": ""}, "WIDTH: expected a whole number, got 'nothing'"),
        ({"WIDTH": "9" * 5000}, "WIDTH"),
        ({"WIDTH": "21"}, "announces 20 points, and WIDTH times HEIGHT is 21"),
        ({"WIDTH": "0", "POINTS": "0"}, "it holds no points"),
        ({"DATA": "zip"}, "DATA: expected one of ascii, binary, binary_compressed, got 'zip'"),
        ({"DATA": ""}, "expected a PCD header up to a line DATA"),
    ],
)
def test_broken_headers(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"scan\.pcd: .*{message}"):
        load_cloud(write(tmp_path, pcd(columns(), **changes)))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8, 0.97])
def test_truncated(encoding: str, share: float, tmp_path: Path) -> None:
    content = pcd(columns(100, normals=True), encoding)
    with pytest.raises(ValueError, match=r"scan\.pcd: "):
        load_cloud(write(tmp_path, content[: int(share * len(content))]))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_more_than_announced(encoding: str, tmp_path: Path) -> None:
    content = pcd(columns(), encoding)
    assert len(load_cloud(write(tmp_path, content + b"\n\n")).xyz) == 20
    with pytest.raises(ValueError, match=r"scan\.pcd: it announces .*, and holds"):
        load_cloud(write(tmp_path, content + b"1 2 3\n"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "changes",
    [
        {"WIDTH": "100000000000", "POINTS": "100000000000"},
        {"COUNT": "1 1 1 100000000000", "FIELDS": "x y z w", "SIZE": "4 4 4 4", "TYPE": "F F F F"},
    ],
)
def test_announcing_much_costs_nothing(encoding: str, changes: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path, pcd(columns(), encoding, **changes))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"scan\.pcd: "):
            load_cloud(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_compressed_block_that_announces_another_size(tmp_path: Path) -> None:
    content = pcd(columns(), "binary_compressed")
    start = content.index(b"binary_compressed\n") + len(b"binary_compressed\n")
    packed, size = struct.unpack("<II", content[start : start + 8])
    for sizes in ((packed, size + 1), (packed + 1, size), (packed - 1, size), (0, size)):
        changed = content[:start] + struct.pack("<II", *sizes) + content[start + 8 :]
        with pytest.raises(ValueError, match=r"scan\.pcd: "):
            load_cloud(write(tmp_path, changed))


def test_ascii_lines_that_are_no_points(tmp_path: Path) -> None:
    lines = pcd(columns(), "ascii").decode().splitlines()
    for bad, message in (
        ("1 2", "expected 3 numbers with blanks between, got 2: '1 2'"),
        ("1 two 3", "expected finite numbers, got 'two'"),
        ("1 2 3 4", "expected 3 numbers with blanks between, got 4: '1 2 3 4'"),
    ):
        with pytest.raises(ValueError, match=rf"scan\.pcd: point 20: {message}"):
            load_cloud(write(tmp_path, "\n".join([*lines[:-1], bad, ""]).encode()))
    header, rows = lines[:11], lines[11:]
    with pytest.raises(ValueError, match=r"scan\.pcd: expected 3 numbers a point, got 4"):
        load_cloud(write(tmp_path, "\n".join([*header, *(f"{row} 1" for row in rows)]).encode()))


def compress(content: bytes) -> bytes:
    """A plain LZF writer: the longest match within reach, else one byte as it is."""
    out = bytearray()
    at = 0
    while at < len(content):
        best, back = 0, 0
        for distance in range(1, min(at, 8192) + 1):
            length = 0
            while (
                length < 264
                and at + length < len(content)
                and content[at + length] == content[at + length - distance]
            ):
                length += 1
            if length > best:
                best, back = length, distance
        if best < 3:
            out += bytes([0, content[at]])
            at += 1
            continue
        high, low = divmod(back - 1, 256)
        if best - 2 < 7:
            out += bytes([(best - 2) << 5 | high, low])
        else:
            out += bytes([7 << 5 | high, best - 2 - 7, low])
        at += best
    return bytes(out)


@given(st.lists(st.sampled_from([b"a", b"bc", b"a" * 40, b"abc" * 90, bytes(range(60))]), max_size=12))
def test_lzf_undoes_its_compression(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    assert _decompress(compress(content), len(content)) == content
    assert _decompress(pack_lzf(content), len(content)) == content


@given(st.binary(max_size=200), st.integers(0, 400))
def test_lzf_of_anything_ends_in_its_size_or_an_error(block: bytes, size: int) -> None:
    try:
        assert len(_decompress(block, size)) == size
    except ValueError as error:
        assert str(error).startswith("its compressed block is damaged")


def test_lzf_stops_where_more_comes_than_announced() -> None:
    bomb = bytes([0, 65]) + bytes([7 << 5, 255, 0]) * 1_000_000  # 264 MB
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="damaged"):
            _decompress(bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300))
def test_garbage_behind_a_header_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.pcd"
    for encoding in ENCODINGS:
        content = pcd(columns(2), encoding)
        path.write_bytes(content[: content.index(b"DATA")] + b"DATA " + encoding.encode() + b"\n" + junk)
        try:
            assert load_cloud(path).xyz.shape[1] == 3
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
