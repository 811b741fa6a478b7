"""The log's progress bar: epoch, loss and time left, and no wait for a loss more than once a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bixt3d.training import log as module
from bixt3d.training.log import RunLog
from tests.training.tiny import make_config


class Loss:
    """A loss that counts how often it is looked at."""

    looked = 0

    def __float__(self) -> float:
        Loss.looked += 1
        return 0.5


def test_the_bar_says_epoch_loss_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.fileno", lambda: 2, raising=False)
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    log = RunLog(tmp_path / "run", make_config("train.epochs=4"), torch.device("cpu"))
    log.start(0, 40)
    loss: Any = Loss()
    Loss.looked = 0
    for _ in range(25):
        now[0] += 0.3
        log.tick(loss)
    assert Loss.looked == 7  # in 7.5 seconds
    log.bar.refresh()
    text = str(log.bar)
    assert "epoch 3/4, loss 0.500" in text and "25/40" in text and "<" in text  # elapsed<left
    log.close()


def test_no_bar_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path / "run", make_config(), torch.device("cpu"), progress=False)
    log.start(0, 10)
    log.tick(None)
    log.close()
    assert capsys.readouterr().err == "" and log.validating == ""


def test_a_long_epoch_says_a_line_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no terminal; short epochs have their own lines, and no others."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    log = RunLog(tmp_path / "run", make_config("train.epochs=4"), torch.device("cpu"))
    log.start(0, 4000)
    loss: Any = Loss()
    Loss.looked = 0
    for _ in range(1500):
        now[0] += 0.1
        log.tick(loss)
    said = capsys.readouterr().out.splitlines()
    assert said == ["epoch 1/4: step 601 of 1,000, loss 0.500", "epoch 2/4: step 202 of 1,000, loss 0.500"]
    assert Loss.looked == 2
    log.row({"epoch": 2, "step": 2000, "clouds_per_second": 5.0}, 4)
    now[0] += 59
    log.tick(loss)
    assert capsys.readouterr().out == "epoch 2/4  5 clouds/s\n"
    log.close()


def test_metrics_that_are_no_shares_are_shown_as_they_are(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", make_config(), torch.device("cpu"), shown=("oa", "cost"))
    row = {"epoch": 2, "val_oa": 0.5, "val_cost": 40.25, "clouds_per_second": 9.0}
    assert log._line(row, 3, ["val"]) == "epoch 2/3  val oa 50.0%  val cost 40.25  9 clouds/s"
    log.close()
