"""The window: what keys do, in a real window on a screen of its own, and what happens without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bixt3d.visualize import LabelledCloud
from bixt3d.visualize.scene import ERROR, PALETTE, RIGHT, rgb
from bixt3d.visualize.viewer import ViewerState
from tests.markers import needs_window, slow
from tests.visualize.clouds import like, read
from tests.visualize.screen import screened

PROGRAM = """
import numpy as np
from bixt3d.visualize import LabelledCloud
from bixt3d.visualize.viewer import view

def cloud(name, truth_of):
    points = np.random.default_rng(0).uniform(-1, 1, (3000, 3)) * [5e5, 5e5, 5e5] + 4e6
    truth = (points[:, 0] > 4e6).astype(int)
    wrong = points[:, 1] > 4.3e6
    prediction = np.where(wrong, 1 - truth, truth)
    return LabelledCloud(name, points, "Mug", [0, 1], ["body", "handle"], truth, prediction)

view([cloud("first", 0), cloud("second", 1)], "views")
"""


def cloud(name: str = "a", category: str = "Mug", **changes: object) -> LabelledCloud:
    truth = np.arange(6) % 2
    about = {"ids": [0, 1], "names": ["body", "handle"], "truth": truth, "prediction": 1 - truth, **changes}
    return LabelledCloud(name, np.random.default_rng(0).normal(size=(6, 3)), category, **about)  # type: ignore[arg-type]


def test_keys_walk_through_the_clouds_and_around_the_end() -> None:
    state = ViewerState([cloud("a"), cloud("b"), cloud("c", "Cup")])
    walk = [("next", 1), ("next", 2), ("next", 0), ("previous", 2), ("category", 0), ("category", 2)]
    for action, index in walk:
        state.act(action)
        assert state.index == index, action


def test_mode_stays_and_one_that_is_missing_is_told() -> None:
    state = ViewerState([cloud(), cloud(truth=None)])
    assert state.mode == "prediction"
    state.act("error")
    assert state.mode == "error"
    np.testing.assert_allclose(state.colors, np.tile(rgb(ERROR), (6, 1)))
    state.act("next")
    assert state.mode == "prediction"
    state.act("truth")
    assert state.message and state.mode == "prediction"
    state.act("previous")
    assert state.mode in ("error", "truth")


def test_attention_is_walked_within_what_there_is() -> None:
    maps = tuple(np.random.default_rng(1).random((4, 6)) for _ in range(3))
    state = ViewerState([cloud(attention=maps)])
    state.act("attention")
    seen = set()
    for action in ["layer up"] * 5 + ["latent up"] * 6 + ["layer down"] * 7 + ["latent down"] * 9:
        state.act(action)
        assert 0 <= state.layer < 3 and 0 <= state.latent < 4
        seen.add((state.layer, state.latent))
    assert {layer for layer, _ in seen} == {0, 1, 2} and {latent for _, latent in seen} == {0, 1, 2, 3}


def shares(path: Path, *colors: str) -> list[float]:
    from matplotlib.image import imread

    pixels = imread(path)[..., :3].reshape(-1, 3)
    return [float((np.abs(pixels - rgb(color)).max(1) < 0.01).mean()) for color in colors]


@slow
@needs_window
def test_real_window(tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    (tmp_path / "program.py").write_text(PROGRAM)
    with screened(["program.py"], tmp_path) as program:
        program.wait_for("first")
        window = program.window("bixt3d")
        first = tmp_path / program.press(window, "s", "picture: ").split("picture: ")[1]
        program.press(window, "3", "error")
        second = tmp_path / program.press(window, "s", "picture: ").split("picture: ")[1]
        program.press(window, "Right", "second")
        program.xdotool("key", "--window", window, "q")
        assert program.end() == 0, "\n".join(program.lines)
    assert first != second
    parts = shares(first, PALETTE[0], PALETTE[1], ERROR)
    assert min(parts[:2]) > 0.005 and parts[2] < 0.001, parts
    errors = shares(second, RIGHT, ERROR, PALETTE[0])
    assert min(errors[:2]) > 0.005 and errors[2] < 0.001, errors


def test_without_a_display_pictures_are_written_and_it_ends(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "there is no display" in done.stdout and "writing pictures into views" in done.stdout
    written = sorted((tmp_path / "views").glob("*.png"))
    assert len(written) == 2
    assert min(like(read(written[0]), color) for color in PALETTE[:2]) > 1000
