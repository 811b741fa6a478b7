"""What an evaluation leaves behind: numbers, tables and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bixt3d.training.files import write_atomically, write_text


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


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON."""
    write_text(path, json.dumps(result, indent=2) + "\n")
