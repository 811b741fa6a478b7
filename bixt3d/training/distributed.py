"""Processes that train together: which one this is, sums over all, and batch norms that share statistics."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bixt3d.models.layers import BatchNorm


@dataclass(frozen=True)
class Workers:
    """This process among those that train together; one alone unless torchrun started more."""

    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the sum of ``value`` over all processes."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def max(self, number: int) -> int:
        """Return the largest ``number`` of all processes; no GPU is waited for, only processes."""
        if self.world_size == 1:
            return number
        most = torch.tensor(number)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    def broadcast(self, value: Tensor) -> None:
        """Overwrite ``value`` by that of the first process."""
        if self.world_size > 1:
            dist.broadcast(value, 0)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()


def join_workers(device: torch.device) -> Workers:
    """Join the processes that torchrun started, if it did."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return Workers()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # gloo beside it, for what lies on the CPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return Workers(dist.get_rank(), dist.get_world_size())


def leave_workers() -> None:
    """Leave the processes that train together."""
    if dist.is_available() and dist.is_initialized():
        # A wrapped model in a cycle holds the group, whose threads then outlive Python and abort the process.
        gc.collect()
        dist.destroy_process_group()


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
