"""Bars: scores of each class or category, clouds a second, and how alike both directions of attention are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bixt3d.visualize.figure import (
    COLOURS,
    LETTER,
    Style,
    legend_below,
    new_figure,
    plain_axes,
    save_figure,
    styles,
)
from bixt3d.visualize.runs import ClassScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TALLEST = 10.5  # inches of bars: more stand in two columns
FONT = 10.0
ACROSS = 3  # panels of throughput in a row
WRITTEN_UP_TO = 2  # runs: with more of them a number no longer fits its bar


def check_comparable(tables: Mapping[str, ClassScores]) -> None:
    """Check that tables measure the same thing of the same classes, whatever their order.

    Raises:
        ValueError: If they do not; the message names two runs and what differs.
    """
    if not tables:
        raise ValueError("no scores to draw: give at least one table, as {name: scores}")
    (first, wanted), *others = tables.items()
    for name, table in others:
        if table.measure != wanted.measure:
            raise ValueError(
                f"{first} has the {wanted.measure} of {_plural(wanted)}, {name} the {table.measure} of "
                f"{_plural(table)}: draw them apart"
            )
        if set(table.names) != set(wanted.names):
            only = sorted(set(table.names) ^ set(wanted.names))
            raise ValueError(
                f"{first} and {name} know other {_plural(wanted)} ({len(wanted.names)} and "
                f"{len(table.names)}; only one has {', '.join(only[:3])}{' ...' * (len(only) > 3)}): "
                "draw them apart"
            )


def class_bars(tables: Mapping[str, ClassScores], path: str | Path, order: Sequence[str] = ()) -> Path:
    """Draw a bar for each class and run, and each run's mean over the classes as a dashed line.

    The classes are sorted by the first run's score, its best on top. Their numbers of shapes stand in
    brackets if they are the same for all runs. A class without a shape has no bar, and does not count in
    the mean.

    Args:
        tables: Name -> scores of one run. All must measure the same thing of the same classes.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.
        order: All names of a comparison whose runs are not all drawn here, so that each keeps its colour.

    Raises:
        ValueError: If there is no table, the tables cannot be compared, or the suffix is unknown.
    """
    check_comparable(tables)
    looks = styles(list(tables), order)
    figure = new_figure()
    from matplotlib.patches import Patch

    first = next(iter(tables.values()))
    score = {n: -math.inf if v is None else v for n, v in zip(first.names, first.values, strict=True)}
    classes = sorted(first.names, key=lambda name: -score[name])
    thickness = max(0.075, 0.2 / len(tables) ** 0.5)  # inches of one bar, and so below
    row = thickness * len(tables) + max(0.07, 0.35 * thickness)
    columns = 2 if row * len(classes) > TALLEST and len(classes) > 1 else 1
    per_column = -(-len(classes) // columns)
    same = bool(first.shapes) and all(_counts(table) == _counts(first) for table in tables.values())
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for index, axes in enumerate(panels):
        shown = classes[index * per_column : (index + 1) * per_column]
        _draw(axes, shown, tables, looks, thickness / row)
        labels = [f"{name} ({_counts(first)[name]})" if same else name for name in shown]
        axes.set_yticks(range(len(shown)), labels, parse_math=False)
        axes.set_xlabel(first.measure, fontsize=FONT + 1)
        axes.set_ylim(per_column - 0.5, -0.5)  # both columns at one scale, the first class on top
    hint = f"dashed: mean over {_plural(first)}{'; in brackets: shapes' if same else ''}"
    figure.suptitle(f"{first.measure} of every {first.kind}\n{hint}", fontsize=FONT + 1)
    entries = {
        f"{name}, mean {_number(table.mean, table)}{'%' * table.percent}": Patch(
            facecolor=looks[name].colour, edgecolor="white", hatch=looks[name].hatch, linewidth=0
        )
        for name, table in tables.items()
    }
    longest = max(len(label.get_text()) for axes in panels for label in axes.get_yticklabels())
    width = columns * (5.6 + LETTER * FONT * longest)
    figure.set_size_inches(width, row * per_column + 1.2 + legend_below(figure, entries, width))
    return save_figure(figure, Path(path).expanduser())


def _draw(
    axes: Axes,
    classes: Sequence[str],
    tables: Mapping[str, ClassScores],
    looks: Mapping[str, Style],
    thickness: float,
) -> None:
    from matplotlib.patheffects import Normal, Stroke
    from matplotlib.ticker import PercentFormatter

    plain_axes(axes, "x")
    numbers = len(tables) <= WRITTEN_UP_TO
    values = {name: dict(zip(table.names, table.values, strict=True)) for name, table in tables.items()}
    absent = [c for c in classes if all(value[c] is None for value in values.values())]
    for c in absent:
        _write(axes, 0, classes.index(c), "no shapes")
    for index, (name, table) in enumerate(tables.items()):
        colour, _, hatch = looks[name]
        middle = [place + (index - (len(tables) - 1) / 2) * thickness for place in range(len(classes))]
        axes.barh(
            middle,
            [values[name][c] or 0.0 for c in classes],
            height=thickness,
            color=colour,
            edgecolor="white",
            hatch=hatch,
            linewidth=0.4,
        )
        for place, c in zip(middle, classes, strict=True):
            value = values[name][c]
            if value is None and c not in absent:
                _write(axes, 0, place, "no shapes")
            elif value is not None and numbers:
                _write(axes, value, place, _number(value, table))
        line = axes.axvline(table.mean, color=colour, linestyle=(0, (4, 2)), linewidth=1.4)
        if numbers:  # over the bars, which it would cut to pieces if there were many lines
            line.set(zorder=3, path_effects=[Stroke(linewidth=2.6, foreground="white"), Normal()])
        else:
            line.set_zorder(0.9)
    axes.tick_params(axis="y", length=0)
    if all(table.percent for table in tables.values()):
        axes.set_xlim(0, 1.08 if numbers else 1.0)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    else:
        known = [v for table in tables.values() for v in table.values if v is not None]
        reach = max(max(known), 0) - min(min(known), 0) or 1.0
        axes.set_xlim(min(min(known), 0), max(max(known), 0) + 0.1 * numbers * reach)


def _write(axes: Axes, end: float, place: float, text: str) -> None:
    box = {"facecolor": "white", "linewidth": 0, "pad": 0.6}  # keeps dashed lines out of the letters
    how: dict[str, Any] = {"xytext": (3, 0), "textcoords": "offset points", "va": "center_baseline"}
    axes.annotate(text, (end, place), fontsize=8, color="0.2", bbox=box, zorder=4, **how)


def _number(value: float, table: ClassScores) -> str:
    return f"{100 * value:.1f}" if table.percent else f"{value:.4g}"


def _counts(table: ClassScores) -> dict[str, int]:
    return dict(zip(table.names, table.shapes, strict=False))


def _plural(table: ClassScores) -> str:
    return {"class": "classes", "category": "categories"}.get(table.kind, f"{table.kind}s")


def throughput(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw clouds a second as bars, one a model: a panel for each number of points, each with its own axis.

    Args:
        rows: One measurement each: `model`, a name; `num_points`, a whole number from 1 up;
            `clouds_per_second`, above zero, or None where the model did not run (its memory did not
            suffice, say), which its place tells; `device`, a name. Other keys are left alone. Where there are
            several devices, each model has a bar for each.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.

    Raises:
        ValueError: If there is no measurement, a row lacks something or measures what another row measures,
            or the suffix is unknown.
    """
    speeds, devices = _speeds(rows)
    figure = new_figure()
    names = list(speeds)
    sizes = sorted({size for found in speeds.values() for size in found})
    across = min(ACROSS, len(sizes))
    down = -(-len(sizes) // across)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, size in zip(panels.flat, sizes, strict=False):
        plain_axes(axes, "x")
        measured = [speeds[name].get(size) for name in names]
        colours = [COLOURS[place % len(COLOURS)] for place in range(len(names))]
        axes.barh(range(len(names)), [value or 0.0 for value in measured], height=0.7, color=colours)
        for place, (name, value) in enumerate(zip(names, measured, strict=True)):
            missing = "did not run" if size in speeds[name] else "not measured"
            _write(axes, value or 0, place, missing if value is None else f"{value:,.4g}")
        axes.set_xlim(0, 1.25 * max([value for value in measured if value is not None], default=1.0))
        axes.set_title(f"{size:,} points", fontsize=FONT + 1)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.tick_params(axis="y", length=0)
    panels[0, 0].invert_yaxis()
    for axes in list(panels.flat)[len(sizes) :]:
        axes.set_visible(False)
    figure.supxlabel("clouds a second", fontsize=FONT + 1)
    if len(devices) == 1:
        figure.suptitle(devices[0], fontsize=FONT + 1, parse_math=False)
    longest = LETTER * FONT * max(map(len, names))
    figure.set_size_inches(longest + 3.2 * across + 0.6, down * (0.3 * len(names) + 0.7) + 0.8)
    return save_figure(figure, Path(path).expanduser())


def _speeds(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[int, float | None]], list[str]]:
    """Return clouds a second by bar and number of points, None where it did not run, and the devices."""
    for number, row in enumerate(rows):
        _check_speed(row, number)
    devices = list(dict.fromkeys(row["device"] for row in rows))
    speeds: dict[str, dict[int, float | None]] = {}
    for row in rows:
        name, size = row["model"], row["num_points"]
        if len(devices) > 1:
            name = f"{name}, {row['device']}"
        if size in speeds.setdefault(name, {}):
            raise ValueError(f"two rows measure {name} at {size} points on {row['device']}: keep one")
        speeds[name][size] = row["clouds_per_second"]
    if all(value is None for found in speeds.values() for value in found.values()):
        raise ValueError("no throughput to draw: give at least one row with clouds_per_second")
    return speeds, devices


def _check_speed(row: Mapping[str, Any], number: int) -> None:
    for key in ("model", "num_points", "clouds_per_second", "device"):
        if key not in row:
            raise ValueError(f"row {number} has no {key}, it has {', '.join(row) or 'nothing'}")
    size, speed = row["num_points"], row["clouds_per_second"]
    if type(size) is not int or size < 1:
        raise ValueError(f"row {number}: num_points: expected a whole number from 1 up, got {size!r}")
    if speed is not None and not (type(speed) in (int, float) and 0 < speed < math.inf):
        raise ValueError(
            f"row {number}: clouds_per_second: expected a number above zero, or null where the model did "
            f"not run, got {speed!r}"
        )
    for key in ("model", "device"):
        if not isinstance(row[key], str) or not row[key]:
            raise ValueError(f"row {number}: {key}: expected a name, got {row[key]!r}")


def symmetry_picture(models: Mapping[str, Sequence[Any]], path: str | Path) -> Path:
    """Draw how alike the two directions of attention are in every layer, several models beside each other.

    Args:
        models: Name -> for each layer the correlations of `bixt3d.ops.attention_symmetry`, of any shape: the
            bar is their mean, the line one standard deviation to both sides.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.

    Raises:
        ValueError: If there is no model, or none has a layer with both directions.
    """
    layers = max((len(values) for values in models.values()), default=0)
    if not layers:
        raise ValueError("nothing to draw: no model has a layer in which both directions are attended")
    figure = new_figure()
    width, entries = max(5.0, 1.2 * layers * len(models) ** 0.5 + 2), {}
    axes = figure.add_subplot()
    thickness, looks = 0.8 / len(models), styles(list(models))
    for index, (name, values) in enumerate(models.items()):
        place = np.arange(len(values)) + (index - (len(models) - 1) / 2) * thickness
        means = [float(np.mean(value)) for value in values]
        spreads = [float(np.std(value)) for value in values]
        look: dict[str, Any] = {"color": looks[name].colour, "hatch": looks[name].hatch, "edgecolor": "white"}
        entries[name] = axes.bar(
            place, means, 0.92 * thickness, yerr=spreads, capsize=3, ecolor="0.35", **look
        )
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_xticks(range(layers), [f"layer {layer + 1}" for layer in range(layers)])
    axes.set_ylim(min(-0.1, axes.get_ylim()[0]), 1.08)
    axes.set_ylabel("correlation of both directions")
    axes.spines[["top", "right"]].set_visible(False)
    figure.set_size_inches(width, 3.2 + legend_below(figure, entries, width))
    return save_figure(figure, Path(path).expanduser())
