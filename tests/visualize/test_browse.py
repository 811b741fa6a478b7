"""Ways through clouds: those that can be shown, the worst first, the next category, the one to open with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bixt3d.visualize.browse import interest, next_category, opening, readable, spread, worst_first
from tests.visualize.clouds import BROKEN, ONLY_POINTS, UNLABELLED, Shelf, ball


@given(st.integers(1, 60), st.integers(1, 60))
def test_spread(total: int, wanted: int) -> None:
    chosen = spread(total, wanted)
    assert len(chosen) == min(total, wanted) and chosen[0] == 0 and chosen[-1] < total
    gaps = np.diff([*chosen, total])
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_spread_of_none() -> None:
    with pytest.raises(ValueError, match="shapes: expected 1 or more, got 0"):
        spread(5, 0)


def off(title: str, share: float, **changes: Any) -> Any:
    """A ball whose labels are wrong at so many of the points."""
    truth = np.zeros(100, dtype=int)
    about = {"truth": truth, "prediction": (np.arange(100) < 100 * share).astype(int), "ids": (0, 1)}
    return ball(title, count=100, attention=(), **{**about, **changes})


def test_readable_tells_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    shelf = Shelf(
        FileNotFoundError("no file\nx.ply"), ball("b"), torch.OutOfMemoryError("CUDA: 3 GiB"), ball()
    )
    assert [place for place, _ in readable(shelf)] == [1, 3]
    assert [place for place, _ in readable(shelf, [3])] == [3]
    assert capsys.readouterr().out.splitlines() == [
        "left out: no file x.ply",
        "left out: not enough memory for it",
    ]


def test_worst_first() -> None:
    clouds = [off("a", 0.2), ball("b", **UNLABELLED), off("c", 0.9), BROKEN, off("d", 0.0), off("e", 0.2)]
    assert worst_first(Shelf(*clouds)) == [2, 0, 5, 4, 1, 3]  # unknown and broken ones last
    unsure = [ball(str(p), "mug", **{**ONLY_POINTS, "scores": {"mug": p}}) for p in (0.5, 0.1, 0.9)]
    assert worst_first(unsure) == [1, 0, 2]


def test_opens_with_many_parts_that_are_right() -> None:
    many = off("many", 0.0, truth=np.arange(100) % 2, prediction=np.arange(100) % 2)
    clouds = [off("bad", 0.9), off("plain", 0.0), BROKEN, many]
    assert opening(Shelf(*clouds)) == 3 and opening(Shelf(BROKEN)) == 0
    assert interest(many) > interest(clouds[1]) > interest(clouds[0])  # type: ignore[arg-type]
    rod = ball("rod", **ONLY_POINTS)
    thin = ball("rod", **ONLY_POINTS)
    object.__setattr__(thin, "points", rod.points * [0.1, 1, 0.1])
    assert interest(thin) > interest(rod)  # its outline leaves more of the picture


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.data())
def test_next_category_goes_on_to_the_first_other_one(categories: list[str], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(categories) - 1))
    found = next_category(categories, index)
    if len(set(categories)) == 1:
        assert found == index
    else:
        steps = (found - index) % len(categories)
        passed = [categories[(index + step) % len(categories)] for step in range(steps)]
        assert set(passed) == {categories[index]} and categories[found] != categories[index]
