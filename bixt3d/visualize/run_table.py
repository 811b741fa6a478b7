"""A table of trainings: parameters, epochs, validation, test scores, minutes; mean ± std over seeds."""

from __future__ import annotations

import json
import statistics
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bixt3d.tasks import find_task, list_tasks, metric_titles
from bixt3d.visualize.runs import Run, read_metrics
from bixt3d.yaml import parse_yaml

LAST = 20  # epochs, the mean over which says more than one
# Settings in which runs of one experiment differ.
REPEATED = {"train": ("seed",), "data": ("fold", "val_seed"), "run": None}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # in weights files, but no parameters
Value = float | int | None


@dataclass(frozen=True)
class Row:
    """A run, or the runs of one experiment that differ in seed or fold.

    Attributes:
        name: Of the run, or of the first one and their number.
        values: By the names of the columns; scores are fractions of 1; None where there is none.
        std: Of each value over the runs; empty for one run.
        runs: Names of the runs that it is the mean of; empty for one run.
    """

    name: str
    values: Mapping[str, Value]
    std: Mapping[str, Value]
    runs: tuple[str, ...] = ()


def run_rows(runs: Sequence[Run]) -> list[Row]:
    """Return a row for each run, then one for each experiment of which several runs are there.

    Raises:
        FileNotFoundError: If a run has no log, such as the folder of an evaluation.
        ValueError: If its log or result is damaged.
    """
    rows, groups = [], dict[str, list[Row]]()
    for run in runs:
        if run.training is None:
            raise FileNotFoundError(f"{run.name}: expected the folder of a training (with metrics.jsonl)")
        row = Row(run.name, _values(run.training), {})
        rows.append(row)
        groups.setdefault(_experiment(run.training), []).append(row)
    return rows + [_mean(group) for key, group in groups.items() if key and len(group) > 1]


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the names of all columns that some row has, in their order."""
    found = list(dict.fromkeys(name for row in rows for name in row.values))
    first = ["parameters", "epochs"]
    return first + [name for name in found if name not in (*first, "minutes")] + ["minutes"]


def text_rows(rows: Sequence[Row]) -> list[list[str]]:
    """Return rows of text, the head first: scores as per cent, "-" for what is not known."""
    names = columns(rows)
    found = [["run", *names]]
    for row in rows:
        cells = [_cell(name, row.values.get(name), row.std.get(name)) for name in names]
        found.append([row.name, *cells])
    return found


def folded(rows: Sequence[Sequence[str]], width: int, gap: int = 2) -> list[list[list[str]]]:
    """Return a table as several, of so many characters where that can be, each with the first column."""
    widths = [max(len(row[at]) for row in rows) + gap for at in range(len(rows[0]))]
    blocks: list[list[int]] = [[]]
    for at in range(1, len(widths)):
        if blocks[-1] and widths[0] + sum(widths[one] for one in blocks[-1]) + widths[at] > width + gap:
            blocks.append([])
        blocks[-1].append(at)
    return [[[row[0], *(row[at] for at in block)] for row in rows] for block in blocks]


def number_rows(rows: Sequence[Row]) -> list[list[Any]]:
    """Return rows of numbers, the head first; a mean has a second row with the standard deviations."""
    names = columns(rows)
    found: list[list[Any]] = [["run", *names]]
    for row in rows:
        found.append([row.name, *(row.values.get(name) for name in names)])
        if row.runs:
            found.append([f"std of {row.name.removeprefix('mean of ')}", *map(row.std.get, names)])
    return found


def to_json(rows: Sequence[Row]) -> str:
    """Return runs, and means over those of one experiment, as JSON."""
    return json.dumps(
        {
            "runs": [{"run": row.name, **row.values} for row in rows if not row.runs],
            "means": [{"runs": row.runs, "mean": row.values, "std": row.std} for row in rows if row.runs],
        },
        indent=2,
    )


def _values(folder: Path) -> dict[str, Value]:
    log = {int(row["epoch"]): row for row in read_metrics(folder) if isinstance(row.get("epoch"), int)}
    rows = [log[epoch] for epoch in sorted(log)]  # of an epoch that was logged twice the later row
    result = _read_json(folder / "result.json")
    values: dict[str, Value] = {"parameters": _parameters(folder), "epochs": max(log, default=0)}
    looked = [row for row in rows if any(key.startswith("val_") for key in row)]
    titles = metric_titles()
    if goal := _goal(looked[-1] if looked else {}):
        title = titles.get(goal, goal)
        late = [row[f"val_{goal}"] for row in looked if row["epoch"] > max(log) - LAST]
        values[f"val {title}"] = looked[-1][f"val_{goal}"]
        values[f"val {title}, last {LAST}"] = statistics.fmean(late)
    last = result.get("last", {})
    measured = {*titles, *(key[6:] for row in rows[-1:] for key in row if key.startswith("train_"))}
    tested = {key: value for key, value in last.items() if key in measured}
    values |= {f"test {titles.get(key, key)}": value for key, value in tested.items()}
    if goal in result.get("best", {}):
        values[f"test {titles.get(goal, goal)}, best epoch"] = result["best"][goal]
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    values["minutes"] = result.get("minutes", round(seconds / 60, 2) if rows else None)
    return values


def _goal(row: Mapping[str, Any]) -> str:
    """Return the metric that chooses the best epoch: that of the first task that has it, or the first one."""
    goals = [find_task(name).goal for name in list_tasks()]
    logged = [key[4:] for key in row if key.startswith("val_") and key != "val_loss"]
    return next((goal for goal in goals if goal in logged), logged[0] if logged else "")


def _parameters(folder: Path) -> int | None:
    """Return how many weights a run's checkpoint holds, from its head alone; None if there is none."""
    path = folder / "last.safetensors"
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            head = json.loads(file.read(min(length, path.stat().st_size)))
            shapes = [
                entry["shape"]
                for name, entry in head.items()
                if name != "__metadata__" and not name.endswith(BUFFERS)
            ]
        except (ValueError, KeyError, TypeError, struct.error):
            raise ValueError(f"{path} is damaged: expected a safetensors file") from None
    total = 0
    for shape in shapes:
        count = 1
        for side in shape:
            count *= side
        total += count
    return total


def _experiment(folder: Path) -> str:
    """Return the settings of a run but for those that are repeated, as one text; "" if they are not there."""
    path = folder / "config.yaml"
    if not path.is_file():
        return ""
    try:
        stated = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: no YAML ({error})") from None
    if not isinstance(stated, dict):
        raise ValueError(f"{path} is damaged: expected settings, got {stated!r:.40}")
    for section, keys in REPEATED.items():
        held = stated.get(section)
        if keys is None or not isinstance(held, dict):
            stated.pop(section, None)
        else:
            stated[section] = {key: value for key, value in held.items() if key not in keys}
    return json.dumps(stated, sort_keys=True, default=str)


def _mean(rows: Sequence[Row]) -> Row:
    mean: dict[str, Value] = {}
    std: dict[str, Value] = {}
    for name in columns(rows):
        found = [value for row in rows if (value := row.values.get(name)) is not None]
        if len(found) < len(rows):
            continue  # of runs that are not done
        mean[name] = found[0] if len(set(found)) == 1 else statistics.fmean(found)
        std[name] = statistics.stdev(found)
    return Row(f"mean of {len(rows)}: {rows[0].name} ...", mean, std, tuple(row.name for row in rows))


def _cell(name: str, value: Value, std: Value) -> str:
    if value is None:
        return "-"
    if name in ("parameters", "epochs"):
        return f"{value:,.0f}"
    if name == "minutes":
        return f"{value:.1f}" + (f" ± {std:.1f}" if std is not None else "")
    percent = 0 <= value <= 1
    text = f"{100 * value:.2f}" if percent else f"{value:.4g}"
    if std is not None:
        text += f" ± {100 * std:.2f}" if percent else f" ± {std:.2g}"
    return f"{text}%" if percent else text


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: no JSON ({error})") from None
    if not isinstance(found, dict) or not all(
        isinstance(found.get(key, {}), dict) for key in ("last", "best")
    ):
        raise ValueError(f"{path} is damaged: expected the result of a training")
    return found
