"""The trainer: one loop for every task, on CPU and CUDA, in one process or several."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bixt3d.config import Config, check_config, to_dict
from bixt3d.datasets.split import Split
from bixt3d.tasks import Description, Task
from bixt3d.training.batches import training_loader
from bixt3d.training.checkpoint import load_latest_state, save_model, save_state
from bixt3d.training.device import Workers, join_workers, keep_freed_memory
from bixt3d.training.evaluate import Evaluation, evaluate
from bixt3d.training.log import RunLog, holds_run, run_is_there
from bixt3d.training.memory import OutOfMemory
from bixt3d.training.optim import learning_rate
from bixt3d.training.step import Learner
from bixt3d.training.stop import Stopped, StopSignals
from bixt3d.training.sums import EpochSums


class Diverged(RuntimeError):
    """Losses or gradients stopped being finite, and the weights may be what is wrong."""


class Trainer:
    """Train a model on a split and keep its checkpoints.

    The run's folder receives ``config.yaml``, ``environment.json``, ``metrics.jsonl``, the weights of the
    last epoch (``last.safetensors``) and of the best by validation (``best.safetensors``), and
    ``resume.pt``, from which `fit` goes on, or ``diverged.pt`` where it could not. With a moving average of
    the weights, it is what is evaluated and saved.

    Args:
        config: The settings.
        model: The model.
        task: Loss and metrics.
        train: Training split, on the device.
        val: Validation split, on the device; None if nothing is to be chosen.
        run_dir: The run's folder.
        description: What a checkpoint says of itself besides weights: model, classes, preprocessing.
        resume: Go on from the folder's last state.
        progress: Show a progress bar.

    Raises:
        FileExistsError: If the folder holds a run already and ``resume`` is not set.
        FileNotFoundError: If there is nothing to resume.
        ValueError: For settings that do not fit the data or the state.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        task: Task,
        train: Split,
        val: Split | None,
        run_dir: str | Path,
        description: Description,
        resume: bool = False,
        progress: bool = True,
    ) -> None:
        """Build loader and learner; read the state when resuming."""
        config = check_config(config)
        if task.config is None:
            task.configure(config)
        self.config, self.task, self.val = config, task, val
        self.device = train.points.device
        self.workers: Workers = join_workers(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.loader = training_loader(config, task, train, self.workers)
        self.steps_per_epoch = len(self.loader) // config.train.accumulate
        self.model = model.to(self.device)
        self.learner = Learner(config, self.model, task, self.device, self.workers)
        self.epoch = 0
        self.sums = EpochSums(task.start(self.device))
        self.best = -math.inf
        self.seconds = 0.0
        self.description = description
        self.run_dir = Path(run_dir).expanduser()
        self.unwritten = ""
        # Whether resume.pt is worth keeping beside its successor.
        self.whole = True
        if resume:
            state, self.whole = load_latest_state(self.run_dir / "resume.pt")
            self._restore(state)
        elif self.workers.any(int(self.workers.first and holds_run(self.run_dir))):
            raise run_is_there(self.run_dir)
        self.log = RunLog(
            self.run_dir,
            config,
            self.device,
            self.epoch,
            self.unwritten,
            active=self.workers.first,
            progress=progress,
            shown=task.shown,
        )

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.epoch * self.steps_per_epoch + self.sums.steps

    @property
    def result(self) -> nn.Module:
        """The weights that are evaluated and saved: the moving average if there is one."""
        return self.learner.result

    def fit(self) -> None:
        """Train to the last epoch, evaluating, logging and saving after each.

        SIGINT (Ctrl-C) and SIGTERM end it after the step that it is at, with everything saved.

        Raises:
            Stopped: At such a signal, or in any process of several.
            Diverged: If ``train.max_skipped`` steps in a row, or an epoch's, had a loss or gradients that are
                not finite, or the validation loss is not. As the weights of now may be what is wrong, they go
                to ``diverged.pt``; the last state stays.
            OutOfMemory: Naming what fits.
            RuntimeError: If an update breaks the weights; the last saved state is from before.
            OSError: If a checkpoint cannot be saved; the previous one is whole.
        """
        epochs = self.config.train.epochs
        if self.workers.first and self.step == 0:
            self._save_state()  # so that --resume works from here on
        self.log.start(self.step, epochs * self.steps_per_epoch)
        with StopSignals(self.workers.world_size > 1) as signals:
            try:
                while self.epoch < epochs:
                    self._train_epoch(signals)
                self._heed(signals)
            except (Stopped, Diverged, OutOfMemory) as error:
                self._keep(error)
                raise
            finally:
                self.log.close()
        self.workers.wait()  # whoever reads the checkpoints next finds them written

    def evaluate(self, split: Split) -> Evaluation:
        """Evaluate the weights that would be saved now on a split."""
        settings = self.config.train
        return evaluate(self.result, split, self.task, settings.eval_batch_size, settings.amp, self.workers)

    def _train_epoch(self, signals: StopSignals) -> None:
        """Take the steps of an epoch that are left, evaluate, log and save."""
        settings, sums = self.config.train, self.sums
        begun = time.perf_counter()
        before = self.seconds
        self._take_steps(signals)
        row = self._sum_up()
        self._agree()
        last = self.epoch + 1 == settings.epochs
        self._heed(signals)
        if self.val is not None and (last or (self.epoch + 1) % settings.eval_every == 0):
            # One of several processes must not leave the others waiting.
            with signals.at_once(self.workers.world_size == 1):
                seen = self.evaluate(self.val)
            if not math.isfinite(seen.loss):
                raise Diverged(f"the validation loss of epoch {self.epoch + 1} is {seen.loss}")
            row |= {"val_loss": seen.loss} | {f"val_{k}": v for k, v in seen.metrics.items()}
        clouds = self.steps_per_epoch * settings.accumulate * settings.batch_size
        evaluated = time.perf_counter() - begun - (self.seconds - before)
        self.seconds += evaluated
        row |= {
            "seconds": round(sums.seconds + evaluated, 2),
            "clouds_per_second": round(clouds / sums.seconds, 1),
        }
        self.epoch += 1
        self.sums = EpochSums(self.task.start(self.device), sums.in_a_row)
        # The row first: one of an epoch that was not saved is dropped when resuming.
        self.log.row(row, settings.epochs)
        self._save(row)

    def _take_steps(self, signals: StopSignals) -> None:
        """Take the steps that are left of an epoch; a GPU is waited for once in ``max_skipped`` of them."""
        settings, sums = self.config.train, self.sums
        self.model.train()
        batches = itertools.islice(self.loader.epoch(self.epoch), sums.steps * settings.accumulate, None)
        begun = time.perf_counter()
        try:
            while sums.steps < self.steps_per_epoch:
                self._heed(signals)
                # Dropout and stochastic depth follow from seed, step and rank: no random state to save.
                torch.manual_seed((settings.seed * 1_000_003 + self.step) * 4096 + self.workers.rank)
                rate = self._rate(self.step)
                loss, counts, skipped = self.learner.take(batches, rate, first=self.step == 0)
                sums.add(loss / self.workers.world_size, counts, skipped)
                self.log.tick()
                look = self.device.type == "cpu" or self.step % settings.max_skipped == 0
                if look and sums.in_a_row >= settings.max_skipped:
                    raise Diverged(
                        f"{int(sums.in_a_row)} steps in a row had a loss or gradients of NaN or infinity and "
                        "were left out"
                    )
        except (Stopped, Diverged):  # in all processes at the same step
            sums.gather(self.workers)
            raise
        finally:
            self._wait()
            sums.seconds += time.perf_counter() - begun
            self.seconds += time.perf_counter() - begun

    def _heed(self, signals: StopSignals) -> None:
        """Stop all processes if one has received a signal."""
        if number := self.workers.any(signals.received):
            raise Stopped(number, "stopped")

    def _sum_up(self) -> dict[str, float]:
        """Return the row of an epoch whose steps are all taken."""
        sums = self.sums
        loss, counts = sums.gather(self.workers)
        if not self.learner.finite():
            raise RuntimeError(
                f"the weights hold NaN or infinity after epoch {self.epoch + 1}: training was stopped and "
                "nothing of this epoch was saved; try a smaller optim.lr, or train.amp=false"
            )
        skipped = int(sums.skipped)
        row: dict[str, float] = {"epoch": self.epoch + 1, "step": self.step, "lr": self._rate(self.step - 1)}
        row["skipped"] = skipped
        taken = self.steps_per_epoch - skipped
        if taken == 0:
            raise Diverged(f"no step of epoch {self.epoch + 1} had a loss and gradients that are finite")
        row["train_loss"] = float(loss) / taken
        return row | {f"train_{name}": value for name, value in self.task.metrics(counts).items()}

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.config.optim, self.config.train.epochs, self.steps_per_epoch)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _agree(self) -> None:
        """Give every process the first one's statistics, so that all evaluate what will be saved."""
        for module in dict.fromkeys((self.model, self.result)):
            for buffer in module.buffers():
                self.workers.share(buffer)

    def _save(self, row: dict[str, float]) -> None:
        goal = f"val_{self.task.goal}"
        seen = [name[4:] for name in row if name.startswith("val_") and name != "val_loss"]
        if seen and self.task.goal not in seen:
            raise ValueError(f"task: goal: expected one of {', '.join(seen)}, got {self.task.goal!r}")
        better = row.get(goal, -math.inf) > self.best
        self.best = max(self.best, row.get(goal, -math.inf))
        if not self.workers.first:
            return
        description = dataclasses.replace(self.description, config=to_dict(self.config), metrics=row)
        save_model(self.run_dir / "last.safetensors", self.result, description)
        if better:
            save_model(self.run_dir / "best.safetensors", self.result, description)
        self._save_state()

    def _save_state(self) -> None:
        save_state(self.run_dir / "resume.pt", self._state(), keep_previous=self.whole)
        self.whole = True

    def _keep(self, error: Stopped | Diverged | OutOfMemory) -> None:
        """Save the state between two steps, where it is one to go on from, and say so in the error."""
        where = f"the state at step {self.step:,} of {self.config.train.epochs * self.steps_per_epoch:,}"
        saved, advice = "the last saved state stays", "go on with --resume"
        # All processes stop at the same step, but for want of memory each on its own, with its own sums.
        together = self.workers.world_size == 1 or not isinstance(error, OutOfMemory)
        if isinstance(error, Diverged):
            if self.workers.first:
                save_state(self.run_dir / "diverged.pt", self._state(), keep_previous=False)
        elif together and self.learner.between_steps and self.learner.finite():
            if self.workers.first:
                self._save_state()
            saved = f"{where} is saved"
        if together:
            self.workers.wait()  # torchrun ends all soon after the first has left
        if isinstance(error, Stopped):
            error.args = (f"stopped by {signal.Signals(error.number).name}: {saved}, {advice}",)
        elif isinstance(error, Diverged):
            advice += " and a smaller optim.lr, a smaller optim.clip_norm, or train.amp=false"
            error.args = (f"{error}; {where} is in diverged.pt, {saved}: {advice}",)
        else:
            error.args = (f"{error}; {saved}, {advice} and other settings",)

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "sums": self.sums.state(),
            "unwritten": self.log.unwritten,
            "best": self.best,
            "seconds": self.seconds,
            "fixed": _fixed(self.config, len(self.loader.split)),
            **self.learner.state(),
            "description": self.description.to_json(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        wanted = {"epoch", "best", "seconds", "fixed", "description", *self.learner.state()}
        missing = wanted - set(state)
        if missing:
            lacks = ", ".join(sorted(missing))
            raise ValueError(f"{self.run_dir / 'resume.pt'} is not the state of a run: it lacks {lacks}")
        before = json.loads(state["description"])
        kinds = ("task", "model", "preprocess", *self.description.facts)
        was, now = (
            _flat({kind: told.get(kind) for kind in kinds})
            for told in (Description.from_dict(before).to_dict(), self.description.to_dict())
        )
        changed = {k: (was.get(k), now.get(k)) for k in was | now if was.get(k) != now.get(k)}
        fixed = _fixed(self.config, len(self.loader.split))
        changed |= {k: (old, fixed[k]) for k, old in state["fixed"].items() if fixed.get(k, old) != old}
        if changed:
            told = "; ".join(f"{key} was {old}, now it would be {new}" for key, (old, new) in changed.items())
            raise ValueError(f"cannot resume {self.run_dir} with other settings: {told}")
        self.learner.restore(state)
        self.epoch, self.best, self.seconds = state["epoch"], state["best"], state["seconds"]
        if "sums" in state:  # version 0.1.0 saved whole epochs only
            self.sums.restore(state["sums"], self.workers)
            self.unwritten = state["unwritten"]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return what nested dictionaries hold, by dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key in value for k, v in _flat(value[key], f"{name}.{key}" if name else key).items()}


def _fixed(config: Config, clouds: int) -> dict[str, Any]:
    """Settings that a resumed run may not change, as its steps or its state would no longer fit."""
    return {
        "data.name": config.data.name,
        "data.train_split": config.data.train_split,
        "optim.name": config.optim.name,
        "optim.decay_all": config.optim.decay_all,
        "training clouds": clouds,
        # Each step's clouds stay the same, in however many batches.
        "train.batch_size x train.accumulate": config.train.batch_size * config.train.accumulate,
        "train.seed": config.train.seed,
        "train.ema": config.train.ema_decay > 0,
    }
