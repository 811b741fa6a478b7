"""Pictures of labelled clouds in every mode that they have: the viewer without a window."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.visualize.attention import different_latents
from bixt3d.visualize.figure import legend_below, new_figure, save_figure
from bixt3d.visualize.gallery import is_told
from bixt3d.visualize.scene import PLAIN, LabelledCloud, rgb

PICTURES = 6  # clouds of which pictures are written where nobody asks for a number
# What a single cloud may fail by, such as a damaged file; the others can still be looked at.
FAULTS = (ValueError, OSError, RuntimeError)


def cloud_picture(cloud: LabelledCloud, path: str | Path) -> Path:
    """Draw a cloud in each of its modes, beside each other; of the attention the latents that differ most.

    Of a cloud with more than 20,000 points a draw of so many is shown.

    Args:
        cloud: What to draw.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.

    Returns:
        The path written.

    Raises:
        ValueError: If there is no such format.
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure()
    from matplotlib.lines import Line2D

    cloud = cloud.thinned()
    views = _views(cloud)
    rows = -(-len(views) // 4)
    columns = -(-len(views) // rows)
    figure.suptitle(cloud.caption, fontsize=13, parse_math=False)
    for place, (title, colors) in enumerate(views.items(), start=1):
        axes = figure.add_subplot(rows, columns, place, projection="3d")
        x, y, z = cloud.points[:, :3].T
        # matplotlib's up axis is z
        axes.scatter(x, -z, y, c=colors, s=4, linewidths=0, depthshade=False)
        axes.set_box_aspect([max(float(np.ptp(values)), 1e-3) for values in (x, z, y)], zoom=1.0)
        axes.view_init(elev=18, azim=-55)
        axes.set_axis_off()
        axes.set_title(title, fontsize=11, pad=0)
    marks = {}
    for mode in cloud.modes:
        for name, color in cloud.legend(mode):
            if mode in ("confidence", "attention"):
                name = f"{mode}: {name}"
            marks[name] = Line2D([], [], marker="o", linestyle="", color=color)
    width = max(3.3 * columns, 6.6)
    height = legend_below(figure, marks, width, 9) if marks else 0.0
    figure.set_size_inches(width, 3.2 * rows + 0.4 + height)
    return save_figure(figure, Path(path).expanduser())


def write_pictures(clouds: Sequence[LabelledCloud], folder: str | Path, count: int = PICTURES) -> list[Path]:
    """Write a picture of some clouds, spread over all; say where they are, and what cannot be shown.

    Args:
        clouds: Such as a `Gallery`.
        folder: Where to write.
        count: How many clouds.

    Returns:
        The paths written.

    Raises:
        ImportError: If matplotlib is not installed.
        OSError: If the folder cannot be written.
        ValueError: If none of the clouds can be shown, or ``count`` is less than one.
    """
    paths: list[Path] = []
    chosen = spread(len(clouds), count)
    for index, cloud in readable(clouds, chosen):
        name = f"{index + 1:0{len(str(len(clouds)))}d}_{file_name(cloud.title)}.png"
        paths.append(cloud_picture(cloud, Path(folder).expanduser() / name))
        print(f"picture: {paths[-1]}", flush=True)
    if not paths:
        raise ValueError("none of the clouds can be shown")
    return paths


def readable(
    clouds: Sequence[LabelledCloud], indices: Sequence[int] | None = None
) -> Iterator[tuple[int, LabelledCloud]]:
    """Give each cloud and its place; of those that cannot be shown, say why and go on.

    Args:
        clouds: Such as a `Gallery`.
        indices: Which of them; all if None.
    """
    for index in range(len(clouds)) if indices is None else indices:
        try:
            cloud = clouds[index]
        except FAULTS as error:
            if not is_told(clouds, error):
                raise
            print(f"left out: {' '.join(str(error).split())}", flush=True)
            continue
        yield index, cloud


def spread(total: int, count: int) -> list[int]:
    """Return up to ``count`` of the numbers from 0 to ``total - 1``, evenly spread and rising.

    Raises:
        ValueError: If ``count`` is less than one.
    """
    if count < 1:
        raise ValueError(f"shapes: expected 1 or more, got {count}")
    count = min(total, count)
    return [place * total // count for place in range(count)]


def file_name(title: str) -> str:
    """Return a title as part of a file's name: letters, digits, points, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "_", title).strip("._") or "cloud"


def _views(cloud: LabelledCloud) -> dict[str, Any]:
    views: dict[str, Any] = {}
    for mode in cloud.modes:
        if mode == "error":
            views[f"{cloud.error_rate:.1%} wrong"] = cloud.colors(mode)
        elif mode != "attention":
            views[mode] = cloud.colors(mode)
    if "attention" in cloud.modes:
        last = len(cloud.attention) - 1
        layers = [last] if views else sorted({0, last})
        common = min(len(cloud.attention[layer]) for layer in layers)
        maps = [cloud.attention[layer][:common] for layer in layers]  # (M, N) each
        latents = different_latents(maps, 2 if views else 4)
        for layer in layers:
            for latent in latents:
                title = f"attention, layer {layer + 1}, latent {latent + 1}"
                views[title] = cloud.colors("attention", layer, latent)
    return views or {"": np.tile(rgb(PLAIN), (len(cloud.points), 1))}
