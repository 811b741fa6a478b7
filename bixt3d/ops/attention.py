"""Bi-directional cross-attention: two updates from one similarity matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bixt3d.ops import triton_attention
from bixt3d.ops.autotune import TUNER, bucket
from bixt3d.ops.backends import check_backend
from bixt3d.ops.precision import widest
from bixt3d.ops.validate import describe

BACKENDS = ("auto", "torch", "sdpa", "triton")


def bidirectional_attention(
    r_lat: Tensor,
    v_lat: Tensor,
    r_tok: Tensor,
    v_tok: Tensor,
    scale: float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Let latents and tokens attend to each other (BiXT, section 3.2).

    With the similarity S = scale * R_lat R_tok^T, the latents receive softmax(S over tokens) V_tok and
    the tokens receive softmax(S^T over latents) V_lat.

    Args:
        r_lat: Latent references (B, H, M, d).
        v_lat: Latent values (B, H, M, d).
        r_tok: Token references (B, H, N, d).
        v_tok: Token values (B, H, N, d).
        scale: Factor on the similarity; d ** -0.5 if None.
        backend: ``"torch"`` builds S once, explicitly: the definition, with memory for M x N.
            ``"sdpa"`` calls torch's fused attention twice: the same result without M x N memory.
            ``"triton"`` makes one pass over the tokens, forward and backward, in which S serves both
            directions: on a GPU, in float32, bfloat16 or float16, for up to 256 latents of up to 128
            channels. ``"auto"`` takes, on a GPU, the quicker of the last two (see `bixt3d.ops.autotune`);
            elsewhere the fused calls, but for training on a CPU the explicit matrix where it is faster: in
            half precision, or while it is small.

    Returns:
        Latent update (B, H, M, d) and token update (B, H, N, d).

    Raises:
        ValueError: For shapes, dtypes or devices that do not fit together, sizes beyond those of the backend,
            or an unknown backend.
        ImportError: When Triton is asked for and not installed.
        RuntimeError: When Triton is asked for on another device than a GPU.
    """
    check_backend(backend, BACKENDS)
    _check(r_lat, v_lat, r_tok, v_tok)
    tensors, factor = (r_lat, v_lat, r_tok, v_tok), r_lat.shape[-1] ** -0.5 if scale is None else scale
    if backend == "triton":
        return triton_attention.bidirectional(*tensors, factor)
    if backend == "torch" or (backend == "auto" and _explicit_is_faster(r_lat, r_tok)):
        return _explicit(*tensors, factor)

    def fused(r_lat: Tensor, v_lat: Tensor, r_tok: Tensor, v_tok: Tensor) -> tuple[Tensor, Tensor]:
        return (
            F.scaled_dot_product_attention(r_lat, r_tok, v_tok, scale=factor),
            F.scaled_dot_product_attention(r_tok, r_lat, v_lat, scale=factor),
        )

    if backend == "auto" and _may_choose(*tensors):
        kernel = partial(triton_attention.bidirectional, scale=factor)
        found: tuple[Tensor, Tensor] = _quicker("bidirectional attention", fused, kernel, *tensors)
        return found
    return fused(*tensors)


def _explicit(
    r_lat: Tensor, v_lat: Tensor, r_tok: Tensor, v_tok: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    shared = similarity(r_lat, r_tok, scale)  # (B, H, M, N)
    latents = shared.softmax(-1) @ v_tok  # (B, H, M, d)
    tokens = shared.softmax(-2).transpose(-1, -2) @ v_lat  # (B, H, N, d)
    return latents, tokens


def attention(query: Tensor, key: Tensor, value: Tensor, backend: str = "auto") -> Tensor:
    """Let queries read keys and values: softmax(query key^T / sqrt(d)) value.

    Args:
        query: Queries (B, H, M, d).
        key: Keys (B, H, N, d).
        value: Values (B, H, N, d).
        backend: As in `bidirectional_attention`; ``"triton"`` takes up to 256 queries, or up to 256 keys,
            with any number of the other.

    Returns:
        What the queries read (B, H, M, d).

    Raises:
        ValueError: For shapes, dtypes or devices that do not fit together, sizes beyond those of the backend,
            or an unknown backend.
        ImportError: When Triton is asked for and not installed.
        RuntimeError: When Triton is asked for on another device than a GPU.
    """
    check_backend(backend, BACKENDS)
    if not _fit((query,), (key, value)):
        raise ValueError(
            "expected query (B, H, M, d), key and value (B, H, N, d), none empty, of one floating-point "
            f"dtype on one device; got {_described(query=query, key=key, value=value)}"
        )
    if backend == "triton":
        return _in_triton(query, key, value)
    if backend == "torch" or (backend == "auto" and _explicit_is_faster(query, key)):
        explicit: Tensor = similarity(query, key).softmax(-1) @ value
        return explicit
    if backend == "auto" and _may_choose(query, key, value):
        found: Tensor = _quicker("attention", F.scaled_dot_product_attention, _in_triton, query, key, value)
        return found
    return F.scaled_dot_product_attention(query, key, value)


def _in_triton(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scale = query.shape[-1] ** -0.5
    if query.shape[-2] <= key.shape[-2]:  # the fewer are held on chip, as latents are
        return triton_attention.bidirectional(query, None, key, value, scale)[0]
    return triton_attention.bidirectional(key, value, query, None, scale)[1]


def _may_choose(*tensors: Tensor) -> bool:
    # The kernels round otherwise than torch: no choice by a clock where a program is to repeat itself.
    if not TUNER.covers(*tensors) or torch.are_deterministic_algorithms_enabled():
        return False
    fewest = min(tensor.shape[-2] for tensor in tensors)
    return triton_attention.fits(fewest, tensors[0].shape[-1], tensors[0].dtype)


def _quicker(
    operation: str, fused: Callable[..., Any], kernel: Callable[..., Any], first: Tensor, *others: Tensor
) -> Any:
    """Return what the fused calls or the kernel make of queries, or latents, and the rest."""
    batch, heads, fewer, width = first.shape
    more = others[-1].shape[-2]
    fewer, more = min(fewer, more), max(fewer, more)
    tf32 = first.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    sizes = {"pairs": bucket(batch * heads), "latents": fewer, "tokens": bucket(more), "width": width}
    return TUNER.run(operation, {**sizes, "tf32": tf32} if tf32 else sizes, fused, kernel, first, *others)


def _explicit_is_faster(query: Tensor, key: Tensor) -> bool:
    # torch's fused attention for CPUs has a slow backward in half precision: ten times the explicit one's.
    if query.device.type != "cpu" or not (torch.is_grad_enabled() and query.requires_grad):
        return False
    return query.dtype != torch.float32 or query.shape[-2] * key.shape[-2] <= 1 << 13


def _check(r_lat: Tensor, v_lat: Tensor, r_tok: Tensor, v_tok: Tensor) -> None:
    if not _fit((r_lat, v_lat), (r_tok, v_tok)):
        found = _described(r_lat=r_lat, v_lat=v_lat, r_tok=r_tok, v_tok=v_tok)
        raise ValueError(
            "expected r_lat and v_lat (B, H, M, d), r_tok and v_tok (B, H, N, d), none empty, of one "
            f"floating-point dtype on one device; got {found}"
        )


def _fit(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    """Whether all is (B, H, count, d), of the same count within the first and within the second."""
    tensors = first + second
    return (
        all(isinstance(t, Tensor) and t.ndim == 4 and t.is_floating_point() for t in tensors)
        and all(t.numel() > 0 for t in tensors)
        and len({(t.dtype, t.device) for t in tensors}) == 1
        and all(t.shape == one[0].shape for one in (first, second) for t in one)
        and first[0].shape[:2] == second[0].shape[:2]
        and first[0].shape[-1] == second[0].shape[-1]
    )


def _described(**tensors: Tensor) -> str:
    return ", ".join(f"{name}: {describe(value)}" for name, value in tensors.items())


def attention_map(r_lat: Tensor, r_tok: Tensor, scale: float | None = None) -> Tensor:
    """Return the latents' attention over the tokens, softmax(scale * R_lat R_tok^T): (B, H, M, N)."""
    return torch.softmax(similarity(r_lat, r_tok, scale).float(), dim=-1)


def similarity(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """Return scale * query key^T, before any softmax: (B, H, M, d), (B, H, N, d) -> (B, H, M, N)."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return factor * query @ key.transpose(-1, -2)


def attention_symmetry(to_latents: Tensor, to_tokens: Tensor) -> Tensor:
    """Measure how alike the two directions of a cross-attention are, in every cloud and head.

    It is the Pearson correlation of the similarities by which latents read tokens and those by which tokens
    read latents, after the mean of every row and column is taken from both: a softmax along one axis does
    not see a constant along it. 1 for a bi-directional attention, which has one similarity (BiXT, section
    3.1); near 0 for directions that have nothing to do with each other.

    Args:
        to_latents: Similarities of latents and tokens (B, H, M, N), before the softmax over the tokens.
        to_tokens: Similarities of tokens and latents (B, H, N, M), before the softmax over the latents.

    Returns:
        Correlations (B, H), from -1 to 1; 0 where one of the two is constant.

    Raises:
        ValueError: If one is not of the transposed shape of the other.
    """
    check_directions(to_latents, to_tokens)
    both = (one.to(widest(one.device)) for one in (to_latents, to_tokens.transpose(-1, -2)))
    first, second = (centred(one).flatten(2) for one in both)
    norms = first.norm(dim=-1) * second.norm(dim=-1)  # (B, H)
    correlation: Tensor = (first * second).sum(-1) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return correlation


def check_directions(to_latents: Tensor, to_tokens: Tensor) -> None:
    """Raise ValueError unless similarities are (B, H, M, N) and (B, H, N, M)."""
    if to_latents.ndim != 4 or to_latents.shape != to_tokens.transpose(-1, -2).shape:
        raise ValueError(
            f"expected similarities (B, H, M, N) and (B, H, N, M), got {describe(to_latents)} and "
            f"{describe(to_tokens)}"
        )


def centred(values: Tensor) -> Tensor:
    """Return values (..., M, N) less the means of their rows and columns: what ties both directions."""
    values = values - values.mean(-1, keepdim=True)
    return values - values.mean(-2, keepdim=True)
