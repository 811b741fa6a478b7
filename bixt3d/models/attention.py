"""Attention modules: pre-norm, residual, and followed by a feed-forward block (BiXT, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from bixt3d.models.layers import NORM_EPS, DropPath, FeedForward, apply
from bixt3d.ops.attention import attention, attention_map, bidirectional_attention, similarity


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Split a packed projection (B, N, parts * D) into ``parts`` tensors (B, H, N, d)."""
    batch, count, width = x.shape
    x = x.view(batch, count, parts, heads, width // (parts * heads))  # (B, N, parts, H, d)
    return x.permute(2, 0, 3, 1, 4).unbind(0)  # parts x (B, H, N, d)


def merge_heads(x: Tensor) -> Tensor:
    """Concatenate heads: (B, H, N, d) -> (B, N, H * d)."""
    return x.transpose(1, 2).flatten(2)  # (B, N, H * d)


class CrossAttention(nn.Module):
    """Queries attend to a context: Q <- Q + softmax(Q K^T / sqrt(d)) V, then a feed-forward block.

    It is the one-sided last layer of BiXT (queries are latents, or tokens) and the building block of the
    sequential and the Perceiver baselines. ``backend`` is that of `bixt3d.ops.bidirectional_attention`.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        attention_dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
        backend: str = "auto",
    ) -> None:
        """Attend at ``attention_dim``; queries have width ``dim``, the context ``context_dim``."""
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        self.norm_query = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm_context = nn.LayerNorm(context_dim, eps=NORM_EPS)
        self.query = nn.Linear(dim, attention_dim)
        self.key_value = nn.Linear(context_dim, 2 * attention_dim)
        self.out = nn.Linear(attention_dim, dim)
        self.drop_path = DropPath(drop_path)
        self.ffn = FeedForward(dim, mlp_ratio, drop_path)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map queries (B, M, D) with a context (B, N, C) to (B, M, D)."""
        update = attention(*self.project(x, context), backend=self.backend)  # (B, H, M, d)
        x = x + self.drop_path(apply(self.out, merge_heads(update)))
        out: Tensor = self.ffn(x)
        return out

    def project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query (B, H, M, d), key and value (B, H, N, d), of which attention and maps are made."""
        (query,) = split_heads(apply(self.query, self.norm_query(x)), 1, self.num_heads)
        key, value = split_heads(apply(self.key_value, self.norm_context(context)), 2, self.num_heads)
        return query, key, value

    def attention_map(self, x: Tensor, context: Tensor, of_context: bool = False) -> Tensor:
        """Return the queries' attention over the context, (B, H, M, N).

        With ``of_context`` the softmax of the same similarities goes along the queries instead, (B, H, N, M):
        the other direction of a bi-directional attention.
        """
        query, key, _ = self.project(x, context)
        return attention_map(key, query) if of_context else attention_map(query, key)

    def similarity(self, x: Tensor, context: Tensor) -> Tensor:
        """Return the queries' similarity with the context, before the softmax, (B, H, M, N)."""
        return similarity(*self.project(x, context)[:2])


class BidirectionalCrossAttention(nn.Module):
    """Latents and tokens attend to each other through one similarity matrix (BiXT, section 3.2).

    L <- L + softmax_N(S) V_tok and T <- T + softmax_M(S^T) V_lat with S = R_lat R_tok^T / sqrt(d); both
    use L and T as they were before, and both are followed by a feed-forward block.

    Attributes:
        one_sided: The class of a last layer that updates one side alone.
    """

    one_sided: type[CrossAttention] = CrossAttention

    def __init__(
        self, dim: int, token_dim: int, num_heads: int, mlp_ratio: float, drop_path: float, backend: str
    ) -> None:
        """Attend at the latents' width ``dim``; the tokens may have another."""
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
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
        latents = latents + self.drop_path_latents(apply(self.out_latents, merge_heads(to_latents)))
        tokens = tokens + self.drop_path_tokens(apply(self.out_tokens, merge_heads(to_tokens)))
        return latents, tokens

    def project(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return references and values of latents (B, H, M, d) x2 and of tokens (B, H, N, d) x2.

        The attention and its maps are made of them: a subclass that changes them changes both.
        """
        r_lat, v_lat = split_heads(apply(self.rv_latents, self.norm_latents(latents)), 2, self.num_heads)
        r_tok, v_tok = split_heads(apply(self.rv_tokens, self.norm_tokens(tokens)), 2, self.num_heads)
        return r_lat, v_lat, r_tok, v_tok

    def attention_map(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the latents' attention over the tokens, (B, H, M, N)."""
        r_lat, _, r_tok, _ = self.project(latents, tokens)
        return attention_map(r_lat, r_tok)

    def similarity(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the similarity of latents and tokens, the same for both directions, (B, H, M, N)."""
        r_lat, _, r_tok, _ = self.project(latents, tokens)
        return similarity(r_lat, r_tok)


class SelfAttention(nn.Module):
    """x <- x + MHSA(LayerNorm(x)), then a feed-forward block: the latents among themselves."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float, backend: str = "auto"
    ) -> None:
        """Build the norm, the packed projection, the output map and the feed-forward block."""
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.drop_path = DropPath(drop_path)
        self.ffn = FeedForward(dim, mlp_ratio, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, M, D) -> (B, M, D)."""
        query, key, value = split_heads(apply(self.qkv, self.norm(x)), 3, self.num_heads)
        update = attention(query, key, value, backend=self.backend)  # (B, H, M, d)
        x = x + self.drop_path(apply(self.out, merge_heads(update)))
        out: Tensor = self.ffn(x)
        return out
