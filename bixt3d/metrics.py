"""Metrics from counts that are summed on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bixt3d.ops.validate import describe

# What a shape's part IoU is averaged over: see `part_iou`.
CONVENTIONS = ("pointnet2", "pointmlp")


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

    Raises:
        ValueError: For shapes that do not fit, a true part that the category does not have (looked at on the
            CPU only, as it would make a GPU wait), or an unknown convention.
    """
    _check_parts(logits, parts, category, parts_of_category, convention)
    prediction = predict_parts(logits, category, parts_of_category, convention)  # (S, N)
    return iou_of(prediction, parts, category, parts_of_category, convention, logits.shape[-1], valid)


def iou_of(
    prediction: Tensor,
    parts: Tensor,
    category: Tensor,
    parts_of_category: Sequence[Sequence[int]],
    convention: str,
    num_parts: int,
    valid: Tensor | None = None,
) -> Tensor:
    """Compute what `part_iou` returns from predicted parts (S, N), by `predict_parts` of that convention."""
    counted = torch.ones_like(parts) if valid is None else valid.to(parts.dtype)
    both = torch.where(prediction == parts, counted, 0)
    empty = torch.zeros(len(parts), num_parts, dtype=torch.int64, device=parts.device)
    intersection = empty.scatter_add(1, parts, both)  # (S, P)
    truth = empty.scatter_add(1, parts, counted)
    union = truth + empty.scatter_add(1, prediction, counted) - intersection
    iou = torch.where(union > 0, intersection.double() / union.clamp_min(1), 1.0)  # (S, P)
    if convention == "pointmlp":
        averaged = truth > 0
    else:
        averaged = allowed_parts(category, parts_of_category, num_parts)
    return (iou * averaged).sum(1) / averaged.sum(1).clamp_min(1)


def part_miou(
    logits: Tensor,
    parts: Tensor,
    category: Tensor,
    parts_of_category: Sequence[Sequence[int]],
    convention: str,
    valid: Tensor | None = None,
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

    Returns:
        ``instance_miou``: the mean over all shapes; ``class_miou``: the mean over the categories that occur
        of the mean over each one's shapes; ``per_category``: that mean for each category, NaN where none
        occurs. Fractions of 1.

    Raises:
        ValueError: As `part_iou`.
    """
    iou = part_iou(logits, parts, category, parts_of_category, convention, valid)
    return mean_over_categories(*sum_by_category(iou, category, len(parts_of_category)))


def shape_iou(prediction: Any, truth: Any, ids: Sequence[int]) -> float:
    """Compute the part IoU (pointnet2) of one shape: parts (N,), among the part ids of its category."""
    predicted, true = (torch.as_tensor(parts, dtype=torch.int64)[None] for parts in (prediction, truth))
    category = torch.zeros(1, dtype=torch.int64)
    return float(iou_of(predicted, true, category, [ids], "pointnet2", max(ids) + 1)[0])


def sum_by_category(values: Tensor, category: Tensor, num_categories: int) -> tuple[Tensor, Tensor]:
    """Add up one value a shape (S,) over each category, and count its shapes: two tensors (C,), float64."""
    empty = torch.zeros(num_categories, dtype=torch.float64, device=values.device)
    return empty.index_add(0, category, values.double()), empty.index_add(
        0, category, torch.ones_like(values, dtype=torch.float64)
    )


def mean_over_categories(total: Tensor, shapes: Tensor) -> dict[str, float | list[float]]:
    """Compute what `part_miou` returns from sums of IoU (C,) and numbers of shapes (C,)."""
    total, shapes = total.double().cpu(), shapes.double().cpu()
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
    place = (confidence.double() * bins).long().clamp(0, bins - 1)  # (M,)
    values = torch.stack([torch.ones_like(confidence), confidence, right.to(confidence)], 1)  # (M, 3)
    empty = torch.zeros(bins, 3, dtype=torch.float64, device=confidence.device)
    return empty.index_add(0, place, values.double())


def calibration_error(counts: Tensor) -> float:
    """Return the expected calibration error of counts (bins, 3): mean |accuracy - confidence| over answers.

    Raises:
        ValueError: If nothing is counted.
    """
    if not counts[:, 0].sum() > 0:
        raise ValueError("calibration: expected at least one answer, got none")
    return float((counts[:, 2] - counts[:, 1]).abs().sum() / counts[:, 0].sum())


def retrieval(vectors: Tensor, label: Tensor, chunk: int = 256) -> dict[str, float]:
    """Compute how well each cloud finds those of its class among all others, by cosine.

    Args:
        vectors: One of each cloud (S, D), such as `bixt3d.Predictor.embed` returns.
        label: (S,) int64.
        chunk: Clouds that search at a time.

    Returns:
        ``map``: the mean over clouds of the average precision of the whole ranking; ``nearest``: the share
        whose nearest other cloud is of their class. Clouds without another of their class do not search.

    Raises:
        ValueError: If no class has two clouds, or the two differ in length.
    """
    if vectors.ndim != 2 or label.shape != vectors.shape[:1]:
        raise ValueError(
            f"vectors and label: expected (S, D), (S,), got {describe(vectors)}, {describe(label)}"
        )
    unit = torch.nn.functional.normalize(vectors.float(), dim=1)  # (S, D)
    precision, nearest = [], []
    for rows in torch.split(torch.arange(len(unit), device=unit.device), chunk):
        near = unit[rows] @ unit.T  # (s, S)
        near[torch.arange(len(rows)), rows] = -torch.inf  # itself comes last
        order = near.argsort(dim=1, descending=True, stable=True)[:, :-1]
        same = (label[order] == label[rows, None]).double()  # (s, S - 1)
        rank = torch.arange(1, same.shape[1] + 1, device=unit.device)
        found = same.sum(1)
        each = (same * same.cumsum(1) / rank).sum(1) / found.clamp_min(1)  # (s,)
        precision.append(each[found > 0])
        nearest.append(same[found > 0, :1].flatten())
    if not sum(map(len, precision)):
        raise ValueError("retrieval: expected a class of two clouds or more, got none")
    return {"map": float(torch.cat(precision).mean()), "nearest": float(torch.cat(nearest).mean())}


def _check_parts(
    logits: Tensor,
    parts: Tensor,
    category: Tensor,
    parts_of_category: Sequence[Sequence[int]],
    convention: str,
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
    low, high = int(parts.min()), int(parts.max())
    inside = 0 <= low and high < logits.shape[-1]
    if inside:
        allowed = allowed_parts(category, parts_of_category, logits.shape[-1])  # (S, P)
        inside = bool(allowed.gather(1, parts).all())
    if not inside:
        raise ValueError(
            f"parts: expected parts of each shape's own category, got others (they go from {low} to {high})"
        )
