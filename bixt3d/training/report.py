"""What an evaluation leaves behind: numbers, tables and a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bixt3d import metrics
from bixt3d.training.checkpoint import write_text


def write_confusion(confusion: Tensor, classes: Sequence[str], path: Path) -> None:
    """Write a confusion matrix (K, K) as a CSV table, rows = truth."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["truth \\ prediction", *classes])
        for name, row in zip(classes, confusion.tolist(), strict=True):
            writer.writerow([name, *row])


def class_table(confusion: Tensor, classes: Sequence[str]) -> str:
    """Return a text table of the classes: name, shapes, accuracy, and what it is most taken for."""
    result = metrics.classification(confusion)
    per_class = result["per_class"]
    assert isinstance(per_class, list)
    width = max(len(name) for name in classes)
    lines = [f"{'class':{width}}  shapes  accuracy  most often taken for"]
    for index, name in enumerate(classes):
        row = confusion[index].clone()
        support = int(row.sum())
        row[index] = 0
        wrong = int(row.argmax())
        taken = f"{classes[wrong]} ({int(row[wrong])})" if int(row[wrong]) else "-"
        share = f"{100 * per_class[index]:7.1f}%" if support else "       -"
        lines.append(f"{name:{width}}  {support:6d}  {share}  {taken}")
    return "\n".join(lines)


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON."""
    write_text(path, json.dumps(result, indent=2) + "\n")
