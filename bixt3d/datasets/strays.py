"""Stray points of clouds, found by how far their nearest neighbours are, and clouds scaled by the others."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bixt3d.datasets.mapped import Mapped, each_cloud
from bixt3d.datasets.spheres import CHUNK, normalize_split
from bixt3d.datasets.split import Split
from bixt3d.ops import gather_points, knn
from bixt3d.ops.precision import as_float64
from bixt3d.ops.tracing import is_exporting

NORMALIZATIONS = ("max", "robust")
NEIGHBORS = 8
FAR = 1.7  # times as far as half of the points are from their neighbours: chosen in results/robust.md
MOST = 0.4  # of the points: where more are so far, the cloud is uneven, and none of it is astray


def stray_points(xyz: Tensor) -> Tensor:
    """Say which points stand apart from their cloud: (B, N, 3) -> (B, N) bool.

    A point is astray whose `NEIGHBORS` nearest points are, in the mean, more than `FAR` times as far as those
    of half of the points are. Of points at one place the first is judged, and the others go with it.
    """
    count = xyz.shape[1]
    near = min(NEIGHBORS, count - 1)
    if near < 1:
        return torch.zeros(xyz.shape[:2], dtype=torch.bool, device=xyz.device)
    row = torch.arange(count, device=xyz.device)
    first = knn(xyz, xyz, 1, validate=False)[..., 0]  # (B, N): of points at one place the lowest
    repeats, places = first != row, xyz  # (B, N)
    if is_exporting() or bool(repeats.any()):  # put them where they are nobody's neighbour
        away = 1e3 * (1 + xyz.abs().amax((1, 2), keepdim=True)) * (1 + row[:, None])  # (B, N, 1)
        places = torch.where(repeats[..., None], away.to(xyz.dtype), xyz)
    index = knn(places, places, near + 1, validate=False)[..., 1:]  # (B, N, k)
    others = gather_points(places, index.flatten(1)).view(*index.shape, 3)  # (B, N, k, 3)
    apart = (others - places[:, :, None]).norm(dim=-1).mean(-1)  # (B, N)
    judged = ~repeats
    half = (judged.sum(1, keepdim=True) - 1) // 2  # (B, 1)
    usual = apart.masked_fill(repeats, torch.inf).sort(1).values.gather(1, half)  # (B, 1)
    found = (apart > FAR * usual) & judged
    found = found & (found.sum(1, keepdim=True) <= MOST * judged.sum(1, keepdim=True))
    stray: Tensor = found.gather(1, first)
    return stray


def robust_sphere(xyz: Tensor, judged: Tensor, stray: Tensor) -> Tensor:
    """Centre and scale clouds (B, N, 3) so that of some of their points the farthest is at distance 1.

    Args:
        xyz: The clouds.
        judged: Points of them (B, M, 3), on whose mean they are centred.
        stray: Which of those are left out (B, M).
    """
    kept = (~stray)[..., None].to(xyz.dtype)  # (B, M, 1)
    centre = (judged * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)  # (B, 1, 3)
    radius = ((judged - centre).norm(dim=-1) * kept[..., 0]).amax(1)[:, None, None]
    return (xyz - centre) / torch.where(radius > 0, radius, 1.0)


def kept_rows(gone: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows that are not ``gone`` (B, N), again and again (B, N), and their number (B,)."""
    count = (~gone).sum(1)  # (B,)
    row = torch.arange(gone.shape[1], device=gone.device) % count[:, None]  # (B, N)
    return gone.byte().argsort(dim=1, stable=True).gather(1, row), count


def normalize_as(split: Split, normalization: str, drop: bool = False) -> Split:
    """Move the clouds of a split into the unit sphere, as `Preprocess` says; `normalize_split` for ``"max"``.

    Args:
        split: The clouds.
        normalization: One of `NORMALIZATIONS`.
        drop: Of ``"robust"``, leave the stray points out; a cloud's others are then repeated in their place.
    """
    if normalization == "max":
        return normalize_split(split)
    if isinstance(split.points, Mapped):
        points = each_cloud(split.points, partial(_points, drop=drop), split.count)
        return replace(split, points=points, normalized=True)
    found, counts, parts = [], [], []
    for begin in range(0, len(split), CHUNK):
        rows = slice(begin, begin + CHUNK)
        moved, gone = _moved(split.points[rows], None if split.count is None else split.count[rows])
        if drop:
            index, own = kept_rows(gone)
            moved = gather_points(moved, index)
            counts.append(own)
            if split.parts is not None:
                parts.append(split.parts[rows].gather(1, index))
        found.append(moved)
    split = replace(split, points=torch.cat(found), normalized=True)
    if not drop:
        return split
    count = torch.cat(counts)
    return replace(
        split,
        count=count if bool((count < split.num_points).any()) else None,
        parts=torch.cat(parts) if parts else None,
    )


def _moved(points: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return clouds (S, N, C) in the sphere of what is not astray, and which rows are not to be kept."""
    xyz = as_float64(points[..., :3])
    gone = stray_points(xyz)  # (S, N)
    if count is not None:
        gone = gone | (torch.arange(points.shape[1], device=gone.device) >= count[:, None].to(gone.device))
    moved = torch.cat([robust_sphere(xyz, xyz, gone).to(points), points[..., 3:]], -1)
    return moved, gone.to(points.device)


def _points(points: Tensor, count: Tensor | None = None, drop: bool = False) -> Tensor:
    moved, gone = _moved(points, count)
    return gather_points(moved, kept_rows(gone)[0]) if drop else moved
