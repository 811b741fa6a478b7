"""What differs between tasks: how the model is called, the loss, the metrics, the table of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d import metrics
from bixt3d.datasets.loader import Batch
from bixt3d.models.segmenter import segment_all_points
from bixt3d.training import report


class Task(Protocol):
    """A task as the trainer sees it."""

    # Name of the metric that chooses the best epoch; more is better.
    goal: str
    # Metrics that the progress line shows.
    shown: tuple[str, ...]

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

    def table(self, counts: Tensor) -> list[list[str]]:
        """Return the results in detail as rows of text, the head first."""


class ClassificationTask:
    """One label a cloud: cross-entropy, overall and mean class accuracy.

    Args:
        classes: Names of the classes.
        label_smoothing: Mass moved from the true class, shared by the others (PointMLP's definition).
    """

    goal = "oa"
    shown: tuple[str, ...] = ("oa", "macc")

    def __init__(self, classes: Sequence[str], label_smoothing: float = 0.0) -> None:
        """Keep the classes and the smoothing."""
        self.classes = tuple(classes)
        self.num_classes = len(self.classes)
        self.smoothing = _smoothing(label_smoothing, self.num_classes)

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Call the model: logits (B, K)."""
        logits: Tensor = model(batch.points)
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of logits (B, K), a scalar.

        Where clouds are mixed, it is the sum of those with either label, weighted by their shares.
        """
        if batch.share is None or batch.other_label is None:
            return F.cross_entropy(logits.float(), batch.label, label_smoothing=self.smoothing)
        own, other = (
            F.cross_entropy(logits.float(), label, label_smoothing=self.smoothing, reduction="none")
            for label in (batch.label, batch.other_label)
        )
        return (batch.share * own + (1.0 - batch.share) * other).mean()

    def start(self, device: torch.device) -> Tensor:
        """Return an empty confusion matrix (K, K)."""
        return torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64, device=device)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the confusion matrix (K, K) of one batch; mixed clouds count by the larger share's label."""
        label = batch.label
        if batch.share is not None and batch.other_label is not None:
            label = torch.where(batch.share >= 0.5, label, batch.other_label)
        return metrics.confusion_matrix(logits.argmax(-1), label, self.num_classes)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """Return ``oa`` and ``macc`` of a confusion matrix."""
        result = metrics.classification(counts)
        return {name: value for name, value in result.items() if isinstance(value, float)}

    def table(self, counts: Tensor) -> list[list[str]]:
        """Return the accuracy of each class, and what it is most taken for."""
        return report.class_rows(counts, self.classes)


class PartSegmentationTask:
    """One part a point: cross-entropy over all parts, part accuracy and mean IoU under both conventions.

    The ending of a metric's name is its convention, as in `bixt3d.metrics.part_iou`: ``_pointnet2`` chooses
    among the parts of a cloud's category, ``_pointmlp`` among all.

    Args:
        categories: Names of the categories.
        parts_of_category: For each category the part ids that it may hold.
        num_points: Points that the model takes; clouds with more are labelled in several passes.
        label_smoothing: Mass moved from the true part, shared by the others.
    """

    goal = "class_miou_pointnet2"
    shown: tuple[str, ...] = ("class_miou_pointnet2",)

    def __init__(
        self,
        categories: Sequence[str],
        parts_of_category: Sequence[Sequence[int]],
        num_points: int,
        label_smoothing: float = 0.0,
    ) -> None:
        """Keep the tables and the smoothing."""
        self.categories, self.num_points = tuple(categories), num_points
        self.parts_of_category = tuple(tuple(ids) for ids in parts_of_category)
        self.smoothing = _smoothing(label_smoothing, 1 + max(map(max, self.parts_of_category)))

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Call the model: logits (B, N, P) of every point of the batch."""
        if batch.count is not None or batch.points.shape[1] != self.num_points:
            return segment_all_points(model, batch.points, batch.category, self.num_points, batch.count)
        logits: Tensor = model(batch.points, batch.category)
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of logits (B, N, P): the mean over clouds of that over their points."""
        parts, _ = _part_data(batch)
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), parts, label_smoothing=self.smoothing, reduction="none"
        )  # (B, N)
        valid = _valid(batch)
        return ((losses * valid).sum(1) / valid.sum(1)).mean()

    def start(self, device: torch.device) -> Tensor:
        """Return empty counts (C + 1, 3).

        A row for each category: the sum over its shapes of the part IoU, under either convention, and their
        number. The last row: points that are right, under either convention, and points.
        """
        return torch.zeros(len(self.categories) + 1, 3, dtype=torch.float64, device=device)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the counts (C + 1, 3) of one batch."""
        (parts, category), table = _part_data(batch), self.parts_of_category
        valid = _valid(batch)
        counts = self.start(logits.device)
        for column, convention in enumerate(metrics.CONVENTIONS):
            prediction = metrics.predict_parts(logits, category, table, convention)  # (B, N)
            iou = metrics.iou_of(prediction, parts, category, table, convention, logits.shape[-1], valid)
            counts[:-1, column], counts[:-1, 2] = metrics.sum_by_category(iou, category, len(table))
            counts[-1, column], counts[-1, 2] = ((prediction == parts) & valid).sum(), valid.sum()
        return counts

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """Return ``accuracy``, ``instance_miou`` and ``class_miou`` under each convention."""
        counts = counts.cpu()
        result = {}
        for column, convention in enumerate(metrics.CONVENTIONS):
            result[f"accuracy_{convention}"] = float(counts[-1, column] / counts[-1, 2])
            means = metrics.mean_over_categories(counts[:-1, column], counts[:-1, 2])
            for name in ("instance_miou", "class_miou"):
                value = means[name]
                assert isinstance(value, float)
                result[f"{name}_{convention}"] = value
        return result

    def table(self, counts: Tensor) -> list[list[str]]:
        """Return the mean IoU of each category under both conventions."""
        return report.category_rows(counts, self.categories)


def _smoothing(mass: float, count: int) -> float:
    # torch spreads its mass over all classes, the true one included.
    return min(1.0, mass * count / (count - 1)) if count > 1 else 0.0


def _part_data(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.parts is not None and batch.category is not None
    return batch.parts, batch.category


def _valid(batch: Batch) -> Tensor:
    """Say which points are their cloud's own: (B, N) bool."""
    place = torch.arange(batch.points.shape[1], device=batch.points.device)  # (N,)
    if batch.count is None:
        return torch.ones_like(place, dtype=torch.bool).expand(batch.points.shape[:2])
    return place < batch.count[:, None]
