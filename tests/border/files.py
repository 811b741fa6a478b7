"""One small valid file of every kind that the project reads: truncations and bit flips start from them."""

from __future__ import annotations

import base64
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from safetensors.torch import save

from bixt3d.models import create_model
from bixt3d.training.checkpoint import FORMAT
from bixt3d.training.resume import save_state
from tests.training.tiny import CLASSES, NAIVE

COUNT = 24


def points(channels: int = 3) -> NDArray[np.float64]:
    """A cloud (COUNT, channels); columns 4 to 6 are unit normals."""
    cloud = np.random.default_rng(0).normal(size=(COUNT, channels))
    if channels >= 6:
        cloud[:, 3:6] /= np.linalg.norm(cloud[:, 3:6], axis=1, keepdims=True)
    return cloud


def mesh(kind: str, **options: Any) -> bytes:
    data = trimesh.creation.icosahedron().export(file_type=kind, **options)
    return data.encode() if isinstance(data, str) else bytes(data)


def ply_cloud(encoding: str) -> bytes:
    data = trimesh.PointCloud(points()).export(file_type="ply", encoding=encoding)
    return bytes(data)


def featured() -> dict[str, NDArray[Any]]:
    """Columns of a cloud whose files name its features: x y z, normals, colours and an intensity."""
    cloud, draw = points(6), np.random.default_rng(1)
    names = ("x", "y", "z", "nx", "ny", "nz")
    columns = {name: column.astype("<f4") for name, column in zip(names, cloud.T, strict=True)}
    columns |= {name: draw.integers(0, 256, COUNT).astype("u1") for name in ("red", "green", "blue")}
    return {**columns, "intensity": draw.random(COUNT).astype("<f4")}


def ply_featured(encoding: str) -> bytes:
    columns = featured()
    kinds = {"f": "float", "u": "uchar"}
    head = ["ply", f"format {'ascii' if encoding == 'ascii' else 'binary_little_endian'} 1.0"]
    head += [f"element vertex {COUNT}", *(f"property {kinds[v.dtype.kind]} {n}" for n, v in columns.items())]
    rows = np.zeros(COUNT, dtype=[(name, value.dtype) for name, value in columns.items()])
    for name, value in columns.items():
        rows[name] = value
    lines = "".join(" ".join(map(str, row)) + "\n" for row in rows.tolist())
    return "\n".join([*head, "end_header", ""]).encode() + (
        lines.encode() if encoding == "ascii" else rows.tobytes()
    )


def text(separator: str, channels: int = 3) -> bytes:
    return "\n".join(separator.join(f"{value:.6f}" for value in row) for row in points(channels)).encode()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, points())
    return file.getvalue()


def npz(compressed: bool, features: bool = False) -> bytes:
    file = io.BytesIO()
    arrays = {"points": points(6)}
    if features:
        draw = np.random.default_rng(1)
        arrays = {"points": points(), "color": draw.random((COUNT, 3)), "intensity": draw.random(COUNT)}
    (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def pcd(encoding: str, features: bool = False) -> bytes:
    """x y z, and with ``features`` colours packed into whole numbers and a field of three values."""
    columns = [points().astype("<f4")]
    names = {"FIELDS": "x y z", "SIZE": "4 4 4", "TYPE": "F F F", "COUNT": "1 1 1"}
    if features:
        draw = np.random.default_rng(1)
        columns += [
            draw.integers(0, 1 << 24, (COUNT, 1)).astype("<u4"),
            draw.random((COUNT, 3)).astype("<f4"),
        ]
        more = {"FIELDS": "rgb own", "SIZE": "4 4", "TYPE": "U F", "COUNT": "1 3"}
        names = {key: f"{value} {more[key]}" for key, value in names.items()}
    lines = "".join(f"{key} {value}\n" for key, value in names.items())
    head = (
        f"# .PCD v0.7\nVERSION 0.7\n{lines}"
        f"WIDTH {COUNT}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {COUNT}\nDATA {encoding}\n"
    ).encode()
    rows = list(zip(*columns, strict=True))
    if encoding == "ascii":
        lines = "\n".join(" ".join(str(n) for part in row for n in part.tolist()) for row in rows)
        return head + lines.encode() + b"\n"
    if encoding == "binary":
        return head + b"".join(part.tobytes() for row in rows for part in row)
    fields = [columns[0].T, *columns[1:]]
    block = b"".join(np.ascontiguousarray(field).tobytes() for field in fields)  # field after field
    packed = b"".join(
        bytes([len(piece) - 1]) + piece for piece in (block[at : at + 32] for at in range(0, len(block), 32))
    )
    return head + len(packed).to_bytes(4, "little") + len(block).to_bytes(4, "little") + packed


def gltf() -> bytes:
    """A .glb file's tree with its data as text in it."""
    content = mesh("glb")
    end = 20 + int.from_bytes(content[12:16], "little")
    tree = json.loads(content[20:end])
    data = base64.b64encode(content[end + 8 :]).decode()
    tree["buffers"][0]["uri"] = f"data:application/octet-stream;base64,{data}"
    return json.dumps(tree).encode()


def las(compressed: bool = False) -> bytes:
    import laspy

    header = laspy.LasHeader(point_format=3)
    header.scales = np.full(3, 1e-6)
    cloud = laspy.LasData(header)
    cloud.xyz = points()
    cloud.classification[:] = np.arange(COUNT) % 4
    file = io.BytesIO()
    cloud.write(file, do_compress=compressed)
    return file.getvalue()


def kitti() -> bytes:
    rows = np.concatenate([points(), np.random.default_rng(1).random((COUNT, 1))], axis=1)
    return rows.astype("<f4").tobytes()


def off_binary() -> bytes:
    mesh = trimesh.creation.icosahedron()
    faces = np.full((20, 5), 3, ">i4")
    faces[:, 1:4], faces[:, 4] = mesh.faces, 0
    counts = np.array([12, 20, 0], ">i4").tobytes()
    return b"OFF BINARY\n" + counts + mesh.vertices.astype(">f4").tobytes() + faces.tobytes()


def ply_mixed(order: str) -> bytes:
    """A quad and a triangle whose lists stand before and behind other properties, in this order of bytes."""
    name = {"<": "little", ">": "big"}[order]
    head = f"ply\r\nformat binary_{name}_endian 1.0\r\nelement vertex 5\r\n"
    head += "".join(f"property double {axis}\r\n" for axis in "xyz")
    head += (
        "element face 2\r\nproperty list uchar uint vertex_index\r\nproperty short label\r\nend_header\r\n"
    )
    xyz = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0.0]], order + "f8").tobytes()
    faces = struct.pack(f"{order}B4IhB3Ih", 4, 0, 1, 2, 3, 7, 3, 1, 4, 2, 8)
    return head.encode() + xyz + faces


def hdf5(names: bool = True, **options: Any) -> bytes:
    import h5py

    file = io.BytesIO()
    clouds = np.random.default_rng(0).normal(size=(4, COUNT, 3)).astype(np.float32)
    with h5py.File(file, "w") as h5:
        h5.create_dataset("data", data=clouds, **options)
        h5.create_dataset("label", data=np.arange(4, dtype=np.uint8)[:, None])
        if names:
            h5.create_dataset("name", data=[b"a", b"b", b"c", b"d"])
    return file.getvalue()


def of_path(write: Callable[[Path], object]) -> bytes:
    with TemporaryDirectory() as folder:
        write(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def checkpoint(**changes: Any) -> bytes:
    torch.manual_seed(0)
    args = {"num_classes": 4, **NAIVE}
    meta = {
        "model": {"name": "bixt_ti_cls", "args": args},
        "classes": list(CLASSES),
        "preprocess": {"num_points": 16, "order": "stored", "stored_points": 32},
        **changes,
    }
    header = {"bixt3d": json.dumps({"format": FORMAT, **meta})}  # save_model refuses some of them
    return save(create_model("bixt_ti_cls", **args).state_dict(), metadata=header)


def state() -> bytes:
    held = {"epoch": 3, "model": {"weight": torch.arange(6.0).view(2, 3)}, "best": None, "names": ["a", "b"]}
    return of_path(lambda path: save_state(path, held))


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


CONFIG = b"""data: {name: modelnet40, root: data, num_points: 512, features: [color, intensity]}
augment: {feature_dropout: {color: 0.2}, feature_jitter: {intensity: 0.1}}
model:
  name: bixt_ti_cls_hierarchy
  args: {dim: 96, widths: [64, 96], reductions: [2, 2]}
optim: {lr: 1e-2}
train: {epochs: 3, batch_size: 16}
"""
PARTS = json.dumps({"Mug": {"body": 0, "handle": 1}, "Lamp": {"foot": 2}}).encode()
MEMBERS = {"set/names.txt": b"chair\ntable\n", "set/deep/cloud.xyz": text(" ")}

SQUARE = ((0, 0), (2, 0), (1, 1), (0, 2))
# by suffix, what `read_cloud` reads
SHAPES: dict[str, list[bytes]] = {
    ".off": [
        *(mesh("off"), mesh("off").replace(b"OFF\n", b"OFF", 1), off_binary()),
        b"CNOFF\n4 1 0\n" + b"".join(b"%d %d 0 0 0 1 9 9 9 9\n" % p for p in SQUARE) + b"4 0 1 2 3 .5 .5 1\n",
    ],
    ".obj": [
        mesh("obj"),
        b"v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 1 1 0 0 0 1\nv 0 1 1 0 0 0\nf -4 -3//1 -2/2 -1/1/1\n",
    ],
    ".ply": [
        *(mesh("ply"), mesh("ply", encoding="ascii"), ply_cloud("ascii"), ply_cloud("binary")),
        *(ply_featured("ascii"), ply_featured("binary"), ply_mixed("<"), ply_mixed(">")),
    ],
    ".stl": [mesh("stl"), mesh("stl_ascii")],
    ".glb": [mesh("glb")],
    ".pcd": [
        pcd(kind, features) for features in (False, True) for kind in ("ascii", "binary", "binary_compressed")
    ],
    ".npy": [npy()],
    ".npz": [npz(False), npz(True), npz(False, True), npz(True, True)],
    ".xyz": [text(" "), text(" ", 6)],
    ".txt": [text(",", 6)],
    ".csv": [b"x,y,z,label\n" + text(",", 4), b"// X Y Z\n" + text(" ")],
    ".pts": [b"%d\n" % COUNT + text(" ", 7)],
    ".gltf": [gltf()],
    ".las": [las()],
    ".laz": [las(compressed=True)],
    ".bin": [kitti()],
}
# of those, files that name features, and which they all have
FEATURED: dict[str, tuple[list[bytes], tuple[str, ...]]] = {
    ".ply": ([ply_featured("ascii"), ply_featured("binary")], ("normal", "color", "intensity")),
    ".pcd": ([pcd(kind, True) for kind in ("ascii", "binary", "binary_compressed")], ("color", "own:3")),
    ".npz": ([npz(False, True), npz(True, True)], ("intensity", "color")),
    ".npy": ([npy()], ("height",)),
    ".xyz": ([text(" ", 6)], ("normal", "height")),
    ".txt": ([text(",", 6)], ("own:3",)),
}
ARCHIVES = {
    ".zip": zipped(MEMBERS),
    ".tar": tarred(MEMBERS, "w"),
    ".tar.gz": tarred(MEMBERS, "w:gz"),
    ".tar.bz2": tarred(MEMBERS, "w:bz2"),
    ".tar.xz": tarred(MEMBERS, "w:xz"),
}
