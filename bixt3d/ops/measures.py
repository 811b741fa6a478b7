"""How much a model's latents differ in what they attend to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bixt3d.ops.precision import widest
from bixt3d.ops.validate import describe


def attention_diversity(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Measure how alike the latents' attention maps are, and how evenly they spread, in each cloud and head.

    Args:
        maps: Attention of the latents over the tokens (B, H, M, N); every row sums to one.

    Returns:
        The mean Pearson correlation between the maps of two latents (B, H), 1 if all look at the same tokens
        and near 0 if they have nothing to do with each other; a map that is even correlates with none. And
        the mean entropy of a map (B, H), as a share of even attention's: 0 for a map of one token.

    Raises:
        ValueError: For another shape, fewer than two latents, or fewer than two tokens.
    """
    if maps.ndim != 4 or min(maps.shape[2:]) < 2:
        raise ValueError(
            f"expected attention (B, H, M, N) of two or more latents and tokens, got {describe(maps)}"
        )
    maps = maps.to(widest(maps.device))
    latents, tokens = maps.shape[-2:]
    centred = maps - maps.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    own = unit.square().sum((-1, -2))  # (B, H)
    # The sum over all pairs of latents is the square of the sum.
    pairs = unit.sum(-2).square().sum(-1) - own  # (B, H)
    entropy = torch.special.entr(maps).sum(-1).mean(-1) / math.log(tokens)  # (B, H)
    return pairs / (latents * (latents - 1)), entropy
