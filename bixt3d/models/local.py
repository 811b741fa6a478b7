"""Local refinement of tokens that lie on a grid, as those of an image do: XCiT's LPI, as BiXT changed it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d.models.layers import NORM_EPS, DropPath


class Grid(NamedTuple):
    """Where tokens lie on a grid, in the place of the trees by which stages search among points.

    Attributes:
        points: Their xyz (B, N, 3), row by row: x to the right, y up, z zero, from -1 to 1.
        shape: Rows h and columns w; N = h * w.
    """

    points: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, tokens: Tensor) -> Grid:
        """Return the grid of tokens (B, h, w, D)."""
        batch, height, width, _ = tokens.shape
        down, right = (
            (2 * torch.arange(n, device=tokens.device, dtype=torch.float32) + 1) / n - 1
            for n in (height, width)
        )
        y, x = torch.meshgrid(-down, right, indexing="ij")  # (h, w) each
        xyz = torch.stack([x, y, torch.zeros_like(x)], -1).flatten(0, 1)  # (N, 3)
        return cls(xyz.expand(batch, -1, -1), (height, width))


class LocalRefinement(nn.Module):
    """Refine tokens by their neighbours on the grid; it stands where `GroupingStage` does for points.

    T <- T + conv(LN(GELU(conv(LN(T))))), with two depth-wise 3 x 3 convolutions.

    Args:
        dim: Width of the tokens.
        drop_path: Stochastic depth.
    """

    reduction = 1

    def __init__(self, dim: int, drop_path: float = 0.0) -> None:
        """Build the norms and the convolutions."""
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.inner_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, xyz: Tensor, tokens: Tensor, near: None, grid: Grid) -> tuple[Tensor, Tensor, None]:
        """Refine tokens (B, N, D) of a grid; arguments and results are those of `GroupingStage`."""
        image = self.norm(tokens).unflatten(1, grid.shape).permute(0, 3, 1, 2)  # (B, D, h, w)
        inner = F.gelu(self.conv1(image)).permute(0, 2, 3, 1)  # (B, h, w, D)
        update = self.conv2(self.inner_norm(inner).permute(0, 3, 1, 2))  # (B, D, h, w)
        return xyz, tokens + self.drop_path(update.flatten(2).transpose(1, 2)), None
