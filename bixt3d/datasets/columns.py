"""Columns of scenes: drawn for training, laid over a whole scene, and moved to where models see them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from bixt3d.datasets.features import columns_of
from bixt3d.ops.precision import widest

GROUND = 0.02  # a column's height counts from where so many of its points are below: some lie too deep


def draw_column(
    points: Tensor,
    own: Tensor | None,
    radius: float,
    count: int,
    generator: Generator,
    middle: Tensor | None = None,
) -> Tensor:
    """Draw a column around a random point of each scene, and points of it: indices (B, count).

    No point comes twice while the column has others.

    Args:
        points: Scenes (B, N, C), y up.
        own: Points that each has of its own (B,), its first; None: all.
        radius: Of the column.
        count: How many points.
        generator: Draws.
        middle: Where the columns' axes are (B, 2), x and z; drawn if None.
    """
    batch, total, _ = points.shape
    device, row = points.device, torch.arange(total, device=points.device)
    rows = row.new_full((batch,), total) if own is None else own
    if middle is None:
        drawn = (torch.rand(batch, generator=generator, device=device) * rows).long()  # (B,)
        middle = points[torch.arange(batch, device=device), drawn.minimum(rows - 1)][:, [0, 2]]
    near = (points[..., [0, 2]] - middle[:, None]).square().sum(-1) <= radius**2  # (B, N)
    inside = near & (row < rows[:, None])
    inside[~inside.any(1)] = True  # a column that a caller puts where nothing is
    order = torch.rand(batch, total, generator=generator, device=device) + ~inside  # (B, N)
    order = order.topk(min(count, total), largest=False, sorted=True).indices  # (B, n)
    place = torch.arange(count, device=device) % inside.sum(1, keepdim=True).clamp(max=order.shape[1])
    return order.gather(1, place)  # (B, count)


def place_column(points: Tensor, radius: float, features: Sequence[str]) -> Tensor:
    """Return columns (B, n, C), y up, moved to the middle of their points and their ground, in radii.

    ``height``, where it is among the features, is then that above the ground, in radii.
    """
    xyz = points[..., :3]
    middle = xyz.mean(1, keepdim=True)  # (B, 1, 3)
    ground = xyz[..., 1].kthvalue(1 + int(GROUND * (xyz.shape[1] - 1)), 1).values  # (B,)
    middle[..., 1] = ground[:, None]
    placed = torch.cat([(xyz - middle) / radius, points[..., 3:]], -1)
    column = columns_of(features).get("height")
    if column is not None:
        placed[..., column] = placed[..., 1:2]
    return placed


def columns_over(
    xyz: Tensor, radius: float, step: float, corners: Tensor | None = None
) -> Iterator[tuple[Tensor, int]]:
    """Yield the points of each column of a scene (N, 3), y up, as indices, and how many its square holds.

    Columns stand in the middle of the squares of a grid that begins at the origin, ``step`` radii wide, where
    a square holds points: every point is in at least one. Which columns there are, and the order of the
    points in each, depend on the points within their reach alone.

    Args:
        xyz: The scene.
        radius: Of a column.
        step: Width of a square in radii.
        corners: Columns that reach no place between them (2, 3) are left out.
    """
    places = xyz[:, [0, 2]].to(widest(xyz.device))  # (N, 2)
    side = step * radius
    cell = (places / side).floor().long()  # (N, 2)
    low = cell.amin(0)
    wide = int((cell[:, 1] - low[1]).max()) + 1
    key = (cell[:, 0] - low[0]) * wide + (cell[:, 1] - low[1])  # (N,)
    ordered, order = key.sort(stable=True)
    held, counts = torch.unique_consecutive(ordered, return_counts=True)
    middles = ((torch.stack([held // wide, held % wide], 1) + low).to(places) + 0.5) * side  # (M, 2)
    beyond = math.ceil(1 / step - 0.5)  # squares on each side that a column reaches
    for number, middle, count in zip(held.tolist(), middles, counts.tolist(), strict=True):
        if corners is not None:
            nearest = middle.clamp(corners[0, [0, 2]], corners[1, [0, 2]])
            if float((nearest - middle).square().sum()) > radius**2:
                continue
        row, at = divmod(number, wide)
        first = torch.tensor([max(at - beyond, 0), min(at + beyond, wide - 1) + 1])
        rows = torch.arange(row - beyond, row + beyond + 1)[:, None] * wide + first  # (R, 2)
        spans = torch.searchsorted(ordered, rows.to(ordered.device)).tolist()
        near = torch.cat([order[begin:end] for begin, end in spans])
        yield near[(places[near] - middle).square().sum(1) <= radius**2], count
