"""Heads: what is read off the latents and tokens at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bixt3d.models.attention import NORM_EPS

POOL = ("latents", "both")


class ClassificationHead(nn.Module):
    """LayerNorm and a linear map on the mean latent (BiXT, official code).

    Args:
        dim: Width of the latents.
        num_classes: Number of classes K.
        pool: ``"latents"``: their mean. ``"both"``: also the maximum over the tokens, concatenated.
        token_dim: Width of the tokens, for ``"both"``.
        dropout: Dropout before the linear map.

    Raises:
        ValueError: For an unknown ``pool`` or fewer than one class.
    """

    def __init__(
        self, dim: int, num_classes: int, pool: str = "latents", token_dim: int = 0, dropout: float = 0.0
    ) -> None:
        """Build the norm and the linear map, which starts at zero."""
        super().__init__()
        if pool not in POOL:
            raise ValueError(f"pool: expected one of {', '.join(POOL)}, got {pool!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        self.pool = pool
        width = dim + token_dim if pool == "both" else dim
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, latents: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Map latents (B, M, D), or their mean (B, D), and for ``"both"`` tokens (B, N, C) to (B, K)."""
        pooled = latents.mean(1) if latents.ndim == 3 else latents  # (B, D)
        if self.pool == "both":
            if tokens is None:
                raise ValueError('pool="both" reads the tokens as well: pass head(latents, tokens)')
            pooled = torch.cat([pooled, tokens.amax(1)], -1)  # (B, D + C)
        logits: Tensor = self.linear(self.dropout(self.norm(pooled)))
        return logits
