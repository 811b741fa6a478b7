"""PointNet++ with single-scale grouping (SSG), a classifier that groups points by balls.

Qi et al., "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric Space", NeurIPS 2017,
section 3 and supplementary B. Sampling and neighbours are those of `bixt3d.ops`, so that both sides of a
comparison pay the same price for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.peers.pointnet import SharedMlp
from bixt3d.ops import farthest_point_sample, gather_points, knn
from bixt3d.ops.validate import check_points


def ball_query(query: Tensor, points: Tensor, radius: float, k: int) -> Tensor:
    """Find up to ``k`` points of a ball around each query; places left over repeat the nearest.

    The paper says "all points within a radius, with an upper limit of K", not which K of more. These are the
    nearest ones, so the order of the points makes no difference; the code published with it takes those that
    are stored first. `knn` handles a chunk of queries at a time.

    Args:
        query: Centres (B, S, 3), each itself one of the points.
        points: Points to search (B, N, 3).
        radius: Of the balls.
        k: Points of a ball, at most N.

    Returns:
        Indices (B, S, k) into ``points``.
    """
    index = knn(query, points, k, validate=False)  # (B, S, k), nearest first
    squared = (gather_points(points, index) - query[:, :, None]).square().sum(-1)  # (B, S, k)
    return torch.where(squared <= radius * radius, index, index[..., :1])


class SetAbstraction(nn.Module):
    """Describe balls around sampled points: (B, N, 3), (B, N, C) -> (B, S, 3), (B, S, widths[-1])."""

    def __init__(self, num_groups: int, radius: float, k: int, in_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.num_groups, self.radius, self.k = num_groups, radius, k
        self.mlp = SharedMlp((3 + in_dim, *widths))

    def forward(self, xyz: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        anchors = farthest_point_sample(xyz, self.num_groups, validate=False)
        center = gather_points(xyz, anchors)  # (B, S, 3)
        index = ball_query(center, xyz, self.radius, self.k)  # (B, S, k)
        grouped = gather_points(xyz, index) - center[:, :, None]  # (B, S, k, 3)
        if features is not None:
            grouped = torch.cat([grouped, gather_points(features, index)], -1)  # (B, S, k, 3 + C)
        members = self.mlp(grouped.flatten(0, 2)).view(*grouped.shape[:3], -1)  # (B, S, k, C_out)
        return center, members.amax(2)  # (B, S, 3), (B, S, C_out)


class PointNet2(nn.Module):
    """PointNet++ (SSG) classifier: points (B, N, 3) -> logits (B, num_classes).

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int = 40) -> None:
        super().__init__()
        self.first = SetAbstraction(512, 0.2, 32, 0, (64, 64, 128))
        self.second = SetAbstraction(128, 0.4, 64, 128, (128, 128, 256))
        self.whole = SharedMlp((3 + 256, 256, 512, 1024))
        self.head = nn.Sequential(
            SharedMlp((1024, 512)),
            nn.Dropout(0.5),
            SharedMlp((512, 256)),
            nn.Dropout(0.5),
            nn.Linear(256, num_classes),
        )

    def forward(self, points: Tensor) -> Tensor:
        """Classify clouds.

        Args:
            points: (B, N, 3) float in the unit sphere, N >= 512.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: If `points` is not (B, N, 3), or has too few points.
        """
        check_points(points, "points", (3,), finite=False)
        count, least = points.shape[1], self.first.num_groups
        if count < least:
            raise ValueError(f"{count} points a cloud are too few: the first layer samples {least} of them")
        xyz, features = self.first(points, None)  # (B, 512, 3), (B, 512, 128)
        xyz, features = self.second(xyz, features)  # (B, 128, 3), (B, 128, 256)
        rows = torch.cat([xyz, features], -1).flatten(0, 1)  # (B*128, 259)
        described = self.whole(rows).view(*xyz.shape[:2], -1)  # (B, 128, 1024)
        logits: Tensor = self.head(described.amax(1))  # (B, num_classes)
        return logits


def pointnet2_ssg(num_classes: int = 40) -> PointNet2:
    """PointNet++ SSG as published for ModelNet40: 1,475,688 parameters at 40 classes, xyz alone."""
    return PointNet2(num_classes)
