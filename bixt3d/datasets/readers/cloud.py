"""What a file holds of a cloud: xyz, the features that it names, and columns that it does not."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bixt3d.datasets.features import (
    LENGTH_OFF,
    FeatureError,
    mend_features,
    name_of,
    parse_features,
    width_of,
)
from bixt3d.datasets.spheres import heights

logger = logging.getLogger(__name__)

# What programs call our features, beside their own names.
ALIASES: Mapping[str, Sequence[tuple[str, ...]]] = {
    "normal": [("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("normals",)],
    "color": [("red", "green", "blue"), ("r", "g", "b"), ("colors",), ("colour",), ("rgb",)],
    "intensity": [("Intensity",), ("scalar_Intensity",), ("intensities",), ("reflectance",)],
}


@dataclass
class FileCloud:
    """A cloud as a file holds it.

    Attributes:
        xyz: (N, 3).
        named: Features and other values by the file's names, (N, width) or (N,) each.
        columns: Numbers beside xyz that the file does not name (N, K), as of text; None if there are none.
    """

    xyz: NDArray[Any]
    named: dict[str, NDArray[Any]] = field(default_factory=dict)
    columns: NDArray[Any] | None = None

    @classmethod
    def of_array(cls, points: NDArray[Any], path: Path) -> FileCloud:
        """Make a cloud of an array (N, 3 or more); the columns after xyz have no names.

        Raises:
            ValueError: If the array has another shape; the message names the file.
        """
        if points.ndim != 2 or points.shape[0] == 0 or points.shape[1] < 3:
            raise ValueError(f"{path}: expected points (N, 3), came an array {points.shape}")
        if points.shape[0] == 3 and points.shape[1] > 16:  # no point has so many channels
            raise ValueError(f"{path}: expected points (N, 3), got {points.shape}: transpose it")
        return cls(points[:, :3], {}, points[:, 3:] if points.shape[1] > 3 else None)

    def feature(self, feature: str) -> NDArray[Any] | None:
        """Return a feature that the file names, by our name for it or another (N, width); None without it.

        One that is wider than 1 may also be properties ``name_0``, ``name_1`` and so on.
        """
        name, width = name_of(feature), width_of(feature)
        numbered = tuple(f"{name}_{number}" for number in range(width if width > 1 else 0))
        for names in [(name,), *ALIASES.get(name, ()), (f"scalar_{name}",), numbered or (name,)]:
            if all(one in self.named for one in names):
                values = np.concatenate([_columns(self.named[one]) for one in names], axis=1)
                if values.shape[1] == width or (name == "color" and values.shape[1] == 4):
                    return _colors(values[:, :width]) if name == "color" else values[:, :width]
        return None

    def has_normals(self) -> bool:
        """Whether it has normals, by name, or as its first columns that have no name.

        Columns without a name are normals where all are of length 1, or 0 where unknown. Vectors that are
        named so may have any length, but not be zero all of them, nor positive all of them, as colours are.
        """
        values, columns = self.feature("normal"), self.columns
        named = values is not None
        if values is None and columns is not None and columns.shape[1] >= 3:
            values = columns[:, :3]
        if values is None or values.dtype.kind not in "fiu":
            return False
        with np.errstate(over="ignore"):  # infinity and NaN are no unit lengths
            length = np.linalg.norm(values.astype(np.float64), axis=1)  # (N,)
        unit = np.abs(length - 1) <= LENGTH_OFF
        if unit.any() and (unit | (length == 0)).all():
            return True
        return named and bool(np.isfinite(length).all() and length.any() and (values < 0).any())

    def take(
        self, features: Sequence[str], path: Path, notes: list[str] | None = None
    ) -> NDArray[np.float64]:
        """Return xyz and the named features, (N, 3 + F) float64.

        Columns without names are taken in the order of the features. ``height`` is computed where the file
        has none: the distance above the lowest point along y, in radii of the cloud.

        Raises:
            ValueError: If it lacks one, or its numbers cannot be it; the message names file and feature.
        """
        wanted = parse_features(features)
        parts, begin = [self.xyz], 0
        for feature in wanted:
            values = self.feature(feature)
            if values is None and self.columns is not None:
                columns = self.columns[:, begin : begin + width_of(feature)]
                begin += width_of(feature)
                values = columns if columns.shape[1] == width_of(feature) else None
            if values is None and feature == "height":
                values = heights(torch.from_numpy(np.asarray(self.xyz, dtype=np.float64))).numpy()
            if values is None:
                raise FeatureError(f"{path}: it has no feature {name_of(feature)}; {self._has()}")
            parts.append(values)
        left = 0 if self.columns is None or not begin else self.columns.shape[1] - begin
        if left > 0:
            note = f"{path}: {left} columns after {', '.join(wanted)} are left out"
            logger.warning(note) if notes is None else notes.append(note)
        kinds = {part.dtype.kind for part in parts}
        if not kinds <= set("fiu") or not all(np.isfinite(part).all() for part in parts):
            dtypes = ", ".join(sorted({str(part.dtype) for part in parts}))
            raise ValueError(f"{path}: expected finite numbers, came {dtypes} with others among them")
        points = np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.float64)
        return mend_features(torch.from_numpy(points), wanted, str(path), notes).numpy() if wanted else points

    def _has(self) -> str:
        known = [
            name for name in ("normal", "color", "intensity", "height") if self.feature(name) is not None
        ]
        known += [
            name for name in self.named if not any(name in _others(one) for one in (*ALIASES, "height"))
        ]
        held = ", ".join(known) or "xyz alone"
        if self.columns is not None and self.columns.shape[1]:
            held += f", and {self.columns.shape[1]} columns without names beside xyz"
        return f"expected a file with it, or a model and data.features without it; this one has {held}"


def _columns(values: NDArray[Any]) -> NDArray[Any]:
    """A feature (N, ...) as columns, (N, width); the width may be 0."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _others(name: str) -> set[str]:
    return {name, f"scalar_{name}", *(one for names in ALIASES.get(name, ()) for one in names)}


def _colors(values: NDArray[Any]) -> NDArray[Any]:
    """Colours from 0 to 1: whole numbers of a file count to the most that their type holds, 255 or 65,535."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return values / np.iinfo(values.dtype).max
    return values
