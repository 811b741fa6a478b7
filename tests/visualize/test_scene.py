"""What every view shows alike: modes, colours, legend and headline of a labelled cloud."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bixt3d.visualize.scene import (
    ERROR,
    MODES,
    PALETTE,
    PLAIN,
    RAMP,
    RIGHT,
    LabelledCloud,
    legend,
    part_places,
    ramp,
    rgb,
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
        **changes,
    }
    return LabelledCloud("chair_1", random.normal(size=(count, 3)), **about)


def hexes(colors: Any) -> list[str]:
    assert colors.shape[1] == 3 and colors.min() >= 0 and colors.max() <= 1
    return [to_hex(color) for color in colors]


def test_colours_of_each_mode() -> None:
    seen = cloud()
    assert seen.modes == MODES
    first, second, third = PALETTE[:3]  # of the parts 2, 3 and 4
    assert hexes(seen.colors("truth")) == [first, first, second, second, third, third]
    assert hexes(seen.colors("prediction")) == [first, second, second, second, third, first]
    assert hexes(seen.colors("error")) == [RIGHT, ERROR, RIGHT, RIGHT, RIGHT, ERROR]
    assert hexes(seen.colors("confidence")) == list(RAMP)  # six points, six colours
    assert seen.error_rate == pytest.approx(2 / 6)


def test_attention_goes_from_none_to_the_most_of_its_latent() -> None:
    weights = np.array([[0.0, 0.02, 0.04, 0.06, 0.08, 0.1], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    seen = cloud(attention=(weights,))
    assert hexes(seen.colors("attention", 0, 0)) == list(RAMP)
    assert hexes(seen.colors("attention", 0, 1)) == [RAMP[0]] * 6  # pays none anywhere, and no division by it


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
    assert not {RIGHT, ERROR} & {*PALETTE, *RAMP} and PLAIN not in (RIGHT, ERROR)


@given(st.sets(st.integers(0, 60), min_size=1, max_size=15), st.data())
def test_place_counts_the_ids_below(ids: set[int], data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.sampled_from(sorted(ids)), max_size=20))
    order = data.draw(st.permutations(sorted(ids)))
    expected = [sum(other < part for other in ids) for part in parts]
    assert part_places(np.array(parts, dtype=np.int64), order).tolist() == expected


def test_more_parts_than_colours_begin_again() -> None:
    names = [str(part) for part in range(15)]
    colors = [color for _, color in legend(range(15), names)]
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
    assert seen.legend("attention") == [("no attention", RAMP[0]), ("most", RAMP[-1])]


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
        ({"truth": None}, ("prediction", "confidence", "attention")),
        ({"prediction": None}, ("truth", "confidence", "attention")),
        ({"attention": ()}, ("prediction", "truth", "error", "confidence")),
        (dict.fromkeys(("truth", "prediction", "confidence")), ("attention",)),
        ({"truth": None, "prediction": None, "confidence": None, "attention": ()}, ()),
    ],
)
def test_modes_follow_from_what_is_known(missing: dict[str, Any], left: tuple[str, ...]) -> None:
    seen = cloud(**missing)
    assert seen.modes == left
    if "error" not in left:
        assert seen.error_rate is None
    for mode in set(MODES) - set(left):
        for ask in (seen.colors, seen.legend, seen.headline):
            with pytest.raises(
                ValueError, match=f"mode: expected .*{left[-1] if left else 'none'}, got '{mode}'"
            ):
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
