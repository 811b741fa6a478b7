"""Heads: what is read off the latents and tokens at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bixt3d.models.attention import NORM_EPS
from bixt3d.models.grouping import BatchNorm

POOL = ("latents", "tokens", "both")


class ClassificationHead(nn.Module):
    """LayerNorm and a linear map on what the cloud is pooled to, the mean latent (BiXT, official code).

    Args:
        dim: Width of the latents.
        num_classes: Number of classes K.
        pool: ``"latents"``: their mean. ``"tokens"``: the maximum over them (PointNet, section 4.2).
            ``"both"``: one beside the other.
        token_dim: Width of the tokens, for ``"tokens"`` and ``"both"``.
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
        width = {"latents": dim, "tokens": token_dim, "both": dim + token_dim}[pool]
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, latents: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Map latents (B, M, D), or their mean (B, D), and tokens (B, N, C) to logits (B, K)."""
        pooled = latents.mean(1) if latents.ndim == 3 else latents  # (B, D)
        if self.pool != "latents":
            if tokens is None:
                raise ValueError(f'pool="{self.pool}" reads the tokens as well: pass head(latents, tokens)')
            most = tokens.amax(1)  # (B, C)
            pooled = most if self.pool == "tokens" else torch.cat([pooled, most], -1)  # (B, C or D + C)
        logits: Tensor = self.linear(self.dropout(self.norm(pooled)))
        return logits


class PartHead(nn.Module):
    """Part logits from the tokens of every point: (B, N, C) -> (B, N, P).

    Without ``hidden``: LayerNorm and a linear map. With it: linear map, BatchNorm, dropout and a linear map,
    with no activation between them (PointMLP's segmentation network).

    Args:
        dim: Width of the tokens.
        num_parts: Number of parts P, over all categories.
        hidden: Width between the two maps; 0 for a single one.
        dropout: Dropout before the last map.

    Raises:
        ValueError: For fewer than one part.
    """

    def __init__(self, dim: int, num_parts: int, hidden: int = 0, dropout: float = 0.0) -> None:
        """Build the maps; the last starts at zero."""
        super().__init__()
        if num_parts < 1:
            raise ValueError(f"num_parts: expected at least 1, got {num_parts}")
        self.before = (
            nn.Sequential(nn.Linear(dim, hidden, bias=False), BatchNorm(hidden))
            if hidden
            else nn.LayerNorm(dim, eps=NORM_EPS)
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden or dim, num_parts)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, C) to logits (B, N, P)."""
        logits: Tensor = self.linear(self.dropout(self.before(tokens)))
        return logits

    def reset(self, num_parts: int) -> None:
        """Put a new last map for ``num_parts`` in place of the old, starting at zero."""
        if num_parts < 1:
            raise ValueError(f"num_parts: expected at least 1, got {num_parts}")
        new = nn.Linear(self.linear.in_features, num_parts).to(self.linear.weight)
        nn.init.zeros_(new.weight)
        nn.init.zeros_(new.bias)
        self.linear = new
