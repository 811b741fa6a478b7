"""What stands beside a cloud in the window: headline, legend, keys; Open3D's own windows write no text.

Matplotlib draws it onto white, and what is not white becomes rectangles of one colour, of whole pixels each,
which the window draws in front of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bixt3d.visualize.figure import writable
from bixt3d.visualize.scene import ramp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

INK, PALE = "#111111", "#6A6A6A"
SMALLEST = 10  # pixels that a letter may be high, at scale 1
# Not quite white, so that it covers the points behind a text.
PAPER = "#FEFEFE"


def draw_overlay(
    size: tuple[int, int],
    scale: float,
    headline: str,
    place: str,
    legend: Sequence[tuple[str, str]],
    message: str = "",
    keys: Sequence[tuple[str, str]] = (),
    amounts: Sequence[str] = (),
    bars: Sequence[tuple[str, float, str]] = (),
    columns: Sequence[str] = (),
) -> Array:
    """Draw the texts of a window.

    Args:
        size: Width and height in pixels.
        scale: 1 for letters of usual size.
        headline: Above the cloud; made smaller, then shorter, if it is too long.
        place: Which cloud of how many, in the upper right corner.
        legend: Names and colours, as `LabelledCloud.legend` gives them.
        message: Below the cloud.
        keys: Keys and what they do; none are explained if empty.
        amounts: Colours from low to high, where the legend is that of amounts.
        bars: Names, shares and colours, as `LabelledCloud.top` gives them.
        columns: What each of several clouds side by side shows.

    Returns:
        RGB (height, width, 3), uint8; white where there is nothing.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('the viewer needs matplotlib: pip install "bixt3d[viewer,plots]"') from error
    width, height = size
    # 72 dots an inch: a point of a font is a pixel
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    page = _Page(figure, scale)
    edge = round(18 * scale)
    counter = page.text(width - edge, height - edge, place, 14, PALE, ha="right")
    line = page.text(edge, height - edge, headline, 17, weight="bold")
    page.fit(line, width - 3 * edge - page.extent(counter)[0])
    below = height - edge - 40 * scale
    if bars:
        below = page.bars(edge, below, bars)
    if amounts:
        page.scale_bar(edge, below, legend, amounts)
    else:
        page.swatches(edge, below, legend)
    if len(columns) > 1:
        for number, name in enumerate(columns):
            x = width * (0.5 + 0.27 * (number - (len(columns) - 1) / 2))
            page.text(x, edge + 60 * scale, name, 15, ha="center", va="bottom", weight="bold")
    if keys:
        page.panel(width / 2, height / 2, keys)
    if message:
        page.fit(page.text(edge, edge + 26 * scale, message, 15, "#B03A00", va="bottom"), width - 2 * edge)
    page.text(edge, edge, "H: help", 13, PALE, va="bottom")
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()  # (height, width, 3)


def rectangles(image: Array) -> tuple[Array, Array]:
    """Cut what is not white in an image (H, W, 3) into rectangles of one colour, one pixel high.

    Returns:
        Left, top, right and bottom edge in pixels from the upper left corner (Q, 4), int64, and RGB (Q, 3) in
        [0, 1].
    """
    height, width = image.shape[:2]
    code = image.astype(np.int64) @ np.array([65536, 256, 1])  # (H, W)
    starts = np.ones((height, width), dtype=bool)
    starts[:, 1:] = code[:, 1:] != code[:, :-1]
    first = np.flatnonzero(starts)
    length = np.diff(np.append(first, height * width))
    inked = code.ravel()[first] != 0xFFFFFF
    first, length = first[inked], length[inked]
    top, left = np.divmod(first, width)
    edges = np.stack([left, top, left + length, top + 1], axis=1)  # (Q, 4)
    return edges, image.reshape(-1, 3)[first] / 255


class _Page:
    """Texts and patches on a figure, placed in pixels from the lower left corner."""

    def __init__(self, figure: Figure, scale: float) -> None:
        self.figure, self.scale = figure, scale

    def text(self, x: float, y: float, text: str, size: float, color: str = INK, **how: Any) -> Any:
        from matplotlib.transforms import IdentityTransform

        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 2}
        return self.figure.text(
            round(x),
            round(y),
            writable(text),
            transform=IdentityTransform(),
            fontsize=size * self.scale,
            color=color,
            bbox=box,
            parse_math=False,
            **{"va": "top", **how},
        )

    def extent(self, text: Any) -> tuple[float, float]:
        box = text.get_window_extent()
        return box.width, box.height

    def fit(self, text: Any, width: float) -> None:
        """Make a text smaller to fit, and leave out its middle where that would make it too small to read."""
        size = text.get_fontsize() * min(1.0, width / max(self.extent(text)[0], 1))
        text.set_fontsize(max(size, SMALLEST * self.scale))
        words = text.get_text()
        kept = len(words)
        while kept and self.extent(text)[0] > width:
            kept = min(kept - 1, int(kept * width / self.extent(text)[0]))
            text.set_text(f"{words[: kept // 2]} … {words[len(words) - (kept - kept // 2) :]}")

    def box(self, left: float, top: float, width: float, height: float, color: Any) -> None:
        from matplotlib.patches import Rectangle
        from matplotlib.transforms import IdentityTransform

        corner = (round(left), round(top - height))
        patch = Rectangle(corner, round(width), round(height), color=color, linewidth=0, antialiased=False)
        patch.set_transform(IdentityTransform())
        self.figure.add_artist(patch)

    def swatches(self, left: float, top: float, legend: Sequence[tuple[str, str]]) -> None:
        side, line = 15 * self.scale, 25 * self.scale
        for row, (name, color) in enumerate(legend):
            y = top - row * line
            self.box(left, y, side, side, color)
            self.text(left + 1.6 * side, y - side / 2, name, 15, va="center_baseline")

    def bars(self, left: float, top: float, bars: Sequence[tuple[str, float, str]]) -> float:
        """Names, with a bar below each as long as its share; return where the next may begin."""
        line, longest = 44 * self.scale, 190 * self.scale
        for row, (name, share, color) in enumerate(bars):
            y = top - row * line
            self.fit(self.text(left, y, f"{name} {share:.1%}", 15), 1.2 * longest)
            self.box(left, y - 22 * self.scale, max(1, share * longest), 9 * self.scale, color)
        return top - len(bars) * line - 0.5 * line

    def scale_bar(
        self, left: float, top: float, legend: Sequence[tuple[str, str]], amounts: Sequence[str]
    ) -> None:
        """The colours from low to high, and the names beside where they stand, as far apart as they are."""
        wide, tall = 15 * self.scale, 150 * self.scale
        steps = 75
        for step, color in enumerate(ramp(np.linspace(1.0, 0.0, steps), amounts)):
            self.box(left, top - step * tall / steps, wide, tall / steps + 1, color)
        for row, (name, _) in enumerate(reversed(legend)):
            y = top - row * tall / (len(legend) - 1)
            self.text(left + 1.6 * wide, y, name, 15, va="center_baseline")

    def panel(self, x: float, y: float, keys: Sequence[tuple[str, str]]) -> None:
        line, gap = 25 * self.scale, 20 * self.scale
        names = [self.text(0, 0, name, 14, weight="bold") for name, _ in keys]
        texts = [self.text(0, 0, text, 14) for _, text in keys]
        first, second = (max(self.extent(text)[0] for text in column) for column in (names, texts))
        width, height = round(first + second + 3 * gap), round(line * len(keys) + gap)
        left, top = round(x - width / 2), round(y + height / 2)
        self.box(left - 1, top + 1, width + 2, height + 2, "#BBBBBB")
        self.box(left, top, width, height, PAPER)
        for column, place in ((names, left + gap), (texts, left + first + 2 * gap)):
            for row, text in enumerate(column):
                text.set_position((round(place), round(top - gap / 2 - (row + 0.5) * line)))
                text.set(va="center_baseline", zorder=10)
