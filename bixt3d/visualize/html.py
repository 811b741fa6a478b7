"""One web page of labelled clouds that needs no network: plotly.js and all clouds lie in the file.

The page itself is page.html beside this file. What comes from outside (titles, names, verdicts) reaches it
only as compressed data that its script sets as text, apart from the page's title, which is escaped.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bixt3d.visualize.browse import interest
from bixt3d.visualize.draw import camera_for
from bixt3d.visualize.scene import (
    BESIDE,
    ERROR,
    MODES,
    PALETTE,
    RIGHT,
    LabelledCloud,
    deviation,
    different_latents,
    part_places,
    ramp,
    scale,
    to_hex,
)

Array = np.ndarray[Any, Any]

LEVELS = 16  # of attention: two points share a byte


def write_page(
    clouds: Iterable[LabelledCloud], path: str | Path, title: str = "bixt3d", latents: int = 6
) -> Path:
    """Write one self-contained page of clouds to turn about in a browser; it loads nothing from anywhere.

    The page shows what the clouds hold, of one with more than 20,000 points a draw of so many, and all a
    little rounded: coordinates to 1/65535 of the cloud's largest extent, confidences and colours to 1/255,
    attention to 1/15 of its scale. It keeps a few latents, the same for all clouds: those whose attention
    differs most on the first. All is compressed: 50 clouds of 2500 points and 12 layers take less than 10 MB.
    It opens with a cloud of many parts that are labelled well.

    It is for Chrome or Edge 80, Firefox 113, Safari 16.4 and newer, and says so in others.

    Args:
        clouds: Gone through once, and only one is held at a time.
        path: Where to write, through a temporary file beside it; missing folders are made.
        title: Of the page.
        latents: How many latents of each layer to keep.

    Raises:
        ValueError: If there are no clouds, a cloud holds values that are not finite or parts that its
            category does not have, ``latents`` is less than 1, or the path is a folder.
        OSError: If it cannot be written; the previous page, if any, is untouched.
        ImportError: If plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError('web pages need plotly: pip install "bixt3d[web]"') from error
    path = Path(path).expanduser()
    if latents < 1:
        raise ValueError(f"latents: expected 1 or more, got {latents}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the page to write, such as {path / 'clouds.html'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            _write(file, clouds, title, latents, get_plotlyjs())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _write(file: BinaryIO, clouds: Iterable[LabelledCloud], title: str, latents: int, plotly: str) -> None:
    template = resources.files("bixt3d.visualize").joinpath("page.html").read_text(encoding="utf-8")
    head, tail = template.split("@data@")
    program = tail.partition("<script>")[2].partition("</script>")[0]
    # only these two scripts may run, and nothing may be fetched
    scripts = " ".join(f"'sha256-{_sha256(script)}'" for script in (plotly, program))
    policy = f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:"
    head = head.replace("@policy@", f"{policy}; base-uri 'none'; form-action 'none'")
    head = head.replace("@title@", html.escape(title))
    file.write(head.encode("utf-8", errors="replace"))  # a file's name may hold what is no text
    file.write(_data('id="plotly"', plotly.encode()))
    shapes: list[dict[str, Any]] = []
    modes: set[str] = set()
    size = 0.0
    for cloud, block in _blocks(clouds, latents):
        file.write(_data('class="cloud"', block))
        about = {"title": cloud.title, "category": cloud.category, "quality": cloud.quality}
        shapes.append({**about, "interest": interest(cloud)})
        modes.update(cloud.modes)
        size = size or _point_size(len(cloud.points))
    if not shapes:
        raise ValueError("no clouds to write: give at least one")
    index = {
        "shapes": shapes,
        "opening": max(range(len(shapes)), key=lambda place: shapes[place]["interest"]),
        "modes": [mode for mode in MODES if mode in modes],
        "beside": BESIDE if "error" in modes else (),
        "palette": PALETTE,
        "right": RIGHT,
        "wrong": ERROR,
        "scales": {mode: _steps(scale(mode)) for mode in MODES if scale(mode)},
        "size": size,
    }
    file.write(_data('id="index"', json.dumps(index).encode()))
    file.write(tail.encode())


def _blocks(clouds: Iterable[LabelledCloud], latents: int) -> Iterator[tuple[LabelledCloud, bytes]]:
    """Give each cloud and its data, all with the latents of the first one that has any."""
    kept: list[int] = []
    for cloud in (whole.thinned() for whole in clouds):
        common = min((len(layer) for layer in cloud.attention), default=0)
        if common and (not kept or kept[-1] >= common):
            kept = different_latents([layer[:common] for layer in cloud.attention], latents)
        yield cloud, _block(cloud, kept if common else [])


def _block(cloud: LabelledCloud, kept: Sequence[int]) -> bytes:
    """Return a line of JSON, then the arrays one after another: xyz, values of the points, attention."""
    parts = {name: getattr(cloud, name) for name in ("prediction", "truth")}
    places = {name: part_places(value, cloud.ids) for name, value in parts.items() if value is not None}
    wide = len(cloud.ids) > 256
    arrays = {name: place.astype("<u2" if wide else np.uint8) for name, place in places.items()}
    if cloud.confidence is not None:
        share = np.clip(_finite(cloud, "confidence", cloud.confidence), 0.0, 1.0)
        arrays["confidence"] = np.rint(255 * share).astype(np.uint8)
    if cloud.color is not None:
        share = np.clip(_finite(cloud, "color", cloud.color), 0.0, 1.0)
        arrays["color"] = np.rint(255 * share).astype(np.uint8)
    camera = camera_for(cloud.upright)
    views: dict[str, Any] = {
        mode: {"headline": cloud.headline(mode), "legend": cloud.legend(mode)} for mode in cloud.modes
    }
    header = {
        "count": len(cloud.points),
        "arrays": list(arrays),
        "wide": wide,
        "views": views,
        "first": cloud.first_mode,
        "bars": cloud.top(),
        "wrong": cloud.error_rate,
        "caption": cloud.caption,
        "camera": [camera.turn - 90, camera.tilt],  # plotly's angle begins at x, which is to the right
        "latents": list(kept),
        "all": [len(layer) for layer in cloud.attention],
        "headlines": [
            [cloud.headline("attention", layer, latent) for latent in kept]
            for layer in range(len(cloud.attention))
        ],
    }
    data = [json.dumps(header).encode(), b"\n", _quantised(cloud).tobytes()]
    data += [array.tobytes() for array in arrays.values()]
    data += [_levels(_finite(cloud, "attention", layer), kept).tobytes() for layer in cloud.attention]
    return b"".join(data)


def _quantised(cloud: LabelledCloud) -> Array:
    """Return whole coordinates (3, N) from 0 to 65535 along the largest extent, its middle at 32767.5."""
    points = _finite(cloud, "points", cloud.upright)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = max(float((high - low).max()), np.finfo(np.float64).tiny)
    share = (points - low - (high - low) / 2) / extent  # -0.5 to 0.5
    whole: Array = np.rint(65535 * (share + 0.5)).T.astype("<u2", order="C")  # (3, N)
    return whole


def _levels(weights: Array, kept: Sequence[int]) -> Array:
    """Return some rows' deviation from their means in `LEVELS`, two points a byte: (K, ceil(N / 2))."""
    levels = np.rint((LEVELS - 1) * deviation(weights[list(kept)])).astype(np.uint8)  # (K, N)
    levels = np.pad(levels, ((0, 0), (0, levels.shape[1] % 2)))
    packed: Array = levels[:, ::2] | levels[:, 1::2] << 4
    return packed


def _steps(colors: Sequence[str]) -> list[str]:
    return [to_hex(color) for color in ramp(np.linspace(0.0, 1.0, 256), colors)]


def _finite(cloud: LabelledCloud, name: str, values: Array) -> Array:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{cloud.title}: expected finite {name}, got NaN or infinity")
    return values


def _point_size(count: int) -> float:
    """Return the diameter in pixels at which so many points cover a shape without hiding each other."""
    return float(np.clip(round(2 * 200 / count**0.5) / 2, 1.5, 8.0))


def _data(attribute: str, content: bytes) -> bytes:
    # without a time inside, the same clouds give the same page
    packed = base64.b64encode(gzip.compress(content, mtime=0))
    return f'<script type="application/octet-stream" {attribute}>'.encode() + packed + b"</script>\n"


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
