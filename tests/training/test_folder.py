"""A run's folder: one run at a time, other files untouched, free names, foreign rows named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import bixt3d
from bixt3d import cli
from bixt3d.config import override
from bixt3d.training.distributed import Workers
from bixt3d.training.files import flush
from bixt3d.training.folder import LOCK, OWN, FolderLock, read_log, run_folder, take_folder
from tests.training.tiny import contents, make_config, make_split, make_trainer


def train(folder: Path | str, *settings: str, **options: Any) -> Any:
    config = make_config(f"run.dir={folder}", "train.epochs=1", *settings)
    return bixt3d.train(config, train=make_split(), val=make_split(8, seed=1), device="cpu", **options)


@pytest.mark.parametrize(
    "name", [name for name in OWN if name not in ("last.safetensors", "best.safetensors")]
)
def test_files_of_others_stay(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    (tmp_path / "run" / ".draft.tmp").write_text("mine as well")
    before = contents(tmp_path)
    monkeypatch.setattr("bixt3d.training.experiment.open_all", None)  # refused before the data are read
    words = "holds a run already" if name == "resume.pt" else f"{name}, which no run wrote: move them"
    with pytest.raises(FileExistsError, match=words):
        train(tmp_path / "run")
    with pytest.raises(FileExistsError, match=words):
        make_trainer(tmp_path / "run", make_config())
    assert contents(tmp_path) == before


def test_a_state_of_another_program_stays(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "resume.pt")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"resume\.pt, which no run wrote"):
        train(tmp_path)
    assert contents(tmp_path) == before


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    mine = {".draft.tmp": b"a", "notes.txt": b"b", ".config.yaml.x.tmp": b"c", "sub/config.yaml": b"d"}
    (tmp_path / "sub").mkdir()
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    halves = {".resume.pt.123.tmp", ".epoch_0010.safetensors.123.tmp"}  # a kill left them
    for name in halves:
        (tmp_path / name).write_bytes(b"half")
    train(tmp_path)
    found = contents(tmp_path)
    assert {name: found[name] for name in mine} == mine and not halves & set(found)
    assert LOCK in found and "result.json" in found


def test_kept_epochs_are_a_run(tmp_path: Path) -> None:
    (tmp_path / "epoch_0010.safetensors").write_bytes(b"weights")
    with pytest.raises(FileExistsError, match="holds a run already"):
        train(tmp_path)


def test_a_folder_that_a_run_of_before_began_is_its_own(tmp_path: Path) -> None:
    """Such runs left no mark, but the state that each begins with."""
    trainer = make_trainer(tmp_path, make_config("train.epochs=1"))
    from bixt3d.training import resume

    resume.save(trainer)
    trainer.log.close()
    (tmp_path / LOCK).unlink()
    train(tmp_path)


HOLD = """
    import sys, time
    from pathlib import Path
    from bixt3d.training.folder import FolderLock
    lock = FolderLock(Path(sys.argv[1]))
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that holds the lock of a folder."""
    started: list[subprocess.Popen[str]] = []

    def hold(folder: Path) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", textwrap.dedent(HOLD), str(folder)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path, holder: Any) -> None:
    process = holder(tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=rf"in use by another run \(process {process.pid} on "):
        train(tmp_path / "run")
    assert contents(tmp_path) == before
    process.kill()
    process.wait()
    train(tmp_path / "run")  # of a dead one nothing is left but its name
    assert (tmp_path / "run/result.json").is_file()


def test_without_a_folder_of_its_own_it_takes_the_next_name(
    tmp_path: Path, holder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    holder(tmp_path / "run")
    (tmp_path / "run_2").mkdir()
    (tmp_path / "run_2" / "config.yaml").write_text("mine")
    result = train(tmp_path / "run", numbered=True)
    assert result.run_dir == tmp_path / "run_3"
    assert f"{tmp_path / 'run'} holds a run already: this one is in {tmp_path / 'run_3'}" in (
        capsys.readouterr().out
    )
    assert f"dir: {tmp_path / 'run_3'}" in (tmp_path / "run_3/config.yaml").read_text()


def test_resuming_takes_the_last_of_the_names(tmp_path: Path) -> None:
    for _ in range(2):
        train(tmp_path / "run", numbered=True)
    found = train(tmp_path / "run", "train.epochs=2", numbered=True, resume=True)
    assert found.run_dir == tmp_path / "run_2" and found.last["epoch"] == 2


def test_one_process_may_hold_it_twice(tmp_path: Path) -> None:
    first = FolderLock(tmp_path / "a")
    second = FolderLock(tmp_path / "a")
    second.release()
    stated = json.loads((tmp_path / "a" / LOCK).read_text())
    assert stated["pid"] == os.getpid()
    first.release()
    assert not (tmp_path / "a").exists()  # it was made for nothing


def test_a_folder_made_for_nothing_is_removed_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(*arguments: Any) -> None:
        raise ValueError("no data")

    monkeypatch.setattr("bixt3d.training.experiment.open_all", no_data)
    (tmp_path / "kept").mkdir()
    for folder in ("new/run", "kept"):
        with pytest.raises(ValueError, match="no data"):
            train(tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OSError, match="run"):
        train(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_the_seed_in_the_name(tmp_path: Path) -> None:
    result = train(tmp_path / "s{seed}", "train.seed=7")
    assert result.run_dir == tmp_path / "s7" and result.run_dir.is_dir()


@pytest.mark.parametrize("name", [".", "./", ""])
def test_the_current_folder_is_no_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"dir: expected a folder"):
        take_folder(make_config(f"run.dir={name}"), False, Workers())
    assert not list(tmp_path.iterdir())
    assert run_folder(override(make_config(), run={"dir": "~/x"})) == Path("~/x").expanduser()


def test_a_moved_run_goes_on_by_its_own_config(
    tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bixt3d.register_dataset("balls", lambda root, split: make_split(8 if split != "train" else 32))
    config = make_config("run.dir=runs/old", "train.epochs=1", "data.name=balls")
    bixt3d.train(config, device="cpu")
    (tmp_path / "runs/old").rename(tmp_path / "new")
    cli.main(["train", "new", "--resume", "--device", "cpu", "--set", "train.epochs=2"])
    assert [row["epoch"] for row in read_log(tmp_path / "new/metrics.jsonl")] == [1, 2]
    assert not (tmp_path / "runs/old").exists()


@pytest.mark.parametrize("line", ['{"loss": 1}', "[1, 2]", "text", '{"epoch": "1", "step": 2}', "3"])
def test_a_foreign_row_is_named(line: str, tmp_path: Path) -> None:
    train(tmp_path)
    log = tmp_path / "metrics.jsonl"
    good = log.read_text()
    log.write_text(good + line + "\n" + good)
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: expected a row of a training with epoch"):
        train(tmp_path, "train.epochs=2", resume=True)
    log.write_text(good + '{"epoch": 2, "st')  # cut off by a kill
    assert train(tmp_path, "train.epochs=2", resume=True).last["epoch"] == 2
    assert [row["epoch"] for row in read_log(log)] == [1, 2]


def test_flushing_opens_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses it for a file that is open for reading alone, as this stand-in does."""
    import fcntl

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "a").write_bytes(b"abc")
    flush(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_the_command_without_run_dir_takes_the_next_name(
    tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bixt3d.register_dataset("balls", lambda root, split: make_split(8 if split != "train" else 32))
    from bixt3d.config import to_dict
    from bixt3d.yaml import dump_yaml

    stated = to_dict(make_config("train.epochs=1", "data.name=balls"))
    del stated["run"]
    (tmp_path / "mini.yaml").write_text(dump_yaml(stated))
    for _ in range(2):
        cli.main(["train", "mini.yaml", "--device", "cpu", "--set", "run.tensorboard=false"])
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["mini", "mini_2"]
    assert "this one is in runs/mini_2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="runs/mini holds a run already"):
        words = ["run.tensorboard=false", "run.dir=runs/mini"]
        cli.main(["train", "mini.yaml", "--device", "cpu", "--set", *words])
    assert not list((tmp_path / "runs/mini").glob("traceback.txt"))
