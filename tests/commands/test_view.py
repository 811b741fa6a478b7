"""`bixt3d view`: which words are a checkpoint, and files that are looked at without one."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from bixt3d import cli
from bixt3d.commands import options
from bixt3d.commands.view import _checkpoint_and_files, add_arguments


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        folder = tmp_path / "scans" / name
        folder.mkdir(parents=True)
        np.save(folder / f"{name}.npy", np.random.default_rng(0).normal(size=(90, 3)))
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/last.safetensors").touch()
    return tmp_path / "scans"


def chosen(*words: str) -> tuple[str | None, list[str]]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return _checkpoint_and_files(parser.parse_args(options.join_axes(words)))


@pytest.mark.parametrize(
    ("words", "checkpoint", "files"),
    [
        (["psb_cpu"], "psb_cpu", []),
        (["psb_cpu", "scans"], "psb_cpu", ["scans"]),
        (["runs/mine", "scans/a/a.npy"], "runs/mine", ["scans/a/a.npy"]),
        (["runs/mine/last.safetensors"], "runs/mine/last.safetensors", []),
        (["gone"], "gone", []),  # which is refused as a checkpoint that is not there
        (["scans"], None, ["scans"]),
        (["scans/a/a.npy", "scans/b", "--up", "-z"], None, ["scans/a/a.npy", "scans/b"]),
        (["scans", "--checkpoint", "psb_cpu"], "psb_cpu", ["scans"]),
    ],
)
def test_first_word_is_a_checkpoint_or_a_cloud(
    words: list[str], checkpoint: str | None, files: list[str], scans: Path
) -> None:
    assert chosen(*words) == (checkpoint, files)


@pytest.mark.parametrize("words", [[], ["scans", "--category", "a"], ["scans", "--data", "data"]])
def test_words_that_do_not_fit(words: list[str], scans: Path) -> None:
    with pytest.raises(options.UsageError, match="checkpoint"):
        chosen(*words)


def test_pictures_and_a_page_without_a_model(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    cli.main(["view", "scans", "--png", "p", "--html", "page.html", "--up", "-z"])
    said = capsys.readouterr().out
    assert "page: page.html" in said and said.count("picture: ") == 2
    assert sorted(path.name for path in Path("p").iterdir()) == ["1_a.npy.png", "2_b.npy.png"]
    assert Path("page.html").read_text().count('class="cloud"') == 2
