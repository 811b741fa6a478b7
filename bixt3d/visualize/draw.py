"""Draws a cloud: the one camera of all views, and pictures of round, shaded points with a soft shadow.

NumPy only; without OpenGL, the same cloud gives the same pixels everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TURN, TILT = 35.0, 18.0  # degrees, of the camera around the up axis from +z towards +x, and above the ground
OBLIQUE = 50.0  # between the camera and the side that an elongated shape shows, so that its depth is seen
ELONGATED = 1.3  # how much longer a shape is than deep to be turned so
FINER = 2  # pixels of the drawing for one of the picture, each way
LIGHT = np.array([-0.35, 0.55, 0.76])  # right, up, towards the camera
MARGIN = 0.07  # of the picture, on each side


@dataclass(frozen=True)
class Camera:
    """From where a shape is seen, y up, in degrees: from +z towards +x, and above the ground."""

    turn: float = TURN
    tilt: float = TILT

    @property
    def axes(self) -> Array:
        """The directions right, up and towards the camera, as rows (3, 3)."""
        turn, tilt = np.radians([self.turn, self.tilt])
        right = np.array([np.cos(turn), 0.0, -np.sin(turn)])
        front = np.array([np.sin(turn) * np.cos(tilt), np.sin(tilt), np.cos(turn) * np.cos(tilt)])
        axes: Array = np.stack([right, np.cross(front, right), front])
        return axes


def camera_for(points: Array) -> Camera:
    """Return the camera that shows a shape (N, 3), y up: a three-quarter view of its longer side.

    The side follows from the principal axes on the ground. Of the directions that show it equally, the one
    nearest to the standard's is taken; a flat shape is seen from higher up.
    """
    points = np.asarray(points, dtype=np.float64)[:, :3]
    points = points - points.mean(axis=0)
    extent = np.ptp(points, axis=0)
    flat = 1 - np.clip(extent[1] / max(extent[0], extent[2], np.finfo(np.float64).tiny) / 0.5, 0, 1)
    tilt = TILT + 17 * float(flat)
    sizes, axes = np.linalg.eigh(points[:, [0, 2]].T @ points[:, [0, 2]])  # rising
    if sizes[1] <= ELONGATED**2 * sizes[0]:
        return Camera(TURN, tilt)
    long = np.degrees(np.arctan2(axes[0, 1], axes[1, 1]))  # of the longer axis, from +z towards +x
    turns = np.array([long + side * OBLIQUE + half for side in (-1, 1) for half in (0, 180)])
    off = (turns - TURN + 180) % 360 - 180
    return Camera(TURN + float(off[np.abs(off).argmin()]), tilt)


class Drawing:
    """A cloud as it is seen on white, as large as fits, with a soft shadow on the ground; to be coloured.

    Args:
        points: xyz (N, 3), y up.
        size: Width and height in pixels.
        camera: From where; `camera_for` the points if None.

    Raises:
        ValueError: If the points are not finite.
    """

    def __init__(
        self, points: Array, size: tuple[int, int] = (480, 400), camera: Camera | None = None
    ) -> None:
        """Find which point every pixel shows, and how bright it is."""
        points = np.asarray(points, dtype=np.float64)[:, :3]
        if not len(points) or not np.isfinite(points).all():
            raise ValueError(f"expected finite points, got {len(points)}, some of them not")
        self.size, self.count = size, len(points)
        wide, high = (FINER * length for length in size)
        axes = (camera_for(points) if camera is None else camera).axes
        points = points - (points.min(0) + points.max(0)) / 2
        points = points / max(float(np.abs(points).max()), np.finfo(np.float64).tiny)
        seen = points @ axes.T  # (N, 3): right, up, near
        below = (points * [1, 0, 1] + [0, points[:, 1].min(), 0]) @ axes.T  # on the ground
        both = np.concatenate([seen, below])[:, :2]
        low, top = both.min(0), both.max(0)
        scale = float(min((1 - 2 * MARGIN) * np.array([wide, high]) / np.maximum(top - low, 1e-9)))
        places, ground = (
            np.rint((at[:, :2] - (low + top) / 2) * [scale, -scale] + [wide / 2, high / 2]).astype(np.int64)
            for at in (seen, below)
        )
        radius = _radius(seen, scale, min(wide, high))
        self.paper = 1 - 0.3 * _shadow(ground, (wide, high), 3 * radius)  # (H, W)
        self.first, depth, light = _discs(places, seen[:, 2] * scale, radius, (wide, high))  # (H, W) each
        nearness = (depth / scale - seen[:, 2].min()) / max(float(np.ptp(seen[:, 2])), 1e-9)
        self.far = 0.28 * (1 - np.clip(nearness, 0, 1))  # what is far pales
        self.shade = light * _openness(depth, self.first >= 0, 4 * radius)

    def image(self, colors: Array) -> Array:
        """Return the picture, RGB (height, width, 3), uint8, of points with these colours (N, 3) in [0, 1].

        Raises:
            ValueError: If there are other colours than points.
        """
        if np.shape(colors) != (self.count, 3):
            raise ValueError(f"colors: expected ({self.count}, 3), got {np.shape(colors)}")
        inked = self.first >= 0
        image = np.repeat(self.paper[..., None], 3, axis=2)  # (H, W, 3)
        color = np.asarray(colors, dtype=np.float64)[self.first[inked]] * self.shade[inked][:, None]
        image[inked] = color + self.far[inked][:, None] * (1 - color)
        width, height = self.size
        image = image.reshape(height, FINER, width, FINER, 3).mean(axis=(1, 3))  # (height, width, 3)
        drawn: Array = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
        return drawn


def _radius(seen: Array, scale: float, short: int) -> int:
    """Return the radius in pixels at which discs just cover the surface that is seen."""
    cells = np.unique(np.floor(seen[:, :2] * scale / (short / 40)).astype(np.int64), axis=0)  # of 1/40
    area = len(cells) * (short / 40) ** 2
    return int(np.clip(round(1.1 * (area / len(seen)) ** 0.5), FINER, short / 50))


def _discs(places: Array, depth: Array, radius: int, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return for every pixel (H, W) the nearest disc's number, -1 for none, its depth and its light."""
    wide, high = size
    order = depth.argsort(kind="stable")  # from far to near: the last one that is written is seen
    across, down = places[order].T
    rank, which = np.full(wide * high, -1), np.zeros(wide * high, dtype=np.int64)
    reach = np.arange(-radius, radius + 1)
    offsets = [(x, y) for y in reach for x in reach if x * x + y * y <= (radius + 0.3) ** 2]
    numbers = np.arange(len(order))
    for number, (x, y) in enumerate(offsets):
        inside = (across + x >= 0) & (across + x < wide) & (down + y >= 0) & (down + y < high)
        pixel, nearer = (down + y)[inside] * wide + (across + x)[inside], numbers[inside]
        before = rank[pixel]
        which[pixel[nearer > before]] = number
        rank[pixel] = np.maximum(before, nearer)
    slope = np.array(offsets) / (radius + 1)  # (D, 2)
    bulge = np.sqrt(np.maximum(0, 1 - (slope**2).sum(1)))
    light = np.clip(0.62 + 0.46 * (slope[:, 0] * LIGHT[0] - slope[:, 1] * LIGHT[1] + bulge * LIGHT[2]), 0, 1)
    seen, front = order[rank], depth[order][rank] + radius * bulge[which]
    grid = (high, wide)
    return np.where(rank < 0, -1, seen).reshape(grid), front.reshape(grid), light[which].reshape(grid)


def _openness(depth: Array, inked: Array, radius: int) -> Array:
    """Return how open each pixel lies (H, W), from 0.55 to 1: what lies behind what is near is darker."""
    weight = _blurred(inked.astype(np.float64), radius)
    around = _blurred(np.where(inked, depth, 0.0), radius) / np.maximum(weight, 1e-9)
    open_to_sky: Array = 1 - 0.45 * np.clip((around - depth) / (6 * radius), 0, 1)
    return open_to_sky


def _shadow(places: Array, size: tuple[int, int], radius: int) -> Array:
    """Return how dark the ground is at each pixel (H, W), from 0 to 1."""
    wide, high = size
    inside = ((places >= 0) & (places < [wide, high])).all(1)
    number = places[inside, 1] * wide + places[inside, 0]
    count = np.bincount(number, minlength=wide * high).reshape(high, wide).astype(np.float64)
    dark = _blurred(count, radius)
    shade: Array = dark / max(float(dark.max()), 1e-9)
    return np.sqrt(shade)


def _blurred(image: Array, radius: int) -> Array:
    """Return an image (H, W) blurred by three boxes, which is nearly a Gaussian."""
    for _ in range(3):
        for axis in (0, 1):
            wide = [(radius + 1, radius) if axis == side else (0, 0) for side in (0, 1)]
            total = np.cumsum(np.pad(image, wide, mode="edge"), axis=axis)
            length, step = image.shape[axis], 2 * radius + 1
            ends = np.take(total, range(step, step + length), axis)
            image = (ends - np.take(total, range(length), axis)) / step
    return image
