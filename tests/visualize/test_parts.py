"""Colours of parts, and the picture of labelled clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bixt3d.visualize import LabelledCloud, part_picture
from bixt3d.visualize.scene import PALETTE, legend, part_colors


def test_colour_follows_from_the_place_among_the_categorys_parts() -> None:
    colors = part_colors(np.array([7, 3, 7, 9]), [9, 3, 7])
    expected = [tuple(int(PALETTE[i][k : k + 2], 16) / 255 for k in (1, 3, 5)) for i in (1, 0, 1, 2)]
    assert colors.tolist() == [list(color) for color in expected]
    names = [f"n{i}" for i in range(10)]
    assert legend([9, 3, 7], names) == [("n3", PALETTE[0]), ("n7", PALETTE[1]), ("n9", PALETTE[2])]


def test_colours_are_told_apart() -> None:
    assert len(set(PALETTE)) == len(PALETTE) >= 11
    assert part_colors(np.array([], dtype=int), [0]).shape == (0, 3)


def test_unknown_part() -> None:
    with pytest.raises(ValueError, match=r"parts: expected parts among \[0, 1\], got \[2\]"):
        part_colors(np.array([0, 2]), [0, 1])


def cloud(count: int = 200) -> LabelledCloud:
    points = np.random.default_rng(0).uniform(-1, 1, (count, 3))
    truth = (points[:, 0] > 0).astype(int)
    return LabelledCloud("mug", points, "", [0, 1], ["body", "handle"], truth, 1 - truth)


def test_picture_holds_both_colours(tmp_path: Path) -> None:
    from matplotlib.image import imread

    path = part_picture([cloud(), cloud()], tmp_path / "a" / "parts.png")
    pixels = imread(path)[..., :3].reshape(-1, 3)
    for color in part_colors(np.array([0, 1]), [0, 1]):
        assert (np.abs(pixels - color).max(1) < 0.02).sum() > 500
    assert path == tmp_path / "a" / "parts.png"


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no clouds to draw"):
        part_picture([], tmp_path / "parts.png")
