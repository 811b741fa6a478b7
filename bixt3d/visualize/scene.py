"""What every view of labelled clouds shows alike: which part has which colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Okabe and Ito's palette, made for colour-blind readers, then darker shades of it for categories with more
# parts. A part's colour follows from its place among its category's parts, so it is the same in every view.
PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#000000",
    "#F0E442",
    "#7A7A7A",
    "#004B75",
    "#8A5F00",
    "#00573F",
)


def part_colors(parts: np.ndarray[Any, Any], ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return the colour of each point: parts (N,) of a category with these part ids -> RGB (N, 3) in [0, 1].

    Raises:
        ValueError: For a part that is not among the ids.
    """
    parts = np.asarray(parts)
    unknown = sorted(set(parts.tolist()) - set(ids))
    if unknown:
        raise ValueError(f"parts: expected parts among {sorted(ids)}, got {unknown}")
    place = {part: index for index, part in enumerate(sorted(ids))}
    colors = np.array([_rgb(PALETTE[place[part] % len(PALETTE)]) for part in sorted(ids)])  # (P, 3)
    return colors[[place[part] for part in parts.tolist()]].reshape(-1, 3)


def legend(ids: Sequence[int], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and colour of each part of a category; ``names`` are those of all part ids."""
    return [(names[part], PALETTE[place % len(PALETTE)]) for place, part in enumerate(sorted(ids))]


def _rgb(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue
