"""Reads what trainings, evaluations and benchmarks leave behind: metrics, tables, confusions, throughput."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.metrics import CONVENTIONS
from bixt3d.suggest import nearest

SUFFIX = ".safetensors"
COUNTS = ("shapes", "clouds", "points", "count")


@dataclass(frozen=True)
class Run:
    """What a path names: a training's folder, one of its checkpoints, or the folder of an evaluation.

    Attributes:
        name: How it is called in pictures.
        place: The parts of its absolute path, from which a longer name is made if two are called alike.
        training: The folder with its `metrics.jsonl`; None for an evaluation that lies elsewhere.
        tables: Where its scores of each class or category may be, the first one that exists counts.
        confusion: Where a classifier's confusion matrix may be.
    """

    name: str
    place: tuple[str, ...]
    training: Path | None
    tables: tuple[Path, ...]
    confusion: Path


@dataclass(frozen=True)
class ClassScores:
    """How well a model does with each class, with the parts of each category, or with what a task lists.

    Attributes:
        kind: `class`, `category`, or the first word of a task's own table.
        measure: What the values are, such as `accuracy` or `mIoU (pointnet2)`.
        names: Of the classes.
        shapes: How many test shapes each class has; empty if the table does not say it.
        values: Fractions of one, or whatever the task measures; None for a class without a shape.
        percent: Whether they are fractions of one.
    """

    kind: str
    measure: str
    names: tuple[str, ...]
    shapes: tuple[int, ...]
    values: tuple[float | None, ...]
    percent: bool = True

    @property
    def mean(self) -> float:
        """Mean over the classes that have shapes, each counting the same."""
        return float(np.mean([value for value in self.values if value is not None]))


def find_runs(paths: Sequence[str | Path], labels: Sequence[str] | None = None) -> list[Run]:
    """Find the runs that paths name, each under a name of its own.

    Args:
        paths: Folders of trainings, their checkpoints (`runs/x/last`), or folders of evaluations.
        labels: Names to use instead of the folders', one a path; equal ones are numbered.

    Raises:
        FileNotFoundError: If a path names no run.
        ValueError: If there is not one label a path.
    """
    runs = [find_run(path) for path in paths]
    if labels is not None and len(labels) != len(runs):
        raise ValueError(f"expected a label for each of {len(runs)} runs, got {len(labels)}")
    names = [_shortest(run, runs) for run in runs] if labels is None else list(labels)
    found: list[Run] = []
    for run, name in zip(runs, names, strict=True):
        unique, number = name, 2
        while unique in {other.name for other in found}:
            unique, number = f"{name} ({number})", number + 1
        found.append(replace(run, name=unique))
    return found


def find_run(path: str | Path) -> Run:
    """Find the run that a path names.

    Raises:
        FileNotFoundError: If it names none.
    """
    path = Path(path).expanduser()
    if (path / "metrics.jsonl").is_file():
        return _checkpoint(path, "last")
    tables = (path / "table.csv", path / "confusion.csv")
    above = path.resolve().parent
    if any(table.is_file() for table in tables):
        training = path.parent if (path.parent / "metrics.jsonl").is_file() else None
        place = path.resolve().parts
        name = f"{above.name}/{place[-1]}" if training else place[-1]
        return Run(name, place, training, tables, path / "confusion.csv")
    stem = path.name.removesuffix(SUFFIX)
    known = (f"{stem}{SUFFIX}", f"{stem}_test.csv", f"{stem}_test")
    if (path.parent / "metrics.jsonl").is_file() and any((path.parent / name).exists() for name in known):
        return _checkpoint(path.parent, stem)
    beside = [folder.name for folder in above.iterdir() if folder.is_dir()] if above.is_dir() else []
    hint = "" if path.exists() else nearest(path.name, beside)
    raise FileNotFoundError(
        f"no run {path}: expected the folder of a training (with metrics.jsonl), its checkpoint "
        f"(FOLDER/last), or the folder of an evaluation (with table.csv){hint}"
    )


def _checkpoint(folder: Path, stem: str) -> Run:
    place = folder.resolve().parts
    name = place[-1]
    if stem != "last":
        place, name = (*place, stem), f"{name}/{stem}"
    tables = (folder / f"{stem}_test.csv", folder / f"{stem}_test" / "table.csv")
    return Run(name, place, folder, tables, folder / f"{stem}_test" / "confusion.csv")


def _shortest(run: Run, runs: Sequence[Run]) -> str:
    # The fewest last parts of the path by which no other run goes.
    others = [other.place for other in runs if other.name == run.name and other.place != run.place]
    for length in range(run.name.count("/") + 1, len(run.place)):
        if all(other[-length:] != run.place[-length:] for other in others):
            return "/".join(run.place[-length:])
    return str(Path(*run.place))


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """Read the rows that a training wrote to `metrics.jsonl`, one JSON object a line, in the file's order.

    A last line without its newline is being written still, or was cut off by a crash: unless whole, it is
    left out.

    Args:
        run_dir: The folder of the run.

    Returns:
        One dict a line; empty for a run that has not finished its first epoch.

    Raises:
        FileNotFoundError: If the folder has no `metrics.jsonl`.
        ValueError: If a line is not a JSON object; the message names its number.
    """
    path = Path(run_dir).expanduser() / "metrics.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"no metrics.jsonl in {run_dir}: give the folder a training wrote its run to")
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")  # the entry after the last newline is empty, or torn
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number} is damaged: {line[:60]!r} is no JSON ({error})"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is damaged: expected a JSON object, got {line[:60]!r}")
        rows.append(row)
    return rows


def read_scores(path: str | Path, convention: str = "pointnet2") -> ClassScores:
    """Read the scores of each class or category from a table that a training or an evaluation wrote.

    Args:
        path: `last_test.csv`, `table.csv`, or a classifier's `confusion.csv`.
        convention: Which mean IoU, for part-segmentation models.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the table is another one, or damaged.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")
    rows = _read_csv(path)
    kind = rows[0][0]
    if kind.startswith("truth"):
        counts, names = _confusion(rows, path)
        support = counts.sum(axis=1)  # (K,)
        right = [float(counts[k, k] / n) if n else None for k, n in enumerate(support)]
        return ClassScores("class", "accuracy", names, tuple(map(int, support)), tuple(right))
    header = rows[0]
    column = {"class": "accuracy", "category": f"mIoU ({convention})"}.get(kind)
    counts_shapes = len(header) > 1 and header[1] in COUNTS
    if column not in header:  # a task's own table: the first column that holds numbers
        places = range(1 + counts_shapes, len(header))
        column = next((header[place] for place in places if _numeric(rows[1:], place)), None)
    if column is None:
        raise ValueError(
            f"{path}: expected the scores of classes (class,shapes,accuracy), categories "
            f"(category,shapes,mIoU ...) or another column of numbers, its first line is "
            f"{','.join(header)[:60]!r}"
        )
    percent, values = None, []
    for number, row in enumerate(rows[1:], start=2):
        cell = row[header.index(column)] if len(row) == len(header) else ""
        value = _value(cell)
        usable = cell == "-" or (value is not None and percent in (None, cell.endswith("%")))
        if value is not None:
            percent = cell.endswith("%")
            usable = usable and (not percent or 0 <= value <= 1)
        if not usable or (counts_shapes and not row[1].isdecimal()):
            raise ValueError(
                f"{path}, line {number} is damaged: expected a name, a count and a {column} like 90.5%, "
                f"got {','.join(row)[:60]!r}"
            )
        values.append(value)
    known = [value for value in values if value is not None]
    names = tuple(row[0] for row in rows[1:])
    if len(set(names)) < len(names) or not known:
        raise ValueError(f"{path} is damaged: expected a row for each {kind}, once, and a score in some")
    shapes = tuple(int(row[1]) for row in rows[1:]) if counts_shapes else ()
    fractions = column in ("accuracy", f"mIoU ({convention})") and 0 <= min(known) <= max(known) <= 1
    return ClassScores(kind, column, names, shapes, tuple(values), bool(percent) or fractions)


def _numeric(rows: Sequence[Sequence[str]], place: int) -> bool:
    cells = [row[place] for row in rows if len(row) > place and row[place] != "-"]
    return bool(cells) and all(_value(cell) is not None for cell in cells)


def _value(cell: str) -> float | None:
    """Return a cell's finite number, of a percentage as a fraction; None if it is none."""
    try:
        value = float(cell.removesuffix("%"))
    except ValueError:
        return None
    return (value / 100 if cell.endswith("%") else value) if math.isfinite(value) else None


def read_confusion(path: str | Path) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Read a confusion matrix that an evaluation wrote: counts (K, K), rows = truth, and names of classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a square table of counts.
    """
    return _confusion(_read_csv(path), path)


def _confusion(rows: list[list[str]], path: str | Path) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    names = rows[0][1:]
    square = [row[0] for row in rows[1:]] == names and all(len(row) == len(rows[0]) for row in rows)
    if not names or not square or not all(cell.isdecimal() for row in rows[1:] for cell in row[1:]):
        raise ValueError(
            f"{path} is damaged: expected a confusion matrix, a row and a column of counts for each class"
        )
    return np.array([[int(cell) for cell in row[1:]] for row in rows[1:]]), tuple(names)


def _read_csv(path: str | Path) -> list[list[str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: no table of text ({error})") from None
    if len(rows) < 2:
        raise ValueError(f"{path} is damaged: expected a table, got {len(rows)} lines")
    return rows


def read_throughput(path: str | Path) -> list[dict[str, Any]]:
    """Read measured speeds: JSON, a list of rows as `throughput` takes them, or an object with such `rows`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON, or holds no list of objects.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: no JSON ({error})") from None
    rows = content.get("rows") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{path}: expected a list of objects with model, num_points, clouds_per_second and device"
        )
    return rows
