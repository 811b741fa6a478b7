"""Checks of the fields of a split, and how they are taken from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.mapped import Mapped
from bixt3d.datasets.spheres import keep_shape
from bixt3d.ops.validate import describe
from bixt3d.suggest import counted


def float_points(value: Any) -> Any:
    """Return clouds of any numbers as a float32 tensor that keeps their shape; anything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and not np.ma.is_masked(value):
        exact = value.dtype.itemsize <= 2 or (value.dtype.kind, value.dtype.itemsize) == ("f", 4)
        value = torch.from_numpy(np.require(value, np.float32 if exact else np.float64, ["C", "W"]))
    return (
        keep_shape(value, "points") if isinstance(value, Tensor) and value.dtype == torch.float64 else value
    )


def whole_numbers(value: Any) -> Any:
    """Return an array or a list of whole numbers as an int64 tensor; anything else as it is."""
    if isinstance(value, (list, tuple)) and all(_is_whole(number) for number in value):
        value = np.array(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or np.ma.is_masked(value):
        return value
    return torch.from_numpy(np.require(value, np.int64, ["C", "W"]))


def _is_whole(number: Any) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def as_clouds(clouds: Sequence[Any]) -> list[Tensor]:
    """Return arrays, tensors or lists (N_i, C) as float64 tensors.

    Raises:
        ValueError: For no clouds, or one that holds no numbers, no points, or other channels.
    """
    if not len(clouds):
        raise ValueError("clouds: expected at least one, got none")
    read = []
    for at, cloud in enumerate(clouds):
        try:
            array = cloud.detach() if isinstance(cloud, Tensor) else np.asarray(cloud)
        except ValueError:  # rows of different lengths
            raise ValueError(f"cloud {at}: expected points (N, C), got rows of other lengths") from None
        if isinstance(array, np.ndarray):
            if array.dtype.kind not in "fiu" or np.ma.is_masked(cloud):
                raise ValueError(f"cloud {at}: expected numbers, got {array.dtype} or masked ones")
            array = torch.from_numpy(np.array(array, dtype=np.float64))
        read.append(array.double())
    if not all(cloud.ndim == 2 and len(cloud) for cloud in read) or len({c.shape[1] for c in read}) > 1:
        shown = ", ".join(str(tuple(cloud.shape)) for cloud in read[:3])
        raise ValueError(f"clouds: expected points (N, C), C the same for all, got {shown}")
    return read


def repeat_labels(parts: Sequence[Any], rows: Sequence[int]) -> Tensor:
    """Return labels of the points of clouds, (N_i,) each, repeated up to the largest cloud, (S, N).

    Raises:
        ValueError: For another number of them than of points.
    """
    read = [whole_numbers(own) for own in parts]
    shapes = [tuple(own.shape) if isinstance(own, Tensor) else () for own in read]
    if shapes != [(count,) for count in rows] or any(own.is_floating_point() for own in read):
        wanted = ", ".join(map(str, rows[:3]))
        raise ValueError(
            f"parts: expected a whole number for each point ({wanted} ...) of {len(rows)} clouds, got "
            f"{', '.join(map(str, shapes[:3]))} of {len(read)}"
        )
    return torch.stack([own[torch.arange(max(rows)) % len(own)].long() for own in read])


def check_points(points: Tensor) -> None:
    """Raise ValueError unless points are (S, N, C) float32, finite, and at least one."""
    if (
        not isinstance(points, Tensor)
        or points.ndim != 3
        or points.shape[2] < 3
        or points.dtype != torch.float32
    ):
        raise ValueError(f"points: expected (S, N, 3 + features) float32, got {describe(points)}")
    if points.shape[1] == 3 and points.shape[2] > 16:  # no point has so many channels
        raise ValueError(f"points: expected (S, N, 3 + features), got {tuple(points.shape)}: transpose it")
    if points.numel() == 0:
        raise ValueError(
            f"points: expected at least one shape with at least one point, got {describe(points)}"
        )
    if isinstance(points, Mapped):  # looked at when they were written
        return
    # aminmax passes NaN on and needs no second array the size of the split
    if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(points)):
        bad = (~torch.isfinite(points)).flatten(1).any(dim=1).nonzero().squeeze(1)  # (bad,)
        raise ValueError(
            "points: expected finite numbers, got NaN or infinity in "
            f"{counted(len(bad), 'shape')}, first {int(bad[0])}"
        )


def check_index(
    what: str, value: Tensor | None, shape: tuple[int, ...], count: int, of: str, least: int = 0
) -> None:
    """Raise ValueError unless a field is int64 of that shape, from 0, or ``least``, to ``count - 1``."""
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != torch.int64:
        raise ValueError(f"{what}: expected {shape} int64, got {describe(value)}")
    if isinstance(value, Mapped):  # the reader knows its labels
        return
    low, high = (int(extreme) for extreme in torch.aminmax(value))
    if low < least or high >= count:
        raise ValueError(f"{what}: expected values in 0..{count - 1} ({count} {of}), got {low}..{high}")


def check_names(what: str, names: tuple[str, ...]) -> None:
    """Raise ValueError unless names are a tuple of text, each once."""
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what}: expected a tuple of names, got {names!r}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: expected each name once, got {', '.join(twice)} more than once")


def check_part_table(categories: tuple[str, ...], table: tuple[tuple[int, ...], ...]) -> None:
    """Raise ValueError unless each category has part ids from 0 up."""
    if len(table) != len(categories) or not all(table):
        raise ValueError(
            f"parts_of_category: expected part ids for each of {len(categories)} categories, got {table!r}"
        )
    if min(min(ids) for ids in table) < 0:
        raise ValueError(f"parts_of_category: expected part ids from 0 up, got {table!r}")
