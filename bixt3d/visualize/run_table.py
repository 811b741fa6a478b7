"""A table of trainings: parameters, epochs, validation, test scores, minutes; mean ± std over seeds."""

from __future__ import annotations

import json
import logging
import statistics
import struct
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bixt3d.config import Config, dotted, to_dict
from bixt3d.tasks import find_task, list_tasks, metric_titles
from bixt3d.visualize.runs import Run, read_metrics
from bixt3d.yaml import parse_yaml

logger = logging.getLogger(__name__)

LAST = 20  # epochs, the mean over which says more than one
# Settings in which runs of one experiment differ.
REPEATED = {"train": ("seed",), "data": ("fold", "val_seed")}
AFTER = "# after epoch "  # what a line of config.yaml begins with that says which settings a run changed
TITLE = 12  # characters of a line of a title, where a table is too wide
MOST_NAMED = 3  # settings that the name of a mean states
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # in weights files, but no parameters
Value = float | int | None


@dataclass(frozen=True)
class Row:
    """A run, or the runs of one experiment that differ in seed or fold.

    Attributes:
        name: Of the run; of a mean the number of runs with the settings by which experiments differ, or with
            the first one's name.
        values: By the names of the columns; scores are fractions of 1; None where there is none.
        std: Of each value over the runs; empty for one run.
        runs: Names of the runs that it is the mean of; empty for one run.
    """

    name: str
    values: Mapping[str, Value]
    std: Mapping[str, Value]
    runs: tuple[str, ...] = ()


def run_rows(runs: Sequence[Run]) -> list[Row]:
    """Return a row for each run, then one for each experiment of which several seeds or folds are there.

    A run with settings, seed and fold of an earlier one is no other measurement: the log says so, and no mean
    counts it; nor one that has not ended, or whose settings changed on the way.

    Raises:
        FileNotFoundError: If a run has no log, such as the folder of an evaluation.
        ValueError: If its log or result is damaged.
    """
    rows, groups = [], dict[str, dict[str, Row]]()
    experiments: dict[str, dict[str, str]] = {}
    for run in runs:
        if run.training is None:
            raise FileNotFoundError(f"{run.name}: expected the folder of a training (with metrics.jsonl)")
        row = Row(run.name, _values(run.training), {})
        rows.append(row)
        if (stated := _settings(run.training)) is None:
            continue
        shared, repeated = _parted(stated)
        key = json.dumps(shared, sort_keys=True)
        experiments[key] = shared
        first = groups.setdefault(key, {}).setdefault(json.dumps(repeated, sort_keys=True), row)
        if first is not row:
            logger.warning("%s: settings, seed and fold of %s, so no mean counts it", row.name, first.name)
    unlike = {run.name: said for run in runs if run.training and (said := _unlike(run.training))}
    for key, group in groups.items():
        for row in list(group.values()) if len(group) > 1 else ():
            if row.name in unlike:
                logger.warning("%s: %s, so no mean counts it", row.name, unlike[row.name])
        groups[key] = {at: row for at, row in group.items() if row.name not in unlike or len(group) == 1}
    names = _differences(list(experiments.values()))
    means = [
        _mean(list(group.values()), name or f"{next(iter(group.values())).name} ...")
        for name, group in zip(names, groups.values(), strict=True)
        if len(group) > 1
    ]
    return rows + means


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
    """Return a table as several, of so many characters where that can be, each with the first column.

    Columns that the same rows fill stand together then, their titles in several lines, without the rows and
    columns that are empty ("-").
    """
    if sum(_widths(rows)) + gap * (len(rows[0]) - 1) <= width:
        return [[list(row) for row in rows]]
    titles = [textwrap.wrap(title, TITLE, break_long_words=False) for title in rows[0]]
    deep = max(map(len, titles))
    heads = list(zip(*([*[""] * (deep - len(title)), *title] for title in titles), strict=True))
    whole = [*heads, *rows[1:]]
    widths = _widths(whole)
    filled = [tuple(row[at] != "-" for row in rows[1:]) for at in range(len(widths))]
    blocks: list[list[int]] = []
    for kind in dict.fromkeys(kind for kind in filled[1:] if any(kind)):
        for at in (at for at in range(1, len(widths)) if filled[at] == kind):
            row = [0, *blocks[-1], at] if blocks else []
            wide = sum(widths[one] for one in row) + gap * (len(row) - 1) > width
            if not blocks or filled[blocks[-1][0]] != kind or wide:
                blocks.append([])
            blocks[-1].append(at)
    return [
        [[row[0], *(row[at] for at in block)] for row in whole if {row[at] for at in block} - {"", "-"}]
        for block in blocks
    ]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


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


def _settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of a run; None if they are not there."""
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        stated = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: no YAML ({error})") from None
    if not isinstance(stated, dict):
        raise ValueError(f"{path} is damaged: expected settings, got {stated!r:.40}")
    return stated


def _parted(stated: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the settings of an experiment, and those that its runs repeat, as text by their dotted names."""
    repeats = {f"{section}.{key}" for section, keys in REPEATED.items() for key in keys}
    everything = _texts(to_dict(Config())) | _texts(stated)  # an older run does not state newer settings
    flat = {name: value for name, value in everything.items() if not name.startswith("run.")}
    shared = {name: value for name, value in flat.items() if name not in repeats}
    return shared, {name: value for name, value in flat.items() if name in repeats}


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as text, by their dotted names."""
    held = dotted(settings)
    return {name: v if isinstance(v, str) else json.dumps(v, default=str) for name, v in held.items()}


def _differences(experiments: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the settings that tell each experiment from the others; "" for all, of none or many."""
    names = dict.fromkeys(name for one in experiments for name in one)
    differ = [name for name in names if len({one.get(name) for one in experiments}) > 1]
    if not 0 < len(differ) <= MOST_NAMED:
        return [""] * len(experiments)
    return [", ".join(f"{name}={one.get(name, 'default')}" for name in differ) for one in experiments]


def _unlike(folder: Path) -> str:
    """Say why a run repeats no other with its settings: it has not ended, or had others; "" if it does."""
    path = folder / "config.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    changes = [line.partition(": ")[2].split("; ") for line in lines if line.startswith(AFTER)]
    told = [change.partition(" was ")[0] for line in changes for change in line]
    if other := [key for key in told if key != "train.epochs"]:
        return f"{', '.join(dict.fromkeys(other))} changed on the way"
    settings = (_settings(folder) or {}).get("train", {})
    epochs, patience = settings.get("epochs", 0), settings.get("patience", 0)
    done = max((row["epoch"] for row in read_metrics(folder) if isinstance(row.get("epoch"), int)), default=0)
    if not (folder / "result.json").is_file() or (done < epochs and not patience):
        return f"it has not ended, {done} of {epochs} epochs"
    return ""


def _mean(rows: Sequence[Row], name: str) -> Row:
    mean: dict[str, Value] = {}
    std: dict[str, Value] = {}
    for column in columns(rows):
        found = [value for row in rows if (value := row.values.get(column)) is not None]
        if len(found) < len(rows):
            continue  # of runs that are not done
        mean[column] = found[0] if len(set(found)) == 1 else statistics.fmean(found)
        std[column] = statistics.stdev(found)
    return Row(f"mean of {len(rows)}: {name}", mean, std, tuple(row.name for row in rows))


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
