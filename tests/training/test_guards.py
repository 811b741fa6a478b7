"""What training does where numbers, memory or the disk give out."""

from __future__ import annotations

import errno
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bixt3d
from bixt3d.datasets.loader import Batch
from bixt3d.training import ClassificationTask, Trainer, evaluate
from bixt3d.training.checkpoint import load_state
from bixt3d.training.device import Workers
from bixt3d.training.memory import OutOfMemory, largest_fit
from bixt3d.training.step import Learner
from bixt3d.training.stop import Stopped
from bixt3d.training.trainer import Diverged
from tests.training.tiny import (
    CLASSES,
    HIERARCHY,
    make_config,
    make_split,
    make_trainer,
    rows_of,
    signal_at,
    weights,
)

BAD = {"infinite loss": math.inf, "NaN": math.nan}


class Diverging(ClassificationTask):
    """The loss is multiplied at the given training batches."""

    def __init__(self, at: range, factor: float) -> None:
        super().__init__(CLASSES)
        self.at, self.factor, self.batch = at, factor, -1

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        self.batch += logits.requires_grad
        bad = logits.requires_grad and self.batch in self.at
        return super().loss(logits, batch) * (self.factor if bad else 1.0)


def make_batch(seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(8, 32, 3, generator=random)
    return Batch(points, torch.randint(len(CLASSES), (8,), generator=random))


def everything(learner: Learner) -> list[Tensor]:
    """Weights, statistics and what the optimisers remember; the average follows time, not steps."""
    values = list(learner.model.state_dict().values())
    for optimizer in learner.optimizers:
        for state in optimizer.state.values():
            values += [value for value in state.values() if isinstance(value, Tensor)]
    return [value.clone() for value in values]


@pytest.mark.parametrize("factor", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muon", "sgd"])
def test_step_without_finite_gradients_moves_nothing(optimizer: str, factor: float) -> None:
    torch.manual_seed(0)
    model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY).train()
    task = Diverging(range(2, 4), factor)
    config = make_config(f"optim.name={optimizer}", "train.accumulate=2", hierarchy=True)
    learner = Learner(config, model, task, torch.device("cpu"), Workers())

    def take(seeds: list[int], first: bool = False) -> float:
        return float(learner.take(iter([make_batch(seed) for seed in seeds]), 1e-3, first)[2])

    assert take([0, 1], first=True) == 0
    before = everything(learner)
    assert take([2, 3]) == 1
    assert len(before) == len(everything(learner)) > 100
    assert all(torch.equal(*pair) for pair in zip(before, everything(learner), strict=True))
    assert take([4, 5]) == 0
    after = everything(learner)
    assert all(value.isfinite().all() for value in after)
    moved = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_skipped_first_step_leaves_no_trace(optimizer: str) -> None:
    def train(bad: range, steps: int) -> list[Tensor]:
        torch.manual_seed(0)
        model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY).train()
        config = make_config(f"optim.name={optimizer}", hierarchy=True)
        learner = Learner(config, model, Diverging(bad, math.nan), torch.device("cpu"), Workers())
        for step in range(steps):
            torch.manual_seed(7)
            learner.take(iter([make_batch(0)]), 1e-3, first=step == 0)
        return everything(learner)

    once, after_a_skipped_one = train(range(0), 1), train(range(1), 2)
    assert len(once) > 50
    for value, other in zip(once, after_a_skipped_one, strict=True):
        assert torch.equal(value, other)


def test_tokens_that_are_nan_do_not_enter_the_statistics() -> None:
    torch.manual_seed(0)
    model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY).train()
    config = make_config("optim.name=sgd", hierarchy=True)
    learner = Learner(config, model, ClassificationTask(CLASSES), torch.device("cpu"), Workers())
    model.encoder.tokenizer.register_forward_hook(lambda module, points, tokens: tokens * math.nan)  # type: ignore[union-attr]
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    assert statistics
    assert float(learner.take(iter([make_batch(0)]), 1e-3, first=True)[2]) == 1
    for name, value in model.named_buffers():
        assert torch.equal(value, statistics[name]), name


def test_skipped_steps_are_counted_and_leave_the_means_alone(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_config("train.epochs=2"), task=Diverging(range(5, 7), math.nan)).fit()
    rows = rows_of(tmp_path)
    assert [row["skipped"] for row in rows] == [0, 2]
    assert 0 < rows[1]["train_loss"] < 2 * math.log(4)
    assert all(value.isfinite().all() for value in weights(tmp_path / "last.safetensors").values())


def test_skipped_steps_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path, make_config("train.epochs=2"), task=Diverging(range(4, 7), math.nan)).fit()
    first, second = capsys.readouterr().out.splitlines()
    assert "skipped" not in first and "  3 steps skipped  " in second


def test_epoch_without_a_step_is_not_saved(tmp_path: Path) -> None:
    config = make_config("train.epochs=3")
    with pytest.raises(Diverged, match="^no step of epoch 2 had a loss and gradients that are finite"):
        make_trainer(tmp_path, config, task=Diverging(range(4, 99), math.nan)).fit()
    assert load_state(tmp_path / "resume.pt")["epoch"] == 1


def test_validation_loss_of_nan_is_not_saved(tmp_path: Path) -> None:
    """Weights may be finite and of no use: here those of the last step of an epoch."""
    config = make_config("train.epochs=3", "train.ema_decay=0")
    trainer = make_trainer(tmp_path, config)
    broken(trainer, 7, 1e33)
    with pytest.raises(Diverged, match="^the validation loss of epoch 2 is nan; .* in diverged.pt"):
        trainer.fit()
    assert load_state(tmp_path / "resume.pt")["epoch"] == 1
    make_trainer(tmp_path, config, resume=True).fit()


@pytest.mark.parametrize("limit", [3, 6])
def test_run_that_diverges_stops_with_its_weights_saved(limit: int, tmp_path: Path) -> None:
    """Also where an epoch has fewer steps than must fail."""
    config = make_config("train.epochs=6", f"train.max_skipped={limit}")
    said = rf"^{limit} steps in a row .*NaN or infinity.*; the state at step \d+ of 24 is in diverged\.pt, "
    said += r"the last saved state stays: go on with --resume and a smaller optim\.lr"
    with pytest.raises(Diverged, match=said):
        make_trainer(tmp_path, config, task=Diverging(range(6, 99), math.nan)).fit()
    state = load_state(tmp_path / "diverged.pt")
    steps = 4 * state["epoch"] + state["sums"]["steps"]
    assert 6 + limit <= steps < 6 + 2 * limit and steps % limit == 0
    assert all(value.isfinite().all() for value in state["model"].values())
    saved = load_state(tmp_path / "resume.pt")
    assert saved["epoch"] == (steps - 1) // 4 and saved["sums"]["steps"] == 0
    make_trainer(tmp_path, config, resume=True).fit()  # with a task that does not diverge
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def broken(trainer: Trainer, at: int, factor: float) -> None:
    """Leap so far at a step that the weights are no longer of use."""
    step = trainer.learner.step

    def leap(rate: float, first: bool) -> Tensor:
        return step(rate * factor if trainer.step == at else rate, first)

    trainer.learner.step = leap  # type: ignore[method-assign]


@pytest.mark.parametrize("factor", [1e41, 1e25], ids=["infinite", "huge"])
def test_ruined_weights_do_not_take_the_place_of_good_ones(factor: float, tmp_path: Path) -> None:
    """The gradients that ruin them are finite; what comes after is not."""
    config = make_config("train.epochs=6", "train.max_skipped=2", "train.ema_decay=0")
    trainer = make_trainer(tmp_path, config)
    broken(trainer, 5, factor)
    with pytest.raises(RuntimeError, match=r"NaN or infinity.*smaller optim\.lr") as caught:
        trainer.fit()
    assert isinstance(caught.value, Diverged)
    saved = load_state(tmp_path / "resume.pt")
    assert saved["epoch"] == 1 and max(float(value.abs().max()) for value in saved["model"].values()) < 100
    make_trainer(tmp_path, config, resume=True).fit()
    assert [row["skipped"] for row in rows_of(tmp_path)] == [0] * 6


def test_ruined_weights_are_not_saved_at_a_signal(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_config("train.ema_decay=0"))
    broken(trainer, 5, 1e41)
    signal_at(trainer, 6)
    with pytest.raises(Stopped, match="stopped by SIGTERM: the last saved state stays, go on"):
        trainer.fit()
    assert load_state(tmp_path / "resume.pt")["epoch"] == 1


def test_statistics_that_overflow_are_not_kept() -> None:
    """Loss and gradients stay finite: a norm after the overflow makes all of it small."""
    torch.manual_seed(0)
    model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY).train()
    config = make_config("optim.name=sgd", hierarchy=True)
    learner = Learner(config, model, ClassificationTask(CLASSES), torch.device("cpu"), Workers())
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))

    def overflow(module: torch.nn.Module, values: Any, out: Tensor) -> None:
        module.running_var.data.mul_(1e39)  # type: ignore[operator, union-attr]

    norm.register_forward_hook(overflow)
    before = norm.running_var.clone()  # type: ignore[union-attr]
    assert float(learner.take(iter([make_batch(0)]), 1e-3, first=True)[2]) == 1
    assert torch.equal(norm.running_var, before)  # type: ignore[arg-type]


def limited(trainer: Trainer, most: int, training: bool) -> None:
    """Let the model refuse more than ``most`` clouds at a time, in the words of torch's CPU allocator."""

    def refuse(module: torch.nn.Module, arguments: tuple[Tensor]) -> None:
        if module.training == training and len(arguments[0]) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    trainer.model.register_forward_pre_hook(refuse)  # type: ignore[arg-type]
    trainer.result.register_forward_pre_hook(refuse)  # type: ignore[arg-type]


@pytest.mark.parametrize("hierarchy", [False, True], ids=["naive", "hierarchy"])
def test_too_large_a_batch_names_one_that_fits_and_goes_on_with_it(hierarchy: bool, tmp_path: Path) -> None:
    config = make_config("train.epochs=2", "train.batch_size=16", hierarchy=hierarchy)
    trainer = make_trainer(tmp_path, config)
    limited(trainer, 5, training=True)
    statistics = [value.clone() for value in trainer.model.buffers()]
    with pytest.raises(OutOfMemory) as caught:
        trainer.fit()
    told = str(caught.value)
    assert told.startswith("a step with 16 clouds of 32 points ran out of memory (DefaultCPUAllocator: can't")
    assert "; 4 clouds fit: train.batch_size=4 train.accumulate=4 makes steps of as many clouds" in told
    assert told.endswith("the state at step 0 of 8 is saved, go on with --resume and other settings")
    assert all(value.grad is None for value in trainer.model.parameters())
    assert all(torch.equal(*pair) for pair in zip(statistics, trainer.model.buffers(), strict=True))
    smaller = make_config("train.epochs=2", "train.batch_size=4", "train.accumulate=4", hierarchy=hierarchy)
    again = make_trainer(tmp_path, smaller, resume=True)
    limited(again, 5, training=True)
    again.fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2]


def test_size_that_fits_divides_the_step(tmp_path: Path) -> None:
    """Else the run could not go on with it."""
    trainer = make_trainer(tmp_path, make_config("train.epochs=2", "train.batch_size=14"))
    limited(trainer, 6, training=True)
    with pytest.raises(OutOfMemory, match="2 clouds fit: train.batch_size=2 train.accumulate=7 "):
        trainer.fit()
    smaller = make_config("train.epochs=2", "train.batch_size=2", "train.accumulate=7")
    make_trainer(tmp_path, smaller, resume=True).fit()


def test_memory_that_runs_out_in_the_optimiser_saves_nothing(tmp_path: Path) -> None:
    """Some weights may have moved, others not."""
    trainer = make_trainer(tmp_path, make_config("train.epochs=2"))
    (optimizer,) = trainer.learner.optimizers

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    optimizer.step = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(OutOfMemory, match="in the optimiser, after 16 clouds .* the last saved state stays"):
        trainer.fit()
    assert load_state(tmp_path / "resume.pt")["sums"]["steps"] == 0


def test_where_nothing_fits_it_says_so(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_config())
    limited(trainer, 0, training=True)
    with pytest.raises(OutOfMemory, match=r"so did smaller batches: lower data\.num_points"):
        trainer.fit()


def test_evaluation_names_a_batch_that_fits_and_loses_no_step(tmp_path: Path) -> None:
    config = make_config("train.epochs=2", "train.eval_batch_size=22")
    trainer = make_trainer(tmp_path, config)
    limited(trainer, 11, training=False)
    with pytest.raises(OutOfMemory, match=r"evaluation with 22 clouds .*; 11 .* train\.eval_batch_size=11"):
        trainer.fit()
    assert load_state(tmp_path / "resume.pt")["sums"]["steps"] == 4
    make_trainer(tmp_path, make_config("train.epochs=2", "train.eval_batch_size=11"), resume=True).fit()
    make_trainer(tmp_path / "straight", make_config("train.epochs=2", "train.eval_batch_size=11")).fit()
    assert rows_of(tmp_path) == rows_of(tmp_path / "straight")


def test_other_errors_are_not_taken_for_memory(tmp_path: Path) -> None:
    split = make_split()
    model = make_trainer(tmp_path, make_config()).model

    class Wrong(ClassificationTask):
        def loss(self, logits: Tensor, batch: Batch) -> Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        evaluate(model, split, Wrong(CLASSES))


def test_largest_fit_tries_parts() -> None:
    tried = []

    def work(batch: Batch) -> None:
        tried.append(tuple(batch.points.shape))
        if len(batch.label) > 2:
            raise MemoryError

    assert largest_fit(work, make_batch(0)) == 2
    assert tried == [(4, 32, 3), (2, 32, 3)]


LIMITED = """
import resource, sys
from pathlib import Path
from bixt3d.commands.endings import one_line_errors
from tests.training.tiny import make_config, make_split, make_trainer
settings = ["train.epochs=1", "train.batch_size=256", "model.args.dim=96", "data.num_points=1024"]
split = make_split(256, 1024)
trainer = make_trainer(Path(sys.argv[1]), make_config(*settings), train=split, has_val=False)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (700 << 20), resource.RLIM_INFINITY))
with one_line_errors():
    trainer.fit()
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_that_truly_gives_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: a step with 256 clouds of 1,024 points ran out of memory"), done.stderr
    assert "train.batch_size=" in error, done.stderr
    fits = int(error.partition("train.batch_size=")[2].split()[0])
    assert 1 <= fits <= 128 and f"train.accumulate={256 // fits} " in error


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file that takes nothing, as one on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    yield Path("/dev/full")


def test_full_disk_while_logging_loses_no_row(
    full: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path, make_config("train.epochs=4"))
    metrics, row = trainer.log.metrics, trainer.log.row
    assert metrics.read_text() == ""

    def full_for_two(values: dict[str, float], epochs: int) -> None:
        if values["epoch"] == 2:
            metrics.rename(tmp_path / "aside")
            metrics.symlink_to(full)
        if values["epoch"] == 4:
            (tmp_path / "aside").replace(metrics)
        row(values, epochs)

    trainer.log.row = full_for_two  # type: ignore[method-assign]
    trainer.fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2, 3, 4]
    told = [record.message for record in caplog.records if "metrics.jsonl" in record.message]
    assert told == ["metrics.jsonl cannot be written (No space left on device); training goes on"]


def test_rows_that_were_not_written_survive_a_kill(full: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_config("train.epochs=4"))
    row = trainer.log.row

    def full_from_the_second(values: dict[str, float], epochs: int) -> None:
        if values["epoch"] == 2:
            trainer.log.metrics.rename(tmp_path / "aside")
            trainer.log.metrics.symlink_to(full)
        if values["epoch"] == 4:
            raise SystemExit  # as good as a kill: nothing is written after it
        row(values, epochs)

    trainer.log.row = full_from_the_second  # type: ignore[method-assign]
    trainer.log.close = lambda: None  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        trainer.fit()
    (tmp_path / "aside").replace(trainer.log.metrics)
    make_trainer(tmp_path, make_config("train.epochs=4"), resume=True).fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2, 3, 4]


def test_reader_of_the_output_that_leaves_ends_no_training(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.training.tiny import make_config, make_trainer;"
        "make_trainer(Path(sys.argv[1]), make_config()).fit()"
    )
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    told = process.communicate(timeout=300)[1]
    assert "standard output cannot be written (Broken pipe); training goes on" in told
    assert load_state(tmp_path / "resume.pt")["epoch"] == 3 and len(rows_of(tmp_path)) == 3


def test_half_a_line_on_a_full_disk_is_taken_back(tmp_path: Path) -> None:
    """The file may grow no more after some bytes of the second row."""
    trainer = make_trainer(tmp_path, make_config("train.epochs=3"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    row = trainer.log.row

    def limit(values: dict[str, float], epochs: int) -> None:
        size = trainer.log.metrics.stat().st_size
        if values["epoch"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
        row(values, epochs)
        if values["epoch"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert trainer.log.metrics.stat().st_size == size

    trainer.log.row = limit  # type: ignore[method-assign]
    trainer.fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2, 3]


def test_tensorboard_on_a_full_disk_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    trainer = make_trainer(tmp_path, make_config("train.epochs=2", "run.tensorboard=true"))

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(trainer.log.board, "flush", fail)
    trainer.fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2]
    assert [r.message for r in caplog.records if "tensorboard" in r.message] == [
        "tensorboard cannot be written (No space left on device); training goes on"
    ]
