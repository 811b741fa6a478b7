"""Tokenizers: points by sines and cosines of their coordinates and one linear map; images on a grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

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

    frequencies: Tensor  # float32 at least, whatever the weights become
    like: Tensor  # of the weights' dtype

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
        self.register_buffer("like", torch.empty(0), persistent=False)
        self.project = nn.Linear(CHANNELS_PER_AXIS * in_dims, dim)
        # LeCun normal, as for the official positional projection.
        nn.init.trunc_normal_(self.project.weight, std=(CHANNELS_PER_AXIS * in_dims) ** -0.5)
        nn.init.zeros_(self.project.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SinusoidalTokenizer:
        # A frequency of 8 bits is off by radians at the far end of a scene.
        exact = self.frequencies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if torch.finfo(self.frequencies.dtype).bits < 32:
            self.frequencies = exact.to(self.frequencies.device)
        return self

    def encode(self, points: Tensor) -> Tensor:
        """Return the sines and cosines alone: (B, N, A) -> (B, N, 32 A)."""
        angle = points.float()[..., None] * self.frequencies  # (B, N, A, 16)
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(2)  # (B, N, 32 A)

    def forward(self, points: Tensor) -> Tensor:
        """Map points (B, N, A) to tokens (B, N, D)."""
        tokens: Tensor = self.project(self.encode(points).to(self.like.dtype))
        return tokens


class GridTokenizer(nn.Module):
    """Embed an image on a grid, and add sines and cosines of the grid's rows and columns (BiXT, appendix).

    Positions are those of points, `SinusoidalTokenizer` with two axes: row and column count from 1 and are
    divided by the last, so that the highest frequency has one period along each side of the image.

    Args:
        in_dims: Channels C of a pixel.
        dim: Token width D.
        stride: Pixels from one token to the next, along both sides.
        embed: Maps images (B, C, H, W) to (B, D, H / stride, W / stride).
    """

    def __init__(self, in_dims: int, dim: int, stride: int, embed: nn.Module) -> None:
        """Keep the embedding and build the positions."""
        super().__init__()
        self.in_dims, self.stride, self.embed = in_dims, stride, embed
        self.positions = SinusoidalTokenizer(2, dim, 2 * math.pi)
        for module in embed.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, H, W, C) to tokens (B, h, w, D)."""
        images = images.to(self.positions.like.dtype).permute(0, 3, 1, 2)  # (B, C, H, W)
        tokens: Tensor = self.embed(images).permute(0, 2, 3, 1)  # (B, h, w, D)
        height, width = tokens.shape[1:3]
        axes = [torch.arange(1, n + 1, device=images.device) / (n + 1e-6) for n in (height, width)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)  # (h, w, 2)
        positions: Tensor = self.positions(grid.flatten(0, 1)[None])  # (1, h * w, D)
        return tokens + positions.view(1, height, width, -1)


class PatchTokenizer(GridTokenizer):
    """Patches of an image, each mapped linearly to a token; with a smaller stride they overlap (BiXT /8, /4).

    Args:
        in_dims: Channels C of a pixel.
        dim: Token width D.
        patch: Side of a patch in pixels.
        stride: Pixels from one patch to the next; ``patch`` if None.

    Raises:
        ValueError: For a stride that is larger than the patch, or whose overlap is no even number.
    """

    def __init__(self, in_dims: int = 3, dim: int = 192, patch: int = 16, stride: int | None = None) -> None:
        """Build the map and the positions."""
        stride = patch if stride is None else stride
        if not 1 <= stride <= patch or (patch - stride) % 2:
            raise ValueError(
                f"stride: expected 1 to patch={patch}, and an even number between them, got {stride}"
            )
        super().__init__(in_dims, dim, stride, nn.Conv2d(in_dims, dim, patch, stride, (patch - stride) // 2))


class ConvTokenizer(GridTokenizer):
    """Convolutions of 3 x 3 and stride 2, with batch norms, and GELU between (XCiT; BiXT, appendix).

    Their widths double up to D, from D / 8 for a stride of 16: XCiT's stem. BiXT's text says stride 1, which
    would give a token a pixel.

    Args:
        in_dims: Channels C of a pixel.
        dim: Token width D.
        stride: Pixels from one token to the next, a power of 2.

    Raises:
        ValueError: For another stride, or one that leaves no channel at the first convolution.
    """

    def __init__(self, in_dims: int = 3, dim: int = 192, stride: int = 16) -> None:
        """Build the convolutions and the positions."""
        count = stride.bit_length() - 1
        if stride < 2 or stride != 1 << count or dim < stride // 2:
            raise ValueError(f"stride: expected a power of 2, at most twice dim={dim}, got {stride}")
        widths = [in_dims, *(dim >> (count - 1 - at) for at in range(count))]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.GELU()]
        super().__init__(in_dims, dim, stride, nn.Sequential(*layers[:-1]))
