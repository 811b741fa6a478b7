"""Bi-directional cross-attention: two updates from one similarity matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bixt3d.ops.backends import check_backend
from bixt3d.ops.validate import describe

BACKENDS = ("auto", "torch", "sdpa")


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
            ``"auto"`` takes the fused calls, but for training on a CPU the explicit matrix where it is
            faster: in half precision, or while it is small.

    Returns:
        Latent update (B, H, M, d) and token update (B, H, N, d).

    Raises:
        ValueError: For shapes, dtypes or devices that do not fit together, or an unknown backend.
    """
    check_backend(backend, BACKENDS)
    _check(r_lat, v_lat, r_tok, v_tok)
    if scale is None:
        scale = r_lat.shape[-1] ** -0.5
    if backend == "torch" or (backend == "auto" and _explicit_is_faster(r_lat, r_tok)):
        return _explicit(r_lat, v_lat, r_tok, v_tok, scale)
    return (
        F.scaled_dot_product_attention(r_lat, r_tok, v_tok, scale=scale),
        F.scaled_dot_product_attention(r_tok, r_lat, v_lat, scale=scale),
    )


def _explicit(
    r_lat: Tensor, v_lat: Tensor, r_tok: Tensor, v_tok: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    similarity = scale * r_lat @ r_tok.transpose(-1, -2)  # (B, H, M, N)
    latents = similarity.softmax(-1) @ v_tok  # (B, H, M, d)
    tokens = similarity.softmax(-2).transpose(-1, -2) @ v_lat  # (B, H, N, d)
    return latents, tokens


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query key^T / sqrt(d)) value: (B, H, M, d), (B, H, N, d) x2 -> (B, H, M, d)."""
    if _explicit_is_faster(query, key):
        similarity = query.shape[-1] ** -0.5 * query @ key.transpose(-1, -2)  # (B, H, M, N)
        explicit: Tensor = similarity.softmax(-1) @ value
        return explicit
    return F.scaled_dot_product_attention(query, key, value)


def _explicit_is_faster(query: Tensor, key: Tensor) -> bool:
    # torch's fused attention for CPUs has a slow backward in half precision: ten times the explicit one's.
    if query.device.type != "cpu" or not (torch.is_grad_enabled() and query.requires_grad):
        return False
    return query.dtype != torch.float32 or query.shape[-2] * key.shape[-2] <= 1 << 13


def _check(r_lat: Tensor, v_lat: Tensor, r_tok: Tensor, v_tok: Tensor) -> None:
    named = {"r_lat": r_lat, "v_lat": v_lat, "r_tok": r_tok, "v_tok": v_tok}
    came = ", ".join(f"{name}: {describe(value)}" for name, value in named.items())
    tensors = tuple(named.values())
    fits = (
        all(isinstance(t, Tensor) and t.ndim == 4 and t.is_floating_point() for t in tensors)
        and all(t.numel() > 0 for t in tensors)
        and len({(t.dtype, t.device) for t in tensors}) == 1
        and r_lat.shape == v_lat.shape
        and r_tok.shape == v_tok.shape
        and r_lat.shape[:2] == r_tok.shape[:2]
        and r_lat.shape[-1] == r_tok.shape[-1]
    )
    if not fits:
        raise ValueError(
            "expected r_lat and v_lat (B, H, M, d), r_tok and v_tok (B, H, N, d), none empty, of one "
            f"floating-point dtype on one device; got {came}"
        )


def attention_map(r_lat: Tensor, r_tok: Tensor, scale: float | None = None) -> Tensor:
    """Return the latents' attention over the tokens, softmax(scale * R_lat R_tok^T): (B, H, M, N)."""
    factor = r_lat.shape[-1] ** -0.5 if scale is None else scale
    return torch.softmax((factor * r_lat @ r_tok.transpose(-1, -2)).float(), dim=-1)
