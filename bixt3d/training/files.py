"""Files written whole or not at all: any, text, JSON, CSV tables; and tables as aligned text."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from bixt3d.mistakes import explain


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, flush it to the disk, and rename it to ``path``.

    Raises:
        OSError: If it cannot be written; the previous file, if any, is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except Exception as error:
        kept = f"; the previous {path.name} is untouched" if path.exists() else ""
        raise OSError(f"could not save {path} ({explain(error)}){kept}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder for what is computed inside; one that was not there is gone again if that fails.

    Raises:
        OSError: If it cannot be made.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what holds files stays
            for place in new:
                place.rmdir()
        raise


def flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    with open(path, "rb+") as file:  # Windows flushes none that is open for reading alone
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a renaming last through a power cut, where the system lets a folder be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8.

    Raises:
        OSError: If it cannot be written; the previous one is untouched.
    """
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_confusion(confusion: Tensor, classes: Sequence[str], path: Path) -> None:
    """Write a confusion matrix (K, K) as a CSV table, rows = truth."""
    rows = [[name, *map(str, row)] for name, row in zip(classes, confusion.tolist(), strict=True)]
    write_csv([["truth \\ prediction", *classes], *rows], path)


def write_csv(rows: Sequence[Sequence[Any]], path: Path) -> None:
    """Write rows as a CSV table: numbers as numbers, "-" for None."""
    text = csv_text(rows).encode()
    write_atomically(path, lambda temporary: temporary.write_bytes(text))


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as the text of a CSV table, as `write_csv` writes it."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_cell(value, "{:.6g}".format) for value in row] for row in rows)
    return text.getvalue()


def markdown_table(rows: Sequence[Sequence[object]]) -> str:
    """Return rows, the head first, as a Markdown table with aligned columns."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def text_table(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows, the head first, as aligned columns, fractions of 1 as per cent, "-" for None."""
    texts = [[_cell(value, _percent) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in texts:
        cells = [
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON."""
    write_text(path, json.dumps(result, indent=2) + "\n")


def _cell(value: Any, number: Callable[[float], str]) -> str:
    return "-" if value is None else number(value) if isinstance(value, float) else str(value)


def _percent(value: float) -> str:
    return f"{value:.1%}" if 0 <= value <= 1 else f"{value:.4g}"
