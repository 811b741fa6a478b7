"""Clouds moved into the unit sphere: centred on the mean of their points, the farthest at distance 1."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bixt3d.ops.validate import describe

if TYPE_CHECKING:
    from bixt3d.datasets.split import Split

logger = logging.getLogger(__name__)

LARGEST = 1e100  # coordinates beyond are damage; their squares would overflow
SMALLEST = 1e-150  # extent of a cloud; its square would vanish
LOST = 1e-4  # of its extent, by which rounding may not move a point of a cloud
ROUNDED = 0.02  # how far a cloud that is stored with few digits may be from centre and radius


def unit_sphere(points: Tensor) -> Tensor:
    """Centres each cloud on the mean of its points and scales it so that the farthest point is at distance 1.

    Args:
        points: (..., N, 3) float xyz; a cloud whose points all coincide becomes zeros.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: `points` is not a float tensor (..., N, 3) with at least one point.
    """
    if not isinstance(points, Tensor) or points.ndim < 2 or points.shape[-1] != 3 or points.shape[-2] == 0:
        raise ValueError(f"points: expected a float tensor (..., N, 3), came {describe(points)}")
    if not points.is_floating_point():
        raise ValueError(f"points: expected a float tensor, came {points.dtype}")
    centred = points - points.mean(dim=-2, keepdim=True)
    # the mean of equal numbers is another one by rounding, and that would become the radius
    one_place = (points.amax(dim=-2) == points.amin(dim=-2)).all(dim=-1)[..., None, None]  # (..., 1, 1)
    centred = centred.masked_fill(one_place, 0.0)
    radius = centred.norm(dim=-1).amax(dim=-1)[..., None, None]  # (..., 1, 1)
    return centred / torch.where(radius > 0, radius, 1.0)


def heights(xyz: Tensor) -> Tensor:
    """Return how far each point is above its cloud's lowest along y, in radii: (..., N, 3) -> (..., N, 1)."""
    radius = (xyz - xyz.mean(dim=-2, keepdim=True)).norm(dim=-1).amax(dim=-1)[..., None, None]  # (..., 1, 1)
    above = xyz[..., 1:2] - xyz[..., 1:2].amin(dim=-2, keepdim=True)  # (..., N, 1)
    return above / torch.where(radius > 0, radius, 1.0)


def check_extent(points: Tensor) -> None:
    """Checks that a cloud has a shape: two points that are apart by more than rounding.

    Args:
        points: (N, 3) float64 xyz.

    Raises:
        ValueError: All points coincide.
    """
    low, high = points.amin(dim=0), points.amax(dim=0)
    rounding = 8 * torch.finfo(torch.float64).eps * float(torch.maximum(low.abs(), high.abs()).max())
    if float((high - low).max()) <= max(rounding, SMALLEST):
        raise ValueError(f"expected points at two places at least, came {len(points)} at one")


def normalize_split(split: Split, chunk: int = 256) -> Split:
    """Centre and scale every cloud of a split to the unit sphere, by its own points.

    Args:
        split: The split; one that is normalised already is returned as it is.
        chunk: Clouds at a time, in double precision.
    """
    if split.normalized:
        return split
    points, most = split.points.clone(), 0.0
    for begin in range(0, len(split), chunk):
        xyz = split.points[begin : begin + chunk, :, :3].double()  # (s, N, 3)
        if split.count is None:
            moved = unit_sphere(xyz)
        else:
            own = torch.arange(split.num_points, device=xyz.device) < split.count[begin : begin + chunk, None]
            moved = _own_spheres(xyz, own)
        points[begin : begin + chunk, :, :3] = moved.float()
        most = max(most, float((moved - xyz).abs().max()))
    if most > ROUNDED:
        logger.info("clouds are centred and scaled to the unit sphere, as Predictor does it")
    return replace(split, points=points, normalized=True)


def _own_spheres(xyz: Tensor, own: Tensor) -> Tensor:
    """Do what `unit_sphere` does by the points (s, N, 3) that are a cloud's own (s, N), for all."""
    weight = own[..., None].to(xyz.dtype)  # (s, N, 1)
    centred = xyz - (xyz * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    radius = (centred.norm(dim=-1) * own).amax(-1)[:, None, None]  # (s, 1, 1)
    return centred / torch.where(radius > 0, radius, 1.0)


def keep_shape(points: Any) -> Any:
    """Move clouds to their centres where single precision would lose their shape, such as on a map.

    Args:
        points: An array (S, N, C) in double precision or of whole numbers; others are returned as they are.
    """
    wide = isinstance(points, np.ndarray) and points.dtype.kind in "fiu" and points.dtype.itemsize >= 4
    if not wide or points.dtype == np.float32 or points.ndim != 3 or points.shape[2] < 3 or not points.size:
        return points
    xyz = points[..., :3].astype(np.promote_types(points.dtype, np.float64), copy=False)
    with np.errstate(invalid="ignore", over="ignore"):  # of NaN and infinity, which are refused elsewhere
        centred = xyz - xyz.mean(axis=1, keepdims=True)
        size, extent = (np.abs(values).max(axis=(1, 2)) for values in (xyz, centred))  # (S,) each
        # Of a cloud at one place nothing is lost.
        lost = (np.finfo(np.float32).eps * size > LOST * extent) & (extent > 1e-12 * size)
        if not lost.any():
            return points
    logger.warning("points: coordinates are too large for float32: each cloud is moved to its centre")
    xyz = np.where(lost[:, None, None], centred, xyz)
    return np.concatenate([xyz, points[..., 3:]], axis=-1)


def is_normalized(points: Tensor) -> bool:
    """Tell whether all clouds (S, N, C) are in the unit sphere, but for rounding."""
    xyz = points[..., :3]
    centre = xyz.mean(1, keepdim=True)  # (S, 1, 3)
    radius = (xyz - centre).norm(dim=-1).amax(1)  # (S,)
    return bool((centre.abs().amax() <= ROUNDED) & ((radius - 1).abs().amax() <= ROUNDED))
