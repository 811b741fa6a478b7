"""The viewer without a window: pictures of some clouds, in every mode that they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bixt3d.visualize.pictures import cloud_picture, file_name, readable, spread, write_pictures
from bixt3d.visualize.scene import ERROR, PALETTE, PLAIN, RAMP, RIGHT
from tests.visualize.clouds import BROKEN, ONLY_POINTS, UNLABELLED, Shelf, ball, count_of, read


@given(st.integers(1, 60), st.integers(1, 60))
def test_spread(total: int, wanted: int) -> None:
    chosen = spread(total, wanted)
    assert len(chosen) == min(total, wanted) and chosen[0] == 0 and chosen[-1] < total
    gaps = np.diff([*chosen, total])
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_spread_of_none() -> None:
    with pytest.raises(ValueError, match="shapes: expected 1 or more, got 0"):
        spread(5, 0)


@pytest.mark.parametrize(
    ("title", "name"),
    [("psb00/Plane 1", "psb00_Plane_1"), ("../a", "a"), ("ü·ñ", "ü_ñ"), ("//", "cloud"), ("a.npy", "a.npy")],
)
def test_file_name(title: str, name: str) -> None:
    assert file_name(title) == name


@pytest.mark.parametrize(
    ("changes", "colors", "absent"),
    [
        ({}, (*PALETTE[:2], RIGHT, ERROR, RAMP[0], RAMP[-1]), ()),
        (UNLABELLED, (*PALETTE[:2], RAMP[0]), (ERROR,)),
        # layers with different numbers of latents, as of a classifier: only attention
        ({"truth": None, "prediction": None, "confidence": None}, (RAMP[0], RAMP[-1]), PALETTE[:2]),
        (ONLY_POINTS, (PLAIN,), (*PALETTE[:2], ERROR, RAMP[0])),
    ],
)
def test_picture_of_what_is_known(
    changes: dict[str, Any], colors: Sequence[str], absent: Sequence[str], tmp_path: Path
) -> None:
    image = read(cloud_picture(ball("m$1$", **changes), tmp_path / "made" / "a.png"))
    for color in colors:
        assert count_of(image, color) > 30, color
    for color in absent:
        assert count_of(image, color) == 0, color


def test_pictures_of_some_clouds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shelf = Shelf(*[ball(f"c/{place}", count=50, attention=()) for place in range(12)])
    paths = write_pictures(shelf, tmp_path / "p", 3)
    assert [path.name for path in paths] == ["01_c_0.png", "05_c_4.png", "09_c_8.png"]
    assert sorted(tmp_path.glob("p/*")) == paths
    assert capsys.readouterr().out.splitlines() == [f"picture: {path}" for path in paths]


def test_what_is_broken_is_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shelf = Shelf(FileNotFoundError("no file\nx.ply"), ball("b", count=50, attention=()))
    assert [path.name for path in write_pictures(shelf, tmp_path)] == ["2_b.png"]
    assert capsys.readouterr().out.startswith("left out: no file x.ply\n")
    assert [place for place, _ in readable(shelf)] == [1]
    with pytest.raises(ValueError, match="none of the clouds can be shown"):
        write_pictures(Shelf(BROKEN), tmp_path)
