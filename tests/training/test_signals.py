"""Signals end a training after its step, with everything saved."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from torch import Tensor

from bixt3d.datasets.loader import Batch
from bixt3d.training import ClassificationTask
from bixt3d.training.guards import SIGNALS, Stopped, StopSignals
from bixt3d.training.resume import load_state
from tests.training.tiny import CLASSES, assert_same, make_config, make_trainer, rows_of, weights

NUMBERS = [signal.SIGINT, signal.SIGTERM]


class Signalling(ClassificationTask):
    """Sends this process a signal at the given batch of training, or of evaluation."""

    def __init__(self, at: int, number: int, training: bool = True) -> None:
        super().__init__(CLASSES, 0.2)
        self.left, self.number, self.training = at, number, training

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        if logits.requires_grad == self.training:
            if self.left == 0:
                os.kill(os.getpid(), self.number)
            self.left -= 1
        return super().loss(logits, batch)


def assert_goes_on_exactly(run_dir: Path, straight: Path, hierarchy: bool = False) -> None:
    config = make_config(hierarchy=hierarchy)
    make_trainer(straight, config).fit()
    make_trainer(run_dir, config, resume=True).fit()
    assert rows_of(run_dir) == rows_of(straight)
    for name in ("last.safetensors", "best.safetensors"):
        assert_same(weights(run_dir / name), weights(straight / name))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("hierarchy", [False, True], ids=["naive", "hierarchy"])
@pytest.mark.parametrize("batch", [0, 5, 7, 11])
def test_signal_in_a_step(batch: int, hierarchy: bool, number: signal.Signals, tmp_path: Path) -> None:
    config = make_config(hierarchy=hierarchy)
    before = [signal.getsignal(each) for each in SIGNALS]
    said = (
        rf"^stopped by {number.name}: the state at step {batch + 1} of 12 is saved, continue with --resume$"
    )
    with pytest.raises(Stopped, match=said) as stopped:
        make_trainer(tmp_path / "run", config, task=Signalling(batch, number)).fit()
    assert stopped.value.number == number
    assert [signal.getsignal(each) for each in SIGNALS] == before
    state = load_state(tmp_path / "run/resume.pt")
    assert 4 * state["epoch"] + state["sums"]["steps"] == batch + 1
    assert len(rows_of(tmp_path / "run")) == batch // 4
    assert_goes_on_exactly(tmp_path / "run", tmp_path / "straight", hierarchy)


def test_several_stops_in_one_epoch(tmp_path: Path) -> None:
    config = make_config()
    with pytest.raises(Stopped):
        make_trainer(tmp_path / "run", config, task=Signalling(4, signal.SIGTERM)).fit()
    for _ in range(2):
        with pytest.raises(Stopped):
            task = Signalling(0, signal.SIGTERM)
            make_trainer(tmp_path / "run", config, task=task, resume=True).fit()
    assert load_state(tmp_path / "run/resume.pt")["sums"]["steps"] == 3
    assert_goes_on_exactly(tmp_path / "run", tmp_path / "straight")


def test_signal_in_evaluation_keeps_the_steps(tmp_path: Path) -> None:
    task = Signalling(1, signal.SIGTERM, training=False)
    config = make_config("train.eval_batch_size=8")  # three batches
    with pytest.raises(Stopped, match="the state at step 4 of 12 is saved"):
        make_trainer(tmp_path / "run", config, task=task).fit()
    assert task.left == 0  # at once, not after the last batch
    assert rows_of(tmp_path / "run") == []
    assert_goes_on_exactly(tmp_path / "run", tmp_path / "straight")


def test_signal_after_the_last_row_is_heeded(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_config("train.epochs=1"))
    row = trainer.log.row

    def late(values: dict[str, float], epochs: int) -> None:
        row(values, epochs)
        os.kill(os.getpid(), signal.SIGTERM)

    trainer.log.row = late  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="the state at step 4 of 4 is saved"):
        trainer.fit()
    assert (tmp_path / "last.safetensors").exists()


def test_a_run_that_was_stopped_early_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        make_trainer(tmp_path, make_config(), task=Signalling(1, signal.SIGTERM)).fit()
    with pytest.raises(FileExistsError, match="holds a run already"):
        make_trainer(tmp_path, make_config())


def test_time_of_the_part_before_counts(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_config(), task=Signalling(5, signal.SIGTERM))
    with pytest.raises(Stopped):
        trainer.fit()
    again = make_trainer(tmp_path, make_config(), resume=True)
    assert again.seconds == pytest.approx(trainer.seconds) and again.totals.seconds > 0
    again.fit()
    rows = rows_of(tmp_path, timed=True)
    assert again.seconds == pytest.approx(sum(row["seconds"] for row in rows), abs=0.05)


@pytest.mark.parametrize("launched", [False, True])
def test_second_signals(launched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun sends its workers once more what they have from the terminal; a person waits a moment."""
    now = 100.0
    monkeypatch.setattr("bixt3d.training.guards.time.monotonic", lambda: now)
    with StopSignals(launched) as signals:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert signals.received == signal.SIGINT
        now += 30 if launched else 1
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()


def test_what_is_ignored_stays_ignored() -> None:
    """As by nohup, or for what a script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert not signals.received
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_at_once_also_for_a_signal_of_before() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), signals.at_once():
            raise AssertionError("not reached")
    with StopSignals() as signals:
        with signals.at_once():
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # no longer at once
        assert signals.received == signal.SIGTERM


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def train() -> None:
        try:
            make_trainer(tmp_path, make_config("train.epochs=1")).fit()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not errors and len(rows_of(tmp_path)) == 1
