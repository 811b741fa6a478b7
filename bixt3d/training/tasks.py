"""What differs between tasks: how the model is called, the loss, the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d import metrics
from bixt3d.datasets.loader import Batch


class Task(Protocol):
    """A task as the trainer sees it."""

    # Name of the metric that chooses the best epoch; more is better.
    goal: str

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Call the model on a batch."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def start(self, device: torch.device) -> Tensor:
        """Return empty counts on the device; counts of several batches or processes add up."""

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the counts of one batch."""

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """Compute the metrics from counts."""


class ClassificationTask:
    """One label a cloud: cross-entropy, overall and mean class accuracy.

    Args:
        classes: Names of the classes.
        label_smoothing: Mass moved from the true class, shared by the others (PointMLP's definition).
    """

    goal = "oa"

    def __init__(self, classes: Sequence[str], label_smoothing: float = 0.0) -> None:
        """Keep the number of classes and the smoothing in torch's definition."""
        count = len(classes)
        self.num_classes = count
        # torch spreads its mass over all classes, the true one included.
        self.smoothing = min(1.0, label_smoothing * count / (count - 1)) if count > 1 else 0.0

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Call the model: logits (B, K)."""
        logits: Tensor = model(batch.points)
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of logits (B, K), a scalar."""
        return F.cross_entropy(logits.float(), batch.label, label_smoothing=self.smoothing)

    def start(self, device: torch.device) -> Tensor:
        """Return an empty confusion matrix (K, K)."""
        return torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64, device=device)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the confusion matrix (K, K) of one batch."""
        return metrics.confusion_matrix(logits.argmax(-1), batch.label, self.num_classes)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """Return ``oa`` and ``macc`` of a confusion matrix."""
        result = metrics.classification(counts)
        return {name: value for name, value in result.items() if isinstance(value, float)}
