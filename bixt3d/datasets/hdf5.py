"""Reads ModelNet40's HDF5 files: arrays that lie in the file itself and are no larger than it can hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bixt3d.datasets.features import FeatureError, name_of, width_of
from bixt3d.datasets.files import WHERE
from bixt3d.datasets.readers.limits import check_unpacked
from bixt3d.datasets.spheres import CHUNK, at_one_place, in_unit_sphere, unit_sphere

if TYPE_CHECKING:
    import h5py

LONGEST_NAME = 1000  # characters of a shape's id
SECONDS = 60  # that strings of variable length may take
# HDF5 keeps them in a heap apart, whose damage can hold its library for ever: another process reads them.
STRINGS = """
import sys
sys.path = [folder for folder in sys.path if folder]  # nothing is imported from the current folder
import json, h5py
with h5py.File(sys.argv[1], "r", locking=False) as file:
    names = file["name"].asstr(errors="replace")
    print(json.dumps([names[index][: int(sys.argv[2]) + 1] for index in range(len(names))]))
"""


class Stored(NamedTuple):
    """What a file holds: points (n, P, 3 + F), label (n,), names (n,) or none, and how many were moved.

    A cloud that is not centred and scaled as stored is moved into the unit sphere; the others are untouched.
    """

    points: NDArray[np.float32]
    label: NDArray[np.int64]
    names: NDArray[np.str_] | None
    moved: int


def read_hdf5(path: Path, num_classes: int, features: Sequence[str] = ()) -> Stored:
    """Reads one file.

    Raises:
        ValueError: The file is damaged or of another layout, keeps its arrays elsewhere, announces more than
            it can hold, or lacks a feature.
        PermissionError: It may not be read.
        ImportError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ImportError("reading HDF5 files needs h5py: pip install h5py") from None

    try:
        with h5py.File(path, "r", locking=False) as file:  # shared file systems often refuse locks
            points, label = _array(file, path, "data"), _array(file, path, "label")
            names = _names(file, path, len(points)) if "name" in file else None
            beside = [_feature(file, path, feature, points.shape) for feature in features]
    except PermissionError:
        raise PermissionError(f"{path}: no permission to read it") from None
    except (OSError, RuntimeError, KeyError, TypeError) as error:  # what h5py raises on damage
        raise ValueError(f"{path}: not a whole HDF5 file ({error}). Get it again; {WHERE}.") from None

    if points.ndim != 3 or points.shape[2] != 3 or points.dtype.kind != "f" or points.size == 0:
        raise ValueError(f"{path}: expected data (n, P, 3) float, got {points.shape} {points.dtype}")
    if label.shape not in ((len(points),), (len(points), 1)) or label.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected a whole-number label (n,) or (n, 1) for the {len(points)} shapes of data, "
            f"got {label.shape} {label.dtype}"
        )
    label = label.reshape(-1).astype(np.int64)  # (n,)
    if label.min() < 0 or label.max() >= num_classes:
        raise ValueError(
            f"{path}: expected labels in 0..{num_classes - 1}, the lines of shape_names.txt, "
            f"got {label.min()}..{label.max()}"
        )
    xyz, moved = _move(points, path)
    with np.errstate(all="ignore"):  # what is no number is refused below
        points = np.concatenate([xyz, *beside], axis=2).astype(np.float32, copy=False)
    _refuse(path, ~np.isfinite(points).all(axis=(1, 2)), "finite points, got NaN or infinity")
    return Stored(points, label, names, moved)


def _move(stored: NDArray[Any], path: Path) -> tuple[NDArray[np.float32], int]:
    """Moves clouds (n, P, 3) into the unit sphere that are not there as stored; also returns how many."""
    moved = 0
    with np.errstate(all="ignore"):  # what is beyond float32 is refused as infinite
        xyz = stored.astype(np.float32)
    for begin in range(0, len(xyz), CHUNK):
        with np.errstate(invalid="ignore"):  # of a NaN that signals
            clouds = torch.from_numpy(stored[begin : begin + CHUNK].astype(np.float64))  # (s, P, 3)
        infinite = ~torch.isfinite(clouds).flatten(1).all(1)  # (s,)
        _refuse(path, infinite.numpy(), "finite points, got NaN or infinity", begin)
        _refuse(path, at_one_place(clouds).numpy(), "points at two places at least, got one", begin)
        away = ~in_unit_sphere(clouds)  # (s,)
        moved += int(away.sum())
        xyz[begin : begin + CHUNK][away.numpy()] = unit_sphere(clouds[away]).numpy()
    return xyz, moved


def _refuse(path: Path, bad: NDArray[np.bool_], expected: str, first: int = 0) -> None:
    """Raises ValueError for the first shape that is bad."""
    if bad.any():
        raise ValueError(f"{path}: shape {first + int(bad.argmax())}: expected {expected}")


def _array(file: h5py.File, path: Path, key: str) -> NDArray[Any]:
    import h5py

    if not isinstance(file.get(key), h5py.Dataset):
        keys = ", ".join(sorted(map(str, file))) or "nothing"
        raise ValueError(
            f"{path}: expected the arrays data (n, P, 3) and label (n,), but it has no {key}; it holds {keys}"
        )
    dataset = _inside(file, path, key)
    if dataset.dtype.kind not in "fiu" or dataset.shape is None:
        raise ValueError(f"{path}: expected numbers in {key}, got {dataset.shape} {dataset.dtype}")
    array: NDArray[Any] = dataset[()]
    return array


def _feature(file: h5py.File, path: Path, feature: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Reads a feature by its name, or the plural of it, (n, P, width)."""
    name, width = name_of(feature), width_of(feature)
    key = next((key for key in (name, f"{name}s") if key in file), None)
    if key is None:
        others = sorted(set(file) - {"data", "label", "name"})
        raise FeatureError(
            f"{path}: it has no feature {name}; expected data.features out of {', '.join(others) or 'none'}"
        )
    values = _array(file, path, key)
    if values.shape != (*shape[:2], width) and (width > 1 or values.shape != shape[:2]):
        raise FeatureError(f"{path}: {key}: expected {(*shape[:2], width)}, got {values.shape}")
    return values.reshape(*shape[:2], width)  # (n, P, width)


def _inside(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    """Returns an array that lies in this file and is no larger than it can hold."""
    import h5py

    dataset = file[key]
    link = file.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{path}: {key} lies in another file, which is not read")
    try:
        check_unpacked(dataset.nbytes, path.stat().st_size)
    except ValueError as error:
        raise ValueError(f"{path}: {key}: {error}") from None
    return dataset


def _names(file: h5py.File, path: Path, count: int) -> NDArray[np.str_] | None:
    """Reads an array of strings, (n,); a `name` of any other kind is not taken for ids of shapes."""
    import h5py

    if not isinstance(file["name"], h5py.Dataset):
        return None
    kind = h5py.check_string_dtype(file["name"].dtype)
    if kind is None:
        return None
    dataset = _inside(file, path, "name")
    if dataset.shape != (count,):
        raise ValueError(
            f"{path}: expected name ({count},), one string for each shape of data, got {dataset.shape}"
        )
    read = _strings(path) if kind.length is None else dataset.asstr(errors="replace")[()].tolist()
    longest = max(map(len, read), default=0)
    if longest > LONGEST_NAME:
        raise ValueError(f"{path}: expected names of up to {LONGEST_NAME} characters, got a longer one")
    return np.asarray(read, dtype=np.str_)


def _strings(path: Path) -> list[str]:
    command = [sys.executable, "-c", STRINGS, str(path), str(LONGEST_NAME)]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
        strings: list[str] = json.loads(ran.stdout)
    except (subprocess.SubprocessError, ValueError):
        raise ValueError(
            f"{path}: its names cannot be read, so it is damaged. Get it again; {WHERE}."
        ) from None
    return strings
