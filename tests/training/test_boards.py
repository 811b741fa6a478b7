"""Loggers beside a run's own files; wandb and trackio are stood in for by modules that write down calls."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bixt3d.config import config_from
from bixt3d.training.boards import check_loggers
from tests.training.tiny import make_config, make_trainer, rows_of


class Service:
    """What is used of wandb and trackio."""

    def __init__(self, files: bool = False) -> None:
        self.opened: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished, self.files, self.broken = 0, files, False

    def init(self, **arguments: Any) -> Any:
        self.opened.append(arguments)
        if self.files:
            number = len(self.opened)
            (Path(arguments["dir"]) / "wandb" / f"run-2026010{number}_120000-abc{number}").mkdir(parents=True)
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, values: dict[str, float], step: int) -> None:
        if self.broken:
            raise RuntimeError("the server does not answer")
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_receives_the_rows_and_continues_after_a_resume(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(files=name == "wandb")
    monkeypatch.setitem(sys.modules, name, service)  # type: ignore[arg-type]
    make_trainer(tmp_path / "mine", make_config(f"run.logger=[{name}]", "train.epochs=2")).fit()
    make_trainer(tmp_path / "mine", make_config(f"run.logger=[{name}]", "train.epochs=2"), resume=True).fit()
    first, second = service.opened
    assert first["project"] == "bixt3d" and first["name"] == second["name"] == "mine"
    assert first["config"]["train"]["epochs"] == 2 and first["config"]["run"]["logger"] == [name]
    if name == "wandb":
        assert first["dir"] == str(tmp_path / "mine") and "id" not in first
        assert second["id"] == "abc1" and second["resume"] == "allow"
    else:
        assert (first["resume"], second["resume"]) == ("never", "allow")
    wanted = [
        (row["step"], {name: value for name, value in row.items() if name not in ("epoch", "step")})
        for row in rows_of(tmp_path / "mine", timed=True)
    ]
    assert len(wanted) == 2 and service.rows == wanted and service.finished == 2
    assert not (tmp_path / "mine" / "tensorboard").exists()  # run.logger names all


def test_a_service_that_fails_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, other = Service(), Service()
    service.broken = True
    monkeypatch.setitem(sys.modules, "wandb", service)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "trackio", other)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path, make_config("run.logger=[wandb,trackio]", "train.epochs=2")).fit()
    assert len(rows_of(tmp_path)) == len(other.rows) == 2
    told = [record.message for record in caplog.records if "wandb" in record.message]
    assert told == ["wandb cannot be written (the server does not answer); training continues"]


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("wandb", "wandb", "wandb"),
        ("trackio", "trackio", "trackio"),
        ("tensorboard", "torch.utils.tensorboard", "logs"),
    ],
)
def test_a_missing_package_says_how_to_install_it_and_leaves_no_folder(
    name: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=rf'run.logger: {name} is not installed: .*"bixt3d\[{extra}\]"'):
        make_trainer(tmp_path / "run", make_config(f"run.logger=[{name}]"))
    assert not (tmp_path / "run").exists()


def test_the_older_spelling_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    assert check_loggers(make_config("run.tensorboard=true").run) == ("tensorboard",)
    assert check_loggers(make_config("run.tensorboard=false").run) == ()
    assert check_loggers(make_config("run.tensorboard=true", "run.logger=[]").run) == ()
    assert check_loggers(make_config("run.tensorboard=false", "run.logger=[tensorboard]").run) == (
        "tensorboard",
    )
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # type: ignore[arg-type]
    assert check_loggers(make_config("run.tensorboard=true").run) == ()


@pytest.mark.parametrize("names", [["tensorbord"], ["wandb", "wandb"]])
def test_other_names_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="run.logger: expected names of tensorboard, wandb, trackio, each"):
        config_from({"run": {"logger": names}})
