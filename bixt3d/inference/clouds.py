"""Samples of a user, clouds or what else a task reads: of files, folders, batches and lists, one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bixt3d.datasets.readers import SUFFIXES, clouds_in, files_in
from bixt3d.ops.validate import describe

Cloud = np.ndarray[Any, Any] | Tensor | str | Path


def find_clouds(
    paths: Iterable[str | Path], suffixes: Sequence[str] = SUFFIXES
) -> tuple[list[Path], list[Path]]:
    """Return the clouds among files and in folders at any depth, and the files of folders that are none.

    A file that is named is taken whatever it is. In folders, whose ``~`` is expanded, files with one of the
    suffixes are taken, sorted, and what is hidden is passed over, as a training does it.

    Raises:
        FileNotFoundError: If a folder holds no cloud.
    """
    found: list[Path] = []
    others: list[Path] = []
    kind = "meshes or clouds" if suffixes == SUFFIXES else "files"
    for given in map(Path, paths):
        path = Path(os.path.expanduser(given))
        if not path.is_dir():
            found.append(given)
            continue
        clouds = clouds_in(path, suffixes)
        if not clouds:
            raise FileNotFoundError(
                f"{path}: expected {kind} ({', '.join(suffixes)}), found none in this folder"
            )
        found += clouds
        known = set(clouds)
        others += [one for one in files_in(path) if one not in known]
    return found, others


def as_list(clouds: Any, channels: int, dims: int = 2) -> tuple[list[Any], bool]:
    """Return one cloud or several as a list, and whether it was one; of another kind one has ``dims`` axes.

    Raises:
        ValueError: If it is neither a cloud (N, C), a batch (B, N, C), nor a sequence.
    """
    if isinstance(clouds, (str, Path)) or getattr(clouds, "ndim", None) == dims:
        return [clouds], True
    if not isinstance(clouds, (np.ndarray, Tensor, Sequence)):
        raise ValueError(f"expected arrays, tensors or paths, got {describe(clouds)}")
    if isinstance(clouds, (np.ndarray, Tensor)) and clouds.ndim != dims + 1:
        clouds_too = f"a cloud (N, {channels}) or a batch (B, N, {channels})"
        expected = clouds_too if dims == 2 else f"one with {dims} axes or a batch of them"
        raise ValueError(f"expected {expected}, got an array of shape {tuple(clouds.shape)}")
    return list(clouds), False


def each_category(category: Any, count: int) -> list[Any]:
    """Return the category of each cloud: the one that is given for all, or those of a list.

    Raises:
        ValueError: For a list of another length.
    """
    told = list(category) if isinstance(category, (list, tuple)) else [category] * count
    if len(told) != count:
        raise ValueError(f"category: expected one, or {count}, one for each cloud, got {len(told)}")
    return told


def check_count(value: Any, name: str) -> int | None:
    """Return a whole number that a user gave, or None.

    Raises:
        ValueError: For one below 1, or no whole number.
    """
    value = int(value) if isinstance(value, np.integer) else value
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
    return None if value is None else int(value)
