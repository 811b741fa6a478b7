"""The command `bixt3d`: how it finds its verbs, what it says of them, and how fast."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import bixt3d
from bixt3d import cli, commands

ROOT = Path(__file__).resolve().parents[1]


def verbs(group: ModuleType = commands, name: str = "bixt3d") -> Iterator[tuple[str, ModuleType]]:
    """Every verb with its words, those of groups among them."""
    for word in (*group.COMMANDS, *getattr(group, "HIDDEN", ())):
        verb = import_module(f"{group.__name__}.{word.replace('-', '_')}")
        if cli.is_group(verb):
            yield from verbs(verb, f"{name} {word}")
        else:
            yield f"{name} {word}", verb


VERBS = dict(verbs())


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    """The exit code of a command line, and what it said."""
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    seen = capsys.readouterr()
    return end.value.code, seen.out, seen.err


def test_it_lists_its_verbs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cli.main([])
    plain = capsys.readouterr().out
    code, out, _ = ended(capsys, "--help")
    assert code == 0 and out == plain
    assert re.findall(r"^  (\w+)  +[A-Z]", out, re.M) == list(commands.COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


def test_group_lists_its_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = ended(capsys, "data", "--help")
    assert (
        code == 0
        and max(map(len, out.splitlines())) <= 80
        and out.startswith("usage: bixt3d data COMMAND")
        and "  get           Get a published" in out
    )


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fits a terminal, says what the verb does, and ends with an example of it."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = ended(capsys, *name.split()[1:], "--help")
    assert code == 0 and out.startswith(f"usage: {name} ")
    assert max(map(len, out.splitlines())) <= 80
    examples = out.partition("\nexample")[2]
    door = "python tools/seg_shapenetpart.py"
    assert re.search(rf"^  ({name}|{door})\b", examples, re.M)
    parser = cli.parser_of(VERBS[name], name)
    assert [action.dest for action in parser._actions if not action.help] == []
    assert "--traceback" in out and "--plugin" in out


@pytest.mark.parametrize("name", VERBS)
def test_examples_parse(name: str) -> None:
    """Every example of a help is a command line that its parser takes."""
    verb = VERBS[name]
    lines = re.findall(r"^  ((?:bixt3d|python tools/\S+) .*)$", verb.__doc__ or "", re.M)
    assert lines
    for line in lines:
        program = "python tools/seg_shapenetpart.py" if line.startswith("python") else name
        assert line.startswith(program)
        cli.parser_of(verb, name).parse_args(line.removeprefix(program).split())


@pytest.mark.parametrize("words", [["trian"], ["data", "gte"]])
def test_verb_that_is_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ended(capsys, *words)
    meant = {"trian": "train", "gte": "get"}[words[-1]]
    assert code == 2 and f"got {words[-1]!r}; did you mean {meant!r}?" in err.splitlines()[-1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out == f"bixt3d {bixt3d.__version__}\n"


def test_door_has_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate"], prog="evaluate.py")
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith("evaluate.py: error: expected one checkpoint, got none\n")


def test_nothing_heavy_is_loaded_for_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by the verbs that need PyTorch when they run."""
    program = (
        "import sys, contextlib; from bixt3d import cli\n"
        "for words in sys.argv[1].split(','):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        cli.main([*words.split(), '--help'])\n"
        "print('loaded:', *sorted({'torch', 'numpy', 'scipy', 'tqdm', 'yaml'} & set(sys.modules)))"
    )
    quick = ",".join(["", *(name.removeprefix("bixt3d ") for name in VERBS if name not in SLOW)])
    done = subprocess.run([sys.executable, "-c", program, quick], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


SLOW = {"bixt3d benchmark", "bixt3d data get"}  # they list what the library knows


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bixt3d", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == f"bixt3d {bixt3d.__version__}\n"


def test_every_public_name_is_there() -> None:
    for name in bixt3d.__all__:
        assert getattr(bixt3d, name) is not None and name in dir(bixt3d)
    assert sorted(bixt3d._ROOM) == sorted(set(bixt3d.__all__) - {"metrics", "ops"})
    with pytest.raises(AttributeError, match="module 'bixt3d' has no attribute 'creat_model'"):
        bixt3d.creat_model  # noqa: B018


@pytest.mark.parametrize(
    ("words", "completed"),
    [("tr", "train"), ("data g", "get"), ("train --dry", "--dry-run"), ("list mod", "models")],
)
def test_completion_in_bash(words: str, completed: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    cli.main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    typed = ["bixt3d", *words.split()]
    given = f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}"
    asked = f'{given}; _shtab_bixt3d; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True)
    assert done.stdout.split() == [completed], done.stderr


def test_completion_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as end:
        cli.main(["--print-completion", "zsh"])
    assert end.value.code == "error: completion needs shtab: pip install shtab"
