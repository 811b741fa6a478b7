"""The trainer: one loop for every task, on CPU and CUDA, in one process or several."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bixt3d.config import Config
from bixt3d.datasets.augment import augment, choose_points
from bixt3d.datasets.loader import CloudLoader
from bixt3d.datasets.split import Split
from bixt3d.training.checkpoint import load_state, save_model, save_state
from bixt3d.training.device import Workers, join_workers, keep_freed_memory
from bixt3d.training.evaluate import Evaluation, evaluate
from bixt3d.training.log import RunLog
from bixt3d.training.optim import learning_rate
from bixt3d.training.step import Learner
from bixt3d.training.tasks import Task


class Trainer:
    """Train a model on a split and keep its checkpoints.

    The run's folder receives ``config.yaml``, ``environment.json``, ``metrics.jsonl``, the weights of the
    last epoch (``last.safetensors``) and of the best by validation (``best.safetensors``), and
    ``resume.pt``, from which `fit` goes on. With a moving average of the weights, it is what is evaluated
    and saved.

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
        description: dict[str, Any],
        resume: bool = False,
        progress: bool = True,
    ) -> None:
        """Build loader and learner; read the state when resuming."""
        self.config, self.task, self.val = config, task, val
        self.device = train.points.device
        self.workers: Workers = join_workers(self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        settings = config.train
        if settings.batch_size % self.workers.world_size:
            raise ValueError(
                f"train.batch_size: expected a multiple of the {self.workers.world_size} processes, got "
                f"{settings.batch_size}"
            )
        self.model = model.to(self.device)
        self.loader = CloudLoader(
            train,
            settings.batch_size // self.workers.world_size,
            shuffle=True,
            drop_last=True,
            choose=_choice(config, train.parts is not None),
            augment=_augmentation(config),
            seed=settings.seed,
            rank=self.workers.rank,
            world_size=self.workers.world_size,
        )
        self.steps_per_epoch = len(self.loader) // settings.accumulate
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"train.accumulate: an epoch has {len(self.loader)} batches, fewer than {settings.accumulate}"
            )
        self.learner = Learner(config, self.model, task, self.device, self.workers)
        self.epoch = 0
        self.best = -math.inf
        self.seconds = 0.0
        self.description = description
        self.run_dir = Path(run_dir)
        if resume:
            self._restore(load_state(self.run_dir / "resume.pt"))
        self.step = self.epoch * self.steps_per_epoch
        self.log = RunLog(
            self.run_dir, config, self.device, self.epoch, resume, self.workers.first, progress, task.shown
        )

    @property
    def result(self) -> nn.Module:
        """The weights that are evaluated and saved: the moving average if there is one."""
        return self.learner.result

    def fit(self) -> None:
        """Train to the last epoch, evaluating, logging and saving after each.

        Raises:
            RuntimeError: If the loss stops being finite; the last saved state is from before.
            OSError: If a checkpoint cannot be saved; the previous one is whole.
        """
        settings = self.config.train
        self.log.start(self.epoch * self.steps_per_epoch, settings.epochs * self.steps_per_epoch)
        while self.epoch < settings.epochs:
            begun = time.perf_counter()
            row = self._train_epoch()
            trained = time.perf_counter()
            self.epoch += 1
            self._agree()
            last = self.epoch == settings.epochs
            if self.val is not None and (last or self.epoch % settings.eval_every == 0):
                seen = self.evaluate(self.val)
                row |= {"val_loss": seen.loss} | {f"val_{k}": v for k, v in seen.metrics.items()}
            seconds = time.perf_counter() - begun
            self.seconds += seconds
            row |= {
                "seconds": round(seconds, 2),
                "clouds_per_second": round(self._clouds_per_epoch() / (trained - begun), 1),
            }
            # The row first: one of an epoch that was not saved is dropped when resuming.
            self.log.row(row, settings.epochs)
            self._save(row)
        self.log.close()
        self.workers.wait()  # whoever reads the checkpoints next finds them written

    def evaluate(self, split: Split) -> Evaluation:
        """Evaluate the weights that would be saved now on a split."""
        settings = self.config.train
        return evaluate(
            self.result, split, self.task, settings.eval_batch_size, settings.amp, self.workers
        )

    def _clouds_per_epoch(self) -> int:
        settings = self.config.train
        return self.steps_per_epoch * settings.accumulate * settings.batch_size

    def _train_epoch(self) -> dict[str, float]:
        """Take every step of one epoch; the device is waited for once, at the end."""
        self.model.train()
        settings = self.config.train
        # Dropout and stochastic depth follow from seed, epoch and rank: resuming needs no random state.
        torch.manual_seed((settings.seed * 1_000_003 + self.epoch) * 4096 + self.workers.rank)
        counts = self.task.start(self.device)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        rate = 0.0
        batches = self.loader.epoch(self.epoch)
        for _ in range(self.steps_per_epoch):
            for _ in range(settings.accumulate):
                batch = next(batches)
                loss, logits = self.learner.learn(batch)
                total += loss.double()
                counts += self.task.count(logits, batch)
            rate = learning_rate(self.step, self.config.optim, settings.epochs, self.steps_per_epoch)
            self.learner.step(rate, first=self.step == 0)
            self.step += 1
            self.log.tick()
        total = self.workers.sum(total) / self.workers.world_size
        loss_mean = float(total) / (self.steps_per_epoch * settings.accumulate)
        whole = torch.stack([value.isfinite().all() for value in self.model.parameters()]).all()
        if not math.isfinite(loss_mean) or not bool(whole):
            what = f"the loss of epoch {self.epoch + 1} is {loss_mean}"
            if math.isfinite(loss_mean):
                what = f"the weights hold NaN or infinity after epoch {self.epoch + 1}"
            raise RuntimeError(
                f"{what}: training was stopped and nothing of this epoch was saved; try a smaller optim.lr, "
                "a smaller optim.clip_norm, or train.amp=false"
            )
        scores = self.task.metrics(self.workers.sum(counts))
        return {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": rate,
            "train_loss": loss_mean,
            **{f"train_{name}": value for name, value in scores.items()},
        }

    def _agree(self) -> None:
        """Give every process the first one's statistics, so that all evaluate what will be saved."""
        for module in dict.fromkeys((self.model, self.result)):
            for buffer in module.buffers():
                self.workers.share(buffer)

    def _save(self, row: dict[str, float]) -> None:
        goal = f"val_{self.task.goal}"
        better = row.get(goal, -math.inf) > self.best
        self.best = max(self.best, row.get(goal, -math.inf))
        if not self.workers.first:
            return
        meta = {**self.description, "config": dataclasses.asdict(self.config), "metrics": row}
        save_model(self.run_dir / "last.safetensors", self.result, meta)
        if better:
            save_model(self.run_dir / "best.safetensors", self.result, meta)
        save_state(self.run_dir / "resume.pt", self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "best": self.best,
            "seconds": self.seconds,
            "fixed": _fixed(self.config),
            **self.learner.state(),
            "description": json.dumps(self.description, sort_keys=True),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        missing = set(self._state()) - set(state)
        if missing:
            lacks = ", ".join(sorted(missing))
            raise ValueError(f"{self.run_dir / 'resume.pt'} is not the state of a run: it lacks {lacks}")
        before = json.loads(state["description"])
        changed = {
            key: (before.get(key), self.description.get(key))
            for key in ("model", "classes", "preprocess", "parts_of_category", "part_names")
            if before.get(key) != self.description.get(key)
        }
        fixed = _fixed(self.config)
        changed |= {k: (state["fixed"].get(k), v) for k, v in fixed.items() if state["fixed"].get(k) != v}
        if changed:
            key, (old, new) = next(iter(changed.items()))
            raise ValueError(f"cannot resume {self.run_dir}: its {key} was {old}, now it would be {new}")
        self.learner.restore(state)
        self.epoch, self.best, self.seconds = state["epoch"], state["best"], state["seconds"]


def _fixed(config: Config) -> dict[str, Any]:
    """Settings that a resumed run may not change, as its steps or its state would no longer fit."""
    return {
        "data.name": config.data.name,
        "data.train_split": config.data.train_split,
        "optim.name": config.optim.name,
        "optim.decay_all": config.optim.decay_all,
        "train.batch_size": config.train.batch_size,
        "train.accumulate": config.train.accumulate,
        "train.seed": config.train.seed,
        "train.ema": config.train.ema_decay > 0,
    }


def _choice(config: Config, parts: bool) -> partial[Tensor | None]:
    settings = config.augment
    draw = parts or config.data.order == "random"
    return partial(
        choose_points,
        num_points=config.data.num_points if draw or settings.thin else None,
        draw=draw,
        thin=settings.thin,
        dropout=settings.dropout,
        shuffle=settings.shuffle,
    )


def _augmentation(config: Config) -> partial[Tensor]:
    settings = config.augment
    return partial(
        augment,
        scale_low=settings.scale_low,
        scale_high=settings.scale_high,
        shift_reach=settings.shift,
        jitter_std=settings.jitter_std,
        jitter_clip=settings.jitter_clip,
        rotate_degrees=settings.rotate_degrees,
        mirror_probability=settings.mirror,
        normal_dropout=settings.normal_dropout,
    )
