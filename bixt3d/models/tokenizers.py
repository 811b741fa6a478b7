"""Sinusoidal tokenizer: coordinates to token embeddings, with nothing learned but one linear map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CHANNELS_PER_AXIS = 32
BASE = 10000.0
# Radians per unit length at the highest frequency, for clouds in the unit sphere; chosen on a validation
# split of ModelNet40 (results/coord_scale.md). Where neighbourhoods are grouped they bring the fine detail,
# and one period across the cloud, the official image encoder's scale, is better.
COORD_SCALE = 10.0
GROUPED_COORD_SCALE = math.pi


class SinusoidalTokenizer(nn.Module):
    """Embed points by sines and cosines of each axis (BiXT, appendix; Vaswani et al., section 3.5).

    Channel pair i of an axis holds sin and cos of coord_scale * x * 10000 ** (-i / 16), i = 0..15; all
    axes are concatenated and mapped linearly to the token width.

    Args:
        in_dims: Axes A: 3 for xyz, 6 for xyz and normal.
        dim: Token width D.
        coord_scale: Radians per unit of coordinate at the highest frequency.
    """

    frequencies: Tensor

    def __init__(self, in_dims: int = 3, dim: int = 192, coord_scale: float = COORD_SCALE) -> None:
        """Build the frequencies and the linear map."""
        super().__init__()
        if in_dims < 1:
            raise ValueError(f"in_dims: expected a positive number of axes, got {in_dims}")
        if not coord_scale > 0 or math.isinf(coord_scale):
            raise ValueError(f"coord_scale: expected a positive number, got {coord_scale}")
        self.in_dims = in_dims
        exponent = torch.arange(0, CHANNELS_PER_AXIS, 2, dtype=torch.float64) / CHANNELS_PER_AXIS
        self.register_buffer(
            "frequencies", (coord_scale * BASE**-exponent).float(), persistent=False
        )  # (16,)
        self.project = nn.Linear(CHANNELS_PER_AXIS * in_dims, dim)
        # LeCun normal, as for the official positional projection.
        nn.init.trunc_normal_(self.project.weight, std=(CHANNELS_PER_AXIS * in_dims) ** -0.5)
        nn.init.zeros_(self.project.bias)

    def encode(self, points: Tensor) -> Tensor:
        """Return the sines and cosines alone: (B, N, A) -> (B, N, 32 A)."""
        angle = points.float()[..., None] * self.frequencies  # (B, N, A, 16)
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(2)  # (B, N, 32 A)

    def forward(self, points: Tensor) -> Tensor:
        """Map points (B, N, A) to tokens (B, N, D)."""
        tokens: Tensor = self.project(self.encode(points).to(self.frequencies.dtype))
        return tokens
