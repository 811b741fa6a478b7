"""Real processes that are killed, and resumed to the result of one that was not."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from bixt3d.training import Trainer, resume
from bixt3d.training.resume import load_latest_state, load_state
from tests.training.tiny import assert_same, make_config, make_trainer, rows_of, weights

EPOCHS, STEPS = 6, 4
KILLS = 24
# Where a process ends itself, beside any moment, and how often it comes there in about two epochs.
PLACES = {"data step": 2 * STEPS, "optimiser step": 2 * STEPS, "writing": 20, "renaming": 10}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mortal(work: Callable[..., Any], call: int, after: bool) -> Callable[..., Any]:
    """Return ``work``, which ends the process before or after its given call."""
    left = call

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and not after:
            die()
        result = work(*arguments, **options)
        if left == 0:
            die()
        return result

    return counted


def train(run_dir: Path, place: str | None, call: int, after: bool) -> None:
    """Train in a process of its own, on from what is there, noting each epoch that was saved."""
    torch.set_num_threads(1)
    config = make_config(f"train.epochs={EPOCHS}")
    trainer = make_trainer(run_dir, config, resume=(run_dir / "resume.pt").exists())
    save = resume.save_epoch

    def note(trainer: Trainer, row: dict[str, float]) -> None:
        save(trainer, row)
        with open(run_dir / "saved", "a") as file:
            file.write(f"{trainer.epoch}\n")

    resume.save_epoch = note
    if place == "data step":
        trainer.loader.augment = mortal(trainer.loader.augment, call, after)  # type: ignore[arg-type]
    elif place == "optimiser step":
        (optimizer,) = trainer.state.optimizers
        optimizer.step = mortal(optimizer.step, call, after)  # type: ignore[method-assign]
    elif place == "writing":
        os.fsync = mortal(os.fsync, call, after)
    elif place == "renaming":
        os.replace = mortal(os.replace, call, after)
    (run_dir / "begun").touch()
    trainer.fit()


def start(run_dir: Path, *how: Any) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")  # imports once, then forks
    context.set_forkserver_preload(["bixt3d.training.experiment", "torch._dynamo"])
    run_dir.mkdir(exist_ok=True)
    (run_dir / "begun").unlink(missing_ok=True)
    process = context.Process(target=train, args=(run_dir, *how))
    process.start()
    while not (run_dir / "begun").exists():
        assert process.is_alive() or (run_dir / "begun").exists(), process.exitcode
        time.sleep(0.002)
    return process


def assert_nothing_lost(run_dir: Path) -> None:
    """Every epoch that was saved is in the state, and no file under its final name is broken."""
    saved = (run_dir / "saved").read_text().split() if (run_dir / "saved").exists() else []
    if saved:
        assert load_latest_state(run_dir / "resume.pt")[0]["epoch"] >= int(saved[-1])
    for path in run_dir.glob("*.safetensors"):
        weights(path)
    for path in run_dir.glob("resume.pt*"):
        load_state(path)


def without_times(value: Any) -> Any:
    """The state of a run in comparable values, tensors by their bits."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key != "seconds"}
    if isinstance(value, (list, tuple)):
        return [without_times(item) for item in value]
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


def test_killed_at_any_moment_and_resumed_is_the_same_run(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # shown where the test fails
    draw = random.Random(seed)
    straight = tmp_path / "straight"
    process, begun = start(straight, None, 0, False), time.monotonic()
    process.join()
    took = time.monotonic() - begun
    assert process.exitcode == 0

    kills = runs = 0
    while kills < KILLS:
        run_dir = tmp_path / f"run{runs}"
        runs += 1
        finished = False
        while not finished:
            place = draw.choice([*PLACES, None, None])
            calls = PLACES[place] if place else 1
            process = start(run_dir, place, draw.randint(1, calls), draw.random() < 0.5)
            if place is None:
                process.join(draw.uniform(0, took))
                process.kill()
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL), (place, process.exitcode)
            finished = process.exitcode == 0
            kills += not finished
            assert_nothing_lost(run_dir)
        assert rows_of(run_dir) == rows_of(straight)
        for name in ("last.safetensors", "best.safetensors"):
            assert_same(weights(run_dir / name), weights(straight / name))
        states = [load_state(folder / "resume.pt") for folder in (run_dir, straight)]
        assert without_times(states[0]) == without_times(states[1])
        assert not list(run_dir.glob(".*.tmp"))  # nor half a file
