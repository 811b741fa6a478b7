"""Small data sets, their archives, and what `prepare` needs to know of them."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bixt3d.datasets.acquire import Report, Source, prepare
from bixt3d.datasets.modelnet40 import HDF5_FOLDER

MARKER = "shape_names.txt"
WORK = f".{HDF5_FOLDER}.download"


def write_modelnet(
    folder: Path, *, train: int = 9, test: int = 4, points: int = 16, classes: int = 3
) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    (folder / MARKER).write_text("".join(f"class_{i}\n" for i in range(classes)))
    for part, count in (("train", train), ("test", test)):
        (folder / f"{part}_files.txt").write_text(f"data/{folder.name}/ply_data_{part}0.h5\n")
        with h5py.File(folder / f"ply_data_{part}0.h5", "w") as file:
            file["data"] = draw.normal(size=(count, points, 3)).astype(np.float32)
            file["label"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    return folder


def write_normal(folder: Path, *, lines: int = 20) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    classes = ["chair", "night_stand"]
    (folder / "modelnet40_shape_names.txt").write_text("".join(f"{name}\n" for name in classes))
    for part, numbers in (("train", range(1, 4)), ("test", range(4, 6))):
        names = [f"{name}_{number:04d}" for name in classes for number in numbers]
        (folder / f"modelnet40_{part}.txt").write_text("\n".join(names))
        for name in names:
            path = folder / name.rpartition("_")[0] / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, draw.uniform(-1, 1, (lines, 6)), fmt="%.5f", delimiter=",")
    return folder


def zipped(folder: Path, inside: str | None = None) -> bytes:
    """Packs a folder under a name, which may be a path; "" is the top level of the archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(folder.name if inside is None else inside, path.relative_to(folder)))
    return packed.getvalue()


def tarred(folder: Path, mode: str, inside: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{mode}") as archive:
        archive.add(folder, inside)
    return packed.getvalue()


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two members of one name
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def tar_of(*members: tuple[str, bytes], mode: str = "", **fields: Any) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{mode}") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in fields.items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def source_of(*mirrors: str | tuple[str, str], **changes: Any) -> Source:
    """The small data set as a published one; mirrors may come with a checksum."""
    source = Source(
        "modelnet40",
        HDF5_FOLDER,
        MARKER,
        dict((mirror, None) if isinstance(mirror, str) else mirror for mirror in mirrors),
        unpacked_bytes=30_000,
        shapes={"train": 9, "test": 4},
        classes=3,
        points=16,
    )
    return replace(source, **changes)


def get(root: Path, source: Source, **options: Any) -> Report:
    return prepare(source, root, **{"timeout": 5.0, **options})


def failure(root: Path, source: Source, **options: Any) -> str:
    """What is said when no mirror gave the data set."""
    with pytest.raises(RuntimeError, match="could not be downloaded") as caught:
        get(root, source, **options)
    assert not (root / source.folder).exists()
    return str(caught.value)


def same_files(one: Path, other: Path) -> bool:
    def contents(folder: Path) -> dict[str, bytes]:
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return {
            name: path.read_bytes() for name, path in found.items() if not name.startswith(".bixt3d_cache")
        }

    return contents(one) == contents(other)
