"""What an epoch has added up so far, kept on the device, and saved where an epoch is cut in two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bixt3d.training.device import Workers


class EpochSums:
    """Steps, losses and counts of an unfinished epoch.

    Args:
        counts: Empty counts of the task, on the device.
        in_a_row: Steps that were left out at the end of the epoch before.
    """

    def __init__(self, counts: Tensor, in_a_row: Tensor | None = None) -> None:
        """Start at nothing."""
        self.steps = 0
        self.seconds = 0.0
        self.counts = counts
        self.loss = torch.zeros((), dtype=torch.float64, device=counts.device)
        # Steps that were left out, all and since the last that was not.
        self.skipped = torch.zeros((), device=counts.device)
        self.in_a_row = torch.zeros((), device=counts.device) if in_a_row is None else in_a_row
        self.gathered = False

    def add(self, loss: Tensor, counts: Tensor, skipped: Tensor) -> None:
        """Add this process's share of a step's mean loss, and its counts, unless ``skipped`` is 1."""
        bad = skipped > 0
        self.steps += 1
        self.loss += loss.double().masked_fill(bad, 0.0)
        self.counts += counts.masked_fill(bad, 0)
        self.skipped += skipped
        self.in_a_row = (self.in_a_row + skipped) * skipped
        self.gathered = False

    def gather(self, workers: Workers) -> tuple[Tensor, Tensor]:
        """Return losses and counts of all processes; from here on the first process holds them."""
        loss, counts = workers.sum(self.loss.clone()), workers.sum(self.counts.clone())
        self.loss, self.counts = loss.clone(), counts.clone()
        if not workers.first:
            self.loss.zero_()
            self.counts.zero_()
        self.gathered = True
        return loss, counts

    def state(self) -> dict[str, Any]:
        """Return what `restore` goes on from; the first process's holds all once they are gathered."""
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "counts": self.counts,
            "loss": self.loss,
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
        }

    def restore(self, state: dict[str, Any], workers: Workers) -> None:
        """Go on from a `state`, whose sums only the first process takes."""
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.skipped.copy_(state["skipped"])
        self.in_a_row.copy_(state["in_a_row"])
        if workers.first:
            self.counts.copy_(state["counts"])
            self.loss.copy_(state["loss"])
