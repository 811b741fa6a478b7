"""Metrics from counts that are summed on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from bixt3d.ops.validate import describe


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count predictions: (S,), (S,) int64 -> (K, K) int64, rows = truth, columns = prediction.

    Raises:
        ValueError: If the two do not have the same shape, or (looked at on the CPU only, as it would make
            a GPU wait) a number is not one of 0 to K - 1.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction and label: expected the same shape, got {describe(prediction)}, {describe(label)}"
        )
    both = torch.stack([label.flatten(), prediction.flatten()])  # (2, S)
    if both.device.type == "cpu" and both.numel():
        low, high = int(both.min()), int(both.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"prediction and label: expected 0 to {num_classes - 1} (num_classes={num_classes}), got "
                f"{low} to {high}"
            )
    counts = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=label.device)
    counts.index_add_(0, both[0] * num_classes + both[1], torch.ones_like(both[0]))
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
