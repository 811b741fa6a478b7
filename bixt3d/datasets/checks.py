"""Checks of the fields of a split."""

from __future__ import annotations

import torch
from torch import Tensor

from bixt3d.ops.validate import describe


def check_points(points: Tensor) -> None:
    """Raise ValueError unless points are (S, N, C) float32, finite, and at least one."""
    if (
        not isinstance(points, Tensor)
        or points.ndim != 3
        or points.shape[2] < 3
        or points.dtype != torch.float32
    ):
        raise ValueError(f"points: expected (S, N, 3 + features) float32, came {describe(points)}")
    if points.numel() == 0:
        raise ValueError(
            f"points: expected at least one shape with at least one point, came {describe(points)}"
        )
    # aminmax passes NaN on and needs no second array the size of the split
    if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(points)):
        bad = (~torch.isfinite(points)).flatten(1).any(dim=1).nonzero().squeeze(1)  # (bad,)
        raise ValueError(
            f"points: expected finite numbers, came NaN or infinity in {len(bad)} shapes, first {int(bad[0])}"
        )


def check_index(what: str, value: Tensor | None, shape: tuple[int, ...], count: int, of: str) -> None:
    """Raise ValueError unless a field is int64 of that shape, with values from 0 to ``count - 1``."""
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != torch.int64:
        raise ValueError(f"{what}: expected {shape} int64, came {describe(value)}")
    low, high = (int(extreme) for extreme in torch.aminmax(value))
    if low < 0 or high >= count:
        raise ValueError(f"{what}: expected values in 0..{count - 1} ({count} {of}), came {low}..{high}")


def check_names(what: str, names: tuple[str, ...]) -> None:
    """Raise ValueError unless names are a tuple of text, each once."""
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what}: expected a tuple of names, came {names!r}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: expected each name once, came {', '.join(twice)} more than once")


def check_part_table(categories: tuple[str, ...], table: tuple[tuple[int, ...], ...]) -> None:
    """Raise ValueError unless each category has part ids from 0 up."""
    if len(table) != len(categories) or not all(table):
        raise ValueError(
            f"parts_of_category: expected part ids for each of {len(categories)} categories, came {table!r}"
        )
    if min(min(ids) for ids in table) < 0:
        raise ValueError(f"parts_of_category: expected part ids from 0 up, came {table!r}")
