"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from bixt3d.commands import options

ROOT = Path(__file__).resolve().parents[2]


def test_settings_and_plugins() -> None:
    known = argparse.ArgumentParser()
    options.add_settings(known, "the settings")
    options.add_common(known)
    args = known.parse_args(
        ["--cfg", "a.yaml", "--plugin", "a.py", "--plugin", "b.py", "--set", "a=1", "b=2", "--set", "c=3"]
    )
    assert (args.cfg, args.plugin, args.set) == ("a.yaml", ["a.py", "b.py"], ["a=1", "b=2", "c=3"])
    assert known.parse_args([]).plugin == []


def test_checkpoint_is_an_argument_or_an_option() -> None:
    known = argparse.ArgumentParser()
    options.add_checkpoint(known)
    for words in (["a"], ["--checkpoint", "a"]):
        assert options.checkpoint_of(known.parse_args(words)) == "a"
    for words, got in (([], "none"), (["a", "b"], "a b"), (["a", "--checkpoint", "b"], "a b")):
        with pytest.raises(options.UsageError, match=f"expected one checkpoint, got {got}"):
            options.checkpoint_of(known.parse_args(words))


def test_first_file_is_the_checkpoint_unless_an_option_names_it() -> None:
    def found(files: list[str], checkpoint: str | None = None) -> tuple[str, list[str]]:
        return options.checkpoint_and_files(argparse.Namespace(files=files, checkpoint=checkpoint))

    assert found(["run", "a.off", "b.off"]) == ("run", ["a.off", "b.off"])
    assert found(["a.off", "b.off"], "run") == ("run", ["a.off", "b.off"])
    assert found(["run"]) == ("run", [])
    with pytest.raises(options.UsageError, match="expected a checkpoint"):
        found([])


def test_paths_of_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert options.place("~/views") == tmp_path / "views" and options.place("views") == Path("views")
    for command in (ROOT / "bixt3d" / "commands").rglob("*.py"):
        assert "type=Path" not in command.read_text(), command.name


def test_axes_may_begin_with_a_minus() -> None:
    assert options.join_axes(["a", "--up", "-z", "--top", "3"]) == ["a", "--up=-z", "--top", "3"]
    assert options.join_axes(["--up", "--top"]) == ["--up", "--top"]
    known = argparse.ArgumentParser()
    options.add_up(known)
    for axis in options.AXES:
        assert known.parse_args(options.join_axes(["--up", axis])).up == axis


def test_category_is_the_name_of_the_folder(tmp_path: Path) -> None:
    class Known:
        classes = ("Chair", "Mug")

    known: Any = Known()
    assert options.category_of(known, tmp_path / "chair" / "a.off") == "Chair"
    assert options.category_of(known, tmp_path / "sofa" / "a.off") == ""
