"""Bi-directional attention a cloud at a time, with one similarity for both directions: a way not taken.

On a CPU it was meant to beat two fused calls, because it does 10 products where they do 14 and keeps no
matrix. results/performance.md has what came of it; the library does without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Blocked(torch.autograd.Function):
    """What is kept for the backward pass grows with M + N; the similarity is computed again there."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, r_lat: Tensor, v_lat: Tensor, r_tok: Tensor, v_tok: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        to_lat, to_tok = _like(r_lat), _like(r_tok)
        log_lat = torch.empty_like(r_lat[..., :1])  # (B, H, M, 1)
        log_tok = torch.empty_like(r_tok[..., 0].unsqueeze(-2))  # (B, H, 1, N)
        for cloud in range(len(r_lat)):
            shared = (scale * r_lat[cloud]) @ r_tok[cloud].mT  # (H, M, N)
            log_lat[cloud] = shared.logsumexp(-1, keepdim=True)
            log_tok[cloud] = shared.logsumexp(-2, keepdim=True)
            to_lat[cloud] = (shared - log_lat[cloud]).exp_() @ v_tok[cloud]
            to_tok[cloud] = shared.sub_(log_tok[cloud]).exp_().mT @ v_lat[cloud]
        ctx.save_for_backward(r_lat, v_lat, r_tok, v_tok, to_lat, to_tok, log_lat, log_tok)
        ctx.scale = scale
        return to_lat, to_tok

    @staticmethod
    def backward(ctx: Any, of_lat: Tensor, of_tok: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        r_lat, v_lat, r_tok, v_tok, to_lat, to_tok, log_lat, log_tok = ctx.saved_tensors
        mean_lat = (of_lat * to_lat).sum(-1, keepdim=True)  # (B, H, M, 1)
        mean_tok = (of_tok * to_tok).sum(-1).unsqueeze(-2)  # (B, H, 1, N)
        grads = [_like(r_lat), _like(v_lat), _like(r_tok), _like(v_tok)]
        for cloud in range(len(r_lat)):
            shared = (ctx.scale * r_lat[cloud]) @ r_tok[cloud].mT  # (H, M, N)
            by_lat = (shared - log_lat[cloud]).exp_()
            by_tok = shared.sub_(log_tok[cloud]).exp_()
            grads[1][cloud] = by_tok @ of_tok[cloud]
            grads[3][cloud] = by_lat.mT @ of_lat[cloud]
            of_shared = (of_lat[cloud] @ v_tok[cloud].mT).sub_(mean_lat[cloud]).mul_(by_lat)
            of_shared += (v_lat[cloud] @ of_tok[cloud].mT).sub_(mean_tok[cloud]).mul_(by_tok)
            grads[0][cloud] = (of_shared @ r_tok[cloud]).mul_(ctx.scale)
            grads[2][cloud] = (of_shared.mT @ r_lat[cloud]).mul_(ctx.scale)
        return *grads, None


def blocked_attention(
    r_lat: Tensor, v_lat: Tensor, r_tok: Tensor, v_tok: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Do what `bixt3d.ops.bidirectional_attention` does: (B, H, M, d) x2, (B, H, N, d) x2 -> one of each."""
    scale = r_lat.shape[-1] ** -0.5 if scale is None else scale
    updates: tuple[Tensor, Tensor] = _Blocked.apply(r_lat, v_lat, r_tok, v_tok, scale)  # type: ignore[no-untyped-call]
    return updates


def _like(x: Tensor) -> Tensor:
    # Laid out so that concatenating the heads copies nothing.
    batch, heads, count, width = x.shape
    return x.new_empty(batch, count, heads, width).transpose(1, 2)  # (B, H, N, d)
