"""Pictures of labelled clouds in panels with legends: every mode of a cloud, parts of many."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.visualize.browse import readable, spread, worst_first
from bixt3d.visualize.draw import Drawing
from bixt3d.visualize.figure import DPI, LETTER, new_figure, save_figure
from bixt3d.visualize.scene import (
    BESIDE,
    LabelledCloud,
    different_latents,
    joined,
    ramp,
    scale,
)

Array = np.ndarray[Any, Any]
Legend = Sequence[tuple[str, str]]

PICTURES = 6  # clouds of which pictures are written where nobody asks for a number
WIDTH, HEIGHT = 1.9, 1.6  # of a panel in inches, as is all here
GAP, LINE = 0.1, 0.2
FONT = 8.5


@dataclass(frozen=True)
class Panel:
    """One small picture: the points of a cloud in some colours, or bars, with what stands above and below.

    Attributes:
        title: Above it.
        cloud: Whose points.
        colors: RGB (N, 3) of the points; bars of the cloud's most probable classes are drawn if None.
        legend: Names and colours below it; neighbours with the same share one.
        scale: Colours from low to high, where the legend is that of amounts.
        note: In its lower right corner.
    """

    title: str
    cloud: LabelledCloud
    colors: Array | None = None
    legend: Legend = ()
    scale: Sequence[str] = ()
    note: str = ""


def mode_panel(cloud: LabelledCloud, mode: str, layer: int = 0, latent: int = 0) -> Panel:
    """Return the panel of a cloud in one of its modes."""
    title = mode
    if mode == "error":
        title = f"{cloud.error_rate:.1%} wrong"
    elif mode == "attention":
        title = f"layer {layer + 1}, latent {latent + 1}"
    return Panel(title, cloud, cloud.colors(mode, layer, latent), cloud.legend(mode), scale(mode))


def write_panels(
    rows: Sequence[tuple[str, Sequence[Panel]]], path: str | Path, across: int = 1, title: str = ""
) -> Path:
    """Draw rows of panels, each with its caption, and the legends of each row below it.

    Args:
        rows: Caption and panels; all with up to the same number of panels.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.
        across: How many rows stand beside each other.
        title: What stands above all.

    Raises:
        ValueError: If there is no row, or no such format.
    """
    if not rows:
        raise ValueError("no clouds to draw: give at least one")
    figure = new_figure()
    page: Any = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()
    wide = max(len(panels) for _, panels in rows) * WIDTH + 3 * GAP
    top = GAP
    if title:
        _text(page, wide * across / 2, top + LINE / 2, title, wide * across, size=12, ha="center")
        top += 1.6 * LINE
    for start in range(0, len(rows), across):
        line = rows[start : start + across]
        head = LINE * 1.2 * any(caption for caption, _ in line) + LINE * any(
            panel.title for _, panels in line for panel in panels
        )
        foot = 0.0
        for place, (caption, panels) in enumerate(line):
            left = place * wide + GAP
            _text(page, left + GAP, top + LINE * 0.6, caption, wide - 2 * GAP, size=10, weight="bold")
            _row(page, panels, left, top + head)
            foot = max(foot, _legends(page, panels, left, top + head + HEIGHT))
        top += head + HEIGHT + foot + 1.5 * GAP
    size = (wide * min(across, len(rows)), top)
    figure.set_layout_engine("none")
    figure.set_size_inches(*size)
    page.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
    return save_figure(figure, Path(path).expanduser())


def _row(page: Any, panels: Sequence[Panel], left: float, top: float) -> None:
    width, height = WIDTH - 0.5 * GAP, HEIGHT
    drawings: dict[int, Drawing] = {}
    for place, panel in enumerate(panels):
        x = left + place * WIDTH
        _text(page, x + WIDTH / 2, top - LINE / 2, panel.title, WIDTH, ha="center")
        if panel.colors is None:
            _bars(page, panel.cloud, x, top)
            continue
        if id(panel.cloud) not in drawings:
            size = (round(width * DPI), round(height * DPI))
            drawings[id(panel.cloud)] = Drawing(panel.cloud.upright, size)
        image = drawings[id(panel.cloud)].image(panel.colors)
        page.imshow(image, extent=(x, x + width, top + height, top), aspect="auto", zorder=0)
        _text(page, x + width, top + height - LINE / 2, panel.note, width, ha="right", color="0.35")


def _bars(page: Any, cloud: LabelledCloud, left: float, top: float) -> None:
    """Draw the most probable classes as bars, the true one's name in its colour."""
    for row, (name, share, color) in enumerate(cloud.top()):
        y = top + (0.5 + row) * 2 * LINE
        _text(page, left + GAP, y, f"{name} {share:.1%}", WIDTH, color="0.1")
        bar = np.array(
            [[left + GAP, y + 0.5 * LINE], [left + GAP + (WIDTH - 3 * GAP) * share, y + 0.5 * LINE]]
        )
        page.plot(*bar.T, color=color, linewidth=7, solid_capstyle="butt")


def _legends(page: Any, panels: Sequence[Panel], left: float, top: float) -> float:
    """Draw one legend below all neighbours that share it; return how high the highest is."""
    height, start = 0.0, 0
    while start < len(panels):
        first, stop = panels[start], start + 1
        while stop < len(panels) and panels[stop].legend == first.legend:
            stop += 1
        x, width = left + start * WIDTH, (stop - start) * WIDTH
        if first.scale and first.legend:
            _scale(page, first, x + width / 2, top + GAP, min(0.8 * width, 2.6))
            height = max(height, 2 * LINE)
        else:
            height = max(height, _swatches(page, first.legend, x, top, width))
        start = stop
    return height


def _scale(page: Any, panel: Panel, middle: float, top: float, width: float) -> None:
    left, colors = middle - width / 2, ramp(np.linspace(0, 1, 256), panel.scale)[None]  # (1, 256, 3)
    page.imshow(colors, extent=(left, left + width, top + 0.09, top), aspect="auto")
    for place, (name, _) in enumerate(panel.legend):
        x = left + width * place / (len(panel.legend) - 1)
        _text(page, x, top + 0.19, name, width, ha="center", size=FONT - 1)


def _swatches(page: Any, legend: Legend, left: float, top: float, width: float) -> float:
    rows: list[list[tuple[str, str, float]]] = [[]]
    for name, color in legend:
        length = min(len(name) * LETTER * FONT + 0.3, width)
        if rows[-1] and sum(entry[2] for entry in rows[-1]) + length > width - GAP:
            rows.append([])
        rows[-1].append((name, color, length))
    for number, row in enumerate(rows):
        x, y = left + (width - sum(entry[2] for entry in row)) / 2, top + (number + 0.5) * LINE
        for name, color, length in row:
            page.plot([x + 0.06], [y], "o", color=color, markersize=5.5, markeredgewidth=0)
            _text(page, x + 0.14, y, name, length)
            x += length
    return LINE * len(rows) if legend else 0.0


def _text(page: Any, x: float, y: float, text: str, width: float, size: float = FONT, **how: Any) -> None:
    most = max(3, int(width / (0.95 * LETTER * size)))
    shown = text if len(text) <= most else f"{text[: most - 1]}…"
    if shown:
        page.text(x, y, shown, fontsize=size, parse_math=False, **{"va": "center", **how})


def cloud_picture(cloud: LabelledCloud, path: str | Path) -> Path:
    """Draw a cloud in each of its modes, beside each other; of the attention the latents that differ most.

    Of a classifier's the most probable classes are bars; of a cloud with more than 20,000 points a draw of so
    many is shown.

    Args:
        cloud: What to draw.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.

    Raises:
        ValueError: If there is no such format.
    """
    cloud = cloud.thinned()
    known = [mode for mode in cloud.modes if mode != "attention"]
    order = [mode for mode in BESIDE if mode in known] + [mode for mode in known if mode not in BESIDE]
    panels = [mode_panel(cloud, mode) for mode in order]
    if cloud.scores:
        panels.append(Panel("most probable", cloud))
    if cloud.attention:
        last = len(cloud.attention) - 1
        layers = [last] if cloud.prediction is not None else sorted({0, last})
        common = min(len(cloud.attention[layer]) for layer in layers)
        latents = different_latents([cloud.attention[layer][:common] for layer in layers], 2)
        panels += [mode_panel(cloud, "attention", layer, latent) for layer in layers for latent in latents]
    count = -(-len(panels) // -(-len(panels) // 4))
    rows = [("", panels[start : start + count]) for start in range(0, len(panels), count)]
    return write_panels(rows, path, title=cloud.caption)


def part_picture(
    clouds: Sequence[LabelledCloud],
    path: str | Path,
    modes: Sequence[str] = BESIDE,
    across: int = 2,
) -> Path:
    """Draw clouds in their part colours, each three times: the truth, the prediction, and where they differ.

    Args:
        clouds: What to draw, so many beside each other.
        path: Where to write; the suffix chooses the format (.png, .pdf, .svg). Missing folders are made.
        modes: What is shown of each, of the modes that all of them have.
        across: How many stand beside each other.

    Raises:
        ValueError: If there are no clouds, or one lacks a mode.
    """
    rows = []
    for whole in clouds:
        cloud = whole.thinned()
        panels = [mode_panel(cloud, mode) for mode in modes]
        rows.append((joined(cloud.category or cloud.title, cloud.verdict), panels))
    return write_panels(rows, path, min(across, max(1, len(rows))))


def write_pictures(
    clouds: Sequence[LabelledCloud], folder: str | Path, count: int = PICTURES, worst: bool = False
) -> list[Path]:
    """Write a picture of some clouds, spread over all; say where they are, and what cannot be shown.

    Args:
        clouds: Such as a `Gallery`.
        folder: Where to write.
        count: How many clouds.
        worst: Whether they are those with the worst predictions instead.

    Returns:
        The paths written.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: If none of the clouds can be shown, or ``count`` is less than one.
    """
    paths: list[Path] = []
    chosen = spread(len(clouds), count)
    for index, cloud in readable(clouds, worst_first(clouds)[: len(chosen)] if worst else chosen):
        name = f"{index + 1:0{len(str(len(clouds)))}d}_{file_name(cloud.title)}.png"
        paths.append(cloud_picture(cloud, Path(folder).expanduser() / name))
        print(f"picture: {paths[-1]}", flush=True)
    if not paths:
        raise ValueError("none of the clouds can be shown")
    return paths


def file_name(title: str) -> str:
    """Return a title as part of a file's name: letters, digits, points, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "_", title).strip("._") or "cloud"
