"""Pictures of labelled clouds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.visualize.plots import new_figure, save_figure
from bixt3d.visualize.scene import legend, part_colors


@dataclass(frozen=True)
class LabelledCloud:
    """One cloud to draw.

    Attributes:
        title: What stands above it.
        points: xyz (N, 3), y up.
        truth: True part of each point (N,).
        prediction: Predicted part of each point (N,).
        ids: The part ids of its category.
        names: Names of all part ids.
    """

    title: str
    points: np.ndarray[Any, Any]
    truth: np.ndarray[Any, Any]
    prediction: np.ndarray[Any, Any]
    ids: Sequence[int]
    names: Sequence[str]


def part_picture(clouds: Sequence[LabelledCloud], path: str | Path) -> Path:
    """Draw clouds in their part colours: the truth in the upper row, the prediction in the lower.

    Args:
        clouds: One a column.
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
    from matplotlib.lines import Line2D

    figure.set_size_inches(2.6 * len(clouds) + 0.6, 6.4)
    for column, cloud in enumerate(clouds):
        if not len(cloud.points) == len(cloud.truth) == len(cloud.prediction):
            raise ValueError(f"{cloud.title}: expected a true and a predicted part for each point")
        right = float((cloud.truth == cloud.prediction).mean())
        for row, parts in enumerate((cloud.truth, cloud.prediction)):
            axes: Any = figure.add_subplot(2, len(clouds), row * len(clouds) + column + 1, projection="3d")
            x, y, z = cloud.points[:, :3].T
            # matplotlib's up axis is z
            axes.scatter(x, -z, y, c=part_colors(parts, cloud.ids), s=4, linewidths=0, depthshade=False)
            axes.set_box_aspect([max(np.ptp(values), 1e-3) for values in (x, z, y)], zoom=1.35)
            axes.view_init(elev=18, azim=-55)
            axes.set_axis_off()
            title = cloud.title if row == 0 else f"{right:.1%} of points right"
            axes.set_title(title, fontsize=12 if row == 0 else 10, parse_math=False)
            if column == 0:
                what = "truth" if row == 0 else "prediction"
                axes.text2D(-0.02, 0.5, what, transform=axes.transAxes, rotation=90, va="center", fontsize=12)
        marks = [
            Line2D([], [], marker="o", linestyle="", color=color, label=name)
            for name, color in legend(cloud.ids, cloud.names)
        ]
        axes.legend(
            handles=marks, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, fontsize=8, frameon=False
        )
    return save_figure(figure, Path(path))
