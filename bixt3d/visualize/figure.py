"""What all plots share: figures without pyplot, how runs are told apart, legends outside the axes, saving."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Okabe and Ito's palette, made for colour-blind readers; its yellow is left out, too pale on white.
DPI = 150  # pixels of a picture for an inch
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("", "o", "s", "^", "D", "v")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----")
LETTER = 0.0085  # width of a letter in inches, for each point of its font's size
NAME_WIDTH = 60  # letters: longer names of runs are broken into lines


class Style(NamedTuple):
    """How one run looks in every picture: 7 colours, and beyond them markers on lines, hatches on bars."""

    colour: str
    marker: str
    hatch: str


def styles(names: Sequence[str], order: Sequence[str] = ()) -> dict[str, Style]:
    """Give each run its look.

    Args:
        names: The runs to draw.
        order: All runs of the comparison, so that each keeps its look in a picture that leaves others out;
            the drawn ones if empty.

    Raises:
        ValueError: If `order` lacks one of the names.
    """
    order = list(order) or list(names)
    missing = [name for name in names if name not in order]
    if missing:
        raise ValueError(f"order: expected all names to draw, {', '.join(map(repr, missing))} not among them")
    looks = {}
    for index, name in enumerate(order):
        group = index // len(COLOURS) % len(MARKERS)
        looks[name] = Style(COLOURS[index % len(COLOURS)], MARKERS[group], HATCHES[group])
    return {name: looks[name] for name in names}


def new_figure() -> Figure:
    """A figure without pyplot: nothing global is touched, and no display is needed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "bixt3d[plots]"') from error
    return Figure(layout="constrained", facecolor="white")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a picture in the format that its suffix names; missing folders are made."""
    formats = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise ValueError(f"no picture format ends like {path.name!r}: use one of .{', .'.join(formats)}")
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(writable(text.get_text()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def writable(text: str) -> str:
    """Return a text with escapes for what no font has: bytes of a file's name that are no text."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def legend_below(figure: Figure, entries: Mapping[str, Any], width: float, font: float = 11) -> float:
    """Put a legend below all axes, in as many columns as fit; names are text, never formulas.

    Args:
        figure: The figure.
        entries: Name -> what stands before it, a line or a patch.
        width: Inches that the figure is wide.
        font: Size of the letters in points.

    Returns:
        The legend's height in inches, to be added to the figure's.
    """
    texts = [broken(name) for name in entries]
    longest = max(len(line) for text in texts for line in text.splitlines())
    columns = max(1, min(4, len(texts), int(width / (LETTER * font * longest + 0.7))))
    columns = -(-len(texts) // -(-len(texts) // columns))  # as many as fill the rows that are needed
    legend: Legend = figure.legend(
        list(entries.values()),
        texts,
        loc="outside lower center",
        ncols=columns,
        fontsize=font,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    lines = [text.count("\n") + 1 for text in texts]
    per_column = -(-len(lines) // columns)  # matplotlib fills column after column
    tallest = max(sum(lines[start : start + per_column]) for start in range(0, len(lines), per_column))
    return font * 1.55 / 72 * tallest + 0.15


def broken(name: str) -> str:
    """Break a long name into lines, where its words end if they do."""
    lines = [""]
    for word in re.findall(rf"[^\s_/,-]{{1,{NAME_WIDTH - 1}}}[\s_/,-]?|[\s_/,-]", name):
        if lines[-1] and len(lines[-1] + word.rstrip()) > NAME_WIDTH:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def plain_axes(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Pale grid below the data, and no frame above and to the right."""
    axes.grid(axis=grid, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)
