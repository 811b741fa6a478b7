"""Clouds in NumPy's files: .npy and .npz."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.limits import check_unpacked

POINTS = ("points", "xyz", "positions")  # what programs call the points among the arrays of a .npz file


def read_array_file(path: Path) -> FileCloud:
    """Reads a cloud from a .npy or .npz file.

    Raises:
        ValueError: The file is damaged, or holds no points (N, 3 or more).
    """
    try:
        arrays = read_arrays(path)
    except PermissionError:
        raise
    except Exception as error:  # zip and header errors are of many kinds
        raise ValueError(f"{path}: expected a whole NumPy array without objects ({error})") from None
    cloud = FileCloud.of_array(arrays.pop(""), path)
    fits = {name: value for name, value in arrays.items() if value.shape[:1] == cloud.xyz.shape[:1]}
    return FileCloud(cloud.xyz, fits, cloud.columns)


def read_arrays(path: Path) -> dict[str, Any]:
    """Reads the array of a .npy file, or those of a .npz file, by name; the cloud's points are under "".

    Of a .npz file they are the array named `points`, `xyz` or `positions`, or the only one.

    Raises:
        ValueError: The file is damaged, holds other things than numbers, or announces more than it holds.
    """
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return {"": _read_npy(file, path.stat().st_size)}
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        main: str | None = next((name for name in POINTS if name in entries), None)
        if main is None and len(entries) != 1:
            got = ", ".join(entries)
            raise ValueError(f"expected a key out of {', '.join(POINTS)}, or one array, got {got}")
        main = main or next(iter(entries))
        arrays = {}
        for name, entry in entries.items():
            check_unpacked(entry.file_size, min(entry.compress_size, path.stat().st_size))
            try:
                with archive.open(entry) as file:
                    arrays["" if name == main else name] = _read_npy(file, entry.file_size)
            except ValueError:
                if name == main:
                    raise  # what else lies there need not be numbers
        return arrays


def _read_npy(file: Any, size: int) -> Any:
    """Reads one array from a file or a member of an archive, which has `size` bytes."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # the third is for names of fields
        raise ValueError(f"an array of the format's version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(file)
    if dtype.kind not in "biufc":
        raise ValueError(f"an array of {dtype}, not of numbers")
    announced, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=1) < 0 or announced != held:
        raise ValueError(f"an array {shape} of {dtype} takes {announced} bytes, and {held} are there")
    array = np.frombuffer(bytearray(file.read(announced)), dtype)  # writable, as torch wants it
    return array.reshape(shape, order="F" if by_column else "C")
