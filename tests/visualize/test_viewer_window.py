"""Every key in a real window, pixel by pixel, and where no window can be opened."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bixt3d.visualize import viewer
from bixt3d.visualize.scene import CONTRAST, ERROR, PALETTE, RIGHT
from bixt3d.visualize.viewer import display_missing, view
from tests.markers import needs_window, slow
from tests.visualize.clouds import ball, count_of, has, read
from tests.visualize.screen import screened

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = f"""
import sys

sys.path.insert(0, {str(ROOT)!r})
from bixt3d.visualize.viewer import view
from tests.visualize.clouds import BROKEN, UNLABELLED, Shelf, ball

view(Shelf(ball(), ball("stool", "table", **UNLABELLED), BROKEN), "shots", "bixt3d test")
print("closed")
"""
CENTRE = (slice(60, 690), slice(260, 840))  # where the cloud is, and no text


def no_display(monkeypatch: pytest.MonkeyPatch, **named: str) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)


def test_display_that_is_missing_or_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    no_display(monkeypatch)
    assert display_missing() == "there is no display: neither DISPLAY nor WAYLAND_DISPLAY is set"
    no_display(monkeypatch, DISPLAY=":98765")
    assert display_missing() == "no display answers at DISPLAY=:98765"
    no_display(monkeypatch, WAYLAND_DISPLAY="wayland-nowhere")
    assert display_missing() == "no display answers at WAYLAND_DISPLAY=wayland-nowhere"
    for platform in ("win32", "darwin"):
        monkeypatch.setattr(sys, "platform", platform)
        assert display_missing() is None


def test_without_a_display_nor_open3d_pictures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_display(monkeypatch)
    monkeypatch.setitem(sys.modules, "open3d", None)
    view([ball(str(place), count=50, attention=()) for place in range(9)], tmp_path / "views", pictures=2)
    assert sorted(path.name for path in tmp_path.glob("views/*.png")) == ["1_0.png", "5_4.png"]
    told = capsys.readouterr().out
    assert (
        told.startswith("there is no display")
        and f"\nwriting pictures into {tmp_path}/views instead\n" in told
    )


def test_without_open3d_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "display_missing", lambda: None)
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(ImportError, match=r'pip install "bixt3d\[viewer\]".*--png FOLDER .*--html FILE'):
        view([ball()], tmp_path)


def test_window_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(viewer, "display_missing", lambda: None)
    closed = type("Closed", (), {"__init__": lambda *_: None, "opened": lambda *_: False})
    monkeypatch.setattr(viewer, "_Window", closed)
    view([ball(count=50, attention=())], tmp_path / "views")
    assert capsys.readouterr().out.startswith("Open3D cannot open a window here;\nwriting pictures into")
    assert [path.name for path in tmp_path.glob("views/*")] == ["1_mug_1.png"]


@slow
@needs_window
def test_every_key_and_the_mouse(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with screened(["program.py"], tmp_path) as run:
        run.wait_for("1/3  mug_1 · mug · IoU 61.0% · prediction")
        window = run.window("bixt3d test")
        assert run.xdotool("getwindowname", window) == "bixt3d test"

        def picture() -> Any:
            return read(tmp_path / run.press(window, "s", "picture: ").removeprefix("picture: "))

        shown = picture()
        assert shown.shape == (760, 1100, 3)
        assert all((shown[y, x] == 255).all() for y in (0, -1) for x in (0, -1))
        # The points have the colours of their parts and no other, and the legend has the same.
        centre = shown[CENTRE]
        assert min(count_of(centre, color) for color in PALETTE[:2]) > 5000
        assert sum(count_of(centre, color) for color in ("#FFFFFF", *PALETTE[:2])) == centre[..., 0].size
        assert has(shown, PALETTE[0])[66, 25] and has(shown, PALETTE[1])[91, 25]
        assert np.median(np.nonzero(has(centre, PALETTE[1]))[1]) > centre.shape[1] / 2  # x to the right

        run.press(window, "3", "error, ")
        shown = picture()
        centre = shown[CENTRE]
        wrong = np.nonzero(has(centre, ERROR))[0]
        assert len(wrong) > 2000 and np.median(wrong) < centre.shape[0] / 3  # y is up
        assert count_of(centre, RIGHT) > 5000 and count_of(shown, PALETTE[0]) == 0

        # Turned by the mouse, the texts stay where they are, to the pixel.
        run.xdotool("mousemove", "--window", window, "500", "380", "mousedown", "1")
        for place in range(500, 700, 20):
            run.xdotool("mousemove", "--window", window, str(place), "380")
        run.xdotool("mouseup", "1")
        turned = picture()
        assert (turned[CENTRE] != centre).any(-1).mean() > 0.05
        np.testing.assert_array_equal(turned[:200, :200], shown[:200, :200])
        run.xdotool("key", "--window", window, "r", "plus", "plus")
        assert (picture()[CENTRE] == 255).mean() < (centre == 255).mean() - 0.02  # larger points
        run.xdotool("key", "--window", window, "minus", "minus")
        np.testing.assert_array_equal(picture()[CENTRE], centre)  # as at the start
        run.xdotool("key", "--window", window, "9", "l", "i")  # Open3D's own: colours, light, faces
        np.testing.assert_array_equal(picture()[CENTRE], centre)

        run.press(window, "b", "% of the points wrong")
        beside = picture()
        thirds = [beside[60:690, left : left + 200] for left in (140, 450, 760)]
        seen = [[count_of(third, color) for color in (*PALETTE[:2], ERROR, RIGHT)] for third in thirds]
        assert all(min(counts[:2]) > 800 and max(counts[2:]) < 50 for counts in seen[:2]), seen
        assert min(seen[2][2:]) > 400 and max(seen[2][:2]) < 50, seen
        run.press(window, "w", "worst first")
        run.press(window, "w", "1/3")

        run.press(window, "5", "attention, layer 1 of 2, latent 1 of 3")
        run.press(window, "period", "latent 2 of 3")
        run.press(window, "Up", "layer 2 of 2, latent 2 of 2")
        assert count_of(picture()[CENTRE], CONTRAST[0]) > 10

        run.press(window, "Right", "2/3  stool · table · attention")
        run.press(window, "3", "this cloud has no error")
        run.press(window, "1", "stool · table · prediction")
        run.press(window, "2", "this cloud has no truth; it has 1 prediction, 4 confidence, 5")
        run.press(window, "b", "no truth and prediction of its points to show side by side")
        run.xdotool("key", "--window", window, "b")
        run.press(window, "n", "3/3  cloud 3 · cannot be shown")
        run.wait_for("b.ply: not a mesh")
        run.press(window, "Left", "2/3  stool")
        run.press(window, "h", "Right/N, Left/P  next, previous shape")
        panel = picture()[300:450, 400:700]
        assert (panel != 255).mean() > 0.9 and not has(panel, PALETTE[0]).any()
        run.xdotool("key", "--window", window, "Escape")
        run.wait_for("closed")
        assert run.end() == 0
    names = {path.name for path in tmp_path.glob("shots/*")}
    assert {"mug_1_prediction.png", "mug_1_error.png", "mug_1_error_5.png", "stool_prediction.png"} <= names
