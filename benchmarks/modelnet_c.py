"""ModelNet-C (Ren et al. 2022): its seven corruptions by their published definitions, and what draws them.

Each is a pure function of xyz (B, N, 3) in the unit sphere, the level 1 to 5 and an explicit generator; all
clouds of a batch end with as many points.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from bixt3d.datasets.spheres import unit_sphere
from bixt3d.ops import gather_points

MOST_CLUSTERS = 7  # of the local corruptions


def even(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Draw numbers evenly between two."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def signs(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw -1 and 1."""
    return 2.0 * torch.randint(2, shape, generator=generator) - 1.0


def draw(points: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw different points of each cloud: indices (B, count)."""
    return torch.rand(points.shape[:2], generator=generator).argsort(dim=1, stable=True)[:, :count]


def multiply(points: Tensor, matrices: Tensor) -> Tensor:
    """Multiply rows (B, N, 3) by a matrix of each cloud (B, 3, 3)."""
    return torch.einsum("bni,bij->bnj", points, matrices)


def turns(angles: Tensor) -> Tensor:
    """Return Rz Ry Rx of angles (B, 3) about x, y and z in radians: (B, 3, 3)."""
    sin, cos, zero, one = angles.sin(), angles.cos(), torch.zeros(len(angles)), torch.ones(len(angles))
    (sx, sy, sz), (cx, cy, cz) = sin.unbind(1), cos.unbind(1)
    about_x = torch.stack([one, zero, zero, zero, cx, -sx, zero, sx, cx], -1).view(-1, 3, 3)
    about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).view(-1, 3, 3)
    about_z = torch.stack([cz, -sz, zero, sz, cz, zero, zero, zero, one], -1).view(-1, 3, 3)
    return about_z @ about_y @ about_x


def _cluster_sizes(batch: int, total: int, generator: Generator) -> Tensor:
    """Share ``total`` points among 1 to 7 clusters a cloud, each point as likely in any: (B, 7)."""
    clusters = torch.randint(1, MOST_CLUSTERS + 1, (batch, 1), generator=generator)  # (B, 1)
    which = (torch.rand(batch, total, generator=generator) * clusters).long()  # (B, total)
    return torch.zeros(batch, MOST_CLUSTERS, dtype=torch.int64).scatter_add_(1, which, torch.ones_like(which))


def without_clusters(points: Tensor, sizes: Tensor, generator: Generator, kept: float = 0.0) -> Tensor:
    """Delete the points nearest to a drawn one, cluster after cluster, ``sizes`` (B, c): (B, M, 3).

    ``kept``: the share of a cluster's points that stay, drawn; the sizes must then be alike.
    """
    alive = torch.ones(points.shape[:2], dtype=torch.bool)  # (B, N)
    for size in sizes.unbind(1):
        drawn = torch.rand(points.shape[:2], generator=generator).masked_fill(~alive, -1)
        centre = gather_points(points, drawn.argmax(1, keepdim=True))  # (B, 1, 3)
        apart = (points - centre).norm(dim=-1).masked_fill(~alive, math.inf)  # (B, N)
        place = apart.argsort(dim=1, stable=True).argsort(dim=1)  # (B, N), how many are nearer
        gone = place < size[:, None]
        if kept:
            lot = torch.rand(points.shape[:2], generator=generator).masked_fill(~gone, math.inf)
            gone &= lot.argsort(dim=1).argsort(dim=1) < int((1 - kept) * size[0])
        alive &= ~gone
    own = int(alive[0].sum())
    return gather_points(points, (~alive).byte().argsort(dim=1, stable=True)[:, :own])


def stretch(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Scale each axis by U(1/s, s), s = 1.6 to 2, and move the cloud into the unit sphere again."""
    most = 1.5 + 0.1 * level
    return unit_sphere(points * even((len(points), 1, 3), 1 / most, most, generator))


def jitter(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move points by normal noise of deviation 0.01 to 0.05."""
    return points + 0.01 * level * torch.randn(points.shape, generator=generator)


def rotate(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Turn about x, y and z by angles up to 6 to 30 degrees."""
    reach = math.pi / 30 * level
    return multiply(points, turns(even((len(points), 3), -reach, reach, generator)))


def drop_global(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Leave out 25 to 75 % of the points."""
    own = points.shape[1]
    return gather_points(points, draw(points, int(own * (1 - (0.125 + 0.125 * level))), generator))


def drop_local(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Leave out 100 to 500 points in 1 to 7 clusters."""
    return without_clusters(points, _cluster_sizes(len(points), 100 * level, generator), generator)


def add_global(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add 10 to 50 points, even in the unit ball."""
    stray = torch.randn(len(points), 10 * level, 3, generator=generator)
    radius = torch.rand(len(points), 10 * level, 1, generator=generator) ** (1 / 3)
    return torch.cat([points, radius * stray / stray.norm(dim=-1, keepdim=True)], 1)


def add_local(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add 100 to 500 points in 1 to 7 normal clusters about points of the cloud, deviation 0.075 to 0.125."""
    batch, total = len(points), 100 * level
    sizes = _cluster_sizes(batch, total, generator)  # (B, 7)
    centres = gather_points(points, draw(points, MOST_CLUSTERS, generator))  # (B, 7, 3)
    spread = even((batch, MOST_CLUSTERS), 0.075, 0.125, generator)  # (B, 7)
    which = torch.searchsorted(
        sizes.cumsum(1), torch.arange(total).expand(batch, -1).contiguous(), right=True
    )
    noise = torch.randn(batch, total, 3, generator=generator)
    added = gather_points(centres, which) + spread.gather(1, which)[..., None] * noise  # (B, total, 3)
    square = added.square().sum(-1, keepdim=True)
    return torch.cat([points, torch.where(square > 1, added / square, added)], 1)
