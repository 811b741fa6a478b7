"""Trunks: BiXT, its sequential variant, and the iterative Perceiver baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bixt3d.models.attention import BidirectionalCrossAttention, CrossAttention, SelfAttention
from bixt3d.models.layers import Mlp
from bixt3d.ops.attention import BACKENDS
from bixt3d.ops.backends import check_backend
from bixt3d.ops.validate import check_points

ATTENTION = ("bidirectional", "sequential")
LAST_LAYER = ("one_sided", "full", "tokens")
SHARE = ("all", "all_but_first")
LATENT_STD = 0.02
Block = type[BidirectionalCrossAttention]


class Trunk(nn.Module):
    """A stack of steps in which a few latents read many tokens.

    It owns the latents; a subclass says what a step does. A caller that changes the tokens between
    steps (grouping, hierarchy) walks the steps itself.
    """

    latents: nn.Parameter
    depth: int
    dim: int
    token_dims: tuple[int, ...]

    def start(self, batch: int) -> Tensor:
        """Return the learned latents for a batch, (B, M, D)."""
        return self.latents.expand(batch, -1, -1)

    def step(self, index: int, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Apply step ``index`` to latents (B, M, D) and tokens (B, N, D)."""
        raise NotImplementedError

    def attention_map(self, index: int, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the attention (B, H, M, N) of the latents over the tokens that step ``index`` uses."""
        raise NotImplementedError

    def similarities(self, index: int, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what both directions take the softmax of in step ``index``, None if it has but one.

        Latents read tokens by (B, H, M, N), and tokens read latents by (B, H, N, M).
        """
        return None

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (B, N, D) to latents (B, M, D) and tokens (B, N, D).

        Raises:
            ValueError: For tokens of another shape or dtype, or an empty batch.
        """
        check_points(tokens, "tokens", (self.token_dims[0],), finite=False)
        latents = self.start(tokens.shape[0])
        for index in range(self.depth):
            latents, tokens = self.step(index, latents, tokens)
        return latents, tokens


class Layer(nn.Module):
    """A layer of `BiXT`: it maps latents (B, M, D) and tokens (B, N, D_tok) to the same shapes."""

    cross: BidirectionalCrossAttention | CrossAttention

    def __init__(
        self,
        dim: int,
        token_dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
        backend: str = "auto",
        block: Block = BidirectionalCrossAttention,
    ) -> None:
        """Build the attentions."""
        super().__init__()
        self._build(dim, token_dim, block, num_heads, mlp_ratio, drop_path, backend)

    def _build(self, dim: int, token_dim: int, block: Block, *rest: Any) -> None:
        raise NotImplementedError

    def attention_map(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the attention (B, H, M, N) of the latents over the tokens."""
        return self.cross.attention_map(latents, tokens)

    def similarities(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what both directions take the softmax of, (B, H, M, N) and (B, H, N, M); None for one."""
        return None


class BidirectionalLayer(Layer):
    """Bi-directional cross-attention, then self-attention among the latents."""

    def _build(self, dim: int, token_dim: int, block: Block, *rest: Any) -> None:
        self.cross = block(dim, token_dim, *rest)
        self.among = SelfAttention(dim, *rest)

    def forward(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Update both."""
        latents, tokens = self.cross(latents, tokens)
        return self.among(latents), tokens

    def similarities(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the one similarity (B, H, M, N), and its transpose."""
        shared = self.cross.similarity(latents, tokens)
        return shared, shared.transpose(-1, -2)  # (B, H, M, N), (B, H, N, M)


class SequentialLayer(Layer):
    """Latents query the tokens, tokens query the updated latents, then the latents among themselves."""

    def _build(self, dim: int, token_dim: int, block: Block, *rest: Any) -> None:
        self.cross = CrossAttention(dim, token_dim, dim, *rest)
        self.back = CrossAttention(token_dim, dim, dim, *rest)
        self.among = SelfAttention(dim, *rest)

    def forward(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Update both."""
        latents = self.cross(latents, tokens)
        return self.among(latents), self.back(tokens, latents)

    def similarities(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the similarities of both cross-attentions, (B, H, M, N) and (B, H, N, M)."""
        first = self.cross.similarity(latents, tokens)
        return first, self.back.similarity(tokens, self.cross(latents, tokens))


class OneSidedLayer(Layer):
    """Only the latents are updated: the last layer of a model whose head reads latents alone."""

    def _build(self, dim: int, token_dim: int, block: Block, *rest: Any) -> None:
        self.cross = block.one_sided(dim, token_dim, dim, *rest)
        self.among = SelfAttention(dim, *rest)

    def forward(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Update the latents; the tokens pass unchanged."""
        return self.among(self.cross(latents, tokens)), tokens


class TokenLayer(Layer):
    """Only the tokens are updated, as by `BidirectionalLayer`, for a head that reads tokens alone."""

    cross: CrossAttention

    def _build(self, dim: int, token_dim: int, block: Block, *rest: Any) -> None:
        self.cross = block.one_sided(token_dim, dim, dim, *rest)

    def forward(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Update the tokens; the latents pass unchanged."""
        return latents, self.cross(tokens, latents)

    def attention_map(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the other direction of the same similarities, (B, H, M, N)."""
        return self.cross.attention_map(tokens, latents, of_context=True)


class BiXT(Trunk):
    """Bi-directional cross-attention Transformer (BiXT, section 3).

    Args:
        dim: Width D of the latents and of the attention.
        depth: Number of layers.
        num_heads: Attention heads.
        num_latents: Number of latents M.
        attention: ``"bidirectional"``, or ``"sequential"`` for two separate cross-attentions a layer.
        last_layer: ``"one_sided"`` leaves the tokens unchanged in the last layer, for heads that read
            the latents; ``"full"`` updates both; ``"tokens"`` leaves the latents unchanged, for heads that
            read the tokens.
        token_dim: Width of the tokens, one number or one a layer; ``dim`` if None.
        mlp_ratio: Hidden width of the feed-forward blocks, as a multiple of their width.
        drop_path: Stochastic depth at the last layer; it grows linearly from 0 at the first.
        backend: Backend of every attention, as in `bixt3d.ops.bidirectional_attention`.
        block: What bi-directional layers attend by: `BidirectionalCrossAttention` or a subclass of one's own.
            A last layer that updates one side alone attends by its ``one_sided``.
        latent_std: Standard deviation of the latents at the start. The official 0.02 is little beside what
            the first layer adds to all alike; by 1 they look at different points from the first step on.

    Raises:
        ValueError: For an unknown ``attention``, ``last_layer`` or ``backend``, sizes that do not fit
            together, or a ``block`` where no layer is bi-directional.
    """

    def __init__(
        self,
        dim: int = 192,
        depth: int = 12,
        num_heads: int = 6,
        num_latents: int = 64,
        attention: str = "bidirectional",
        last_layer: str = "one_sided",
        token_dim: int | Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        backend: str = "auto",
        block: Block = BidirectionalCrossAttention,
        latent_std: float = LATENT_STD,
    ) -> None:
        """Build the latents and the layers, initialised as in the official code."""
        super().__init__()
        _check_choice("attention", attention, ATTENTION)
        _check_choice("last_layer", last_layer, LAST_LAYER)
        if not 0 < latent_std < math.inf:
            raise ValueError(f"latent_std: expected a positive number, got {latent_std}")
        dim, depth, num_heads, num_latents = _check_sizes(dim, depth, num_heads, num_latents, drop_path)
        check_backend(backend, BACKENDS)
        if not (isinstance(block, type) and issubclass(block, BidirectionalCrossAttention)):
            raise ValueError(f"block: expected a subclass of BidirectionalCrossAttention, got {block!r:.80}")
        if attention == "sequential" and block is not BidirectionalCrossAttention:
            raise ValueError(f'block: attention="sequential" has no {block.__name__}; leave it out')
        given = np.atleast_1d(dim if token_dim is None else token_dim).tolist()
        widths = given if np.ndim(token_dim) else given * depth  # type: ignore[arg-type]
        if len(widths) != depth or min(widths) < 1:
            wanted = f"one width or {depth}, one a layer, each at least 1"
            raise ValueError(f"token_dim: expected {wanted}, got {token_dim}")
        self.dim, self.depth, self.token_dims = dim, depth, tuple(widths)
        self.latents = nn.Parameter(torch.empty(1, num_latents, dim))
        usual = SequentialLayer if attention == "sequential" else BidirectionalLayer
        kinds: list[type[Layer]] = [usual] * depth
        kinds[-1] = {"one_sided": OneSidedLayer, "tokens": TokenLayer}.get(last_layer, usual)
        rates = torch.linspace(0.0, drop_path, depth, device="cpu").tolist()
        self.layers = nn.ModuleList(
            kind(dim, width, num_heads, mlp_ratio, rate, backend, block)
            for kind, width, rate in zip(kinds, widths, rates, strict=True)
        )
        initialize(self, latent_std)

    def step(self, index: int, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Apply layer ``index`` to latents (B, M, D) and tokens (B, N, D_tok)."""
        return self.layers[index](latents, tokens)  # type: ignore[no-any-return]

    def attention_map(self, index: int, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the attention (B, H, M, N) of the latents over the tokens in layer ``index``."""
        return self.layers[index].attention_map(latents, tokens)  # type: ignore[operator, no-any-return]

    def similarities(self, index: int, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what both directions take the softmax of in layer ``index``, None if it has but one."""
        return self.layers[index].similarities(latents, tokens)  # type: ignore[operator, no-any-return]


class Perceiver(Trunk):
    """Iterative attention (Jaegle et al., 2021), the baseline of BiXT's section 4.1.

    Each block lets the latents query the tokens once and then attend among themselves several times;
    the tokens never change.

    Args:
        dim: Width D of latents and tokens.
        num_blocks: Number of blocks, one cross-attention each.
        self_attends_per_block: Self-attention blocks after each cross-attention.
        share: ``"all"`` blocks use the same cross-attention, or ``"all_but_first"``.
        num_heads: Attention heads.
        num_latents: Number of latents M.
        mlp_ratio: Hidden width of the feed-forward blocks, as a multiple of their width.
        drop_path: Stochastic depth at the last block; it grows linearly from 0. The shared
            cross-attention takes half of it.
        backend: Backend of every attention.

    Raises:
        ValueError: For an unknown ``share`` or ``backend``, or sizes that do not fit together.
    """

    def __init__(
        self,
        dim: int = 192,
        num_blocks: int = 8,
        self_attends_per_block: int = 6,
        share: str = "all",
        num_heads: int = 6,
        num_latents: int = 64,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        backend: str = "auto",
    ) -> None:
        """Build the latents, the shared cross-attentions and the self-attention blocks."""
        super().__init__()
        _check_choice("share", share, SHARE)
        sizes = _check_sizes(dim, num_blocks, num_heads, num_latents, drop_path)
        dim, num_blocks, num_heads, num_latents = sizes
        check_backend(backend, BACKENDS)
        if self_attends_per_block < 0:
            raise ValueError(f"self_attends_per_block: expected 0 or more, got {self_attends_per_block}")
        if share == "all_but_first" and num_blocks < 2:
            raise ValueError('share="all_but_first" needs at least 2 blocks, got num_blocks=1')
        self.dim, self.depth, self.token_dims = dim, num_blocks, (dim,)
        self.latents = nn.Parameter(torch.empty(1, num_latents, dim))
        crosses = 1 if share == "all" else 2
        self.cross = nn.ModuleList(
            CrossAttention(dim, dim, dim, num_heads, mlp_ratio, drop_path / 2, backend)
            for _ in range(crosses)
        )
        self.among = nn.ModuleList()
        for rate in torch.linspace(0.0, drop_path, num_blocks, device="cpu").tolist():
            options = dim, num_heads, mlp_ratio, rate, backend
            blocks = (SelfAttention(*options) for _ in range(self_attends_per_block))
            self.among.append(nn.Sequential(*blocks))
        initialize(self)

    def _cross(self, index: int) -> CrossAttention:
        cross = self.cross[min(index, len(self.cross) - 1)]
        assert isinstance(cross, CrossAttention)
        return cross

    def step(self, index: int, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Apply block ``index`` to latents (B, M, D); the tokens (B, N, D) pass unchanged."""
        latents = self._cross(index)(latents, tokens)
        return self.among[index](latents), tokens

    def attention_map(self, index: int, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return the attention (B, H, M, N) of the latents over the tokens in block ``index``."""
        return self._cross(index).attention_map(latents, tokens)


def initialize(trunk: Trunk, latent_std: float = LATENT_STD) -> None:
    """Initialise as the official code does: Xavier weights, zero biases (1e-6 noise in the MLPs)."""
    nn.init.trunc_normal_(trunk.latents, std=LATENT_STD).data.mul_(latent_std / LATENT_STD)
    for module in trunk.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for mlp in (module for module in trunk.modules() if isinstance(module, Mlp)):
        nn.init.normal_(mlp.fc1.bias, std=1e-6)
        nn.init.normal_(mlp.fc2.bias, std=1e-6)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def _check_sizes(
    dim: int, depth: int, num_heads: int, num_latents: int, drop_path: float
) -> tuple[int, int, int, int]:
    if min(dim, depth, num_heads, num_latents) < 1 or dim % num_heads:
        raise ValueError(
            "expected positive sizes and a width divisible by the heads, got "
            f"dim={dim}, depth={depth}, num_heads={num_heads}, num_latents={num_latents}"
        )
    if not 0.0 <= drop_path < 1.0:
        raise ValueError(f"drop_path: expected 0 <= drop_path < 1, got {drop_path}")
    return int(dim), int(depth), int(num_heads), int(num_latents)
