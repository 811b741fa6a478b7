"""What tasks answer for a cloud."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d.metrics import shape_iou

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one cloud.

    Attributes:
        label: Name of the most probable class.
        index: Its number.
        probabilities: Probability of each class (K,), float32.
        points: The points that the model saw (N, C), normalised, float32; of several looks, at the first.
        up: The axis of the cloud that was taken for the one that points up; None: the cloud stood as it is.
    """

    label: str
    index: int
    probabilities: Array = field(repr=False)
    points: Array = field(repr=False)
    up: str | None = None

    @property
    def confidence(self) -> float:
        """Probability of the label."""
        return float(self.probabilities.max())

    @property
    def certainty(self) -> float:
        """1 less the entropy of the probabilities in units of the greatest: 0 if they are even, 1 if sure."""
        shares = self.probabilities[self.probabilities > 0].astype(np.float64)
        return 1 + float((shares * np.log(shares)).sum()) / max(math.log(len(self.probabilities)), 1e-12)


@dataclass(frozen=True)
class Segmentation:
    """What a segmenter says of one cloud, in the order of its points.

    Attributes:
        parts: Part id of each point (N,), int64.
        names: Name of each point's part (N,), str.
        probabilities: Probability of that part (N,), float32, among the parts that were possible.
        points: The points in their own coordinates and scale (N, C), float64: the given ones, or the
            sample of a mesh.
        category: Number of the category that the model was told; None if it was not.
        up: The axis of the cloud that was taken for the one that points up; None: the cloud stood as it is.
    """

    parts: Array
    names: Array
    probabilities: Array
    points: Array
    category: int | None = None
    up: str | None = None

    def shown(self, ids: Sequence[int], truth: Any = None) -> dict[str, Any]:
        """Return the labels for a viewer; with a truth (N,) those of points that have one, and the IoU."""
        about = {"prediction": self.parts, "confidence": self.probabilities, "points": self.points[:, :3]}
        if truth is None or not np.any(known := np.asarray(truth) >= 0):  # (N,)
            return {**about, "ids": ids, "verdict": ""}
        about = {name: value[known] for name, value in (about | {"truth": np.asarray(truth)}).items()}
        iou = shape_iou(about["prediction"], about["truth"], ids)
        return {**about, "ids": ids, "verdict": f"IoU {iou:.1%}"}

    @property
    def confidence(self) -> float:
        """Mean probability of the labels."""
        return float(self.probabilities.mean())


@dataclass(frozen=True)
class Attention:
    """Where the latents of a model look on one cloud.

    A model attends over tokens, which may be fewer than the points; a point has the value of the token that
    is nearest to it.

    Attributes:
        maps: For each layer the attention (H, M, N) of head and latent over the points, float32. Along the
            tokens it sums to one; along the points it does where each is a token.
        points: The points in their own coordinates and scale (N, C), float64.
        up: Their axis that pointed up for the model, such as it was found; None for y.
    """

    maps: tuple[Array, ...]
    points: Array
    up: str | None = None


class NoCategory(ValueError):
    """A model needs to be told a cloud's category, one of ``names``, and was not."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"category: this model needs to be told it, one of {', '.join(names)}")
        self.names = names


class NotFinite(ValueError):
    """A model's outputs are NaN or infinite."""


def check_output(values: Tensor) -> None:
    """Raise `NotFinite` for what a model whose weights are too large makes of a cloud."""
    if not bool(torch.isfinite(values).all()):
        raise NotFinite("the model gives NaN or infinity for it; its weights are damaged")
