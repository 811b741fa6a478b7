"""Heads: logits of a cloud or of every point, from the latents and tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bixt3d.models.layers import NORM_EPS, BatchNorm

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
        self.pool, self.num_outputs = pool, at_least_one("num_classes", num_classes)
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

    def renewed(self, num_classes: int) -> ClassificationHead:
        """Return a fresh head for other classes that pools alike, on the same device and in the same mode."""
        old = self.norm.weight
        new = ClassificationHead(len(old), num_classes, dropout=self.dropout.p)  # whatever it pools
        new.pool = self.pool
        return new.to(old).train(self.training)


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
        self.num_outputs, self.width = at_least_one("num_parts", num_parts), hidden or dim
        self.before = (
            nn.Sequential(nn.Linear(dim, hidden, bias=False), BatchNorm(hidden))
            if hidden
            else nn.LayerNorm(dim, eps=NORM_EPS)
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self.width, num_parts)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, C) to logits (B, N, P)."""
        logits: Tensor = self.linear(self.dropout(self.before(tokens)))
        return logits

    def reset(self, num_parts: int) -> None:
        """Put a new last map for ``num_parts`` in place of the old, starting at zero."""
        new = nn.Linear(self.width, at_least_one("num_parts", num_parts))
        nn.init.zeros_(new.weight)
        nn.init.zeros_(new.bias)
        before = next(self.before.parameters())
        self.linear, self.num_outputs = new.to(before).train(self.linear.training), new.out_features


def at_least_one(name: str, number: int) -> int:
    """Return a number, also NumPy's, as an int, or raise ValueError below 1."""
    if number < 1:
        raise ValueError(f"{name}: expected at least 1, got {number}")
    return int(number)
