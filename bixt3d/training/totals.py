"""Sums over the steps of an unfinished epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bixt3d.ops.precision import widest
from bixt3d.training.distributed import Workers


class EpochTotals:
    """Sums over the steps of an unfinished epoch, kept on the device.

    Attributes:
        steps: Steps taken.
        seconds: Seconds that they took.
        loss: Sum of the mean losses of the steps that were not skipped.
        counts: The task's counts of them.
        skipped: How many steps were skipped.
        in_a_row: How many since the last that was not, those at the end of the epoch before included.
    """

    def __init__(self, counts: Tensor, in_a_row: Tensor | None = None) -> None:
        """Start at nothing; ``counts`` are empty counts of the task."""
        self.steps, self.seconds, self.counts = 0, 0.0, counts
        self.loss = torch.zeros((), dtype=widest(counts.device), device=counts.device)
        self.skipped = torch.zeros((), device=counts.device)
        self.in_a_row = torch.zeros((), device=counts.device) if in_a_row is None else in_a_row

    def all_reduce(self, workers: Workers) -> tuple[Tensor, Tensor]:
        """Return loss and counts of all processes; from here on the first process holds them."""
        loss, counts = workers.all_reduce(self.loss.clone()), workers.all_reduce(self.counts.clone())
        keep = int(workers.first)
        self.loss, self.counts = loss * keep, counts * keep
        return loss, counts

    def restore(self, state: dict[str, Any], workers: Workers) -> None:
        """Continue from saved totals, whose sums only the first process takes."""
        self.steps, self.seconds = state["steps"], state["seconds"]
        for name in ("skipped", "in_a_row", *(("counts", "loss") if workers.first else ())):
            getattr(self, name).copy_(state[name])
