"""Metrics from counts that are summed on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bixt3d.ops.precision import widest
from bixt3d.ops.validate import describe
from bixt3d.retrieval import retrieval as retrieval

# What a shape's part IoU is averaged over: see `part_iou`.
CONVENTIONS = ("pointnet2", "pointmlp")


def is_labelled(label: Tensor, ignore: int | Sequence[int] = -1) -> Tensor:
    """Say which labels count: int64 of any shape -> bool of that shape, False for those to ignore."""
    kept = torch.ones_like(label, dtype=torch.bool)
    for number in (ignore,) if isinstance(ignore, int) else ignore:
        kept &= label != number
    return kept


def confusion_matrix(
    prediction: Tensor, label: Tensor, num_classes: int, ignore: int | Sequence[int] = ()
) -> Tensor:
    """Count predictions: (S,), (S,) int64 -> (K, K) int64, rows = truth, columns = prediction.

    Args:
        prediction: Predicted labels, of any shape.
        label: True labels, of the same shape.
        num_classes: Number of labels K.
        ignore: True labels that are not counted, such as -1.

    Raises:
        ValueError: If the two do not have the same shape, or (looked at on the CPU only, as it would make
            a GPU wait) a number is not one of 0 to K - 1.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction and label: expected the same shape, got {describe(prediction)}, {describe(label)}"
        )
    both = torch.stack([label.flatten(), prediction.flatten()])  # (2, S)
    kept = is_labelled(both[0], ignore)  # (S,)
    if both.device.type == "cpu" and bool(kept.any()):
        low, high = (int(extreme) for extreme in torch.aminmax(both[:, kept]))
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"prediction and label: expected 0 to {num_classes - 1} (num_classes={num_classes}), got "
                f"{low} to {high}"
            )
    counts = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=label.device)
    counts.index_add_(0, torch.where(kept, both[0] * num_classes + both[1], 0), kept.long())
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
    counts = confusion.cpu().double()
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


def segmentation(confusion: Tensor) -> dict[str, float | list[float]]:
    """Compute the accuracies and the mean IoU of points, or of anything else, from their counts.

    Args:
        confusion: Counts (K, K), rows = truth, such as `confusion_matrix` makes without ignored labels.

    Returns:
        ``oa`` and ``macc`` as `classification`; ``per_class``: the IoU of each class, NaN where neither the
        truth nor a prediction is of it; ``miou``: the mean of those. Fractions of 1.

    Raises:
        ValueError: As `classification`.
    """
    accuracy = classification(confusion)
    counts = confusion.cpu().double()
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    iou = right / union  # (K,), NaN without points
    return {
        "oa": accuracy["oa"],
        "macc": accuracy["macc"],
        "miou": float(iou[union > 0].mean()),
        "per_class": iou.tolist(),
    }


@lru_cache(maxsize=32)
def _allowed(table: tuple[tuple[int, ...], ...], num_parts: int, device: torch.device) -> Tensor:
    # Kept on the device: a copy from the CPU in every training step would make a GPU wait.
    allowed = torch.zeros(len(table), num_parts, dtype=torch.bool)  # (C, P)
    for row, ids in zip(allowed, table, strict=True):
        row[list(ids)] = True
    return allowed.to(device)


def allowed_parts(category: Tensor, parts_of_category: Sequence[Sequence[int]], num_parts: int) -> Tensor:
    """Say which parts each shape may hold: category (S,) -> (S, P) bool."""
    table = tuple(tuple(ids) for ids in parts_of_category)
    return _allowed(table, num_parts, category.device)[category]  # (S, P)


def mask_logits(logits: Tensor, category: Tensor, parts_of_category: Sequence[Sequence[int]]) -> Tensor:
    """Set the logits (S, N, P) of parts that a shape's category (S,) does not have to minus infinity."""
    allowed = allowed_parts(category, parts_of_category, logits.shape[-1])  # (S, P)
    return logits.masked_fill(~allowed[:, None], -torch.inf)


def predict_parts(
    logits: Tensor, category: Tensor, parts_of_category: Sequence[Sequence[int]], convention: str
) -> Tensor:
    """Choose a part for each point (S, N): ``"pointnet2"`` among its category's, ``"pointmlp"`` among all."""
    if convention == "pointnet2":
        logits = mask_logits(logits, category, parts_of_category)
    return logits.argmax(-1)


def part_iou(
    logits: Tensor,
    parts: Tensor,
    category: Tensor,
    parts_of_category: Sequence[Sequence[int]],
    convention: str,
    valid: Tensor | None = None,
    ignore: int | Sequence[int] = (),
) -> Tensor:
    """Compute the part IoU of each shape, averaged over its parts: (S,) float64, fractions of 1.

    ``"pointnet2"`` (Qi et al., 2017, as Point-MAE): a point takes the best part of its shape's
    category, and the mean goes over all parts of the category; one that neither the truth nor the
    prediction holds counts 1. ``"pointmlp"`` (Ma et al., 2022): a point takes the best of all
    parts, and the mean goes over the parts that the truth holds. Others, such as PointNeXt, mix the two.

    Args:
        logits: Scores of all parts (S, N, P).
        parts: True part of each point (S, N), int64.
        category: Category of each shape (S,), int64.
        parts_of_category: For each category the part ids that it may hold.
        convention: ``"pointnet2"`` or ``"pointmlp"``.
        valid: Which points count (S, N), bool; all if None.
        ignore: True parts, such as -1, whose points do not count, nor the part itself.

    Raises:
        ValueError: For shapes that do not fit, a true part that the category does not have (looked at on the
            CPU only, as it would make a GPU wait), or an unknown convention.
    """
    _check_parts(logits, parts, category, parts_of_category, convention, ignore)
    prediction = predict_parts(logits, category, parts_of_category, convention)  # (S, N)
    return iou_of(prediction, parts, category, parts_of_category, convention, logits.shape[-1], valid, ignore)


def iou_of(
    prediction: Tensor,
    parts: Tensor,
    category: Tensor,
    parts_of_category: Sequence[Sequence[int]],
    convention: str,
    num_parts: int,
    valid: Tensor | None = None,
    ignore: int | Sequence[int] = (),
) -> Tensor:
    """Compute what `part_iou` returns from predicted parts (S, N), by `predict_parts` of that convention."""
    ignore = (ignore,) if isinstance(ignore, int) else ignore
    kept = is_labelled(parts, ignore)  # (S, N)
    counted = (kept if valid is None else kept & valid).to(parts.dtype)
    parts = torch.where(kept, parts, 0)  # a number that is one; it is not counted
    both = torch.where(prediction == parts, counted, 0)
    empty = torch.zeros(len(parts), num_parts, dtype=torch.int64, device=parts.device)
    intersection = empty.scatter_add(1, parts, both)  # (S, P)
    truth = empty.scatter_add(1, parts, counted)
    union = truth + empty.scatter_add(1, prediction, counted) - intersection
    iou = torch.where(union > 0, intersection.to(widest(parts.device)) / union.clamp_min(1), 1.0)  # (S, P)
    if convention == "pointmlp":
        averaged = truth > 0
    else:
        averaged = allowed_parts(category, parts_of_category, num_parts).clone()
        for number in ignore:  # one by one: a list would be copied to a GPU, which waits for it
            if 0 <= number < num_parts:
                averaged[:, number] = False
    return (iou * averaged).sum(1) / averaged.sum(1).clamp_min(1)


def part_miou(
    logits: Tensor,
    parts: Tensor,
    category: Tensor,
    parts_of_category: Sequence[Sequence[int]],
    convention: str,
    valid: Tensor | None = None,
    ignore: int | Sequence[int] = (),
) -> dict[str, float | list[float]]:
    """Compute the mean part IoU over shapes and over categories.

    Args:
        logits: Scores of all parts (S, N, P); for predicted parts, their one-hot form.
        parts: True part of each point (S, N), int64.
        category: Category of each shape (S,), int64.
        parts_of_category: For each category the part ids that it may hold.
        convention: ``"pointnet2"`` or ``"pointmlp"``, see `part_iou`.
        valid: Which points count (S, N), bool; all if None. Where shapes repeat points to be as long as
            others, ``torch.arange(N) < split.count[:, None]``.
        ignore: True parts, such as -1, whose points do not count, nor the part itself; a shape of which none
            counts is left out.

    Returns:
        ``instance_miou``: the mean over all shapes; ``class_miou``: the mean over the categories that occur
        of the mean over each one's shapes; ``per_category``: that mean for each category, NaN where none
        occurs. Fractions of 1.

    Raises:
        ValueError: As `part_iou`.
    """
    iou = part_iou(logits, parts, category, parts_of_category, convention, valid, ignore)
    kept = is_labelled(parts, ignore) if valid is None else is_labelled(parts, ignore) & valid
    return mean_over_categories(*sum_by_category(iou, category, len(parts_of_category), kept.any(1)))


def shape_iou(prediction: Any, truth: Any, ids: Sequence[int]) -> float:
    """Compute the part IoU (pointnet2) of one shape: parts (N,), among the part ids of its category."""
    predicted, true = (torch.as_tensor(parts, dtype=torch.int64)[None] for parts in (prediction, truth))
    category = torch.zeros(1, dtype=torch.int64)
    return float(iou_of(predicted, true, category, [ids], "pointnet2", max(ids) + 1)[0])


def sum_by_category(
    values: Tensor, category: Tensor, num_categories: int, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Add up one value a shape (S,) over each category, and count its shapes: two tensors (C,), float64.

    Only shapes that are ``counted`` (S,), all if None.
    """
    wide = widest(values.device)
    empty = torch.zeros(num_categories, dtype=wide, device=values.device)
    number = torch.ones_like(values, dtype=wide) if counted is None else counted.to(wide)
    return empty.index_add(0, category, values.to(wide) * number), empty.index_add(0, category, number)


def mean_over_categories(total: Tensor, shapes: Tensor) -> dict[str, float | list[float]]:
    """Compute what `part_miou` returns from sums of IoU (C,) and numbers of shapes (C,)."""
    total, shapes = total.cpu().double(), shapes.cpu().double()
    if not shapes.sum() > 0:
        raise ValueError("expected at least one shape, got none")
    per_category = total / shapes  # (C,), NaN without shapes
    return {
        "instance_miou": float(total.sum() / shapes.sum()),
        "class_miou": float(per_category[shapes > 0].mean()),
        "per_category": per_category.tolist(),
    }


def calibration(confidence: Tensor, right: Tensor, bins: int = 15) -> Tensor:
    """Count answers by their confidence: (M,) in [0, 1], (M,) bool -> (bins, 3) float64, of equal widths.

    The columns are how many answers, the sum of their confidence, and how many are right; counts of several
    batches add up.
    """
    wide = widest(confidence.device)
    place = (confidence.to(wide) * bins).long().clamp(0, bins - 1)  # (M,)
    values = torch.stack([torch.ones_like(confidence), confidence, right.to(confidence)], 1)  # (M, 3)
    empty = torch.zeros(bins, 3, dtype=wide, device=confidence.device)
    return empty.index_add(0, place, values.to(wide))


def calibration_error(counts: Tensor) -> float:
    """Return the expected calibration error of counts (bins, 3): mean |accuracy - confidence| over answers.

    Raises:
        ValueError: If nothing is counted.
    """
    if not counts[:, 0].sum() > 0:
        raise ValueError("calibration: expected at least one answer, got none")
    return float((counts[:, 2] - counts[:, 1]).abs().sum() / counts[:, 0].sum())


def _check_parts(
    logits: Tensor,
    parts: Tensor,
    category: Tensor,
    parts_of_category: Sequence[Sequence[int]],
    convention: str,
    ignore: int | Sequence[int],
) -> None:
    if convention not in CONVENTIONS:
        raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.numel() == 0:
        raise ValueError(f"logits: expected scores (S, N, P) with S, N, P > 0, got {describe(logits)}")
    for name, value, shape in (("parts", parts, logits.shape[:2]), ("category", category, logits.shape[:1])):
        fits = isinstance(value, Tensor) and value.shape == shape and value.dtype == torch.int64
        if not fits:
            raise ValueError(f"{name}: expected int64 of shape {tuple(shape)}, got {describe(value)}")
    most = max((max(ids, default=-1) for ids in parts_of_category), default=-1)
    if not all(parts_of_category) or most >= logits.shape[-1]:
        raise ValueError(
            f"parts_of_category: expected part ids from 0 to {logits.shape[-1] - 1} (logits hold "
            f"{logits.shape[-1]} parts) for every category, got up to {most}"
        )
    if logits.device.type != "cpu":
        return
    low, high = int(category.min()), int(category.max())
    if low < 0 or high >= len(parts_of_category):
        raise ValueError(f"category: expected 0 to {len(parts_of_category) - 1}, got {low} to {high}")
    kept = is_labelled(parts, ignore)  # (S, N)
    if not kept.any():
        return
    low, high = (int(extreme) for extreme in torch.aminmax(parts[kept]))
    inside = 0 <= low and high < logits.shape[-1]
    if inside:
        allowed = allowed_parts(category, parts_of_category, logits.shape[-1])  # (S, P)
        inside = bool((allowed.gather(1, torch.where(kept, parts, 0)) | ~kept).all())
    if not inside:
        raise ValueError(
            f"parts: expected parts of each shape's own category, got others (they go from {low} to {high})"
        )
