"""The viewer without a window: pictures of some clouds, in every mode that they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bixt3d.visualize import part_picture
from bixt3d.visualize.pictures import cloud_picture, file_name, write_pictures
from bixt3d.visualize.scene import CONTRAST, ERROR, PALETTE, PLAIN, RAMP, RIGHT, TRUE, rgb
from tests.visualize.clouds import BROKEN, ONLY_POINTS, UNLABELLED, Shelf, ball, count_of, like, read


@pytest.mark.parametrize(
    ("title", "name"),
    [("psb00/Plane 1", "psb00_Plane_1"), ("../a", "a"), ("ü·ñ", "ü_ñ"), ("//", "cloud"), ("a.npy", "a.npy")],
)
def test_file_name(title: str, name: str) -> None:
    assert file_name(title) == name


@pytest.mark.parametrize(
    ("changes", "colors", "absent"),
    [
        ({}, (*PALETTE[:2], RIGHT, ERROR, RAMP[0], RAMP[-1], CONTRAST[0]), (TRUE,)),
        (UNLABELLED, (*PALETTE[:2], RAMP[0]), (ERROR,)),
        # layers with different numbers of latents, as of a classifier: shape and attention
        ({"truth": None, "prediction": None, "confidence": None}, (PLAIN[1], CONTRAST[0]), PALETTE[:2]),
        (ONLY_POINTS, (PLAIN[1],), (*PALETTE[:2], ERROR, CONTRAST[0])),
        ({**ONLY_POINTS, "color": np.tile(rgb("#12AB34"), (400, 1))}, ("#12AB34",), (PLAIN[1],)),
        ({**ONLY_POINTS, "scores": {"mug": 0.2, "cup": 0.7}}, (PLAIN[1], TRUE, ERROR), (PALETTE[0],)),
    ],
)
def test_picture_of_what_is_known(
    changes: dict[str, Any], colors: Sequence[str], absent: Sequence[str], tmp_path: Path
) -> None:
    image = read(cloud_picture(ball("m$1$", **changes), tmp_path / "made" / "a.png"))
    for color in colors:
        assert like(image, color) > 100, color
    for color in absent:
        assert like(image, color) < 100, color


def test_every_text_has_its_place(tmp_path: Path) -> None:
    """The one after another, without one on another, and nothing beyond the edge."""
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    save = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self) or save(self, *a, **k))
        names = {"names": ("a rather long name of a part", "handle", "top", "leg")}
        part_picture([ball("a very long title " * 9, **names), ball("b")], tmp_path / "p.png")
        cloud_picture(ball(**names), tmp_path / "c.png")
    for figure in drawn:
        figure.draw_without_rendering()
        boxes = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
        pairs = [(a, b) for a in boxes for b in boxes if a < b]
        assert not [(a, b) for a, b in pairs if boxes[a].overlaps(boxes[b])]
        for text, box in boxes.items():
            assert box.x0 >= 0 and box.y0 >= 0, text
            assert box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height, text


def test_parts_side_by_side(tmp_path: Path) -> None:
    path = part_picture([ball("a"), ball("b"), ball("c")], tmp_path / "a" / "parts.png")
    image = read(path)
    assert path == tmp_path / "a" / "parts.png"
    assert all(like(image, color) > 1000 for color in (*PALETTE[:2], RIGHT, ERROR))
    assert count_of(image, PALETTE[0]) > 30  # the dots of the legend are not shaded
    text = part_picture([ball("a", "mug")], tmp_path / "one.svg").read_text()
    for words in ("mug · IoU 61.0%", "truth", "prediction", "% wrong", "body", "handle", "right", "wrong"):
        assert words in text, words
    assert text.count("<!-- body -->") == 1  # one legend for truth and prediction
    strip = read(part_picture([ball("a"), ball("b")], tmp_path / "s.png", modes=("prediction",), across=2))
    assert strip.shape[1] < image.shape[1] and like(strip, ERROR) < 50
    with pytest.raises(ValueError, match="no clouds to draw"):
        part_picture([], tmp_path / "parts.png")
    with pytest.raises(ValueError, match="mode: expected one of .*, got 'truth'"):
        part_picture([ball(**UNLABELLED)], tmp_path / "parts.png")


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
    with pytest.raises(ValueError, match="none of the clouds can be shown"):
        write_pictures(Shelf(BROKEN), tmp_path)


def test_the_worst_first(tmp_path: Path) -> None:
    good = ball("good", count=50, attention=())
    bad = ball("bad", count=50, attention=(), prediction=1 - np.asarray(good.truth))
    shelf = Shelf(good, good, bad, BROKEN)
    assert [path.name for path in write_pictures(shelf, tmp_path, 2, worst=True)] == [
        "3_bad.png",
        "1_good.png",
    ]
