"""Stray points of clouds, found by how far their nearest neighbours are, and clouds scaled by the others."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bixt3d.datasets.mapped import each_cloud, of_each, reorder
from bixt3d.datasets.spheres import normalize_split, unit_spheres
from bixt3d.datasets.split import Split
from bixt3d.ops import gather_points, knn
from bixt3d.ops.precision import as_float64
from bixt3d.ops.tracing import is_exporting

NORMALIZATIONS = ("max", "robust")
NEIGHBORS = 8
FAR = 2.0  # times as far as half of the points are from their neighbours: chosen in results/robust.md
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
    row = torch.arange(gone.shape[1], device=gone.device)  # (N,)
    order = torch.where(gone, row + len(row), row).argsort(dim=1)  # (B, N); ONNX knows no stable sort
    return order.gather(1, row % count[:, None]), count


def normalize_as(split: Split, normalization: str, drop: bool = False) -> Split:
    """Move the clouds of a split into the unit sphere, as `Preprocess` says; `normalize_split` for ``"max"``.

    Args:
        split: The clouds.
        normalization: One of `NORMALIZATIONS`.
        drop: Of ``"robust"``, leave the stray points out; a cloud's others are then repeated in their place.
    """
    if normalization == "max":
        return normalize_split(split)
    points, parts, count = split.points, split.parts, split.count
    if not drop:
        return replace(split, points=each_cloud(points, _robust_spheres, count), normalized=True)

    def rows(first: int, clouds: Tensor) -> Tensor:
        own = None if count is None else count[first : first + len(clouds)]
        index, kept = kept_rows(_gone(as_float64(clouds[..., :3]), own))
        return torch.cat([kept[:, None], index], 1).to(clouds.device, torch.int32)  # (s, 1 + N)

    what = f"strays-{NEIGHBORS}-{FAR}-{MOST}"
    found = of_each(points, what, rows, "looking for stray points").long()  # (S, 1 + N)
    kept, index = found[:, 0], found[:, 1:]
    split = replace(
        split,
        points=reorder(points, index),
        parts=None if parts is None else reorder(parts, index),
        count=kept if bool((kept < split.num_points).any()) else None,
    )
    return replace(split, points=each_cloud(split.points, unit_spheres, split.count), normalized=True)


def _gone(xyz: Tensor, count: Tensor | None) -> Tensor:
    """Say which rows of clouds (S, N, 3) are astray, or repeat others: (S, N) bool."""
    stray = stray_points(xyz)
    if count is None:
        return stray
    return stray | (torch.arange(xyz.shape[1], device=xyz.device) >= count[:, None].to(xyz.device))


def _robust_spheres(points: Tensor, count: Tensor | None = None) -> Tensor:
    xyz = as_float64(points[..., :3])
    return torch.cat([robust_sphere(xyz, xyz, _gone(xyz, count)).to(points), points[..., 3:]], -1)
