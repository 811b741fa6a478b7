"""Metrics from counts that are summed on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from bixt3d.ops.validate import describe


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count predictions: (S,), (S,) int64 -> (K, K) int64, rows = truth, columns = prediction.

    Raises:
        ValueError: If the two do not have the same shape.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction and label: expected the same shape, got {describe(prediction)}, {describe(label)}"
        )
    pair = label.flatten() * num_classes + prediction.flatten()  # (S,)
    counts = torch.bincount(pair, minlength=num_classes * num_classes)
    return counts.view(num_classes, num_classes)  # (K, K)


def classification(confusion: Tensor) -> dict[str, float | list[float]]:
    """Compute overall and mean class accuracy.

    Args:
        confusion: Counts (K, K), rows = truth.

    Returns:
        ``oa``: the share of shapes that are right; ``macc``: the mean over classes that occur of the
        share that is right in each; ``per_class``: that share for each class, NaN where none occurs.
        Fractions of 1.

    Raises:
        ValueError: For anything but a square matrix with at least one count.
    """
    if not isinstance(confusion, Tensor) or confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion: expected counts (K, K), got {describe(confusion)}")
    counts = confusion.double().cpu()
    total = counts.sum()
    if not total > 0:
        raise ValueError("confusion: expected at least one count, all are zero")
    correct, support = counts.diagonal(), counts.sum(1)
    per_class = correct / support  # (K,), NaN without shapes
    return {
        "oa": float(correct.sum() / total),
        "macc": float(per_class[support > 0].mean()),
        "per_class": per_class.tolist(),
    }
