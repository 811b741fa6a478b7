"""The camera of all views, and what the drawing of a cloud shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bixt3d.visualize.draw import TILT, TURN, Camera, Drawing, camera_for

BLUE, RED = np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])


def block(x: float, y: float, z: float, count: int = 4000) -> Any:
    return np.random.default_rng(0).uniform(-1, 1, (count, 3)) * [x, y, z]


def turned(points: Any, degrees: float) -> Any:
    """Around the up axis, from +z towards +x."""
    angle = np.radians(degrees)
    x, y, z = points.T
    return np.stack([x * np.cos(angle) + z * np.sin(angle), y, z * np.cos(angle) - x * np.sin(angle)], axis=1)


def inked(image: Any) -> Any:
    """Pixels of clearly one colour (H, W): neither paper nor shadow."""
    return np.ptp(image.astype(int), axis=2) > 60


def test_axes_are_a_frame_with_up_upright() -> None:
    right, up, front = Camera(200, 30).axes
    np.testing.assert_allclose(Camera(200, 30).axes @ Camera(200, 30).axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.cross(right, up), front, atol=1e-12)  # right-handed: nothing is mirrored
    assert right[1] == 0 and up[1] > 0 and front[1] == pytest.approx(0.5)
    np.testing.assert_allclose(Camera(0, 0).axes, np.eye(3), atol=1e-12)  # from +z, x to the right


def test_shapes_as_long_as_deep_are_seen_from_the_standard() -> None:
    assert camera_for(block(1, 1, 1.1)) == Camera(TURN, TILT)
    assert camera_for(block(1, 0.01, 1.1)).tilt > TILT + 10  # flat: from higher up


@given(st.floats(0, 360))
def test_long_shapes_show_their_side_from_in_front(degrees: float) -> None:
    camera = camera_for(turned(block(1, 0.5, 4, 500), degrees))
    across = np.degrees(np.arccos(abs(camera.axes[0] @ turned(np.array([[0, 0, 1.0]]), degrees)[0])))
    assert 35 < across < 45  # three quarters: neither end on nor flat
    assert abs((camera.turn - TURN + 180) % 360 - 180) <= 90.1


def test_picture_fills_its_frame_and_no_more() -> None:
    for points in (block(1, 1, 1), block(0.05, 3, 0.05), block(4, 0.1, 1) * 1e-6 + 5):
        image = Drawing(points, (300, 200)).image(np.tile(BLUE, (len(points), 1)))
        assert image.shape == (200, 300, 3) and image.dtype == np.uint8
        rows, columns = np.nonzero(inked(image))
        assert rows.min() >= 3 and rows.max() < 197 and columns.min() >= 3 and columns.max() < 297
        assert np.ptp(rows) > 150 or np.ptp(columns) > 230


def test_near_points_hide_far_ones_and_are_clearer() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 30)] * 2), axis=-1).reshape(-1, 2)
    points = np.concatenate([np.insert(grid, 2, side, axis=1) for side in (0.3, -0.3)])
    colors = np.repeat([BLUE, RED], len(grid), axis=0)
    front = Drawing(points, (200, 200), Camera(0, 0)).image(colors)
    assert (front[80:120, 80:120, 2] > front[80:120, 80:120, 0]).all()  # the blue side alone
    back = Drawing(points, (200, 200), Camera(180, 0)).image(colors)
    assert (back[80:120, 80:120, 0] > back[80:120, 80:120, 2]).all()
    apart = np.concatenate([grid[:, [0, 1]] @ np.eye(2, 3) + [side, 0, 2 * side] for side in (-1.2, 1.2)])
    image = Drawing(apart, (300, 200), Camera(0, 0)).image(np.tile(BLUE, (len(apart), 1))).astype(int)
    paper = [image[:, half][inked(image[:, half])].min() for half in (slice(0, 150), slice(150, 300))]
    left = image[:, :150][inked(image[:, :150])][:, 0].mean()
    right = image[:, 150:][inked(image[:, 150:])][:, 0].mean()
    assert left > right + 20 and len(paper) == 2  # the far one has paled


def test_points_are_round_and_shaded() -> None:
    image = Drawing(np.array([[0, 0, 0.0], [1, 0, 0]]), (400, 200), Camera(0, 0)).image(np.tile(BLUE, (2, 1)))
    rows, columns = np.nonzero(inked(image)[:, :200])
    area = len(rows)
    radius = (np.ptp(columns) + 1) / 2
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1 and area == pytest.approx(np.pi * radius**2, rel=0.12)
    blue = image[rows, columns, 2].astype(int)
    upper = blue[rows < np.median(rows)].mean()
    assert upper > blue[rows > np.median(rows)].mean() + 8  # the light comes from above


def test_soft_shadow_lies_below() -> None:
    image = Drawing(block(1, 1, 1) + 3, (300, 300)).image(np.tile(BLUE, (4000, 1)))
    grey = (np.ptp(image.astype(int), axis=2) == 0) & (image[..., 0] < 250)
    rows = np.nonzero(grey)[0]
    assert len(rows) > 300 and np.median(rows) > 190 and image[grey].min() > 120
    assert (image[:20] == 255).all()


def test_same_pixels_again_and_in_other_places() -> None:
    points, colors = block(1, 2, 1), np.random.default_rng(1).random((4000, 3))
    image = Drawing(points).image(colors)
    np.testing.assert_array_equal(Drawing(points).image(colors), image)
    off = (Drawing(points * 1000 + 5e5).image(colors) != image).any(-1).mean()
    assert off < 0.01  # but for a few pixels on the edge of rounding


def test_one_point_and_what_cannot_be_drawn() -> None:
    assert inked(Drawing(np.ones((1, 3)), (80, 60)).image(RED[None])).any()
    for points in (np.zeros((0, 3)), np.array([[0, 0, np.nan]])):
        with pytest.raises(ValueError, match="expected finite points"):
            Drawing(points)
    with pytest.raises(ValueError, match=r"colors: expected \(2, 3\), got \(3, 3\)"):
        Drawing(np.eye(2, 3)).image(np.eye(3))
