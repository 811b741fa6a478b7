"""Clouds in files of bare numbers: NumPy's .npy and .npz, and KITTI's .bin."""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from bixt3d.datasets.readers.cloud import AS_TEXT, TEXT, FileCloud
from bixt3d.datasets.readers.limits import check_unpacked
from bixt3d.datasets.readers.names import LABEL_NAMES

KEYS = ("points", "xyz", "positions")  # what programs call the points among the arrays of a .npz file
NUMBERS = "biufc"  # kinds of dtypes
ROW = 16  # bytes of a point in KITTI's files: x, y, z and intensity, each a float32
FARTHEST, STRONGEST = 1000.0, 255.0  # metres from a scanner, and intensities, that a point can have


class _NoPoints(ValueError):
    """A whole file that holds no points."""


def read_array_file(path: Path) -> FileCloud:
    """Read a cloud from a .npy or .npz file, whose columns, or fields where it has names, are the points.

    Arrays beside them of another length, or of text, are left out, with a remark; labels may be text.

    Raises:
        ValueError: The file is damaged, or holds no points (N, 3 or more).
    """
    try:
        arrays, unread = read_arrays(path)
    except PermissionError:
        raise
    except _NoPoints as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # zip and header errors are of many kinds
        raise ValueError(f"expected a whole NumPy array without objects ({error})") from None
    main = arrays.pop("", None)
    fields = {}
    if main is not None and main.dtype.names:
        kept = [name for name in main.dtype.names if main.dtype[name].base.kind in "biuf" + TEXT]
        fields = {name: main[name].reshape(main.size, -1) for name in kept}
    texts = {name: one for name, one in (fields | arrays).items() if one.dtype.kind in TEXT and one.size}
    fields, arrays = ({name: one for name, one in of.items() if name not in texts} for of in (fields, arrays))
    if main is None:
        cloud = FileCloud.of_names(arrays)
    elif main.dtype.names:
        cloud = FileCloud.of_names(fields).beside(arrays)
    else:
        cloud = FileCloud.of_array(main, path).beside(arrays)
    remarks = {name: AS_TEXT.format(_shown(one.flat[0])) for name, one in texts.items()}
    words = {name: one for name, one in texts.items() if one.ndim and name.lower() in LABEL_NAMES}
    return replace(cloud, remarks={**cloud.remarks, **unread, **remarks}).beside(words)


def _shown(word: Any) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)


def is_part_of_gltf(path: Path) -> bool:
    """Tell whether a .bin file is no scan, but the data of a .gltf file beside it."""
    return path.with_suffix(".gltf").is_file() or path.name in _named(
        path.parent, path.parent.stat().st_mtime_ns
    )


@lru_cache(maxsize=16)
def _named(folder: Path, changed: int) -> frozenset[str]:
    """The files that a folder's .gltf files name as their data; `changed` is when the folder was."""
    found = (re.findall(rb'"uri"\s*:\s*"([^"]{1,300})"', each.read_bytes()) for each in folder.glob("*.gltf"))
    return frozenset(unquote(name.decode("utf-8", "replace")) for names in found for name in names)


def read_kitti(path: Path) -> FileCloud:
    """Read a scan of KITTI: rows of x, y, z and intensity as float32, with nothing around them.

    Raises:
        ValueError: The bytes cannot be such rows.
    """
    size = path.stat().st_size
    if is_part_of_gltf(path):
        raise ValueError("it holds the data of the .gltf file beside it: read that instead")
    rows = np.fromfile(path, "<f4").reshape(-1, 4) if size % ROW == 0 else np.zeros((0, 4))
    if not len(rows):
        raise ValueError(f"expected a scan of KITTI, {ROW} bytes a point, got {size} bytes")
    xyz, intensity = rows[:, :3].astype(np.float64), rows[:, 3]
    known = np.isfinite(rows).all() and np.abs(xyz).max() <= FARTHEST
    if not known or intensity.min() < 0 or intensity.max() > STRONGEST:
        raise ValueError(
            f"expected a scan of KITTI, x, y, z up to {FARTHEST:g} m and intensities from 0 to {STRONGEST:g} "
            "as float32, got other numbers"
        )
    return FileCloud(xyz, {"intensity": intensity})


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the array of a .npy file, or those of a .npz file, by name; the cloud's points are under "".

    Of a .npz file they are the array named `points`, `xyz` or `positions`, or the only one; with arrays named
    x, y and z there is none. Also say of those beside the cloud that cannot be read why.

    Raises:
        ValueError: The file is damaged, holds other things than numbers, or announces more than it holds.
    """
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return {"": _read_npy(file, path.stat().st_size)}, {}
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        main = next((name for name in KEYS if name in entries), None)
        if main is None and len(entries) == 1:
            main = next(iter(entries))
        if main is None and not {"x", "y", "z"} <= entries.keys():
            got = ", ".join(entries)
            raise _NoPoints(f"expected a key out of {', '.join(KEYS)}, or one array, got {got}")
        arrays, unread, cloud = {}, {}, (main, "x", "y", "z")
        for name, entry in entries.items():
            check_unpacked(entry.file_size, min(entry.compress_size, path.stat().st_size))
            try:
                with archive.open(entry) as file:
                    kinds = NUMBERS if name in cloud else NUMBERS + TEXT
                    arrays["" if name == main else name] = _read_npy(file, entry.file_size, kinds)
            except ValueError as error:
                if name in cloud:
                    raise  # what else lies there need not be numbers
                unread[name] = f"it cannot be read, {error}: save numbers, or words by .astype(str)"
        return arrays, unread


def _read_npy(file: Any, size: int, kinds: str = NUMBERS) -> Any:
    """Read one array of these kinds from a file or a member of an archive, which has `size` bytes."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # the third is for names of fields
        raise ValueError(f"an array of the format's version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(file)
    if dtype.kind not in kinds and (dtype.names is None or dtype.hasobject):
        raise ValueError(f"an array of {dtype}, not of numbers")
    announced, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=1) < 0 or announced != held:
        raise ValueError(f"an array {shape} of {dtype} takes {announced} bytes, and {held} are there")
    array = np.frombuffer(bytearray(file.read(announced)), dtype)  # writable, as torch wants it
    return array.reshape(shape, order="F" if by_column else "C")
