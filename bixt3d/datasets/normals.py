"""Normals estimated from xyz alone: the direction in which a point's neighbours spread least."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from bixt3d.datasets.mapped import Mapped, derive
from bixt3d.datasets.split import Split
from bixt3d.ops import gather_points, knn
from bixt3d.ops.precision import as_float64

NEIGHBORS = 16  # a point's own place included
CLOUDS = 32  # of a split at a time
CHUNK = 1 << 16  # points whose neighbours are looked at together

logger = logging.getLogger(__name__)


def estimate_normals(xyz: Tensor, neighbors: int = NEIGHBORS) -> Tensor:
    """Return unit normals of clouds, (..., N, 3) of the same dtype.

    A normal is the direction in which a point's nearest neighbours spread least. Its sign is chosen to point
    away from the cloud's centre: outward on a sphere or a car's roof, but perhaps inward where a shape folds
    back. Where neighbours lie at one place or on a line, and in clouds below three points, it is (0, 0, 0):
    not known.

    Args:
        xyz: (..., N, 3), in any units.
        neighbors: How many neighbours are looked at; a cloud with fewer points looks at all.
    """
    clouds = as_float64(xyz.reshape(-1, *xyz.shape[-2:]))  # (B, N, 3)
    if clouds.shape[1] < 3:
        return torch.zeros_like(xyz)
    clouds = clouds - clouds.mean(1, keepdim=True)
    parts = torch.split(clouds, max(1, CHUNK // clouds.shape[1]))
    return torch.cat([_estimate(part, neighbors) for part in parts]).reshape(xyz.shape).to(xyz)


def _estimate(xyz: Tensor, neighbors: int) -> Tensor:
    """Estimate normals of centred clouds (B, N, 3)."""
    index = knn(xyz, xyz, min(neighbors, xyz.shape[1]))  # (B, N, k)
    normals = []
    for part in torch.split(index, max(1, CHUNK // len(xyz)), dim=1):
        near = gather_points(xyz, part.flatten(1)).reshape(*part.shape, 3)  # (B, n, k, 3)
        spread = near - near.mean(2, keepdim=True)
        values, vectors = torch.linalg.eigh(spread.mT @ spread)  # smallest first: (B, n, 3), (B, n, 3, 3)
        flat = values[..., 1] > 1e-12 * xyz.square().sum(-1).amax()  # (B, n): neighbours span a plane
        normals.append(vectors[..., 0] * flat[..., None])
    normal = torch.cat(normals, 1)  # (B, N, 3)
    outward = (normal * xyz).sum(-1, keepdim=True) >= 0
    return torch.where(outward, normal, -normal)


def estimate_split(split: Split) -> Split:
    """Return a split with estimated normals as its first feature, of each cloud's own points."""
    from tqdm import tqdm

    logger.info("normals: the data have none; they are estimated from the neighbours of each point")
    if isinstance(split.points, Mapped):
        points = derive(
            split.points,
            "normals",
            lambda first, part: _with_normals(part, split.count, first),
            "estimating normals",
        )
    else:
        parts = tqdm(range(0, len(split), CLOUDS), desc="estimating normals", unit="batch", disable=None)
        points = torch.cat(
            [_with_normals(split.points[first : first + CLOUDS], split.count, first) for first in parts]
        )
    return replace(split, points=points, features=("normal", *split.features))


def _with_normals(points: Tensor, count: Tensor | None, first: int) -> Tensor:
    """Return clouds (s, N, C), the first of which is number ``first``, with normals: (s, N, C + 3)."""
    xyz, row = points[..., :3], torch.arange(points.shape[1], device=points.device)
    if count is None:
        normals = torch.cat([estimate_normals(part) for part in torch.split(xyz, CLOUDS)])
    else:
        own = count[first : first + len(points)].tolist()
        normals = torch.stack([estimate_normals(c[:n])[row % n] for c, n in zip(xyz, own, strict=True)])
    return torch.cat([xyz, normals, points[..., 3:]], -1)
