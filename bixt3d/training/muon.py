"""Muon with matrices of one shape orthogonalised together, in the precision that the device is fast in."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bixt3d.training.device import has_bfloat16

STEPS = 5
# Coefficients of the quintic iteration (K. Jordan, 2024): they push singular values fast to about 1.
A, B, C = 3.4445, -4.7750, 2.0315
EPSILON = 1e-7


def orthogonalize(matrices: Tensor) -> Tensor:
    """Push all singular values of each matrix (K, R, C) towards 1 by Newton-Schulz iteration.

    It computes in bfloat16 where the device multiplies it fast and in float32 elsewhere, and returns
    float32: `torch.optim.Muon`, its twin of one matrix at a time, knows bfloat16 alone, which a processor
    without units for it emulates.
    """
    x = matrices.to(torch.bfloat16 if has_bfloat16(matrices.device) else torch.float32)
    turned = x.shape[1] > x.shape[2]
    x = x.mT if turned else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(EPSILON)
    for _ in range(STEPS):
        gram = x @ x.mT  # (K, R, R)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.mT if turned else x).float()


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with Nesterov momentum and AdamW's update size, shape by shape (K. Jordan, 2024)."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        """Take parameters, all matrices (R, C)."""
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; a closure is not evaluated.

        As torch's fused optimisers it leaves the step out where its attribute ``found_inf``, a scalar, is 1.
        """
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            moved = [value for value in group["params"] if value.grad is not None]
            if not moved:
                continue
            gradients: list[Tensor] = [value.grad for value in moved]
            buffers = [self._buffer(value) for value in moved]
            if found_inf is not None:  # buffers that move towards themselves stay
                skip = found_inf > 0
                gradients = [torch.where(skip, *pair) for pair in zip(buffers, gradients, strict=True)]
            torch._foreach_lerp_(buffers, gradients, 1.0 - momentum)
            updates: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for value, ahead in zip(moved, torch._foreach_lerp(gradients, buffers, momentum), strict=True):
                updates.setdefault(tuple(value.shape), []).append((value, ahead))
            for shape, pairs in updates.items():
                values, aheads = zip(*pairs, strict=True)
                step = orthogonalize(torch.stack(aheads))  # (K, R, C)
                decay: Any = 1.0 - rate * group["weight_decay"]
                if found_inf is not None:
                    step, decay = step.masked_fill_(skip, 0.0), torch.where(skip, 1.0, decay)
                torch._foreach_mul_(values, decay)
                size = 0.2 * math.sqrt(max(shape)) * rate
                torch._foreach_add_(values, step.to(values[0].dtype).unbind(0), alpha=-size)

    def _buffer(self, value: Tensor) -> Tensor:
        state = self.state[value]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(value)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
