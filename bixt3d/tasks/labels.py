"""Labels: which of them count, what each class weighs in a loss, and the tables of parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bixt3d.datasets.loader import Batch
from bixt3d.datasets.split import Split
from bixt3d.datasets.survey import count_parts
from bixt3d.metrics import CONVENTIONS, is_labelled, mean_over_categories

logger = logging.getLogger(__name__)


def note_ignored(ignore: Sequence[int], count: int) -> None:
    """Log which labels that are to be ignored are none of ``count`` labels from 0."""
    if unknown := sorted({label for label in ignore if not -1 <= label < count}):
        told = ", ".join(map(str, unknown))
        logger.warning("loss.ignore: expected labels from 0 to %d, got %s: nothing has them", count - 1, told)


def class_weights(stated: Any, counts: Tensor, names: Sequence[str] = ()) -> Tensor | None:
    """Return what each class weighs in the loss (K,), such that the training set's mean is 1; None for alike.

    Args:
        stated: ``"none"``, ``"balanced"`` (each class that occurs weighs as much in all), or K numbers.
        counts: How often each class occurs in training (K,).
        names: Of the classes, for the error.

    Raises:
        ValueError: For another number of weights, or if what occurs weighs nothing.
    """
    if stated == "none":
        return None
    device, counts = counts.device, counts.cpu().double()
    if stated == "balanced":
        weights = torch.where(counts > 0, 1 / counts.clamp_min(1), 0.0)
    else:
        if len(stated) != len(counts):
            told = f" ({', '.join(names[:3])} ...)" if names else ""
            raise ValueError(
                f"loss.class_weights: expected {len(counts)} numbers, one a label{told}, got {len(stated)}"
            )
        weights = torch.tensor(stated, dtype=torch.float64)
    total = (weights * counts).sum()
    if not total > 0:
        raise ValueError("loss.class_weights: expected a label of the training set to weigh more than 0")
    return (weights * counts.sum() / total).float().to(device)


def own_points(batch: Batch) -> Tensor:
    """Say which points are their cloud's own: (B, N) bool."""
    place = torch.arange(batch.points.shape[1], device=batch.points.device)  # (N,)
    count = place.new_full((1,), len(place)) if batch.count is None else batch.count
    return (place < count[:, None]).expand(batch.points.shape[:2])


def part_data(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the parts (B, N) and the category (B,) of a batch that has them."""
    assert batch.parts is not None and batch.category is not None
    return batch.parts, batch.category


def checked_table(table: Any) -> tuple[tuple[int, ...], ...]:
    """Return a checkpoint's parts of each category, or raise ValueError."""
    listed = isinstance(table, (list, tuple)) and all(isinstance(ids, (list, tuple)) for ids in table)
    if not listed or not all(ids and all(type(part) is int and part >= 0 for part in ids) for ids in table):
        raise ValueError(f"checkpoint: expected parts of a category, whole numbers from 0, got {table!r:.60}")
    return tuple(tuple(ids) for ids in table)


def checked_codes(codes: Any, count: int) -> tuple[int, ...]:
    """Return a checkpoint's numbers of the files, one for each label or none, or raise ValueError."""
    listed = isinstance(codes, (list, tuple)) and len(codes) in (0, count)
    if not listed or not all(type(code) is int and code >= 0 for code in codes):
        raise ValueError(f"checkpoint: part_codes: expected {count} whole numbers from 0, got {codes!r:.60}")
    return tuple(codes)


def counted_parts(split: Split, ignore: Sequence[int]) -> Tensor:
    """Return how many points of each shape are of each part, 0 for parts that do not count: (S, P)."""
    counts = count_parts(split)[:, 1:]
    return counts * is_labelled(torch.arange(split.num_parts, device=counts.device), ignore)


def category_metrics(counts: Tensor) -> dict[str, float]:
    """Return accuracy and both means of the IoU under each convention, of counts (C + 1, 3)."""
    result = {}
    for column, convention in enumerate(CONVENTIONS):
        result[f"accuracy_{convention}"] = float(counts[-1, column] / counts[-1, 2])
        means = mean_over_categories(counts[:-1, column], counts[:-1, 2])
        for name in ("instance_miou", "class_miou"):
            value = means[name]
            assert isinstance(value, float)
            result[f"{name}_{convention}"] = value
    return result


def category_rows(counts: Tensor, categories: Sequence[str]) -> list[list[Any]]:
    """Return a row for each category of counts (C + 1, 3): name, shapes, mIoU by each convention."""
    rows: list[list[Any]] = [["category", "shapes", *(f"mIoU ({kind})" for kind in CONVENTIONS)]]
    for name, (first, second, shapes) in zip(categories, counts[:-1].tolist(), strict=True):
        rows.append([name, int(shapes), *(total / shapes if shapes else None for total in (first, second))])
    return rows
