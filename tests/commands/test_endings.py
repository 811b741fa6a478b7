"""How programs end: plug-ins, mistakes in one line, bugs with their place and a traceback in a file."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

import bixt3d
from bixt3d.cli import main
from bixt3d.commands.endings import BesideBars, load_plugin, one_line_errors
from bixt3d.commands.options import add_common
from bixt3d.commands.train import STOPPED, experiment
from bixt3d.datasets.readers import read_cloud
from bixt3d.training.files import write_text
from bixt3d.training.guards import Stopped
from tests.inference.test_predictor import save
from tests.training.own import settings
from tests.training.tiny import make_split
from tests.visualize.test_run_table import write_run


def test_what_is_logged_beside_a_bar_has_its_own_line() -> None:
    terminal = io.StringIO()
    with tqdm(total=2, file=terminal, ascii=True, ncols=40, mininterval=0) as bar:
        bar.update()
        BesideBars(terminal).emit(logging.makeLogRecord({"msg": "a note"}))
    shown = [line.split("\r")[-1] for line in terminal.getvalue().split("\n")]  # as a terminal leaves them
    assert shown[0] == "a note" and shown[1].lstrip().startswith("50%")


@pytest.mark.parametrize(
    ("error", "stopped", "said", "code"),
    [
        (KeyboardInterrupt(), (), "stopped", 130),
        (KeyboardInterrupt(), (STOPPED,), STOPPED, 130),
        (Stopped(signal.SIGTERM, "the state is saved"), (STOPPED,), "the state is saved", 143),
    ],
)
def test_interrupt(
    error: BaseException, stopped: tuple[str, ...], said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a training can be gone on with; the code is what a shell gives the signal."""
    with pytest.raises(SystemExit) as end, one_line_errors(*stopped):
        raise error
    assert end.value.code == code
    assert capsys.readouterr().err == f"\n{said}\n"


def options(*words: str | Path) -> argparse.Namespace:
    """Options of a program, from its command line."""
    known = argparse.ArgumentParser()
    add_common(known)
    return known.parse_args(list(map(str, words)))


def said_of(work: Callable[[], object], *words: str | Path, folder: Path | None = None) -> str:
    """What a program says that ends in that work."""
    with pytest.raises(SystemExit) as end, one_line_errors(args=options(*words)) as ending:
        ending.folder = folder
        work()
    assert isinstance(end.value.code, str)
    return end.value.code


def plugin(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


# Mistakes


def test_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    said = said_of(lambda: (tmp_path / "taken").mkdir(exist_ok=True))
    assert said == f"error: {tmp_path / 'taken'} is a file, no folder; name another place"


def barred(number: int, *paths: Path) -> Callable[[], object]:
    """What the system says of a place, whoever runs this."""

    def work() -> None:
        raise OSError(number, "said", str(paths[0]), None, *map(str, paths[1:]))

    return work


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, new = tmp_path / "taken", tmp_path / "new" / "out.csv"
    file.touch()
    other = "no permission to write there; name another place"
    for work, said in (
        (lambda: (file / "out").mkdir(parents=True), f"{file / 'out'}: {file} is a file, no folder; name "),
        (lambda: (file / "x.csv").open("w"), f"{file / 'x.csv'}: {file} is a file, no folder; name another"),
        (lambda: write_text(file / "x.csv", ""), f"could not save {file / 'x.csv'} ("),
        (lambda: tmp_path.open("w"), f"{tmp_path} is a folder; name a file"),
        (lambda: Path("/proc/none/out").mkdir(parents=True), "/proc/none: no folder can be made there; name"),
        (barred(errno.EACCES, new), f"{tmp_path}: {other}"),
        (barred(errno.EACCES, file), f"{file}: {other}"),
        (barred(errno.EPERM, new.parent, new), f"{tmp_path}: {other}"),
        (barred(errno.EROFS, new), f"{tmp_path}: nothing can be written there, it is read-only; name "),
    ):
        found = said_of(work)
        assert found.startswith(f"error: {said}") and "\n" not in found and "Errno" not in found, found
    monkeypatch.setattr(os, "access", lambda *_: False)
    said = said_of(barred(errno.EACCES, file))
    assert said == f"error: {file}: no permission to read it; ask its owner, or name another"


def test_verbs_that_write_name_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        np.save(f"{name}.npy", np.random.default_rng(len(name)).normal(size=(300, 3)))
    save(tmp_path / "best.safetensors")
    (tmp_path / "taken").touch()
    log = write_run(tmp_path / "log", 0.9, epochs=2)
    for words in (
        ["train", "modelnet40_cpu", "--set", "run.dir=taken/x"],
        ["search", "a.npy", "b.npy", "--checkpoint", ".", "--html", "taken/x.html"],
        ["view", ".", "a.npy", "--html", "taken/x.html"],
        ["view", ".", "a.npy", "--png", "taken/x"],
        ["attention", ".", "a.npy", "--out", "taken/x.png"],
        ["export", ".", "--out", "taken/x.onnx"],
        ["compare", str(log), "--out", "taken/x.md"],
        ["plot", str(log), "--out", "taken/x"],
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        said = str(end.value.code)
        assert re.match(r"error: .*taken.* is a file, no folder; name another place", said), (
            words,
            said,
        )
        assert "\n" not in said and "Errno" not in said
    capsys.readouterr()


def test_run_that_is_there_already_says_so_itself() -> None:
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise FileExistsError("runs/x holds a run already")
    assert end.value.code == "error: runs/x holds a run already"


def test_errors_that_the_library_raises_are_one_line(run: Path) -> None:
    np.save("bad.npy", np.zeros((3, 3, 3)))
    config = settings(run)
    for work, said in (
        (lambda: bixt3d.load_config(config, ["train.epochs=0"]), "train.epochs: expected more than 0, got 0"),
        (lambda: bixt3d.create_model("bixt_ti_kls"), "unknown model 'bixt_ti_kls'; did you mean "),
        (lambda: bixt3d.train(config), ".*nowhere"),
        (lambda: bixt3d.load_model("runs/none"), "no checkpoint runs/none: looked for "),
        (lambda: read_cloud("bad.npy"), "bad.npy: "),
        (lambda: bixt3d.load_config("x.yaml"), "no config file x.yaml"),
    ):
        found = said_of(work)
        assert re.match(f"error: {said}", found) and "\n" not in found and "traceback" not in found, found
    assert {path.name for path in Path.cwd().iterdir()} == {"bad.npy"}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "x"), PermissionError(13, "denied", "x")]
)
def test_errors_of_the_system_are_one_line(
    error: OSError, monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    """However deep in another library they come up."""

    def fail(*args: object, **others: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    said = said_of(lambda: bixt3d.train(settings(run), train=make_split()))
    assert said.startswith("error: could not save ") and "\n" not in said
    monkeypatch.undo()
    assert said_of(lambda: Path("nowhere/x").read_text()) == (
        "error: [Errno 2] No such file or directory: 'nowhere/x'"
    )
    assert said_of(lambda: torch.load("nowhere.pt")).startswith("error: [Errno 2] No such file")


# Bugs


MODEL = """
import torch
import bixt3d

class Broken(torch.nn.Module):
    def __init__(self, num_classes, in_dims):
        super().__init__()
        self.map = torch.nn.Linear(in_dims + 1, num_classes)

    def forward(self, points):
        return self.map(points.mean(1))  # the line that is wrong

bixt3d.register_model("broken", Broken)
"""


def train_broken(run: Path) -> None:
    config = settings(run, "model.name=broken")
    bixt3d.train(bixt3d.config.override(config, model={"args": {}}), train=make_split())


def test_error_of_torch_in_a_registered_model(
    run: Path, registries: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names file and line, and leaves the whole traceback with the run."""
    mine = plugin(Path.cwd(), MODEL)
    said = said_of(lambda: train_broken(run), "--plugin", mine, folder=run)
    first, second = said.splitlines()
    assert first.startswith("error: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    line = 1 + MODEL.splitlines().index("        return self.map(points.mean(1))  # the line that is wrong")
    left = run / "traceback.txt"
    where = f"  at mine.py:{line}, in forward; the whole traceback is in {left} (--traceback prints it)"
    assert second == where
    text = left.read_text()
    assert text.startswith("Traceback (most recent call last)") and "bixt3d/training/trainer.py" in text
    assert "# the line that is wrong" in text and "mat1 and mat2" in text
    assert "Traceback" not in capsys.readouterr().err


def test_whole_traceback_is_printed_when_asked_for(
    run: Path, registries: None, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = plugin(Path.cwd(), MODEL)
    said = said_of(lambda: train_broken(run), "--plugin", mine, "--traceback", folder=run)
    assert said.splitlines()[1].startswith("  at mine.py:") and "whole traceback" not in said
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed and "# the line that is wrong" in printed
    assert not (run / "traceback.txt").exists()
    # Of a mistake, too.
    said = said_of(lambda: bixt3d.load_config("x.yaml"), "--traceback")
    assert said == "error: no config file x.yaml"
    assert "in load_config" in capsys.readouterr().err


def test_traceback_without_a_folder_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    said = said_of(lambda: {}["gone"])
    place = re.search(r"the whole traceback is in (\S+) \(", said)
    assert said.startswith("error: KeyError: 'gone'\n  at tests/commands/test_endings.py:") and place
    assert Path(place[1]).parent == tmp_path / "temporary"
    assert "KeyError: 'gone'" in Path(place[1]).read_text()


def test_the_folder_of_a_run_is_made_for_the_traceback(tmp_path: Path) -> None:
    """Such as that of a bug in a model's builder, before anything is trained."""
    said_of(lambda: {}["gone"], folder=tmp_path / "runs" / "new")
    assert "KeyError: 'gone'" in (tmp_path / "runs" / "new" / "traceback.txt").read_text()


def test_no_room_for_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **others: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert said_of(lambda: {}["gone"], folder=tmp_path).startswith("error: KeyError: 'gone'")
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_processes_leave_a_file_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    said_of(lambda: {}["gone"], folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["traceback-3.txt"]


def test_error_of_a_library_that_nobody_raised_on_purpose(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    """A bug of ours: named by the line of ours that called it."""

    monkeypatch.setattr("bixt3d.datasets.split.check_points", torch.zeros(2).add)
    said = said_of(lambda: bixt3d.Split(torch.zeros(1, 1, 3), [0], ("a",)))
    assert re.match(r"error: \w+: .*\n  at bixt3d/datasets/split\.py:\d+, in __post_init__; ", said)


# Plug-ins


def test_plugins_register_before_the_work(registries: None, tmp_path: Path) -> None:
    first = plugin(tmp_path, MODEL, "first.py")
    second = plugin(
        tmp_path,
        """
        from dataclasses import dataclass
        import bixt3d
        from bixt3d.tasks import ClassificationTask

        @dataclass
        class Kept:
            value: int = 3

        class MyTask(ClassificationTask):
            value = Kept()

        bixt3d.register_task("my_task", MyTask)
        """,
        "second.py",
    )
    with one_line_errors(args=options("--plugin", first, "--plugin", second)):
        assert "broken" in bixt3d.list_models()
        assert "my_task" in bixt3d.tasks.list_tasks()
    (tmp_path / "mine.yaml").write_text("model: {name: broken}\ntask: my_task")
    assert experiment(str(tmp_path / "mine.yaml"), [], "shapes").task == "my_task"


def test_plugin_under_home(registries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    plugin(tmp_path, MODEL)
    load_plugin("~/mine.py")
    assert "broken" in bixt3d.list_models()


def test_plugin_that_is_not_there(tmp_path: Path) -> None:
    assert said_of(lambda: None, "--plugin", tmp_path / "none.py") == (
        f"error: --plugin: no file {tmp_path / 'none.py'}"
    )
    for name, content in (("notes.txt", b"hello"), ("bytes.py", b"a = 1\0")):
        (tmp_path / name).write_bytes(content)
        assert said_of(lambda: None, "--plugin", tmp_path / name) == (  # noqa: B023
            f"error: --plugin: expected a Python file, got {tmp_path / name}"
        )


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("import bixt3d\n\nnot_there()", "NameError: name 'not_there' is not defined", 3),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'", 1),
        ("\nopen('nowhere/x')", "FileNotFoundError: .*nowhere/x'", 2),
        ("\nraise ValueError('mine')", "ValueError: mine", 2),
        # A wrong call of the library is a bug of the file, and named by the line of the file.
        (
            "import bixt3d\nbixt3d.register_model('bixt_ti_cls', print)",
            "ValueError: name: bixt_ti_cls is a",
            2,
        ),
    ],
)
def test_error_in_a_plugin_is_a_bug(text: str, said: str, line: int, tmp_path: Path) -> None:
    mine = plugin(tmp_path, text)
    found = said_of(lambda: None, "--plugin", mine, folder=None)
    where = re.escape(f"{mine}:{line}, in <module>; the whole traceback is in ")
    assert re.match(rf"error: {said}.*\n  at {where}", found), found


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("\ndef f(:\n", "SyntaxError", 2),
        ("def f():\nreturn 1\n", "IndentationError", 2),
        ("if 1:\n        a = 1\n\tb = 2\n", "TabError", 3),
    ],
)
def test_plugin_that_python_cannot_read(text: str, kind: str, line: int, tmp_path: Path) -> None:
    """The line is that of the text, also where another plug-in imports it."""
    unread = plugin(tmp_path, text, f"unread_{kind}.py")  # sys.path keeps the folders of all
    imports = plugin(tmp_path, f"import sys\nimport unread_{kind}\n")
    where = re.escape(f"\n  at {unread}:{line}; the whole traceback is in ")
    for given in (unread, imports):
        found = said_of(lambda: None, "--plugin", given)
        assert re.match(rf"error: {kind}: .*{where}", found), found


def test_text_that_is_no_python_is_named_by_who_runs_it(tmp_path: Path) -> None:
    mine = plugin(tmp_path, "\neval('1 +')\n")
    found = said_of(lambda: None, "--plugin", mine)
    assert found.startswith("error: SyntaxError: ") and f"\n  at {mine}:2, in <module>; " in found


def test_error_in_a_registered_reader_is_a_bug(run: Path, registries: None) -> None:
    """Whatever kind it is: also one that the library raises for what the reader gives it."""
    text = """
    import bixt3d, torch

    def missing(root, split):
        return open("nowhere.txt")

    def wrong(root, split):
        return bixt3d.Split(torch.zeros(3, 3), [0], ("a",))

    bixt3d.register_dataset("missing", missing)
    bixt3d.register_dataset("wrong", wrong)
    """
    mine = plugin(Path.cwd(), text)
    for name, kind, line in (
        ("missing", "FileNotFoundError", 5),
        ("wrong", "ValueError: points: expected", 8),
    ):
        config = settings(run, f"data.name={name}")
        said = said_of(lambda config=config: bixt3d.train(config), "--plugin", mine)  # type: ignore[misc]
        assert re.match(rf"error: {kind}.*\n  at mine\.py:{line}, in {name}; ", said), said


def test_a_program_from_end_to_end(run: Path) -> None:
    """As a user meets it: a model of their own that fails, by the program that trains."""
    tool = Path(__file__).resolve().parents[2] / "tools" / "train_cls.py"
    plugin(
        Path.cwd(),
        MODEL
        + textwrap.dedent(
            """
            def read(root, split):
                points = torch.randn(16, 32, 3)
                return bixt3d.Split(points, torch.arange(16) % 2, ("a", "b"))

            bixt3d.register_dataset("noise", read)
            """
        ),
    )
    Path("mine.yaml").write_text(
        "data: {name: noise, num_points: 32}\nmodel: {name: broken}\ntrain: {epochs: 1, batch_size: 4}\n"
    )
    command = [sys.executable, str(tool), "--cfg", "mine.yaml", "--plugin", "mine.py", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: RuntimeError: mat1 and mat2" in done.stderr and "  at mine.py:" in done.stderr
    assert "the whole traceback is in runs/mine/traceback.txt" in done.stderr
    assert "# the line that is wrong" in Path("runs/mine/traceback.txt").read_text()
