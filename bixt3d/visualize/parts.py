"""Pictures of labelled clouds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.visualize.plots import new_figure, save_figure
from bixt3d.visualize.scene import LabelledCloud


def part_picture(clouds: Sequence[LabelledCloud], path: str | Path) -> Path:
    """Draw clouds in their part colours, each three times: the truth, the prediction, and where they differ.

    Args:
        clouds: Drawn in two columns, row by row.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.

    Returns:
        The path written.

    Raises:
        ValueError: If there are no clouds, or a cloud's arrays do not fit.
        ImportError: If matplotlib is not installed.
    """
    if not clouds:
        raise ValueError("no clouds to draw: give at least one")
    figure = new_figure()
    columns = min(2, len(clouds))
    rows = -(-len(clouds) // columns)
    figure.set_size_inches(6.6 * columns, 2.6 * rows)
    cells: Any = figure.subfigures(rows, columns, squeeze=False)
    for cell, cloud in zip(cells.flat, clouds, strict=False):
        _draw(cell, cloud)
    return save_figure(figure, Path(path).expanduser())


def _draw(cell: Any, cloud: LabelledCloud) -> None:
    from matplotlib.lines import Line2D

    if "error" not in cloud.modes:
        raise ValueError(f"{cloud.title}: expected a true and a predicted part for each point")
    views = {
        f"{cloud.category or cloud.title}: truth": cloud.colors("truth"),
        "prediction": cloud.colors("prediction"),
        f"{cloud.error_rate:.1%} wrong": cloud.colors("error"),
    }
    x, y, z = cloud.points[:, :3].T
    for index, (title, colors) in enumerate(views.items(), start=1):
        axes = cell.add_subplot(1, 3, index, projection="3d")
        # matplotlib's up axis is z
        axes.scatter(x, -z, y, c=colors, s=3, linewidths=0, depthshade=False)
        axes.set_box_aspect([max(np.ptp(values), 1e-3) for values in (x, z, y)], zoom=1.0)
        axes.view_init(elev=18, azim=-55)
        axes.set_axis_off()
        axes.set_title(title, fontsize=10, y=0.97, parse_math=False)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=color, label=name)
        for name, color in cloud.legend("truth")
    ]
    cell.legend(handles=marks, loc="outside lower center", ncols=6, fontsize=7.5, frameon=False)
