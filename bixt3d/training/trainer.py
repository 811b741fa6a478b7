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
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bixt3d.config import Config
from bixt3d.datasets.augment import augment
from bixt3d.datasets.loader import Batch, CloudLoader
from bixt3d.datasets.split import Split
from bixt3d.training.checkpoint import load_state, save_model, save_state
from bixt3d.training.device import Workers, join_workers, keep_freed_memory
from bixt3d.training.evaluate import Evaluation, evaluate
from bixt3d.training.log import RunLog
from bixt3d.training.optim import build_optimizers, learning_rate
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
        """Build optimiser, loader and moving average; read the state when resuming."""
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
        self.optimizers = build_optimizers(self.model, config.optim)
        self.average: AveragedModel | None = None
        if settings.ema_decay > 0:
            average = get_ema_multi_avg_fn(settings.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.model, multi_avg_fn=average)
        self.step = 0
        self.epoch = 0
        self.best = -math.inf
        self.description = description
        self.run_dir = Path(run_dir)
        self.log = RunLog(self.run_dir, config, resume, self.workers.first, progress)
        if resume:
            self._restore(load_state(self.run_dir / "resume.pt"))
        wrapped: nn.Module = self.model
        if self.workers.world_size > 1:
            wrapped = DistributedDataParallel(self.model)
        self.forward: nn.Module = torch.compile(wrapped) if settings.compile else wrapped  # type: ignore[assignment]

    @property
    def result(self) -> nn.Module:
        """The weights that are evaluated and saved: the moving average if there is one."""
        return self.average.module if self.average is not None else self.model

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
            last = self.epoch == settings.epochs
            if self.val is not None and (last or self.epoch % settings.eval_every == 0):
                seen = self.evaluate(self.val)
                row |= {"val_loss": seen.loss} | {f"val_{k}": v for k, v in seen.metrics.items()}
            row |= {
                "seconds": round(time.perf_counter() - begun, 2),
                "clouds_per_second": round(self._clouds_per_epoch() / (trained - begun), 1),
            }
            self._save(row)
            self.log.row(row, settings.epochs)
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
            rate = learning_rate(self.step, self.config.optim, settings.epochs, self.steps_per_epoch)
            for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
                group["lr"] = rate
            for _ in range(settings.accumulate):
                batch = next(batches)
                loss, logits = self._backward(batch)
                total += loss.double()
                counts += self.task.count(logits, batch)
            if self.config.optim.clip_norm > 0:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
            for optimizer in self.optimizers:
                optimizer.step()
            self.model.zero_grad(set_to_none=True)
            if self.average is not None:
                self.average.update_parameters(self.model)
            self.step += 1
            self.log.tick()
        total = self.workers.sum(total) / self.workers.world_size
        loss_mean = float(total) / (self.steps_per_epoch * settings.accumulate)
        if not math.isfinite(loss_mean):
            raise RuntimeError(
                f"the loss of epoch {self.epoch + 1} is {loss_mean}: training was stopped and nothing of "
                "this epoch was saved; try a smaller optim.lr, a smaller optim.clip_norm, or train.amp=false"
            )
        scores = self.task.metrics(self.workers.sum(counts))
        return {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": rate,
            "train_loss": loss_mean,
            **{f"train_{name}": value for name, value in scores.items()},
        }

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.amp):
            logits = self.task.forward(self.forward, batch)
        loss = self.task.loss(logits, batch)
        (loss / self.config.train.accumulate).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), logits.detach()

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
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "description": json.dumps(self.description, sort_keys=True),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        before = json.loads(state["description"])
        for key in ("model", "classes", "preprocess"):
            if before.get(key) != self.description.get(key):
                raise ValueError(
                    f"cannot resume {self.run_dir}: its {key} was {before.get(key)}, the settings now give "
                    f"{self.description.get(key)}"
                )
        if (state["average"] is None) != (self.average is None):
            raise ValueError(f"cannot resume {self.run_dir}: train.ema_decay was switched on or off since")
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if len(state["optimizers"]) != len(self.optimizers):
            raise ValueError(f"cannot resume {self.run_dir}: optim.name was changed since")
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.log.rewind(self.epoch)


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
        dropout=settings.dropout,
        shuffle=settings.shuffle,
    )
