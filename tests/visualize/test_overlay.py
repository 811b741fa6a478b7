"""Headline, legend and keys beside the cloud."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bixt3d.visualize.overlay import draw_overlay, rectangles
from bixt3d.visualize.scene import PALETTE, RAMP
from bixt3d.visualize.viewer_state import HELP
from tests.visualize.clouds import ball, count_of


@given(st.integers(0, 2**32 - 1))
def test_rectangles_give_the_image_back(seed: int) -> None:
    random = np.random.default_rng(seed)
    image = np.array([(255, 255, 255), (0, 0, 0), (255, 255, 254), (9, 1, 77)])[random.integers(0, 4, (7, 5))]
    edges, colors = rectangles(image.astype(np.uint8))
    again = np.full_like(image, 255)
    for (left, top, right, bottom), color in zip(edges, colors, strict=True):
        assert (again[top:bottom, left:right] == 255).all() and left < right and top < bottom
        again[top:bottom, left:right] = np.round(color * 255)
    np.testing.assert_array_equal(again, image)


def test_names_that_are_no_text() -> None:
    escaped = draw_overlay((600, 200), 1.0, "caf\\udce9", "1/2", [], "no file \\udce9")
    raw = draw_overlay((600, 200), 1.0, "caf\udce9", "1/2", [], "no file \udce9")
    np.testing.assert_array_equal(raw, escaped)


def test_legend_has_its_colours() -> None:
    image = draw_overlay((600, 400), 1.0, "mug · IoU", "1/2", ball().legend("truth"))
    assert image.shape == (400, 600, 3) and image.dtype == np.uint8
    for color in PALETTE[:2]:
        assert count_of(image, color) == 15 * 15
    assert (image[-100:, 150:] == 255).all()  # nothing where the cloud is
    plain = draw_overlay((600, 400), 1.0, "mug · IoU", "1/2", [])
    assert count_of(plain, PALETTE[0]) == 0 and (plain[:40] == image[:40]).all()


def test_scale_goes_from_low_to_high() -> None:
    image = draw_overlay((600, 400), 1.0, "x", "1/2", ball().legend("confidence"), amounts=RAMP)
    column = image[:, 25]
    bar = column[(column < 254).any(-1) & (np.arange(400) > 50) & (np.arange(400) < 250)]
    lightness = bar.astype(float) @ [0.2126, 0.7152, 0.0722]
    assert len(bar) >= 140 and (np.diff(lightness) <= 0).all() and lightness[0] - lightness[-1] > 150
    assert count_of(image, RAMP[0]) and count_of(image, RAMP[-1])


def test_bars_are_as_long_as_their_shares() -> None:
    shown = draw_overlay(
        (600, 400), 1.0, "x", "1/2", [], bars=[("mug", 0.6, "#123456"), ("cup", 0.3, "#654321")]
    )
    first, second = (count_of(shown, color) for color in ("#123456", "#654321"))
    assert first == pytest.approx(2 * second, rel=0.02) and first > 500


def test_columns_are_named_below() -> None:
    plain = draw_overlay((1100, 760), 1.0, "x", "1/2", [])
    shown = draw_overlay((1100, 760), 1.0, "x", "1/2", [], columns=["truth", "prediction", "error"])
    rows, columns = np.nonzero((plain != shown).any(-1))
    assert rows.min() > 600
    assert [((columns > 1100 * k / 3) & (columns < 1100 * (k + 1) / 3)).any() for k in range(3)] == [True] * 3


@pytest.mark.parametrize("width", [300, 1100])
def test_everything_fits_the_window(width: int) -> None:
    title = "a very long name of a file $x_1$ that somebody gave it · " * 4
    scale = min(1.0, width / 700)
    image = draw_overlay((width, 400), scale, title, "123/456", [], message=title, keys=HELP)
    blank = draw_overlay((width, 400), scale, "", "", [])
    assert (image != blank).any(-1).sum() > 1000
    assert (image[:, :3] == 255).all() and (image[:60, -3:] == 255).all() and (image[-60:, -3:] == 255).all()


def test_long_headline_keeps_both_ends_and_stays_readable() -> None:
    def ink(headline: str) -> int:
        return int((draw_overlay((700, 400), 1.0, headline, "1/2", [])[:45] < 128).all(-1).any(1).sum())

    assert ink("name · error") >= ink("name" * 300 + " · error") >= 7  # rows of pixels with letters
