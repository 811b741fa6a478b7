"""Files of a few KB that announce gigabytes, or unpack to them; a process reads them with little memory.

As a program it reads the files of a folder, each as what its suffix says, and prints how each ended.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import resource
import struct
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LIMIT = 768 << 20  # bytes of addresses beyond those of the interpreter and its libraries
MB = 1 << 20


def write_all(folder: Path) -> None:
    """Writes every file, named as its test calls it."""
    from tests.border import files

    for name, content in {**_meshes(files), **_arrays(files), **_others(files)}.items():
        (folder / name).write_bytes(content)
    _write_hdf5(folder)


def _meshes(files: Any) -> dict[str, bytes]:
    xyz = b"".join(b"property float %c\n" % axis for axis in b"xyz")
    ply = b"ply\nformat %s 1.0\nelement vertex %d\n" + xyz + b"end_header\n"
    corners = b"property list uint int vertex_indices\n"
    faces = b"ply\nformat binary_little_endian 1.0\nelement face 1\n" + corners + b"end_header\n"
    tree, rest = glb_parts(files.mesh("glb"))
    placeholder = {**tree, "accessors": [{**each, "count": 10**11} for each in tree["accessors"]]}
    for accessor in placeholder["accessors"]:
        del accessor["bufferView"]
    many = {**tree, "nodes": [{"mesh": 0}] * 80_000, "scenes": [{"nodes": list(range(80_000))}]}
    deep = [{"mesh": 0, "children": [number + 1]} for number in range(3000)]
    return {
        "counts.off": b"OFF\n999999999999 999999999999 0\n0 0 0\n",
        "ascii.ply": ply % (b"ascii", 10**12) + b"0 0 0\n",
        "binary.ply": ply % (b"binary_little_endian", 10**12) + bytes(120),
        "list.ply": faces + b"\xff\xff\xff\xff" + bytes(120),
        "count.stl": bytes(80) + b"\xff\xff\xff\xff" + bytes(50),
        "index.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 999999999999\n",
        "accessor.glb": glb(placeholder, rest),
        "accessor.gltf": json.dumps(placeholder).encode(),
        "corners.off": b"OFF BINARY\n"
        + struct.pack(">5i", 1, 1, 0, 0, 0)
        + bytes(4)
        + b"\x7f\xff\xff\xff" * 9,
        **{
            f"count{kind}": files.las(kind == ".laz")[:107] + b"\xff" * 4 + files.las(kind == ".laz")[111:]
            for kind in (".las", ".laz")
        },
        "records.las": files.las()[:100] + b"\xff" * 4 + files.las()[104:],
        "instances.glb": glb(many, rest),
        "deep.glb": glb({**tree, "nodes": [*deep, {"mesh": 0}], "scenes": [{"nodes": [0]}]}, rest),
    }


def _arrays(files: Any) -> dict[str, bytes]:
    points, size = 357_913_940, 4_294_967_280
    cloud = files.pcd("binary")
    packed = cloud.replace(b"WIDTH 24", b"WIDTH %d" % points).replace(b"POINTS 24", b"POINTS %d" % points)
    packed = packed[: packed.index(b"DATA")] + b"DATA binary_compressed\n"
    return {
        "shape.npy": npy_header((10**12, 3)),
        "kind.npy": npy_header((1,), "|V2147483647"),
        "unpacks.npz": _packed_zeros(),
        "shape.npz": files.zipped({"points.npy": npy_header((10**12, 3))}),
        "points.pcd": cloud.replace(b"WIDTH 24", b"WIDTH 999999999999").replace(
            b"POINTS 24", b"POINTS 999999999999"
        ),
        "block.pcd": packed + struct.pack("<II", 4, size) + b"\x03abc",
    }


def _others(files: Any) -> dict[str, bytes]:
    from tests.training.tiny import NAIVE

    def described(**args: Any) -> bytes:
        content: bytes = files.checkpoint(
            model={"name": "bixt_ti_cls", "args": {"num_classes": 4, **NAIVE, **args}}
        )
        return content

    nine = "".join(f"k{n + 1}: &k{n + 1} [{', '.join([f'*k{n}'] * 9)}]\n" for n in range(9))
    stored = {"num_points": 16, "order": "stored", "stored_points": 10**12}
    return {
        "header.safetensors": struct.pack("<Q", 1 << 40) + b"{}",
        "wide.safetensors": described(dim=1 << 30),
        "deep.safetensors": described(depth=10**6),
        "points.safetensors": files.checkpoint(preprocess=stored),
        "packed.pt": _deflated(files.state()),
        "aliases.yaml": f"k0: &k0 [1, 2]\n{nine}".encode(),
        "nested.yaml": b"data: " + b"[" * 3000 + b"]" * 3000,
        "long.yaml": b"#" * 2_000_000,
        "pax.tar.gz": _pax(),
        "dictionary.tar.xz": b"\xfd7zXZ\x00" + bytes(60),
        "claims.zip": _claims(files.zipped({"a": b"a"})),
    }


def npy_header(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": kind})
    return file.getvalue()


def glb_parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON of a GLB file, and what follows it."""
    end = 20 + int.from_bytes(content[12:16], "little")
    return json.loads(content[20:end]), content[end:]


def glb(tree: dict[str, Any], rest: bytes) -> bytes:
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text + rest
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def _packed_zeros() -> bytes:
    """An honest array of 0.8 GB, all zeros, in less than 1 MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("points.npy", "w", force_zip64=True) as member:
            shape = (100 * MB // 3, 3)
            member.write(npy_header(shape))
            left = math.prod(shape) * 8
            while left:
                left -= member.write(bytes(min(left, 16 * MB)))
    return file.getvalue()


def _deflated(content: bytes) -> bytes:
    """The same zip archive, with a packed member of 0.4 GB in the place of a tensor's bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
            for entry in old.infolist():
                is_tensor = "/data/" in entry.filename
                with new.open(entry.filename, "w") as member:
                    for _ in range(25 if is_tensor else 0):
                        member.write(bytes(16 * MB))
                    if not is_tensor:
                        member.write(old.read(entry))
    return file.getvalue()


def _pax() -> bytes:
    """A tar archive whose first header announces a comment of 1 GB, and packed holds it."""
    entry = tarfile.TarInfo("comment")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 30
    block = gzip.compress(bytes(32 * MB), 1)  # such files may stand one after another
    return gzip.compress(entry.tobuf(tarfile.USTAR_FORMAT)) + block * 32


def _claims(content: bytes) -> bytes:
    """A zip archive whose directory says that a member unpacks to 4 GB."""
    at = content.rindex(b"PK\x01\x02")
    return content[: at + 24] + struct.pack("<I", 0xFFFFFFF0) + content[at + 28 :]


def _write_hdf5(folder: Path) -> None:
    import h5py

    label = np.zeros(4, np.uint8)
    with h5py.File(folder / "sparse.h5", "w") as file:
        file.create_dataset("data", (10**7, 2048, 3), np.float32, chunks=(1, 2048, 3), compression="gzip")
        file["label"] = label
    with h5py.File(folder / "names.h5", "w") as file:
        file["data"] = np.random.default_rng(0).normal(size=(4, 8, 3)).astype(np.float32)
        file["label"] = label
        file["name"] = [b"x" * 10_000_000, b"b", b"c", b"d"]


def read(path: Path) -> object:
    """Reads a file as what its suffix says."""
    from bixt3d.config import load_config
    from bixt3d.datasets.acquire.archives import unpack
    from bixt3d.datasets.hdf5 import read_hdf5
    from bixt3d.datasets.readers import read_cloud
    from bixt3d.training.checkpoint import load_checkpoint
    from bixt3d.training.resume import load_state

    readers: dict[str, Callable[[Path], object]] = {
        ".h5": lambda path: read_hdf5(path, 40),
        ".safetensors": lambda path: load_checkpoint(path, "cpu"),
        ".pt": load_state,
        ".yaml": load_config,
    }
    if path.suffix in (".zip", ".gz", ".xz", ".bz2", ".tar"):
        into = path.with_name(f"{path.name}.into")
        into.mkdir()
        return unpack(path, into, 64 * MB)
    return readers.get(path.suffix, lambda path: read_cloud(path, None, 64))(path)


def _addresses() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(warm: Path, folder: Path) -> None:
    """Reads whole files, then takes the memory away and reads the others; prints a line of JSON for each."""
    for path in sorted(warm.iterdir()):
        read(path)
    limit = _addresses() + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        before, start = _peak(), time.monotonic()
        try:
            read(path)
            kind, message = "nothing", ""
        except BaseException as error:
            kind, message = type(error).__name__, str(error)
        told = {
            "kind": kind,
            "message": message,
            "took": _peak() - before,
            "seconds": time.monotonic() - start,
        }
        print(json.dumps({"name": path.name, **told}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
