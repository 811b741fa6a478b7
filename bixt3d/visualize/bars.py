"""Bars: how well one or several models do with each class, or with the parts of each category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bixt3d.visualize.figure import LETTER, Style, legend_below, new_figure, plain_axes, save_figure, styles
from bixt3d.visualize.runs import ClassScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TALLEST = 10.5  # inches of bars: more are dealt into two columns
FONT = 10.0
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

    Returns:
        The path written.

    Raises:
        ValueError: If there is no table, the tables cannot be compared, or the suffix is unknown.
        ImportError: If matplotlib is not installed.
    """
    check_comparable(tables)
    looks = styles(list(tables), order)
    figure = new_figure()
    from matplotlib.patches import Patch

    first = next(iter(tables.values()))
    score = {n: -1.0 if v is None else v for n, v in zip(first.names, first.values, strict=True)}
    classes = sorted(first.names, key=lambda name: -score[name])
    thickness = max(0.075, 0.2 / len(tables) ** 0.5)  # inches of one bar, and so below
    row = thickness * len(tables) + max(0.07, 0.35 * thickness)
    columns = 2 if row * len(classes) > TALLEST and len(classes) > 1 else 1
    per_column = -(-len(classes) // columns)
    same = all(_counts(table) == _counts(first) for table in tables.values())
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
        f"{name}, mean {100 * table.mean:.1f}%": Patch(
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
                _write(axes, value, place, f"{100 * value:.1f}")
        line = axes.axvline(table.mean, color=colour, linestyle=(0, (4, 2)), linewidth=1.4)
        if numbers:  # over the bars, which it would cut to pieces if there were many lines
            line.set(zorder=3, path_effects=[Stroke(linewidth=2.6, foreground="white"), Normal()])
        else:
            line.set_zorder(0.9)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.08 if numbers else 1.0)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def _write(axes: Axes, end: float, place: float, text: str) -> None:
    box = {"facecolor": "white", "linewidth": 0, "pad": 0.6}  # keeps dashed lines out of the letters
    axes.text(end + 0.008, place, text, va="center_baseline", fontsize=8, color="0.2", bbox=box, zorder=4)


def _counts(table: ClassScores) -> dict[str, int]:
    return dict(zip(table.names, table.shapes, strict=True))


def _plural(table: ClassScores) -> str:
    return {"class": "classes", "category": "categories"}[table.kind]
