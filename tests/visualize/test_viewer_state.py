"""What the viewer's keys do, without a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bixt3d.visualize import Gallery, LabelledCloud, viewer_state
from bixt3d.visualize.scene import BESIDE, MODES, PLAIN, TRUE, rgb
from bixt3d.visualize.viewer_state import HELP, KEYS, ViewerState
from tests.visualize.clouds import BROKEN, ONLY_POINTS, UNLABELLED, Shelf, ball


def after(clouds: Sequence[LabelledCloud], *actions: str) -> ViewerState:
    state = ViewerState(clouds)
    for action in actions:
        state.act(action)
    return state


@given(st.integers(1, 5), st.lists(st.sampled_from(["next", "previous"]), max_size=12))
def test_shapes_go_round(count: int, actions: list[str]) -> None:
    state = after([ball(f"c{place}", count=9) for place in range(count)], *actions)
    place = (actions.count("next") - actions.count("previous")) % count
    assert state.index == place and state.title == f"c{place}" and state.place == f"{place + 1}/{count}"


def test_next_category() -> None:
    clouds = [ball("a"), ball("b"), ball("c", "table"), ball("d")]
    assert [after(clouds, *["category"] * times).title for times in range(4)] == ["a", "c", "d", "c"]
    alone = after(clouds[:2], "category")
    assert alone.index == 0 and alone.message == "there is no other category"
    assert after(clouds[:2], "category", "next").message == ""


def test_gallery_is_not_labelled_to_find_its_next_category(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Gallery, "_label", lambda self, index: seen.append(index) or ball("z", "table"))
    gallery = Gallery(None, [0] * 4, list("abcd"), ["mug", "mug", "mug", "table"])  # type: ignore[arg-type]
    state = after(gallery, "category")
    assert state.index == 3 and seen == []
    assert state.headline.startswith("z · table") and state.colors.shape == (400, 3) and seen == [3]


@pytest.mark.parametrize("mode", MODES)
def test_mode(mode: str) -> None:
    seen = ball(**ONLY_POINTS) if mode == "shape" else ball(color=np.random.default_rng(0).random((400, 3)))
    state = after([seen], mode)
    assert state.mode == mode and state.message == ""
    np.testing.assert_array_equal(state.colors, seen.colors(mode))
    assert state.legend == seen.legend(mode) and state.headline == seen.headline(mode)


def test_mode_that_is_not_there_is_told() -> None:
    state = after([ball(), ball("scan", **UNLABELLED)], "next", "attention", "truth")
    assert state.mode == "attention"  # still
    assert state.message == "this cloud has no truth; it has 1 prediction, 4 confidence, 5 attention"
    state.act("previous")
    assert state.mode == "attention" and state.message == ""


def test_mode_comes_back_after_a_cloud_without_it() -> None:
    state = after([ball(), ball("scan", **UNLABELLED)], "truth", "next")
    assert state.mode == "prediction"
    state.act("next")
    assert state.mode == "truth"


def test_layers_and_latents_go_round() -> None:
    seen = ball()  # a layer of three latents, and one of two
    state = after([seen], "attention", "latent down")
    assert (state.layer, state.latent) == (0, 2)
    state.act("layer up")
    assert (state.layer, state.latent) == (1, 1)  # it has no third one
    np.testing.assert_array_equal(state.colors, seen.colors("attention", 1, 1))
    assert state.headline.endswith("layer 2 of 2, latent 2 of 2")
    for action, expected in (("latent up", (1, 0)), ("layer up", (0, 0)), ("layer down", (1, 0))):
        state.act(action)
        assert (state.layer, state.latent) == expected
    state.act("error")
    state.act("layer up")
    assert state.message == "layers are those of the attention: press 5" and state.layer == 1


def test_layer_that_the_next_cloud_lacks() -> None:
    shallow = ball("b", attention=(np.ones((1, 400)),))
    state = after([ball(), shallow], "attention", "layer up", "latent up", "next")
    assert (state.layer, state.latent) == (0, 0) and state.colors.shape == (400, 3)
    state.act("next")
    assert (state.layer, state.latent) == (1, 1)


def test_size_of_points() -> None:
    assert after([ball(count=400)]).size > after([ball(count=2500)]).size > after([ball(count=99999)]).size
    first = after([ball()]).size
    assert after([ball()], "larger").size == first + 1 and after([ball()], "smaller").size == first - 1
    assert after([ball()], *["smaller"] * 60).size == 1
    assert after([ball()], *["smaller"] * 60, "larger").size == 2  # no keys are owed
    assert after([ball()], *["larger"] * 60, "smaller").size == 29


def test_points_are_centred_and_of_radius_one() -> None:
    points = after([ball()]).points
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1.0)
    np.testing.assert_allclose(points.min(0) + points.max(0), 0, atol=1e-9)
    here = LabelledCloud("one", np.full((3, 3), 7.0))  # all in one place
    np.testing.assert_array_equal(after([here]).points, np.zeros((3, 3)))


def test_cloud_of_which_nothing_is_known() -> None:
    state = after([ball("scan", **ONLY_POINTS)], "confidence")
    assert state.mode == "shape" and state.legend == [] and state.headline == "scan · mug"
    assert state.message == "this cloud has no confidence; it has 7 shape"
    lowest, highest = state.points[:, 1].argmin(), state.points[:, 1].argmax()
    assert (tuple(state.colors[lowest]), tuple(state.colors[highest])) == (rgb(PLAIN[0]), rgb(PLAIN[-1]))


def test_truth_prediction_and_error_side_by_side() -> None:
    seen = ball()
    state = after([seen, ball("scan", **UNLABELLED)], "beside")
    assert state.columns == BESIDE and state.colors.shape == (1200, 3)
    for number, mode in enumerate(BESIDE):
        np.testing.assert_array_equal(state.colors[400 * number : 400 * (number + 1)], seen.colors(mode))
    assert [name for name, _ in state.legend] == ["body", "handle", "right", "wrong"]
    assert state.headline == f"{seen.caption} · {seen.error_rate:.1%} of the points wrong"
    state.act("next")
    assert state.columns == ("prediction",) and state.colors.shape == (400, 3)
    state.act("previous")
    assert state.columns == BESIDE
    state.act("attention")
    assert state.columns == ("attention",) and len(state.amounts) > 3
    alone = after([ball(**UNLABELLED)], "beside")
    assert "no truth and prediction" in alone.message


def test_worst_first_and_back() -> None:
    clouds = [ball("a"), ball("b", prediction=1 - np.asarray(ball().truth)), BROKEN, ball("d", **UNLABELLED)]
    state = after(Shelf(*clouds), "next", "next", "worst")
    assert state.title == "b" and state.place == "1/4 worst first"
    state.act("next")
    assert state.title == "a" and state.place == "2/4 worst first"
    state.act("worst")
    assert state.title == "a" and state.place == "1/4"


def test_most_probable_classes() -> None:
    about: dict[str, Any] = {**ONLY_POINTS, "scores": {"mug": 0.7, "cup": 0.2, "vase": 0.1}}
    assert after([ball(**about)]).bars[0] == ("mug", 0.7, TRUE)
    assert after([ball()]).bars == after(Shelf(BROKEN)).bars == []


def test_broken_cloud_is_told_and_passed() -> None:
    state = after(Shelf(ball("a"), BROKEN, ball("c")), "next")
    assert state.cloud is None and state.fault == "b.ply: not a mesh" and state.mode == ""
    assert state.headline == "cloud 2 · cannot be shown" and state.legend == []
    assert after(Shelf(MemoryError(), ball())).fault == "not enough memory for it"
    assert len(state.points) == len(state.colors) == 1 and state.size > 0
    for action in set(KEYS.values()) - {"next", "previous", "category", "worst"}:
        state.act(action)
        assert state.index == 1
    state.act("error")
    state.act("next")
    assert state.title == "c" and state.mode == "error" and state.fault == ""


def test_help_goes_and_comes() -> None:
    assert [after([ball()], *["help"] * times).help for times in range(3)] == [False, True, False]


def test_no_clouds() -> None:
    with pytest.raises(ValueError, match="no clouds"):
        ViewerState([])


def test_keys_are_those_that_the_help_names() -> None:
    told = " ".join(keys for keys, _ in HELP).replace(",", " ").replace("/", " ").split()
    letters = {chr(key) for key in KEYS if 65 <= key <= 90}
    assert letters == {word for word in told if len(word) == 1 and word.isalpha()}
    assert [KEYS[ord(number)] for number in "1234567"] == list(MODES)
    assert HELP[2] == ("1 2 3 4 5 6 7", ", ".join(MODES))
    assert (KEYS[262], KEYS[263], KEYS[265], KEYS[264]) == ("next", "previous", "layer up", "layer down")
    assert max(len(f"  {keys:17}{text}") for keys, text in HELP) <= 80


def test_clouds_with_millions_of_points_are_thinned_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_state, "MOST", 50)
    points = np.random.default_rng(0).normal(size=(400, 3))
    whole = LabelledCloud(
        "scan", points, ids=(0, 1), names=("low", "high"), prediction=(points[:, 1] > 0) * 1
    )
    state = ViewerState([whole])
    assert state.points.shape == state.colors.shape == (50, 3)
    assert state.headline == "scan · 50 of 400 points · prediction"
