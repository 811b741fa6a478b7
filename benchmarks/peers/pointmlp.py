"""PointMLP and PointMLP-elite, the classifiers BiXT is compared with.

Ma et al., "Rethinking Network Design and Local Geometry in Point Cloud: A Simple Residual MLP Framework",
ICLR 2022, section 3. Tensors are channels-last, so that a point-wise convolution is an `nn.Linear`; sampling,
neighbours and the geometric affine grouping are those of `bixt3d.ops`, so that both sides of a comparison pay
the same price for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from bixt3d.models.layers import linear_norm
from bixt3d.ops import affine_group


class PointwiseNorm(nn.Sequential):
    """Linear map, then batch norm, the same for every point; points lie in rows: (P, C_in) -> (P, C_out)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(nn.Linear(in_dim, out_dim, bias=False), nn.BatchNorm1d(out_dim))

    def forward(self, input: Tensor) -> Tensor:
        linear, norm = self
        assert isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
        return linear_norm(input, linear, norm)


class Residual(nn.Module):
    """relu(x + PN(relu(PN(x)))) with PN = `PointwiseNorm`, (P, C) -> (P, C), C * expansion wide inside."""

    def __init__(self, dim: int, expansion: float) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.inner = PointwiseNorm(dim, hidden)
        self.outer = PointwiseNorm(hidden, dim)

    def forward(self, features: Tensor) -> Tensor:
        updated: Tensor = self.outer(self.inner(features).relu_())
        return updated.add_(features).relu_()


class Stage(nn.Module):
    """Group, describe groups by a shared MLP and a maximum, refine: (B, N, C_in) -> (B, N/reducer, C_out)."""

    def __init__(
        self, in_dim: int, out_dim: int, reducer: int, k: int, pre: int, pos: int, expansion: float
    ) -> None:
        super().__init__()
        self.reducer, self.k = reducer, k
        self.alpha = nn.Parameter(torch.ones(in_dim))
        self.beta = nn.Parameter(torch.zeros(in_dim))
        self.transfer = PointwiseNorm(2 * in_dim, out_dim)
        self.pre = nn.Sequential(*(Residual(out_dim, expansion) for _ in range(pre)))
        self.pos = nn.Sequential(*(Residual(out_dim, expansion) for _ in range(pos)))

    def forward(self, xyz: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        batch, groups = xyz.shape[0], xyz.shape[1] // self.reducer
        xyz, grouped = affine_group(
            xyz, features, groups, self.k, self.alpha, self.beta, validate=False
        )  # (B, S, 3), (B, S, k, 2C)
        grouped = grouped.flatten(0, 2)  # (B*S*k, 2C)
        members = self.pre(self.transfer(grouped).relu_())  # (B*S*k, C_out)
        described = members.view(batch * groups, self.k, -1).amax(dim=1)  # (B*S, C_out)
        return xyz, self.pos(described).view(batch, groups, -1)  # (B, S, 3), (B, S, C_out)


class PointMLP(nn.Module):
    """PointMLP classifier (Ma et al. 2022, section 3): points (B, N, 3) -> logits (B, num_classes).

    Args:
        num_classes: Number of classes.
        embed_dim: Width of the first embedding.
        growth: How much each stage widens the features.
        pre_blocks: Residual blocks of each stage before the maximum over a group.
        pos_blocks: Residual blocks of each stage after the maximum.
        reducers: How many times fewer points each stage leaves.
        num_neighbors: Points in a group.
        expansion: Inner width of a residual block, as a multiple of its outer width.
        dropout: Rate in the head.

    Raises:
        ValueError: If the stage lists differ in length.
    """

    def __init__(
        self,
        *,
        num_classes: int = 40,
        embed_dim: int = 64,
        growth: Sequence[int] = (2, 2, 2, 2),
        pre_blocks: Sequence[int] = (2, 2, 2, 2),
        pos_blocks: Sequence[int] = (2, 2, 2, 2),
        reducers: Sequence[int] = (2, 2, 2, 2),
        num_neighbors: int = 24,
        expansion: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        lengths = [len(growth), len(pre_blocks), len(pos_blocks), len(reducers)]
        if len(set(lengths)) != 1:
            raise ValueError(
                "growth, pre_blocks, pos_blocks and reducers need one entry per stage each, "
                f"got {', '.join(map(str, lengths))} entries"
            )
        widths = [embed_dim]
        for factor in growth:
            widths.append(widths[-1] * factor)
        self.embed = PointwiseNorm(3, embed_dim)
        self.stages = nn.ModuleList(
            Stage(in_dim, out_dim, reducer, num_neighbors, pre, pos, expansion)
            for (in_dim, out_dim), reducer, pre, pos in zip(
                pairwise(widths), reducers, pre_blocks, pos_blocks, strict=True
            )
        )
        self.head = nn.Sequential(
            nn.Linear(widths[-1], 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, num_classes),
        )

    def forward(self, points: Tensor) -> Tensor:
        """Classify clouds.

        Args:
            points: (B, N, 3) float; at the last stage's input there must be `num_neighbors` points left,
                so N >= 192 with the default sizes.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: If `points` is not (B, N, 3), or has too few points.
        """
        if points.ndim != 3 or points.shape[-1] != 3:
            raise ValueError(f"points must be (B, N, 3), got {tuple(points.shape)}")
        self._check_num_points(points.shape[1])
        embedded = self.embed(points.flatten(0, 1)).relu_()  # (B*N, C)
        xyz, features = points, embedded.view(*points.shape[:2], -1)  # (B, N, 3), (B, N, C)
        for stage in self.stages:
            xyz, features = stage(xyz, features)  # (B, S, 3), (B, S, C)
        logits: Tensor = self.head(features.amax(dim=1))  # (B, num_classes)
        return logits

    def _check_num_points(self, num_points: int) -> None:
        remaining = num_points
        for number, stage in enumerate(self.stages, start=1):
            assert isinstance(stage, Stage)
            if remaining < max(stage.k, stage.reducer):
                raise ValueError(
                    f"{num_points} points a cloud are too few: stage {number} groups {stage.k} neighbours, "
                    f"and only {remaining} points are left there; give larger clouds or lower num_neighbors"
                )
            remaining //= stage.reducer


def pointmlp(num_classes: int = 40) -> PointMLP:
    """PointMLP as published for ModelNet40: 13,238,504 parameters at 40 classes."""
    return PointMLP(num_classes=num_classes)


def pointmlp_elite(num_classes: int = 40) -> PointMLP:
    """PointMLP-elite, the light version: 716,232 parameters at 40 classes."""
    return PointMLP(
        num_classes=num_classes,
        embed_dim=32,
        growth=(2, 2, 2, 1),
        pre_blocks=(1, 1, 2, 1),
        pos_blocks=(1, 1, 2, 1),
        expansion=0.25,
    )
