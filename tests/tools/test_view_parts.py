"""tools/view_parts.py as a user runs it: with and without a display, on data and on files."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bixt3d import Predictor, create_model, open_dataset
from bixt3d.datasets.synthetic.shapes import CATEGORIES
from bixt3d.training.checkpoint import save_model
from bixt3d.visualize import Gallery
from bixt3d.visualize.browse import next_category, opening
from tests.markers import needs_window, slow
from tests.models.randomize import randomize
from tests.tools.conftest import TOOLS, Outcome, Workplace
from tests.visualize.screen import screened

TOOL = TOOLS / "view_parts.py"
SIZES = {"dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4}
LIMIT = 200  # seconds: without a display it must not wait for anybody
Run = Callable[..., Outcome]


def save(path: Path, name: str, args: dict[str, Any], **about: Any) -> Path:
    torch.manual_seed(0)
    model = create_model(name, **args, **SIZES)
    randomize(model)
    preprocess = {"num_points": 64, "order": "random", "channels": 3, "stored_points": 256}
    meta = {"model": {"name": name, "args": {**args, **SIZES}}, "preprocess": preprocess, **about}
    save_model(path, model, meta)
    return path


@pytest.fixture(scope="module")
def root(workplace: Workplace) -> Path:
    return workplace.folder / "data" / "shapes"


@pytest.fixture(scope="module")
def segmenter(workplace: Workplace, root: Path) -> Path:
    split = open_dataset("shapenetpart", root, "test")
    about = {
        "classes": list(split.categories),
        "parts_of_category": [list(ids) for ids in split.parts_of_category],
        "part_names": list(split.part_names),
        "config": {"data": {"name": "shapenetpart", "root": "data/shapes"}},
    }
    args = {"num_parts": split.num_parts, "num_categories": len(split.categories)}
    return save(workplace.folder / "parts.safetensors", "bixt_ti_partseg", args, **about)


@pytest.fixture(scope="module")
def classifier(workplace: Workplace) -> Path:
    about = {
        "classes": list(open_dataset("shapes", workplace.folder / "data", "test").classes),
        "config": {"data": {"name": "shapes", "root": "data"}},
    }
    return save(
        workplace.folder / "classes.safetensors", "bixt_ti_cls", {"num_classes": len(CATEGORIES)}, **about
    )


def alone(workplace: Workplace, folder: Path, *arguments: str | Path, display: str | None = None) -> Outcome:
    """Run the tool as a process of its own, without a display unless one is named."""
    environment = {
        k: v for k, v in workplace.environment().items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    done = subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        cwd=folder,
        env=environment if display is None else {**environment, "DISPLAY": display},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the tool in this process, in an empty folder and without a display: torch starts once only."""

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.chdir(tmp_path)
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "argv", [TOOL.name, *map(str, arguments), "--device", "cpu"])
        code, said = 0, ""
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
        except SystemExit as end:
            code, said = (end.code, "") if isinstance(end.code, int) else (1, str(end.code))
        out, err = capsys.readouterr()
        return Outcome(code, out, err + said)

    return call


def test_without_a_display(workplace: Workplace, segmenter: Path) -> None:
    """Pictures of a few shapes from all over the data of the training, and no window to wait for."""
    done = alone(workplace, workplace.folder, "--checkpoint", segmenter).succeeded()
    lines = done.out.splitlines()
    assert lines[0] == "there is no display: neither DISPLAY nor WAYLAND_DISPLAY is set;"
    assert lines[1] == "writing pictures into views instead" and len(lines) == 8
    split = open_dataset("shapenetpart", workplace.folder / "data/shapes", "test")
    for line in lines[2:]:
        path = workplace.folder / line.removeprefix("picture: ")
        assert path.read_bytes().startswith(b"\x89PNG")
        parsed = re.fullmatch(r"(\d\d)_(.*)\.png", path.name)
        assert parsed is not None
        assert split.names[int(parsed[1]) - 1].replace("/", "_") == parsed[2]
    assert max(map(len, lines)) <= 80


def test_with_a_display_that_does_not_answer(
    workplace: Workplace, classifier: Path, root: Path, tmp_path: Path
) -> None:
    """A classifier has attention only; --data stands for a folder that has moved."""
    options = ("--data", root.parent, "--shapes", "1", "--out", "seen", "--split", "val")
    done = alone(workplace, tmp_path, "--checkpoint", classifier, *options, display=":98765").succeeded()
    assert done.out.startswith("no display answers at DISPLAY=:98765;\nwriting pictures into seen instead\n")
    assert len(list(tmp_path.glob("seen/*.png"))) == 1


def test_pictures_of_one_category(run: Run, root: Path, segmenter: Path, tmp_path: Path) -> None:
    category = CATEGORIES[2]
    options = ("--checkpoint", segmenter, "--png", "p", "--data")
    done = run(*options, root, "--category", category).succeeded()
    assert len(done.out.splitlines()) == len(list(tmp_path.glob("p/*.png"))) == 2  # as many as the split has
    words = ("--category: expected one of", f"got '{category}x'; did you mean '{category}'?")
    run(*options, root, "--category", category + "x").refused(*words)
    run(*options, "nowhere").refused("nowhere")
    none = run(*options, root, "--shapes", "0")
    assert none.code == 2 and "--shapes: expected 1 or more, got 0" in none.err


def test_files_and_a_page(run: Run, workplace: Workplace, segmenter: Path, tmp_path: Path) -> None:
    """No labels, and two of the files are missing or damaged."""
    (tmp_path / "bad.ply").write_text("ply\nnothing")
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).normal(size=(90, 3)))
    mesh = workplace.meshes[0]
    options = ("--checkpoint", segmenter, "--category", CATEGORIES[0])
    files = ("scan.npy", "bad.ply", "none.npy", mesh)
    done = run(*files, *options, "--html", "a/page.html", "--png", "p").succeeded()
    left_out = [line for line in done.out.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 4 and left_out[:2] == left_out[2:]  # of the page, and of the pictures
    assert left_out[0].startswith("left out: bad.ply: its header has no end") and "none.npy" in left_out[1]
    assert "page: a/page.html\n" in done.out
    assert (tmp_path / "a/page.html").read_text().count('class="cloud"') == 2
    assert {path.name for path in tmp_path.glob("p/*")} == {"1_scan.npy.png", f"4_{mesh.name}.png"}
    run("scan.npy", "--checkpoint", segmenter).refused("needs to be told it, one of")
    run("bad.ply", *options, "--png", "q").refused("none of the clouds can be shown")


def test_page_of_so_many_shapes(run: Run, root: Path, segmenter: Path, tmp_path: Path) -> None:
    run("--checkpoint", segmenter, "--data", root, "--html", "page.html", "--shapes", "3").succeeded()
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="cloud"') == 3 and f"bixt3d · {segmenter}" in page


@slow
@needs_window
def test_window(workplace: Workplace, segmenter: Path, tmp_path: Path) -> None:
    split = open_dataset("shapenetpart", workplace.folder / "data/shapes", "test")
    assert split.category is not None
    numbers = split.category.tolist()
    gallery = Gallery.of_split(Predictor(segmenter, "cpu"), split)
    first, after = opening(gallery), (opening(gallery) + 1) % len(split)
    command = [TOOL, "--checkpoint", segmenter, "--out", tmp_path / "shots"]
    with screened(command, workplace.folder) as seen:
        seen.wait_for(f"{first + 1}/{len(split)}  {gallery[first].headline('prediction')}")
        window = seen.window("bixt3d")
        assert seen.xdotool("getwindowname", window) == f"bixt3d · {segmenter}"
        seen.press(window, "Right", f"{after + 1}/{len(split)}  {split.names[after]}")
        other = next_category(numbers, after)
        seen.press(window, "c", f"{other + 1}/{len(split)}  {split.names[other]}")
        seen.press(window, "s", "picture: ")
        name = split.names[other].replace("/", "_")
        assert [path.name for path in (tmp_path / "shots").iterdir()] == [f"{name}_prediction.png"]
        seen.xdotool("key", "--window", window, "q")
        assert seen.end() == 0
