"""PointNet, the classifier that reads every point alone.

Qi et al., "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation", CVPR 2017,
section 4 and supplementary C. Channels-last, so that a convolution over single points is an `nn.Linear`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from bixt3d.models.layers import linear_norm
from bixt3d.ops.validate import check_points


class SharedMlp(nn.Sequential):
    """relu(BN(linear(x))) for each width, the same for every row: (P, widths[0]) -> (P, widths[-1])."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(
            *(
                nn.Sequential(nn.Linear(in_dim, out_dim), nn.BatchNorm1d(out_dim), nn.ReLU(inplace=True))
                for in_dim, out_dim in pairwise(widths)
            )
        )

    def forward(self, input: Tensor) -> Tensor:
        for layer in self:
            linear, norm, relu = layer.children()
            assert isinstance(linear, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
            input = relu(linear_norm(input, linear, norm))
        return input


class TransformNet(nn.Module):
    """Predict a matrix for every cloud from its points, the T-Net: (B, N, C) -> (B, C, C).

    It starts at the identity: the last map has weights of zero.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.points = SharedMlp((dim, 64, 128, 1024))
        self.cloud = SharedMlp((1024, 512, 256))
        self.matrix = nn.Linear(256, dim * dim)
        nn.init.zeros_(self.matrix.weight)
        with torch.no_grad():
            self.matrix.bias.copy_(torch.eye(dim).flatten())

    def forward(self, features: Tensor) -> Tensor:
        batch, count, _ = features.shape
        rows = self.points(features.flatten(0, 1))  # (B*N, 1024)
        matrix: Tensor = self.matrix(self.cloud(rows.view(batch, count, -1).amax(1)))  # (B, C*C)
        return matrix.view(batch, self.dim, self.dim)  # (B, C, C)


class PointNet(nn.Module):
    """PointNet classifier with both T-Nets: points (B, N, 3) -> logits (B, num_classes).

    In the paper's training, 0.001 times the squared distance of A A^T of the second T-Net from the identity
    is added to the loss. That is a matter of the loss, and not in here.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int = 40) -> None:
        super().__init__()
        self.align_points = TransformNet(3)
        self.embed = SharedMlp((3, 64, 64))
        self.align_features = TransformNet(64)
        self.describe = SharedMlp((64, 64, 128, 1024))
        self.head = nn.Sequential(
            SharedMlp((1024, 512, 256)),
            nn.Dropout(0.3),  # "keep ratio 0.7"
            nn.Linear(256, num_classes),
        )

    def forward(self, points: Tensor) -> Tensor:
        """Classify clouds.

        Args:
            points: (B, N, 3) float.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: If `points` is not (B, N, 3).
        """
        check_points(points, "points", (3,), finite=False)
        batch, count, _ = points.shape
        aligned = points @ self.align_points(points)  # (B, N, 3)
        features = self.embed(aligned.flatten(0, 1)).view(batch, count, -1)  # (B, N, 64)
        features = features @ self.align_features(features)  # (B, N, 64)
        described = self.describe(features.flatten(0, 1)).view(batch, count, -1)  # (B, N, 1024)
        logits: Tensor = self.head(described.amax(1))  # (B, num_classes)
        return logits


def pointnet(num_classes: int = 40) -> PointNet:
    """PointNet as published for ModelNet40: 3,480,049 parameters at 40 classes (the paper says 3.5 M)."""
    return PointNet(num_classes)
