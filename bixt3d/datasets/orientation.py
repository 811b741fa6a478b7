"""The up axis: turning clouds so that y points up, as in ModelNet40, and guessing which axis does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bixt3d.datasets.features import columns_of
from bixt3d.datasets.mapped import each_cloud
from bixt3d.datasets.spheres import heights
from bixt3d.datasets.split import Split
from bixt3d.ops.precision import as_float64

AXES = ("x", "y", "z", "-x", "-y", "-z")
CANONICAL = "y"  # up in ModelNet40 and ShapeNetPart
# Where each new coordinate comes from, and its sign: rotations all, so left stays left.
_TURNS = {
    "x": ((1, 0, 2), (-1, 1, 1)),
    "y": ((0, 1, 2), (1, 1, 1)),
    "z": ((0, 2, 1), (1, 1, -1)),
    "-x": ((1, 0, 2), (1, -1, 1)),
    "-y": ((0, 1, 2), (1, -1, -1)),
    "-z": ((0, 2, 1), (1, -1, 1)),
}
FLAT = 0.3  # of the next extent: scenes are flatter than this along their up axis
CLEAR = 1.2  # times as uneven as along the next axis, for a guess


def check_up(up: str | None, *others: str) -> str | None:
    """Return an up axis, one of `AXES`, of ``others``, or None for clouds that stay as they are.

    Raises:
        ValueError: For anything else.
    """
    if up is not None and up not in (*AXES, *others):
        raise ValueError(f"up: expected one of {', '.join((*AXES, *others))}, or None, got {up!r}")
    return up


def turn(points: Tensor, up: str | None, features: Sequence[str] = ()) -> Tensor:
    """Return points turned so that their up axis becomes y; normals turn with them, other features stay.

    ``height`` is measured anew, along the new y, unless nothing turns.

    Args:
        points: (..., N, 3 + F), xyz and the features.
        up: The axis that points up now; None leaves the points as they are.
        features: Names of the features.

    Raises:
        ValueError: For an unknown axis.
    """
    if check_up(up) in (None, CANONICAL):
        return points
    index, signs = _TURNS[str(up)]
    turned, columns = points.clone(), columns_of(features)
    for place in (slice(0, 3), *(columns[name] for name in ("normal",) if name in columns)):
        turned[..., place] = points[..., place][..., list(index)] * points.new_tensor(signs)
    if "height" in columns:
        turned[..., columns["height"]] = heights(turned[..., :3])
    return turned


def turn_about(points: Tensor, up: str | None, degrees: float, features: Sequence[str] = ()) -> Tensor:
    """Return points turned about their up axis, whatever its sign; normals turn with them.

    Quarters are exact: coordinates change places and signs.

    Args:
        points: (..., N, 3 + F), xyz and the features, floating point.
        up: The axis that points up; y if None.
        degrees: The angle.
        features: Names of the features.

    Raises:
        ValueError: For an unknown axis.
    """
    check_up(up)
    if not degrees % 360:
        return points
    one, other = (place for place in range(3) if "xyz"[place] != (up or CANONICAL)[-1])
    radians = math.radians(degrees)
    sin, cos = (
        round(value) if degrees % 90 == 0 else value for value in (math.sin(radians), math.cos(radians))
    )
    turned, columns = points.clone(), columns_of(features)
    for place in (slice(0, 3), *(columns[name] for name in ("normal",) if name in columns)):
        first, second = points[..., place][..., one], points[..., place][..., other]  # (..., N)
        turned[..., place][..., one] = cos * first - sin * second
        turned[..., place][..., other] = sin * first + cos * second
    return turned


def turn_split(split: Split, up: str | None) -> Split:
    """Return a split turned so that y points up; see `turn`."""
    if check_up(up) in (None, CANONICAL):
        return split
    change = partial(_turned, up=up, features=split.features)
    return replace(split, points=each_cloud(split.points, change, split.count))


def _turned(points: Tensor, count: Tensor | None, up: str | None, features: tuple[str, ...]) -> Tensor:
    points, columns = turn(points, up, features), columns_of(features)
    if "height" in columns and count is not None:  # rows that repeat others move no centre
        points[..., columns["height"]] = heights(points[..., :3], count)
    return points


def guess_up(clouds: Sequence[Tensor]) -> str | None:
    """Guess which axis points up in clouds of one data set; None where they give no hint.

    Scenes are flat along it. Objects differ most between their foot and their top, and are nearly mirrored
    along the axes beside. Whether they stand on their heads it cannot tell.

    Args:
        clouds: xyz (N, 3) each.
    """
    if not len(clouds):
        return None
    clouds = [as_float64(xyz) for xyz in clouds]
    extents = torch.stack([xyz.amax(0) - xyz.amin(0) for xyz in clouds]).mean(0)  # (3,)
    least, next_least = extents.sort().values[:2].tolist()
    if least < FLAT * next_least:
        return AXES[int(extents.argmin())]
    uneven = torch.stack([_unevenness(xyz) for xyz in clouds]).mean(0)  # (3,)
    second, most = uneven.sort().values[1:].tolist()
    return AXES[int(uneven.argmax())] if most > CLEAR * second else None


def _unevenness(xyz: Tensor, bins: int = 20) -> Tensor:
    """Return how unlike the two halves of a cloud (N, 3) are along each axis, 0 to 1: (3,)."""
    low, high = xyz.amin(0), xyz.amax(0)
    place = ((xyz - low) / (high - low).clamp_min(1e-12) * bins).long().clamp(0, bins - 1)  # (N, 3)
    counts = torch.stack([torch.bincount(place[:, axis], minlength=bins) for axis in range(3)]).double()
    return (counts - counts.flip(1)).abs().sum(1) / (2 * len(xyz))
