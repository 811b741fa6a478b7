"""Affine grouping of tokens over neighbourhoods, with or without fewer points after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d.models.layers import (
    BatchNorm,
    ResidualMlp,
    fold,
    is_foldable,
    is_plain,
    is_unwatched,
    residual,
    rows_at_once,
)
from bixt3d.ops.grid import grid_sample
from bixt3d.ops.grouping import CENTERS, group_neighbors, linear_of_affine_group, parts_of_affine_group
from bixt3d.ops.kdtree import SearchTree
from bixt3d.ops.neighbors import gather_points, knn
from bixt3d.ops.sampling import farthest_point_sample, random_sample
from bixt3d.ops.tracing import is_followed

SAMPLING = ("fps", "prefix", "grid", "random")


@dataclass
class Neighborhood:
    """Anchors (B, S) among the points and their neighbours (B, S, k), as indices into the points."""

    anchors: Tensor
    index: Tensor


def choose_anchors(xyz: Tensor, reduction: int, sampling: str, training: bool) -> Tensor:
    """Return every ``reduction``-th of the points (B, N, 3), chosen as `GroupingStage` says: (B, S)."""
    batch, count, _ = xyz.shape
    groups = max(1, count // reduction)
    if reduction == 1 or sampling == "prefix":
        return torch.arange(groups, device=xyz.device).expand(batch, -1)  # (B, S)
    if sampling == "grid":
        return grid_sample(xyz, groups, validate=False)
    if sampling == "random" and training:
        return random_sample(xyz, groups)
    if sampling == "random":
        return (torch.arange(groups, device=xyz.device) * count // groups).expand(batch, -1)  # (B, S)
    return farthest_point_sample(xyz, groups, validate=False)


def check_stage(sampling: str, sizes: dict[str, int], **counts: int) -> None:
    """Raise ValueError for an unknown ``sampling``, sizes below 1, or counts below 0."""
    if sampling not in SAMPLING:
        raise ValueError(f"sampling: expected one of {', '.join(SAMPLING)}, got {sampling!r}")
    if min(sizes.values()) < 1 or min(counts.values()) < 0:
        given = ", ".join(f"{name}={value}" for name, value in {**sizes, **counts}.items())
        raise ValueError(f"expected sizes of at least 1, got {given}")


class GroupingStage(nn.Module):
    """Refine tokens by their neighbourhoods (PointMLP, section 3.2; BiXT, section 4.4).

    T <- shortcut(T at the anchors) + linear(max over neighbours of MLP(affine group of T)). With a
    reduction the anchors are a sample of the points; without, they are all points.

    Args:
        in_dim: Width of the tokens before.
        out_dim: Width of the tokens after.
        neighbors: Neighbours k of an anchor.
        reduction: Points per anchor; 1 keeps all points.
        hidden: Width inside; ``out_dim`` if None.
        blocks: Residual MLP blocks on every neighbour. With 0 the maximum is taken right after the linear
            map, before norm and ReLU, and no neighbour costs more than a gather.
        expansion: Hidden width of a block, as a multiple of its width.
        center: ``"anchor"`` or ``"center"``, as in `bixt3d.ops.affine_group`.
        use_xyz: Append xyz to the neighbours' features.
        sampling: ``"fps"``; ``"prefix"`` for clouds whose points already stand in farthest-point order:
            the first S points then are the sample; ``"grid"`` for large clouds, see `bixt3d.ops.grid_sample`;
            or ``"random"``, which in evaluation takes evenly spaced points of the cloud's own order.
        fused: Map before the gather, if the linear map is plain; False is the plain twin.

    Raises:
        ValueError: For an unknown option or sizes below 1.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        neighbors: int = 24,
        reduction: int = 1,
        hidden: int | None = None,
        blocks: int = 1,
        expansion: float = 1.0,
        center: str = "anchor",
        use_xyz: bool = False,
        sampling: str = "fps",
        fused: bool = True,
    ) -> None:
        """Build the affine parameters, the per-neighbour MLP and the map back to the tokens."""
        super().__init__()
        if center not in CENTERS:
            raise ValueError(f"center: expected one of {', '.join(CENTERS)}, got {center!r}")
        sizes = {"in_dim": in_dim, "out_dim": out_dim, "neighbors": neighbors, "reduction": reduction}
        check_stage(sampling, sizes, blocks=blocks)
        self.neighbors, self.reduction, self.sampling = int(neighbors), int(reduction), sampling
        self.center, self.use_xyz, self.fused = center, use_xyz, fused
        hidden = out_dim if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"hidden: expected a width of at least 1, got {hidden}")
        source = in_dim + 3 if use_xyz else in_dim
        self.alpha = nn.Parameter(torch.ones(source))
        self.beta = nn.Parameter(torch.zeros(source))
        self.linear = nn.Linear(source + in_dim, hidden, bias=False)
        self.norm = BatchNorm(hidden)
        self.blocks = nn.Sequential(*(ResidualMlp(hidden, expansion) for _ in range(blocks)))
        self.out = nn.Linear(hidden, out_dim)
        self.shortcut = nn.Identity() if in_dim == out_dim else nn.Linear(in_dim, out_dim)

    @property
    def least_points(self) -> int:
        """The fewest points before the stage that leave a point its neighbours."""
        return self.neighbors

    def find(self, xyz: Tensor, trees: SearchTree | None = None) -> Neighborhood:
        """Choose anchors among points (B, N, 3) and find their neighbours, by the points' trees if given."""
        anchors = choose_anchors(xyz, self.reduction, self.sampling, self.training)  # (B, S)
        query = xyz if self.reduction == 1 else gather_points(xyz, anchors)  # (B, S, 3)
        return Neighborhood(anchors, knn(query, trees or xyz, self.neighbors, validate=False))

    def forward(
        self,
        xyz: Tensor,
        tokens: Tensor,
        near: Neighborhood | None = None,
        trees: SearchTree | None = None,
    ) -> tuple[Tensor, Tensor, Neighborhood | None]:
        """Refine tokens (B, N, C_in) at xyz (B, N, 3), which others may search as well, by their ``trees``.

        Returns:
            xyz (B, S, 3), tokens (B, S, C_out), and the neighbourhood if it still holds for them, so
            that a later stage on the same points need not search again.
        """
        if near is None or self.reduction > 1 or near.index.shape[-1] != self.neighbors:
            near = self.find(xyz, trees)
        source = torch.cat([tokens, xyz.to(tokens.dtype)], -1) if self.use_xyz else tokens
        # Without a reduction every point is an anchor, in order.
        here = gather_points(tokens, near.anchors) if self.reduction > 1 else tokens  # (B, S, C_in)
        geometry = near.anchors, near.index, self.alpha, self.beta
        pool = len(self.blocks) == 0
        # The maximum without blocks comes before the norm, and does not commute with it.
        plain = self.fused and is_plain(self.linear)
        folded = plain and not pool and is_foldable(self.linear, self.norm)
        if folded and self._may_go_in_pieces(near.index):
            maps = fold(self.norm, self.linear)
            parts = parts_of_affine_group(
                source, tokens, *geometry, *maps, center=self.center, at_anchors=here
            )
            pooled = self._pool_in_pieces(*parts, near.index)  # (B, S, hidden)
        else:
            if plain:
                maps = fold(self.norm, self.linear) if folded else (self.linear.weight, self.linear.bias)
                grouped = linear_of_affine_group(
                    source, tokens, *geometry, *maps, center=self.center, pool=pool, at_anchors=here
                )
            else:
                grouped = self.linear(group_neighbors(source, tokens, *geometry, center=self.center))
                grouped = grouped.max(2).values if pool else grouped  # (B, S, k, hidden), or (B, S, hidden)
            # In training the norm's result is a view, and gradients of what changes a view are copied.
            grouped = F.relu(grouped, inplace=True) if folded else F.relu(self.norm(grouped))
            pooled = grouped if pool else self._pool(self.blocks(grouped))  # (B, S, hidden)
        if self.reduction > 1:
            xyz = gather_points(xyz, near.anchors)  # (B, S, 3)
        refined = (self.shortcut(here) + self.out(pooled)).to(tokens.dtype)  # (B, S, C_out)
        return xyz, refined, near if self.reduction == 1 else None

    def _may_go_in_pieces(self, index: Tensor) -> bool:
        # What is compiled or traced may be meant for any number of points: it cannot ask.
        if torch.is_grad_enabled() or self.training or is_followed():
            return False
        inside = list(self.blocks.modules())[1:]
        plain = all(isinstance(block, ResidualMlp) for block in self.blocks) and is_plain(*inside)
        return plain and is_unwatched(self.blocks) and index.numel() > rows_at_once(index)

    def _pool_in_pieces(self, of_point: Tensor, of_group: Tensor, index: Tensor) -> Tensor:
        """Return the groups' maxima (B, S, hidden), with `ROWS` neighbours in memory at a time.

        A neighbour is the sum of its point's row (B, N, hidden) and of its group's (B, S, hidden).
        """
        batch, count, hidden = of_point.shape
        table, shifts = of_point.reshape(-1, hidden), of_group.reshape(-1, hidden)
        first = torch.arange(batch, device=index.device)[:, None, None] * count
        rows = (index + first).view(-1, index.shape[-1])  # (B * S, k)
        out = torch.empty_like(shifts)
        maps = [block.folded() for block in self.blocks if isinstance(block, ResidualMlp)]
        pieces = (
            torch.split(part, max(1, rows_at_once(index) // rows.shape[1])) for part in (rows, shifts, out)
        )
        for near, shift, place in zip(*pieces, strict=True):
            members = F.embedding(near, table).add_(shift[:, None]).relu_()  # (groups, k, hidden)
            for weights in maps:
                assert weights is not None
                members = residual(members, *weights)
            torch.amax(members, 1, out=place)
        return out.view(batch, -1, hidden)

    def _pool(self, members: Tensor) -> Tensor:
        # The same value; only the one has the faster forward pass, and the other the faster backward.
        return members.max(2).values if self.training else members.amax(2)  # (B, S, hidden)
