"""Affine grouping of tokens over neighbourhoods, with or without fewer points after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bixt3d.ops.grouping import CENTERS, linear_of_affine_group
from bixt3d.ops.neighbors import gather_points, knn
from bixt3d.ops.sampling import farthest_point_sample

SAMPLING = ("fps", "prefix")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass
class Neighborhood:
    """Anchors (B, S) among the points and their neighbours (B, S, k), as indices into the points."""

    anchors: Tensor
    index: Tensor


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the last axis of (..., C)."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., C) -> (..., C)."""
        # As an image in channels-last order, for which torch has kernels that read rows once.
        image = input.reshape(1, -1, 1, input.shape[-1]).permute(0, 3, 1, 2)  # (1, C, R, 1)
        out = super().forward(image)
        return out.permute(0, 2, 3, 1).reshape(input.shape)  # (..., C)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim != 4:
            raise ValueError(f"expected an image (1, C, R, 1), got {tuple(input.shape)}")


def linear_norm(x: Tensor, linear: Any, norm: Any) -> Tensor:
    """Return norm(linear(x)) of (..., C); in evaluation the norm is linear as well, and both are one map."""
    if foldable(linear, norm):
        return F.linear(x, *fold(norm, linear.weight, linear.bias))
    out: Tensor = norm(linear(x))
    return out


def foldable(linear: Any, norm: Any) -> bool:
    """Return whether norm(linear(x)) is what `fold` makes of it, and nothing waits for the modules' calls."""
    if type(linear) is not nn.Linear or not isinstance(norm, _BatchNorm):
        return False  # what was put in their place may be more than its weight
    if norm.training or norm.running_mean is None or norm.weight is None:
        return False
    return not any(getattr(module, hooks) for module in (linear, norm) for hooks in HOOKS)


def fold(norm: nn.BatchNorm1d, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return weight (D, C) and bias (D,) of a linear map and the batch norm in evaluation after it."""
    assert norm.running_mean is not None and norm.running_var is not None
    exact = torch.promote_types(weight.dtype, torch.float32)
    factor = norm.weight.to(exact) * (norm.running_var.to(exact) + norm.eps).rsqrt()  # (D,)
    shift = norm.running_mean.to(exact) if bias is None else norm.running_mean.to(exact) - bias
    # Rounded once, to the map's dtype: norms may have stayed in float32 where the rest is in half precision.
    return (weight * factor[:, None]).to(weight.dtype), (norm.bias - shift * factor).to(weight.dtype)


class ResidualMlp(nn.Module):
    """relu(x + BN(linear(relu(BN(linear(x)))))), the block of PointMLP (section 3.3)."""

    def __init__(self, dim: int, expansion: float) -> None:
        """Use a hidden width of ``expansion * dim``."""
        super().__init__()
        hidden = max(1, int(dim * expansion))
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.norm1 = BatchNorm(hidden)
        self.fc2 = nn.Linear(hidden, dim, bias=False)
        self.norm2 = BatchNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) -> (..., C)."""
        inner = F.relu(linear_norm(x, self.fc1, self.norm1), inplace=not self.training)
        return F.relu(linear_norm(inner, self.fc2, self.norm2) + x, inplace=True)


class GroupingStage(nn.Module):
    """Refine tokens by their neighbourhoods (PointMLP, section 3.2; BiXT, section 4.4).

    T <- shortcut(T at the anchors) + linear(max over neighbours of MLP(affine group of T)). With a
    reduction the anchors are a sample of the points; without, they are all points.

    Args:
        in_dim: Width of the tokens that come.
        out_dim: Width of the tokens that go.
        neighbors: Neighbours k of an anchor.
        reduction: Points per anchor; 1 keeps all points.
        hidden: Width inside; ``out_dim`` if None.
        blocks: Residual MLP blocks on every neighbour. With 0 the maximum is taken right after the linear
            map, before norm and ReLU, and no neighbour costs more than a gather.
        expansion: Hidden width of a block, as a multiple of its width.
        center: ``"anchor"`` or ``"center"``, as in `bixt3d.ops.affine_group`.
        use_xyz: Append xyz to the neighbours' features.
        sampling: ``"fps"``, or ``"prefix"`` for clouds whose points already stand in farthest-point
            order: the first S points then are the sample.
        fused: Map before the gather; False is the plain twin.

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
        if sampling not in SAMPLING:
            raise ValueError(f"sampling: expected one of {', '.join(SAMPLING)}, got {sampling!r}")
        if min(in_dim, out_dim, neighbors, reduction) < 1 or blocks < 0:
            raise ValueError(
                f"expected sizes of at least 1, got in_dim={in_dim}, out_dim={out_dim}, "
                f"neighbors={neighbors}, reduction={reduction}, blocks={blocks}"
            )
        self.neighbors, self.reduction, self.sampling = neighbors, reduction, sampling
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

    def find(self, xyz: Tensor) -> Neighborhood:
        """Choose anchors among points (B, N, 3) and find their neighbours."""
        batch, count, _ = xyz.shape
        groups = max(1, count // self.reduction)
        if self.reduction == 1 or self.sampling == "prefix":
            anchors = torch.arange(groups, device=xyz.device).expand(batch, -1)  # (B, S)
        else:
            anchors = farthest_point_sample(xyz, groups, validate=False)
        query = xyz if self.reduction == 1 else gather_points(xyz, anchors)  # (B, S, 3)
        return Neighborhood(anchors, knn(query, xyz, self.neighbors, validate=False))

    def forward(
        self, xyz: Tensor, tokens: Tensor, near: Neighborhood | None = None
    ) -> tuple[Tensor, Tensor, Neighborhood | None]:
        """Refine tokens (B, N, C_in) at xyz (B, N, 3).

        Returns:
            xyz (B, S, 3), tokens (B, S, C_out), and the neighbourhood if it still holds for them, so
            that a later stage on the same points need not search again.
        """
        if near is None or self.reduction > 1 or near.index.shape[-1] != self.neighbors:
            near = self.find(xyz)
        source = torch.cat([tokens, xyz.to(tokens.dtype)], -1) if self.use_xyz else tokens
        # The maximum without blocks comes before the norm, and does not commute with it.
        folded = self.fused and len(self.blocks) > 0 and foldable(self.linear, self.norm)
        maps = fold(self.norm, self.linear.weight) if folded else (self.linear.weight,)
        grouped = linear_of_affine_group(
            source,
            tokens,
            near.anchors,
            near.index,
            self.alpha,
            self.beta,
            *maps,
            center=self.center,
            pool=len(self.blocks) == 0,
            fused=self.fused,
        )  # (B, S, k, hidden), or (B, S, hidden) without blocks
        # In training the norm's result is a view, and gradients of what changes a view are copied.
        grouped = F.relu(grouped, inplace=True) if folded else F.relu(self.norm(grouped))
        pooled = self._pool(self.blocks(grouped)) if len(self.blocks) else grouped  # (B, S, hidden)
        if self.reduction > 1:
            tokens = gather_points(tokens, near.anchors)  # (B, S, C_in)
            xyz = gather_points(xyz, near.anchors)  # (B, S, 3)
        refined = (self.shortcut(tokens) + self.out(pooled)).to(tokens.dtype)  # (B, S, C_out)
        return xyz, refined, near if self.reduction == 1 else None

    def _pool(self, members: Tensor) -> Tensor:
        # The same value; only the one has the faster forward pass, and the other the faster backward.
        return members.max(2).values if self.training else members.amax(2)  # (B, S, hidden)
