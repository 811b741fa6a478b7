"""From a few coarse tokens back to every point (PointNet++, section 3.4; PointMLP's segmentation network)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d.models.encoder import Level
from bixt3d.models.layers import NORM_EPS, BatchNorm, ResidualMlp, fold, is_foldable, is_plain, linear_norm
from bixt3d.ops import interpolate
from bixt3d.ops.kdtree import SearchTree


class PropagationStage(nn.Module):
    """Carry tokens of a coarse level to the next finer one, and join them with what that level had.

    T <- blocks(relu(BN(linear([skip, interpolated])))), where the three nearest coarse points are weighted by
    inverse squared distance.

    Args:
        skip_dim: Width of the finer level's tokens.
        coarse_dim: Width of the coarse tokens.
        out_dim: Width of what comes out.
        blocks: Residual MLP blocks.
        fused: Map the coarse tokens, of which there are fewer, and interpolate the result: a linear map
            commutes with a weighted mean. False is the plain twin.
    """

    def __init__(self, skip_dim: int, coarse_dim: int, out_dim: int, blocks: int, fused: bool = True) -> None:
        """Build the linear map of both parts, its norm, and the blocks."""
        super().__init__()
        self.skip_dim, self.fused = skip_dim, fused
        self.linear = nn.Linear(skip_dim + coarse_dim, out_dim, bias=False)
        self.norm = BatchNorm(out_dim)
        self.blocks = nn.Sequential(*(ResidualMlp(out_dim, 1.0) for _ in range(blocks)))

    def forward(self, fine: Level, coarse: Level) -> Level:
        """Map xyz and tokens of the finer level (B, N, C) and the coarse (B, S, C') to (B, N, C_out)."""
        (xyz, skip), (coarse_xyz, tokens) = fine, coarse
        if self.fused and is_plain(self.linear):
            folded = is_foldable(self.linear, self.norm)
            weight, bias = fold(self.norm, self.linear) if folded else (self.linear.weight, self.linear.bias)
            of_skip, of_coarse = torch.split(weight, [self.skip_dim, tokens.shape[-1]], 1)
            mapped = F.linear(tokens, of_coarse)  # (B, S, C_out)
            joined = F.linear(skip, of_skip, bias) + _carry(fine, coarse_xyz, mapped)
            joined = joined if folded else self.norm(joined)
        else:
            carried = _carry(fine, coarse_xyz, tokens)  # (B, N, C')
            joined = self.norm(self.linear(torch.cat([skip, carried], -1)))  # (B, N, C_out)
        out: Tensor = self.blocks(F.relu(joined))
        return xyz, out


def _carry(fine: Level, coarse: Tensor | SearchTree, tokens: Tensor) -> Tensor:
    """Interpolate tokens of the coarse level at the finer one's points, unless they are the same points."""
    return tokens if fine[0] is coarse else interpolate(fine[0], coarse, tokens, validate=False)


class PropagationDecoder(nn.Module):
    """Carry the coarsest level's tokens to all points, level by level, and add what the cloud is as a whole.

    Args:
        level_dims: Widths of the encoder's levels, finest first.
        latent_dim: Width D of the latents.
        widths: Widths of the stages, coarsest first, one less than levels.
        blocks: Residual MLP blocks in each stage.
        context_dim: Width of the global context.

    Raises:
        ValueError: If widths and levels do not fit together.
    """

    def __init__(
        self,
        level_dims: Sequence[int],
        latent_dim: int,
        widths: Sequence[int],
        blocks: int = 2,
        context_dim: int = 64,
    ) -> None:
        """Build a stage for each step from a level to the next finer one, and the context."""
        super().__init__()
        if len(widths) != len(level_dims) - 1 or min(*widths, context_dim) < 1 or blocks < 0:
            raise ValueError(
                f"decoder: expected {len(level_dims) - 1} widths of at least 1, one a layer, got "
                f"{tuple(widths)} with {blocks} blocks and a context of {context_dim}"
            )
        finer = list(level_dims[-2::-1])  # coarsest but one, ..., finest
        incoming = [level_dims[-1], *widths]
        self.stages = nn.ModuleList(
            PropagationStage(skip, coarse, width, blocks)
            for skip, coarse, width in zip(finer, incoming, widths, strict=False)
        )
        self.context = nn.ModuleList(nn.Linear(width, context_dim, bias=False) for width in level_dims)
        self.context_norms = nn.ModuleList(BatchNorm(context_dim) for _ in level_dims)
        self.latent_norm = nn.LayerNorm(latent_dim, eps=NORM_EPS)
        self.mix = nn.Linear(context_dim * len(level_dims) + latent_dim, context_dim)

    def forward(self, levels: Sequence[Level], latents: Tensor) -> tuple[Tensor, Tensor]:
        """Map the encoder's levels and latents (B, M, D) to tokens (B, N, C) and a context (B, K)."""
        current = levels[-1]
        for stage, finer in zip(self.stages, levels[-2::-1], strict=True):
            current = stage(finer, current)
        pooled = []
        for linear, norm, (_, tokens) in zip(self.context, self.context_norms, levels, strict=True):
            pooled.append(linear_norm(tokens, linear, norm, relu=True).amax(1))  # (B, K)
        whole = torch.cat([*pooled, self.latent_norm(latents.mean(1))], -1)
        return current[1], F.relu(self.mix(whole))
