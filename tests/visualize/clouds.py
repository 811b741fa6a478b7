"""Made-up labelled clouds, and pixels of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.visualize import LabelledCloud
from bixt3d.visualize.scene import rgb

NAMES = ("body", "handle", "top", "leg")
UNLABELLED: dict[str, Any] = {"truth": None, "verdict": ""}
ONLY_POINTS: dict[str, Any] = {**UNLABELLED, "prediction": None, "confidence": None, "attention": ()}
BROKEN = ValueError("b.ply: not a mesh")


def ball(title: str = "mug_1", category: str = "mug", count: int = 400, **changes: Any) -> LabelledCloud:
    """A ball whose points to the right (x > 0) are of the second part; the model is wrong at the top."""
    random = np.random.default_rng(0)
    points = random.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    first = 0 if category == "mug" else 2
    truth = first + (points[:, 0] > 0)
    about: dict[str, Any] = {
        "ids": (first, first + 1),
        "names": NAMES,
        "truth": truth,
        "prediction": np.where(points[:, 1] > 0.5, 2 * first + 1 - truth, truth),
        "confidence": random.uniform(0.5, 1, count),
        "attention": (random.random((3, count)), random.random((2, count))),
        "verdict": "IoU 61.0%",
        **changes,
    }
    return LabelledCloud(title, points * 3 + 10, category, **about)


class Shelf(Sequence[LabelledCloud]):
    """Clouds of which some cannot be had."""

    def __init__(self, *clouds: LabelledCloud | Exception) -> None:
        self.clouds = clouds

    def __len__(self) -> int:
        return len(self.clouds)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.clouds[index], Exception):
            raise self.clouds[index]
        return self.clouds[index]


def read(path: Path) -> Any:
    """A picture's pixels (H, W, 3), uint8."""
    from matplotlib.image import imread

    return np.round(imread(path)[..., :3] * 255).astype(np.uint8)


def has(image: Any, color: str) -> Any:
    """Which pixels are of exactly this colour (H, W)."""
    return (image == np.round(np.array(rgb(color)) * 255)).all(-1)


def count_of(image: Any, color: str) -> int:
    """How many pixels are of exactly this colour."""
    return int(has(image, color).sum())


def like(image: Any, color: str) -> int:
    """How many pixels have the hue of a colour, and are about as strong: points are shaded."""
    shown, wanted = image.reshape(-1, 3).astype(float), np.array(rgb(color)) * 255
    away, far = shown - 255, wanted - 255  # from white
    share = away @ far / (far @ far)
    dark = (shown @ wanted) / (wanted @ wanted)
    pale = np.abs(away - share[:, None] * far).max(1) < 8
    shaded = np.abs(shown - dark[:, None] * wanted).max(1) < 8
    return int(((pale & (share > 0.72)) | (shaded & (dark > 0.6) & (dark < 1.01))).sum())
