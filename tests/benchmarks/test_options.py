"""Options that benchmarks share, and the page that a training one writes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.options import add_models, add_trainings, parser_of, train_and_write
from bixt3d import load_config


def test_models_and_how_many_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of("about")
    add_models(parser)
    args = parser.parse_args(["a", "b", "--out", "x", "--shapes", "7", "--set", "data.root=y"])
    assert (args.runs, args.out, args.shapes, args.set) == (["a", "b"], Path("x"), 7, ["data.root=y"])
    assert parser.parse_args(["a", "--out", "x"]).shapes is None
    for wrong in ("0", "-3", "many"):
        with pytest.raises(SystemExit):
            parser.parse_args(["a", "--out", "x", "--shapes", wrong])
        assert f"--shapes: expected a whole number from 1 up, got {wrong}" in capsys.readouterr().err


def test_the_page_is_written_and_the_scratch_folder_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = parser_of("about")
    add_trainings(parser, seeds=(4, 5))
    args = parser.parse_args(["--out", str(tmp_path / "made" / "page.md")])
    seen: list[Path] = []

    def run(args: argparse.Namespace, scratch: Path) -> str:
        assert scratch.is_dir()
        seen.append(scratch)
        return f"seeds {args.seeds}\n"

    train_and_write(args, run)
    assert (tmp_path / "made" / "page.md").read_text() == "seeds [4, 5]\n" and not seen[0].exists()
    assert capsys.readouterr().out == "seeds [4, 5]\n\n"

    def fail(args: argparse.Namespace, scratch: Path) -> str:
        raise AssertionError(load_config("no_such_config"))

    with pytest.raises(SystemExit, match="^error: .*no_such_config"):
        train_and_write(args, fail)
