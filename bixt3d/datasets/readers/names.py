"""What programs call xyz, features and labels, beside our own names; case does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

POINTS = (
    *(("points",), ("xyz",), ("positions",), ("position",), ("coords",), ("x", "y", "z")),
    *(("points:0", "points:1", "points:2"), ("points_0", "points_1", "points_2")),
)
ALIASES: Mapping[str, Sequence[tuple[str, ...]]] = {
    "normal": [
        *(("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("normals",)),
        *(("normalx", "normaly", "normalz"), ("normals:0", "normals:1", "normals:2")),
    ],
    "color": [
        *(("red", "green", "blue"), ("r", "g", "b"), ("colors",), ("colour",), ("rgb",)),
        ("diffuse_red", "diffuse_green", "diffuse_blue"),
        ("rf", "gf", "bf"),  # CloudCompare, of colours from 0 to 1
    ],
    "intensity": [("intensities",), ("reflectance",), ("remission",)],
}
LABELS = (
    "label",
    "labels",
    "classification",
    "class",
    "segmentation",
    "segment",
    "semantic",
    "part",
    "parts",
)
RENAME = ": named columns count by their name: rename that of the labels to label"
LABEL_NAMES = tuple(f"{prefix}{name}" for name in LABELS for prefix in ("", "scalar_"))
