"""Static web pages that need neither network nor scripts: head and style, tables, pictures inside."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bixt3d.visualize.draw import Drawing
from bixt3d.visualize.figure import writable
from bixt3d.visualize.scene import LabelledCloud

Array = np.ndarray[Any, Any]
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; margin: 0 auto; padding: 1rem; max-width: 68rem }
h1 { font-size: 1.5rem; margin: .5rem 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p { margin: .4rem 0; max-width: 46rem } .dim { color: #5b6875 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; white-space: nowrap }
th, td { border-bottom: 1px solid #e3e7eb }
td.number, th.number { text-align: right }
.scores { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0 }
.scores b { display: block; font-size: 1.5rem; font-weight: 600 }
.cards { display: grid; gap: .8rem }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, 10.5rem), 1fr)) }
.cards.three { grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)) }
figure { margin: 0; border: 1px solid #e3e7eb; border-radius: 6px; padding: .4rem; min-width: 0 }
figure div { display: flex } figure img { width: 100%; min-width: 0; flex: 1 1 0 }
figcaption { overflow-wrap: anywhere; font-size: .85rem }
img, svg { max-width: 100%; height: auto }
"""


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole page; ``body`` is HTML, in which text is escaped already."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def escape(text: Any) -> str:
    """Return text as HTML shows it; bytes of a file's name that are no text as escapes."""
    return html.escape(writable(str(text)))


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows, the head first, as a table that scrolls where it is too wide; fractions as per cent."""
    numbers = {
        place for row in rows[1:] for place, value in enumerate(row) if isinstance(value, (int, float))
    }
    lines = []
    for kind, row in zip(["th", *["td"] * (len(rows) - 1)], rows, strict=True):
        cells = (
            f"<{kind}{' class=number' * (place in numbers)}>{escape(_shown(value))}</{kind}>"
            for place, value in enumerate(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table>\n{chr(10).join(lines)}\n</table></div>'


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if 0 <= value <= 1 else f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if type(value) is int else str(value)


def card(cloud: LabelledCloud, modes: Sequence[str], lines: Sequence[str]) -> str:
    """Return a cloud drawn in some modes beside each other, with lines of text below, the first one bold."""
    first, *others = map(escape, lines)
    text = "<br>".join([f"<b>{first}</b>", *others])
    return f"<figure><div>{thumbnails(cloud, modes)}</div><figcaption>{text}</figcaption></figure>"


def thumbnails(cloud: LabelledCloud, modes: Sequence[str], size: tuple[int, int] = (240, 200)) -> str:
    """Return small pictures of a cloud, one a mode."""
    cloud = cloud.thinned()
    drawing = Drawing(cloud.upright, size)
    return "".join(
        f'<img width="{size[0]}" height="{size[1]}" loading="lazy" alt="{escape(f"{cloud.title}, {mode}")}" '
        f'src="{inline(png(drawing.image(cloud.colors(mode))))}">'
        for mode in modes
    )


def inline(picture: bytes) -> str:
    """Return a PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def png(image: Array) -> bytes:
    """Return an RGB picture (H, W, 3), uint8, as a PNG file."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)  # no filter

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")
    )
