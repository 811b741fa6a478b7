"""Attention modules and the blocks around them: pre-norm, residual, stochastic depth (BiXT, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d.ops.attention import attention, attention_map, bidirectional_attention, similarity

NORM_EPS = 1e-6
# Rows of a feed-forward block in evaluation. Its inside is four times as wide as what it maps: for a million
# tokens that would be all the memory of a laptop, and a CPU has small pieces of memory at hand.
ROWS = {"cpu": 1 << 12, "cuda": 1 << 17}


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Split a fused projection (B, N, parts * D) into ``parts`` tensors (B, H, N, d)."""
    batch, count, width = x.shape
    x = x.view(batch, count, parts, heads, width // (parts * heads))  # (B, N, parts, H, d)
    return x.permute(2, 0, 3, 1, 4).unbind(0)  # parts x (B, H, N, d)


def merge_heads(x: Tensor) -> Tensor:
    """Concatenate heads: (B, H, N, d) -> (B, N, H * d)."""
    return x.transpose(1, 2).flatten(2)  # (B, N, H * d)


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a sample's whole residual branch with probability ``rate``."""

    def __init__(self, rate: float = 0.0) -> None:
        """Drop with probability ``rate``, in [0, 1)."""
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, ...) with dropped samples zeroed and kept ones scaled by 1 / (1 - rate)."""
        if self.rate == 0.0 or not self.training:
            return x
        kept = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1.0 - self.rate) / (1.0 - self.rate)


class Mlp(nn.Module):
    """Two linear maps with an exact GELU between: (..., D) -> (..., D)."""

    def __init__(self, dim: int, ratio: float) -> None:
        """Use a hidden width of ``ratio * dim``."""
        super().__init__()
        hidden = round(dim * ratio)
        if hidden < 1:
            raise ValueError(f"mlp_ratio: expected a hidden width of at least 1, got {dim} * {ratio}")
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) -> (..., D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class FeedForward(nn.Module):
    """x + DropPath(Mlp(LayerNorm(x))), in evaluation for `ROWS` rows at a time."""

    def __init__(self, dim: int, ratio: float, drop_path: float) -> None:
        """Build the norm, the two linear maps and the stochastic depth."""
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) -> (B, N, D)."""
        # What is compiled or traced may be meant for any number of rows: it cannot ask.
        whole = torch.is_grad_enabled() or self.training or torch.compiler.is_compiling()
        whole = whole or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        most = ROWS.get(x.device.type, ROWS["cuda"])
        if whole or x.shape[0] * x.shape[1] <= most:
            return self._whole(x)
        rows = x.reshape(-1, x.shape[-1])  # (B * N, D)
        out = torch.empty_like(rows)
        for part, place in zip(torch.split(rows, most), torch.split(out, most), strict=True):
            place.copy_(self._whole(part))
        return out.view(x.shape)  # (B, N, D)

    def _whole(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.drop_path(self.mlp(self.norm(x)))
        return out


class BidirectionalCrossAttention(nn.Module):
    """Latents and tokens attend to each other through one similarity matrix (BiXT, section 3.2).

    L <- L + softmax_N(S) V_tok and T <- T + softmax_M(S^T) V_lat with S = R_lat R_tok^T / sqrt(d); both
    use L and T as they were before, and both are followed by a feed-forward block.
    """

    def __init__(
        self, dim: int, token_dim: int, num_heads: int, mlp_ratio: float, drop_path: float, backend: str
    ) -> None:
        """Attend at the latents' width ``dim``; the tokens may have another."""
        super().__init__()
        self.num_heads = num_heads
        self.backend = backend
        self.norm_latents = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm_tokens = nn.LayerNorm(token_dim, eps=NORM_EPS)
        self.rv_latents = nn.Linear(dim, 2 * dim)
        self.rv_tokens = nn.Linear(token_dim, 2 * dim)
        self.out_latents = nn.Linear(dim, dim)
        self.out_tokens = nn.Linear(dim, token_dim)
        self.drop_path_latents = DropPath(drop_path)
        self.drop_path_tokens = DropPath(drop_path)
        self.ffn_latents = FeedForward(dim, mlp_ratio, drop_path)
        self.ffn_tokens = FeedForward(token_dim, mlp_ratio, drop_path)

    def forward(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map latents (B, M, D), tokens (B, N, D_tok) to the same shapes."""
        latents, tokens = self._attend(latents, tokens)
        return self.ffn_latents(latents), self.ffn_tokens(tokens)

    def _attend(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        # Apart from the feed-forward blocks, so that in evaluation they have the memory of what is in here.
        to_latents, to_tokens = bidirectional_attention(*self.project(latents, tokens), backend=self.backend)
        latents = latents + self.drop_path_latents(self.out_latents(merge_heads(to_latents)))
        tokens = tokens + self.drop_path_tokens(self.out_tokens(merge_heads(to_tokens)))
        return latents, tokens

    def project(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return references and values of latents (B, H, M, d) x2 and of tokens (B, H, N, d) x2.

        The attention and its maps are made of them: a subclass that changes them changes both.
        """
        r_lat, v_lat = split_heads(self.rv_latents(self.norm_latents(latents)), 2, self.num_heads)
        r_tok, v_tok = split_heads(self.rv_tokens(self.norm_tokens(tokens)), 2, self.num_heads)
        return r_lat, v_lat, r_tok, v_tok

    def attention_map(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the latents' attention over the tokens, (B, H, M, N)."""
        r_lat, _, r_tok, _ = self.project(latents, tokens)
        return attention_map(r_lat, r_tok)

    def similarity(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the similarity of latents and tokens, the same for both directions, (B, H, M, N)."""
        r_lat, _, r_tok, _ = self.project(latents, tokens)
        return similarity(r_lat, r_tok)


class CrossAttention(nn.Module):
    """Queries attend to a context: Q <- Q + softmax(Q K^T / sqrt(d)) V, then a feed-forward block.

    It is the one-sided last layer of BiXT (queries are latents) and the building block of the
    sequential and the Perceiver baselines.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        attention_dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        """Attend at ``attention_dim``; queries have width ``dim``, the context ``context_dim``."""
        super().__init__()
        self.num_heads = num_heads
        self.norm_query = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm_context = nn.LayerNorm(context_dim, eps=NORM_EPS)
        self.query = nn.Linear(dim, attention_dim)
        self.key_value = nn.Linear(context_dim, 2 * attention_dim)
        self.out = nn.Linear(attention_dim, dim)
        self.drop_path = DropPath(drop_path)
        self.ffn = FeedForward(dim, mlp_ratio, drop_path)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map queries (B, M, D) with a context (B, N, C) to (B, M, D)."""
        (query,) = split_heads(self.query(self.norm_query(x)), 1, self.num_heads)
        key, value = split_heads(self.key_value(self.norm_context(context)), 2, self.num_heads)
        update = attention(query, key, value)  # (B, H, M, d)
        x = x + self.drop_path(self.out(merge_heads(update)))
        out: Tensor = self.ffn(x)
        return out

    def attention_map(self, x: Tensor, context: Tensor, of_context: bool = False) -> Tensor:
        """Return the queries' attention over the context, (B, H, M, N).

        With ``of_context`` the softmax of the same similarities goes along the queries instead, (B, H, N, M):
        the other direction of a bi-directional attention.
        """
        query, key = self._query_key(x, context)
        return attention_map(key, query) if of_context else attention_map(query, key)

    def similarity(self, x: Tensor, context: Tensor) -> Tensor:
        """Return the queries' similarity with the context, before the softmax, (B, H, M, N)."""
        return similarity(*self._query_key(x, context))

    def _query_key(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        (query,) = split_heads(self.query(self.norm_query(x)), 1, self.num_heads)
        key, _ = split_heads(self.key_value(self.norm_context(context)), 2, self.num_heads)
        return query, key  # (B, H, M, d), (B, H, N, d)


class SelfAttention(nn.Module):
    """x <- x + MHSA(LayerNorm(x)), then a feed-forward block: the latents among themselves."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        """Build the norm, the fused projection, the output map and the feed-forward block."""
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.drop_path = DropPath(drop_path)
        self.ffn = FeedForward(dim, mlp_ratio, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, M, D) -> (B, M, D)."""
        query, key, value = split_heads(self.qkv(self.norm(x)), 3, self.num_heads)
        update = attention(query, key, value)  # (B, H, M, d)
        x = x + self.drop_path(self.out(merge_heads(update)))
        out: Tensor = self.ffn(x)
        return out
