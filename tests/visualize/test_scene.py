"""What every view shows alike: modes, colours, legend and headline of a labelled cloud."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bixt3d.visualize.scene import (
    CONTRAST,
    ERROR,
    MODES,
    PALETTE,
    PLAIN,
    RAMP,
    RIGHT,
    TRUE,
    LabelledCloud,
    deviation,
    different_latents,
    legend,
    part_colors,
    part_places,
    ramp,
    rgb,
    scale,
    to_hex,
)
from tests.visualize.clouds import ONLY_POINTS, ball

NAMES = ("wing", "body", "leg", "seat", "back")


def cloud(count: int = 6, **changes: Any) -> LabelledCloud:
    random = np.random.default_rng(0)
    about: dict[str, Any] = {
        "category": "chair",
        "ids": (4, 2, 3),
        "names": NAMES,
        "truth": np.array([2, 2, 3, 3, 4, 4]),
        "prediction": np.array([2, 3, 3, 3, 4, 2]),
        "confidence": np.linspace(0, 1, count),
        "attention": (random.random((3, count)), random.random((5, count))),
        "verdict": "IoU 70.0%",
        "color": np.linspace(0, 1, 3 * count).reshape(count, 3),
        **changes,
    }
    return LabelledCloud("chair_1", random.normal(size=(count, 3)), **about)


def hexes(colors: Any) -> list[str]:
    assert colors.shape[1] == 3 and colors.min() >= 0 and colors.max() <= 1
    return [to_hex(color) for color in colors]


def test_colours_of_each_mode() -> None:
    seen = cloud()
    assert seen.modes == tuple(mode for mode in MODES if mode != "shape")
    np.testing.assert_array_equal(seen.colors("color"), seen.color)
    first, second, third = PALETTE[:3]  # of the parts 2, 3 and 4
    assert hexes(seen.colors("truth")) == [first, first, second, second, third, third]
    assert hexes(seen.colors("prediction")) == [first, second, second, second, third, first]
    assert hexes(seen.colors("error")) == [RIGHT, ERROR, RIGHT, RIGHT, RIGHT, ERROR]
    assert hexes(seen.colors("confidence")) == list(RAMP)  # six points, six colours
    assert seen.error_rate == pytest.approx(2 / 6)


def test_attention_is_shown_as_deviation_from_its_mean() -> None:
    shares = np.array([0.0, 0.25, 0.5, 1.0, 4.0, 0.25])  # their mean is one
    weights = np.stack([shares / 60, np.full(6, 0.3), np.zeros(6)])
    assert deviation(weights[0]) == pytest.approx([0, 0, 0.25, 0.5, 1, 0])
    seen = cloud(attention=(weights,))
    assert hexes(seen.colors("attention", 0, 1)) == [CONTRAST[3]] * 6  # alike everywhere: the mean
    assert hexes(seen.colors("attention", 0, 2)) == [CONTRAST[0]] * 6  # pays none, and no division by it
    most = np.array([1.0] + 99 * [0.0])
    assert deviation(most)[0] == 1 and deviation(most)[1] == 0  # a hundred times the mean: beyond the scale


def test_plain_shape_pales_with_height_whatever_is_up() -> None:
    points = np.array([[0, 0, 1.0], [0, 5, 3.0], [9, 0, 5.0]])
    assert hexes(LabelledCloud("a", points, up="z").colors("shape")) == list(PLAIN)
    assert hexes(LabelledCloud("a", points[:, [0, 2, 1]]).colors("shape")) == list(PLAIN)
    np.testing.assert_allclose(LabelledCloud("a", points, up="z").upright[:, 1], points[:, 2])


def test_classes_of_a_classifier() -> None:
    scores = {"cup": 0.1, "chair": 0.2, "sofa": 0.45, "bed": 0.15, "desk": 0.1}
    bare: dict[str, Any] = {**ONLY_POINTS, "scores": scores}
    seen = ball("c", "chair", **bare)
    assert seen.modes == ("shape",) and seen.quality == 0.2
    assert seen.top() == [("sofa", 0.45, ERROR), ("chair", 0.2, TRUE), ("bed", 0.15, seen.top()[2][2])]
    assert ball("c", "cup", **bare).top()[3] == ("cup", 0.1, TRUE)  # the true one, wherever it stands
    assert seen.caption == "c · truth chair"
    unknown = ball("c", "", **bare)
    assert unknown.quality is None and ERROR not in [color for *_, color in unknown.top()]
    assert ball().quality == 1 - ball().error_rate and ball().top() == []  # type: ignore[operator]


def test_first_mode_is_what_people_look_for() -> None:
    assert cloud().first_mode == "prediction"
    assert ball(**{**ONLY_POINTS, "attention": (np.ones((2, 400)),)}).first_mode == "shape"
    assert cloud(**dict.fromkeys(("truth", "prediction", "color")), attention=()).first_mode == "confidence"


def lightness_and_hue(color: str) -> Any:
    """CIE L*a*b*."""
    share = np.array(rgb(color))
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    x, y, z = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    )
    fx, fy, fz = np.cbrt(np.array([x / 0.9505, y, z / 1.089]) + 1e-4)
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def test_wrong_is_far_from_the_colour_of_every_part() -> None:
    colors = [lightness_and_hue(color) for color in (*PALETTE, RIGHT)]
    assert min(np.linalg.norm(lightness_and_hue(ERROR) - color) for color in colors) > 30
    assert min(np.linalg.norm(a - b) for i, a in enumerate(colors) for b in colors[:i]) > 18
    assert min(np.linalg.norm(a - b) for a, b in itertools.pairwise(colors[:-1])) > 40
    assert len(PALETTE) == 50


def test_colour_follows_from_the_place_among_the_categorys_parts() -> None:
    colors = part_colors(np.array([7, 3, 7, 9]), [9, 3, 7])
    assert hexes(colors) == [PALETTE[1], PALETTE[0], PALETTE[1], PALETTE[2]]
    names = [f"n{i}" for i in range(10)]
    assert legend([9, 3, 7], names) == [("n3", PALETTE[0]), ("n7", PALETTE[1]), ("n9", PALETTE[2])]
    assert part_colors(np.array([], dtype=int), [0]).shape == (0, 3)
    with pytest.raises(ValueError, match=r"parts: expected parts among \[0, 1\], got \[2\]"):
        part_colors(np.array([0, 2]), [0, 1])


def test_different_latents_leave_out_copies() -> None:
    maps = np.full((1, 6, 100), 1e-6, np.float32)
    for latent, place in enumerate([10, 10, 10, 50, 50, 90]):
        maps[0, latent, place] = 1.0
    chosen = different_latents([maps], 3)
    assert sorted([10, 10, 10, 50, 50, 90][latent] for latent in chosen) == [10, 50, 90]
    assert len(set(different_latents([maps], 20))) == 6


def test_colours_of_layer_and_latent_differ() -> None:
    seen = cloud()
    views = [seen.colors("attention", layer, latent) for layer, latent in ((0, 0), (0, 2), (1, 0), (1, 4))]
    for place, view in enumerate(views):
        assert all(np.abs(view - other).max() > 0.1 for other in views[:place])


@given(st.floats(0, 1))
def test_ramp_lies_between_its_neighbours(value: float) -> None:
    place = value * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    below, above = np.array(rgb(RAMP[low])), np.array(rgb(RAMP[low + 1]))
    expected = below + (place - low) * (above - below)
    np.testing.assert_allclose(ramp(np.array([value]))[0], expected, atol=1e-9)


def test_thinned_clouds_keep_what_belongs_together() -> None:
    whole = ball(count=900)
    few = whole.thinned(100)
    place = [int(np.flatnonzero((whole.points == point).all(1))[0]) for point in few.points]
    assert len(set(place)) == 100 and place == sorted(place) and min(place) < 100 and max(place) > 800
    for name in ("truth", "prediction", "confidence"):
        np.testing.assert_array_equal(getattr(few, name), getattr(whole, name)[place])
    for one, other in zip(few.attention, whole.attention, strict=True):
        np.testing.assert_array_equal(one, other[:, place])
    assert few.verdict == "IoU 61.0% · 100 of 900 points" and few.names == whole.names
    assert whole.thinned(900) is whole
    bare = ball(count=60_000, **ONLY_POINTS).thinned()
    assert bare.verdict == "20,000 of 60,000 points" and len(bare.points) == 20_000 and bare.truth is None


def test_ramp_is_read_by_its_lightness() -> None:
    lightness = ramp(np.linspace(0, 1, 101)) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


@given(st.integers(0, 0xFFFFFF))
def test_colour_as_text_and_back(value: int) -> None:
    text = f"#{value:06X}"
    assert to_hex(np.array(rgb(text))) == text


def test_right_and_wrong_are_no_parts() -> None:
    assert not {RIGHT, ERROR} & {*PALETTE, *RAMP, *CONTRAST, *PLAIN} and len(set(PALETTE)) == len(PALETTE)


@given(st.sets(st.integers(0, 60), min_size=1, max_size=15), st.data())
def test_place_counts_the_ids_below(ids: set[int], data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.sampled_from(sorted(ids)), max_size=20))
    order = data.draw(st.permutations(sorted(ids)))
    expected = [sum(other < part for other in ids) for part in parts]
    assert part_places(np.array(parts, dtype=np.int64), order).tolist() == expected


def test_more_parts_than_colours_begin_again() -> None:
    count = len(PALETTE) + 3
    colors = [color for _, color in legend(range(count), [str(part) for part in range(count)])]
    assert colors == [*PALETTE, *PALETTE[:3]]


def test_legend_of_each_mode() -> None:
    seen = cloud()
    parts = [("leg", PALETTE[0]), ("seat", PALETTE[1]), ("back", PALETTE[2])]
    assert seen.legend("truth") == seen.legend("prediction") == parts
    assert seen.legend("error") == [("right", RIGHT), ("wrong", ERROR)]
    middle = [
        (int(low[k : k + 2], 16) + int(high[k : k + 2], 16)) / 2
        for low, high in [RAMP[2:4]]
        for k in (1, 3, 5)
    ]
    (low, first), (half, color), (high, last) = seen.legend("confidence")
    assert (low, first, half, high, last) == ("0%", RAMP[0], "50%", "100%", RAMP[-1])
    assert np.abs(np.array(rgb(color)) * 255 - middle).max() <= 0.51
    assert seen.legend("attention") == [("¼×", CONTRAST[0]), ("mean", CONTRAST[3]), ("4×", CONTRAST[-1])]
    assert (scale("attention"), scale("confidence"), scale("truth")) == (CONTRAST, RAMP, ())
    assert seen.legend("color") == []


def test_headline() -> None:
    seen = cloud()
    assert seen.caption == "chair_1 · chair · IoU 70.0%"
    assert seen.headline("prediction") == "chair_1 · chair · IoU 70.0% · prediction"
    assert seen.headline("error") == "chair_1 · chair · IoU 70.0% · error, 33.3% of the points"
    attention = "chair_1 · chair · IoU 70.0% · attention, layer 2 of 2, latent 4 of 5"
    assert seen.headline("attention", 1, 3) == attention
    assert cloud(category="", verdict="").headline("truth") == "chair_1 · truth"


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        ({"truth": None, "color": None}, ("prediction", "confidence", "attention")),
        ({"prediction": None}, ("truth", "confidence", "attention", "color")),
        ({"attention": ()}, ("prediction", "truth", "error", "confidence", "color")),
        (dict.fromkeys(("truth", "prediction", "confidence", "color")), ("attention", "shape")),
        ({**dict.fromkeys(("truth", "prediction", "confidence", "color")), "attention": ()}, ("shape",)),
    ],
)
def test_modes_follow_from_what_is_known(missing: dict[str, Any], left: tuple[str, ...]) -> None:
    seen = cloud(**missing)
    assert seen.modes == left
    if "error" not in left:
        assert seen.error_rate is None
    for mode in set(MODES) - set(left):
        for ask in (seen.colors, seen.legend, seen.headline):
            with pytest.raises(ValueError, match=f"mode: expected .*{left[-1]}, got '{mode}'"):
                ask(mode)


@pytest.mark.parametrize(
    ("layer", "latent", "message"),
    [
        (2, 0, "layer: expected 0 to 1, got 2"),
        (-1, 0, "layer: expected 0 to 1, got -1"),
        (0, 3, "latent: expected 0 to 2, got 3"),
        (1, 5, "latent: expected 0 to 4, got 5"),
    ],
)
def test_no_such_layer_or_latent(layer: int, latent: int, message: str) -> None:
    for ask in (cloud().colors, cloud().headline):
        with pytest.raises(ValueError, match=message):
            ask("attention", layer, latent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": np.zeros(5)}, r"chair_1: expected truth \(6,\), got \(5,\)"),
        ({"prediction": np.zeros((6, 1))}, r"expected prediction \(6,\), got \(6, 1\)"),
        ({"confidence": np.zeros(7)}, r"expected confidence \(6,\), got \(7,\)"),
        ({"attention": (np.zeros((2, 6)), np.zeros((2, 5)))}, r"expected attention \(M, 6\), got \(2, 5\)"),
        ({"color": np.zeros(6)}, r"expected color \(6, 3\), got \(6,\)"),
        ({"up": "north"}, "up: expected one of x, y, z, -x, -y, -z, or None, got 'north'"),
        ({"attention": (np.zeros(6),)}, r"expected attention \(M, 6\), got \(6,\)"),
    ],
)
def test_arrays_have_a_value_a_point(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cloud(**changes)


@pytest.mark.parametrize("shape", [(0, 3), (6, 2), (6,)])
def test_points_have_three_coordinates(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a: expected points \(N, 3\), got"):
        LabelledCloud("a", np.zeros(shape))
