"""One small valid file of every kind that the project reads: truncations and bit flips start from them."""

from __future__ import annotations

import io
import json
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

from bixt3d.models import create_model
from bixt3d.training.checkpoint import save_model, save_state
from tests.training.tiny import CLASSES, NAIVE

COUNT = 24


def points(channels: int = 3) -> NDArray[np.float64]:
    """A cloud (COUNT, channels); columns 4 to 6 are unit normals."""
    cloud = np.random.default_rng(0).normal(size=(COUNT, channels))
    if channels == 6:
        cloud[:, 3:] /= np.linalg.norm(cloud[:, 3:], axis=1, keepdims=True)
    return cloud


def mesh(kind: str, **options: Any) -> bytes:
    data = trimesh.creation.icosahedron().export(file_type=kind, **options)
    return data.encode() if isinstance(data, str) else bytes(data)


def ply_cloud(encoding: str) -> bytes:
    data = trimesh.PointCloud(points()).export(file_type="ply", encoding=encoding)
    return bytes(data)


def text(separator: str, channels: int = 3) -> bytes:
    return "\n".join(separator.join(f"{value:.6f}" for value in row) for row in points(channels)).encode()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, points())
    return file.getvalue()


def npz(compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, points=points(6))
    return file.getvalue()


def pcd(encoding: str) -> bytes:
    cloud = points().astype("<f4")
    head = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
        f"WIDTH {COUNT}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {COUNT}\nDATA {encoding}\n"
    ).encode()
    if encoding == "ascii":
        return head + "\n".join(" ".join(map(str, row)) for row in cloud.tolist()).encode() + b"\n"
    if encoding == "binary":
        return head + cloud.tobytes()
    block = cloud.T.tobytes()  # field after field
    packed = b"".join(
        bytes([len(piece) - 1]) + piece for piece in (block[at : at + 32] for at in range(0, len(block), 32))
    )
    return head + len(packed).to_bytes(4, "little") + len(block).to_bytes(4, "little") + packed


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
    return of_path(lambda path: save_model(path, create_model("bixt_ti_cls", **args), meta))


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

# by suffix, what `read_cloud` reads
SHAPES: dict[str, list[bytes]] = {
    ".off": [mesh("off"), mesh("off").replace(b"OFF\n", b"OFF", 1)],
    ".obj": [mesh("obj")],
    ".ply": [mesh("ply"), mesh("ply", encoding="ascii"), ply_cloud("ascii"), ply_cloud("binary")],
    ".stl": [mesh("stl"), mesh("stl_ascii")],
    ".glb": [mesh("glb")],
    ".pcd": [pcd("ascii"), pcd("binary"), pcd("binary_compressed")],
    ".npy": [npy()],
    ".npz": [npz(False), npz(True)],
    ".xyz": [text(" "), text(" ", 6)],
    ".txt": [text(",", 6)],
}
ARCHIVES = {
    ".zip": zipped(MEMBERS),
    ".tar": tarred(MEMBERS, "w"),
    ".tar.gz": tarred(MEMBERS, "w:gz"),
    ".tar.bz2": tarred(MEMBERS, "w:bz2"),
    ".tar.xz": tarred(MEMBERS, "w:xz"),
}
