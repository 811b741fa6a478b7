"""What an evaluation leaves behind: numbers, tables and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bixt3d import metrics
from bixt3d.training.checkpoint import write_atomically, write_text


def write_confusion(confusion: Tensor, classes: Sequence[str], path: Path) -> None:
    """Write a confusion matrix (K, K) as a CSV table, rows = truth."""
    rows = [[name, *map(str, row)] for name, row in zip(classes, confusion.tolist(), strict=True)]
    write_csv([["truth \\ prediction", *classes], *rows], path)


def write_csv(rows: Sequence[Sequence[str]], path: Path) -> None:
    """Write rows of text as a CSV table."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_atomically(path, lambda temporary: temporary.write_bytes(text.getvalue().encode()))


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text, the head first, as aligned columns; the first and the last to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def class_rows(confusion: Tensor, classes: Sequence[str]) -> list[list[str]]:
    """Return a row for each class: name, shapes, accuracy, and what it is most taken for."""
    confusion = confusion.cpu()
    per_class = metrics.classification(confusion)["per_class"]
    assert isinstance(per_class, list)
    rows = [["class", "shapes", "accuracy", "most often taken for"]]
    for index, name in enumerate(classes):
        row = confusion[index].clone()
        support = int(row.sum())
        row[index] = 0
        wrong = int(row.argmax())
        taken = f"{classes[wrong]} ({int(row[wrong])})" if int(row[wrong]) else "-"
        rows.append([name, str(support), f"{100 * per_class[index]:.1f}%" if support else "-", taken])
    return rows


def category_rows(counts: Tensor, categories: Sequence[str]) -> list[list[str]]:
    """Return a row for each category: name, shapes, and mean part IoU under each convention.

    Args:
        counts: Those of `PartSegmentationTask`, (C + 1, 3).
        categories: Names of the C categories.
    """
    rows = [["category", "shapes", *(f"mIoU ({convention})" for convention in metrics.CONVENTIONS)]]
    for name, (first, second, shapes) in zip(categories, counts[:-1].tolist(), strict=True):
        ious = [f"{100 * total / shapes:.1f}%" if shapes else "-" for total in (first, second)]
        rows.append([name, str(int(shapes)), *ious])
    return rows


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON."""
    write_text(path, json.dumps(result, indent=2) + "\n")
