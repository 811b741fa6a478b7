"""How fast models are, against the number of points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bixt3d.visualize.figure import legend_below, new_figure, plain_axes, save_figure, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 11.0  # inches
CLEAR = 1.3  # how far the dashed line stays from the fastest measurement
MICROSECONDS = 1e6


def throughput(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw clouds a second and time a point against the number of points, one line for each model.

    Both axes are logarithmic. A dashed line shows what happens if time grows linearly with the points: clouds
    a second fall with slope -1, and time a point stays level. It starts above the fastest model (in time a
    point: below it), so that it covers none.

    Args:
        rows: One measurement each: `model`, a name; `num_points`, a whole number from 1 up;
            `clouds_per_second`, above zero, or None where the model did not run (its memory did not
            suffice, say), which the legend tells; `device`, a name. Other keys are left alone. Where
            there are several devices, each model has a line for each.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.

    Returns:
        The path written.

    Raises:
        ValueError: If there is no measurement, a row lacks something or measures what another row measures,
            or the suffix is unknown.
        ImportError: If matplotlib is not installed.
    """
    lines, failed, devices = _lines(rows)
    figure = new_figure()
    from matplotlib.lines import Line2D

    rates, times = figure.subplots(1, 2)
    entries: dict[str, Line2D] = {}
    for name, look in styles(list(lines)).items():
        speeds = dict(sorted(lines[name].items()))
        line: dict[str, Any] = {"color": look.colour, "marker": look.marker or "o", "linewidth": 1.9}
        line |= {"markersize": 5, "markerfacecolor": "white" if look.marker else look.colour}
        rates.plot(list(speeds), list(speeds.values()), **line)
        times.plot(list(speeds), [MICROSECONDS / (s * n) for n, s in speeds.items()], **line)
        label = name if not failed[name] else f"{name} (did not run at {', '.join(map(str, failed[name]))})"
        entries[label] = Line2D([], [], **line)
    sizes = sorted({n for speeds in lines.values() for n in speeds})
    about = list(devices) if len(devices) == 1 else []
    if len(sizes) > 1:
        points_per_second = CLEAR * max(s * n for speeds in lines.values() for n, s in speeds.items())
        dashes: dict[str, Any] = {"color": "0.45", "linestyle": "--", "linewidth": 1.3}
        rates.plot(sizes, [points_per_second / n for n in sizes], **dashes)
        times.plot(sizes, [MICROSECONDS / points_per_second] * len(sizes), **dashes)
        about.append("dashed: time grows linearly with the points")
    figure.suptitle("\n".join(about), fontsize=11, parse_math=False)
    for axes, title in ((rates, "clouds a second"), (times, "microseconds a point")):
        axes.set_title(title, fontsize=13)
        _logarithmic(axes, sizes)
    height = legend_below(figure, entries, WIDTH)
    figure.set_size_inches(WIDTH, 4.6 + height)
    return save_figure(figure, Path(path).expanduser())


def _lines(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, dict[int, float]], dict[str, list[int]], list[str]]:
    """Clouds a second by name of the line and number of points, where it did not run, and the devices."""
    for number, row in enumerate(rows):
        _check(row, number)
    devices = list(dict.fromkeys(row["device"] for row in rows))
    lines: dict[str, dict[int, float]] = {}
    failed: dict[str, list[int]] = {}
    for row in rows:
        name, size = row["model"], row["num_points"]
        if len(devices) > 1:
            name = f"{name}, {row['device']}"
        speeds, missing = lines.setdefault(name, {}), failed.setdefault(name, [])
        if size in speeds or size in missing:
            raise ValueError(f"two rows measure {name} at {size} points on {row['device']}: keep one")
        if row["clouds_per_second"] is None:
            missing.append(size)
        else:
            speeds[size] = row["clouds_per_second"]
    if not any(lines.values()):
        raise ValueError("no throughput to draw: give at least one row with clouds_per_second")
    return lines, failed, devices


def _check(row: Mapping[str, Any], number: int) -> None:
    for key in ("model", "num_points", "clouds_per_second", "device"):
        if key not in row:
            raise ValueError(f"row {number} has no {key}, it has {', '.join(row) or 'nothing'}")
    size, speed = row["num_points"], row["clouds_per_second"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"row {number}: num_points: expected a whole number from 1 up, got {size!r}")
    if speed is not None and not (
        isinstance(speed, int | float) and not isinstance(speed, bool) and 0 < speed < math.inf
    ):
        raise ValueError(
            f"row {number}: clouds_per_second: expected a number above zero, or null where the model did "
            f"not run, got {speed!r}"
        )
    for key in ("model", "device"):
        if not isinstance(row[key], str) or not row[key]:
            raise ValueError(f"row {number}: {key}: expected a name, got {row[key]!r}")


def _logarithmic(axes: Axes, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(xscale="log", yscale="log")
    ticks = [sizes[0]]
    span = math.log(sizes[-1] / sizes[0])
    for size in sizes[1:]:
        if math.log(size / ticks[-1]) > span / 9:  # else their labels would touch
            ticks.append(size)
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    if len(sizes) == 1:
        axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 3000 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_xlabel("points of a cloud", fontsize=11)
    plain_axes(axes)
