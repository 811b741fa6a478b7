"""What training does where numbers, memory or the disk give out."""

from __future__ import annotations

import errno
import math
import os
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bixt3d
from bixt3d.datasets.loader import Batch
from bixt3d.training import ClassificationTask, Trainer, evaluate
from bixt3d.training.distributed import Workers
from bixt3d.training.guards import Diverged, FiniteGuard, OutOfMemory, Stopped, guard_memory
from bixt3d.training.optim import learning_rate
from bixt3d.training.resume import load_state
from bixt3d.training.trainer import TrainState
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


def everything(trained: TrainState) -> list[Tensor]:
    """Weights, statistics and what the optimisers remember; the average follows time, not steps."""
    values = list(trained.model.state_dict().values())
    for optimizer in trained.optimizers:
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
    state = TrainState(config, model, task, torch.device("cpu"), Workers())

    def take(step: int) -> float:
        return float(state.train_step(iter([make_batch(2 * step), make_batch(2 * step + 1)]), step)[2])

    assert take(0) == 0
    before = everything(state)
    assert take(1) == 1
    assert len(before) == len(everything(state)) > 100
    assert all(torch.equal(*pair) for pair in zip(before, everything(state), strict=True))
    assert take(2) == 0
    after = everything(state)
    assert all(value.isfinite().all() for value in after)
    moved = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_skipped_first_step_leaves_no_trace(optimizer: str) -> None:
    def train(bad: range, steps: int) -> list[Tensor]:
        torch.manual_seed(0)
        model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY).train()
        config = make_config(f"optim.name={optimizer}", hierarchy=True)
        state = TrainState(config, model, Diverging(bad, math.nan), torch.device("cpu"), Workers())
        for _ in range(steps):
            state.train_step(iter([make_batch(0)]), 0)
        return everything(state)

    once, after_a_skipped_one = train(range(0), 1), train(range(1), 2)
    assert len(once) > 50
    for value, other in zip(once, after_a_skipped_one, strict=True):
        assert torch.equal(value, other)


def test_tokens_that_are_nan_do_not_enter_the_statistics() -> None:
    torch.manual_seed(0)
    model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY).train()
    config = make_config("optim.name=sgd", hierarchy=True)
    state = TrainState(config, model, ClassificationTask(CLASSES), torch.device("cpu"), Workers())
    model.encoder.tokenizer.register_forward_hook(lambda module, points, tokens: tokens * math.nan)  # type: ignore[union-attr]
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    assert statistics
    assert float(state.train_step(iter([make_batch(0)]), 0)[2]) == 1
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


def test_validation_loss_of_nan_is_not_saved(leap: Callable[[int, float], None], tmp_path: Path) -> None:
    """Weights may be finite and of no use: here those of the last step of an epoch."""
    config = make_config("train.epochs=3", "train.ema_decay=0")
    trainer = make_trainer(tmp_path, config)
    leap(7, 1e33)
    with pytest.raises(Diverged, match="^the validation loss of epoch 2 is nan; .* in diverged.pt"):
        trainer.fit()
    assert load_state(tmp_path / "resume.pt")["epoch"] == 1
    make_trainer(tmp_path, config, resume=True).fit()


@pytest.mark.parametrize("limit", [3, 6])
def test_run_that_diverges_stops_with_its_weights_saved(limit: int, tmp_path: Path) -> None:
    """Also where an epoch has fewer steps than must fail."""
    config = make_config("train.epochs=6", f"train.max_skipped={limit}")
    said = rf"^{limit} steps in a row .*NaN or infinity.*; the state at step \d+ of 24 is in diverged\.pt, "
    said += r"the last saved state stays: continue with --resume and a smaller optim\.lr"
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


@pytest.fixture
def leap(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Leap so far at a step, the first time, that the weights are no longer of use."""

    def at(step: int, factor: float) -> None:
        factors = [factor]

        def rate(now: int, *settings: Any) -> float:
            return learning_rate(now, *settings) * (factors.pop() if now == step and factors else 1.0)

        monkeypatch.setattr("bixt3d.training.trainer.learning_rate", rate)

    return at


@pytest.mark.parametrize("factor", [1e41, 1e25], ids=["infinite", "huge"])
def test_ruined_weights_do_not_take_the_place_of_good_ones(
    factor: float, leap: Callable[[int, float], None], tmp_path: Path
) -> None:
    """The gradients that ruin them are finite; what comes after is not."""
    config = make_config("train.epochs=6", "train.max_skipped=2", "train.ema_decay=0")
    trainer = make_trainer(tmp_path, config)
    leap(5, factor)
    with pytest.raises(RuntimeError, match=r"NaN or infinity.*smaller optim\.lr") as caught:
        trainer.fit()
    assert isinstance(caught.value, Diverged)
    saved = load_state(tmp_path / "resume.pt")
    assert saved["epoch"] == 1 and max(float(value.abs().max()) for value in saved["model"].values()) < 100
    make_trainer(tmp_path, config, resume=True).fit()
    assert [row["skipped"] for row in rows_of(tmp_path)] == [0] * 6


def test_ruined_weights_are_not_saved_at_a_signal(leap: Callable[[int, float], None], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_config("train.ema_decay=0"))
    leap(5, 1e41)
    signal_at(trainer, 6)
    with pytest.raises(Stopped, match="stopped by SIGTERM: the last saved state stays, continue"):
        trainer.fit()
    assert load_state(tmp_path / "resume.pt")["epoch"] == 1


def test_a_buffer_without_numbers_is_finite() -> None:
    model = torch.nn.Linear(2, 2)
    model.register_buffer("empty", torch.empty(0))
    model.register_buffer("mean", torch.zeros(2))
    guard, good = FiniteGuard(model), torch.tensor(1.0)
    assert guard.is_bad(good, good) == 0
    model.get_buffer("mean").fill_(math.nan)
    assert guard.is_bad(good, good) == 1


def test_statistics_that_overflow_are_not_kept() -> None:
    """Loss and gradients stay finite: a norm after the overflow makes all of it small."""
    torch.manual_seed(0)
    model = bixt3d.create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY).train()
    config = make_config("optim.name=sgd", hierarchy=True)
    state = TrainState(config, model, ClassificationTask(CLASSES), torch.device("cpu"), Workers())
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))

    def overflow(module: torch.nn.Module, values: Any, out: Tensor) -> None:
        module.running_var.data.mul_(1e39)  # type: ignore[operator, union-attr]

    norm.register_forward_hook(overflow)
    before = norm.running_var.clone()  # type: ignore[union-attr]
    assert float(state.train_step(iter([make_batch(0)]), 0)[2]) == 1
    assert torch.equal(norm.running_var, before)  # type: ignore[arg-type]


def limited(trainer: Trainer, most: int, training: bool) -> None:
    """Let the model refuse more than ``most`` clouds at a time, in the words of torch's CPU allocator."""

    def refuse(module: torch.nn.Module, arguments: tuple[Tensor]) -> None:
        if module.training == training and len(arguments[0]) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    trainer.model.register_forward_pre_hook(refuse)  # type: ignore[arg-type]
    trainer.result.register_forward_pre_hook(refuse)  # type: ignore[arg-type]


@pytest.mark.parametrize("hierarchy", [False, True], ids=["naive", "hierarchy"])
def test_too_large_a_batch_names_the_settings_to_lower(hierarchy: bool, tmp_path: Path) -> None:
    config = make_config("train.epochs=2", "train.batch_size=16", hierarchy=hierarchy)
    trainer = make_trainer(tmp_path, config)
    limited(trainer, 5, training=True)
    with pytest.raises(OutOfMemory) as caught:
        trainer.fit()
    assert str(caught.value) == (
        "a training step with 16 clouds of 32 points ran out of memory (DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 9 bytes.): lower train.batch_size (and raise "
        "train.accumulate as much), data.num_points, or model.args; the last saved state stays, continue "
        "with --resume and other settings"
    )
    smaller = make_config("train.epochs=2", "train.batch_size=4", "train.accumulate=4", hierarchy=hierarchy)
    again = make_trainer(tmp_path, smaller, resume=True)
    limited(again, 5, training=True)
    again.fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2]


def test_memory_of_a_step_that_failed_is_free_again() -> None:
    """An error's traceback holds the frames, and those what was computed."""
    computed: list[weakref.ref[Tensor]] = []

    def step() -> None:
        values = torch.zeros(5)
        computed.append(weakref.ref(values))
        raise MemoryError

    with pytest.raises(OutOfMemory, match="^a step ran out of memory .*: lower it$") as caught:
        with guard_memory("a step", "lower it"):
            step()
    assert caught.value.__context__ is not None and computed[0]() is None
    with pytest.raises(RuntimeError, match="^shapes$"), guard_memory("a step", "lower it"):
        raise RuntimeError("shapes")


def test_memory_that_runs_out_in_the_optimiser_saves_nothing(tmp_path: Path) -> None:
    """Some weights may have moved, others not."""
    trainer = make_trainer(tmp_path, make_config("train.epochs=2"))
    (optimizer,) = trainer.state.optimizers

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    optimizer.step = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(
        OutOfMemory, match="16 clouds .* ran out of memory .CUDA out .* the last saved state stays"
    ):
        trainer.fit()
    assert load_state(tmp_path / "resume.pt")["sums"]["steps"] == 0


def test_evaluation_names_its_batch_and_loses_no_step(tmp_path: Path) -> None:
    config = make_config("train.epochs=2", "train.eval_batch_size=22")
    trainer = make_trainer(tmp_path, config)
    limited(trainer, 11, training=False)
    with pytest.raises(
        OutOfMemory,
        match=r"evaluation with 22 clouds .*: lower train\.eval_batch_size; the state at step 4 of 8 is",
    ):
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
    assert error.startswith("error: a training step with 256 clouds of 1,024 points ran out of memory"), error
    assert "lower train.batch_size (and raise train.accumulate as much), data.num_points" in error


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
    assert told == ["metrics.jsonl cannot be written (No space left on device); training continues"]


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
    assert "standard output cannot be written (Broken pipe); training continues" in told
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

    board: Any = trainer.log.boards["tensorboard"]
    monkeypatch.setattr(board.writer, "flush", fail)
    trainer.fit()
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1, 2]
    assert [r.message for r in caplog.records if "tensorboard" in r.message] == [
        "tensorboard cannot be written (No space left on device); training continues"
    ]
