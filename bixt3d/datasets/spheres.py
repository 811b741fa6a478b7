"""Clouds moved into the unit sphere: centred on the mean of their points, the farthest at distance 1."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bixt3d.datasets.mapped import Mapped, each_cloud
from bixt3d.ops.precision import as_float64
from bixt3d.ops.validate import describe

if TYPE_CHECKING:
    from bixt3d.datasets.split import Split

logger = logging.getLogger(__name__)

MOST = torch.finfo(torch.float32).max  # the largest number of a text file
LARGEST = 1e100  # coordinates beyond are damage; their squares would overflow
SMALLEST = 1e-150  # extent of a cloud; its square would vanish
LOST = 5e-7  # of its extent, by which rounding to float32 may not move a point of a cloud
ROUNDED = 0.02  # how far a cloud that is stored with few digits may be from centre and radius
CHUNK = 256  # clouds at a time in double precision


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
        raise ValueError(f"points: expected a float tensor (..., N, 3), got {describe(points)}")
    if not points.is_floating_point():
        raise ValueError(f"points: expected a float tensor, got {points.dtype}")
    centred = points - points.mean(dim=-2, keepdim=True)
    # the mean of equal numbers is another one by rounding, and that would become the radius
    one_place = (points.amax(dim=-2) == points.amin(dim=-2)).all(dim=-1)[..., None, None]  # (..., 1, 1)
    centred = centred.masked_fill(one_place, 0.0)
    radius = centred.norm(dim=-1).amax(dim=-1)[..., None, None]  # (..., 1, 1)
    return centred / torch.where(radius > 0, radius, 1.0)


def heights(xyz: Tensor, count: Tensor | None = None) -> Tensor:
    """Return how far each point is above its cloud's lowest along y, in radii: (..., N, 3) -> (..., N, 1).

    ``count`` says how many points each of (S, N, 3) clouds has of its own, its first.
    """
    if count is None:
        radius = (xyz - xyz.mean(dim=-2, keepdim=True)).norm(dim=-1).amax(dim=-1)[..., None, None]
    else:
        radius = _centred(xyz, count)[1]  # (S, 1, 1)
    above = xyz[..., 1:2] - xyz[..., 1:2].amin(dim=-2, keepdim=True)  # (..., N, 1)
    return above / torch.where(radius > 0, radius, 1.0)


def add_heights(points: Tensor, count: Tensor | None = None) -> Tensor:
    """Return clouds (S, N, C) with `heights` as their last channel: (S, N, C + 1)."""
    return torch.cat([points, heights(points[..., :3], count)], -1)


def at_one_place(xyz: Tensor) -> Tensor:
    """Tell of which clouds (..., N, 3) in float64 all points coincide, but for rounding: (...) bool."""
    low, high = xyz.amin(dim=-2), xyz.amax(dim=-2)
    rounding = 8 * torch.finfo(torch.float64).eps * torch.maximum(low.abs(), high.abs()).amax(dim=-1)
    return (high - low).amax(dim=-1) <= rounding.clamp(min=SMALLEST)


def check_extent(points: Tensor, where: object = "") -> None:
    """Checks that a cloud has a shape: two points apart, and no coordinates that are damage.

    Args:
        points: (N, 3) float64 xyz.
        where: What errors call the cloud.

    Raises:
        ValueError: All points coincide, or coordinates are beyond `LARGEST`.
    """
    prefix = f"{where}: " if where else ""
    if float(points.abs().max()) > LARGEST:
        raise ValueError(f"{prefix}expected coordinates up to {LARGEST:g}, got larger ones")
    if bool(at_one_place(points)):
        raise ValueError(f"{prefix}expected points at two places at least, got {len(points)} at one")


def in_unit_sphere(xyz: Tensor) -> Tensor:
    """Tell which clouds (S, N, 3) are in the unit sphere, but for rounding: (S,) bool."""
    centre = xyz.mean(1, keepdim=True)  # (S, 1, 3)
    radius = (xyz - centre).norm(dim=-1).amax(1)  # (S,)
    there: Tensor = (centre.abs().amax((1, 2)) <= ROUNDED) & ((radius - 1).abs() <= ROUNDED)
    return there


def unit_spheres(points: Tensor, count: Tensor | None = None) -> Tensor:
    """Return clouds (S, N, C) with xyz moved into the unit sphere in double precision, float32.

    Args:
        points: The clouds.
        count: How many points each has of its own, its first (S,): they alone give centre and radius.
    """
    moved = points.float() if points.dtype != torch.float32 else points.clone()
    for begin in range(0, len(points), CHUNK):
        xyz = as_float64(points[begin : begin + CHUNK, :, :3])  # (s, N, 3)
        if count is None:
            xyz = unit_sphere(xyz)
        else:
            centred, radius = _centred(xyz, count[begin : begin + CHUNK].to(xyz.device))
            xyz = centred / torch.where(radius > 0, radius, 1.0)
        moved[begin : begin + CHUNK, :, :3] = xyz.float()
    return moved


def _centred(xyz: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return clouds (S, N, 3) about the mean of their own points, and the radius of those (S, 1, 1)."""
    own = torch.arange(xyz.shape[1], device=xyz.device) < count[:, None]  # (S, N)
    weight = own[..., None].to(xyz.dtype)  # (S, N, 1)
    centred = xyz - (xyz * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    return centred, (centred.norm(dim=-1) * own).amax(-1)[:, None, None]


def normalize_split(split: Split) -> Split:
    """Move every cloud of a split into the unit sphere by its own points; a normalised split stays."""
    if split.normalized:
        return split
    points = each_cloud(split.points, unit_spheres, split.count)
    if isinstance(points, Mapped):
        return replace(split, points=points, normalized=True)
    if float((points[..., :3] - split.points[..., :3]).abs().max()) > ROUNDED:
        logger.info("clouds are centred and scaled to the unit sphere, as Predictor does it")
    return replace(split, points=points, normalized=True)


def keep_shape(points: Tensor, where: str = "") -> Tensor:
    """Round clouds (S, N, C) in float64 to float32, after moving those to their centre that lose their shape.

    Coordinates of a map are so large that float32 rounds them by centimetres and more. Others stay as they
    are, to the last bit. ``where`` is what a line in the log calls clouds that are moved; none without it.
    """
    rounded = points.float()
    if points.ndim != 3 or points.shape[2] < 3 or not points.numel():
        return rounded
    xyz = points[..., :3]
    centred = xyz - xyz.mean(1, keepdim=True)  # (S, N, 3)
    lost = (xyz - rounded[..., :3].double()).abs().amax((1, 2)) > LOST * centred.abs().amax((1, 2))  # (S,)
    lost &= torch.isfinite(rounded).all(2).all(1) & ~at_one_place(xyz)
    if bool(lost.any()):
        if where:
            logger.warning(
                "%s: coordinates are too large for float32: each cloud is moved to its centre", where
            )
        rounded[..., :3] = torch.where(lost[:, None, None], centred.float(), rounded[..., :3])
    return rounded
