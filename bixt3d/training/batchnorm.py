"""Batch normalisation over the clouds of all processes that train together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bixt3d.models.grouping import BatchNorm


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


class SharedBatchNorm(BatchNorm):
    """Batch normalisation of (..., C) by the statistics of every process's rows, of which all have as many.

    `torch.nn.SyncBatchNorm` knows neither the CPU nor channels last. In evaluation it is `BatchNorm`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., C) -> (..., C)."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        rows = input.float().reshape(-1, input.shape[-1])  # (R, C)
        processes = dist.get_world_size()
        # Gradients pass through both sums. The mean first: E[x²] - E[x]² would lose digits.
        mean = _sum(rows.mean(0)) / processes  # (C,)
        centred = rows - mean
        variance = _sum(centred.square().mean(0)) / processes  # (C,)
        with torch.no_grad():
            count = rows.shape[0] * processes
            unbiased = variance * (count / max(1, count - 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked.add_(1)
        out = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        return out.to(input.dtype).reshape(input.shape)  # (..., C)


def share_batchnorm(model: nn.Module) -> None:
    """Let every `BatchNorm` of a model take the statistics of all processes in training.

    Parameters and buffers stay the same objects under the same names.
    """
    for module in model.modules():
        if type(module) is BatchNorm:
            module.__class__ = SharedBatchNorm
