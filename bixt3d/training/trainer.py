"""The trainer: one loop for every task, on CPU and CUDA, in one process or several; and its `train_step`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bixt3d.config import Config
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.split import Split
from bixt3d.tasks import Description, Task
from bixt3d.training import resume as run_state
from bixt3d.training.device import autocast, keep_freed_memory, kept_random
from bixt3d.training.distributed import Workers, join_workers, share_batchnorm
from bixt3d.training.evaluate import Evaluation, evaluate
from bixt3d.training.guards import Diverged, FiniteGuard, OutOfMemory, Stopped, StopSignals, guard_memory
from bixt3d.training.log import RunLog
from bixt3d.training.optim import MovingAverage, average_decay, build_optimizers, learning_rate, log_schedule
from bixt3d.training.pretrained import freeze
from bixt3d.training.splits import fit_batches, training_loader
from bixt3d.training.totals import EpochTotals

# Modes of torch.compile that record CUDA graphs on a GPU; elsewhere they only compile.
GRAPH_MODES = ("reduce-overhead", "max-autotune")


class TrainState:
    """What a training step changes: a model's weights, the optimisers, and the moving average of the weights.

    Nothing in a step looks at a number that the device computes, so a GPU never waits for the step before.

    Args:
        config: The settings.
        model: The model, on the device.
        task: Its call, loss and counts.
        device: Where it is.
        workers: Processes that share every batch.
        steps_per_epoch: Steps of an epoch, for the learning rate's schedule.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        task: Task,
        device: torch.device,
        workers: Workers,
        steps_per_epoch: int = 1,
    ) -> None:
        """Build optimisers and moving average; compile the forward pass if the settings say so."""
        settings = config.train
        self.config, self.model, self.task, self.device = config, model, task, device
        self.workers, self.steps_per_epoch = workers, steps_per_epoch
        self.autocast = autocast(device, settings.amp)
        if workers.world_size > 1 and settings.sync_batchnorm:
            share_batchnorm(model)
        self.frozen = freeze(model, settings.freeze)
        self.optimizers = build_optimizers(model, config.optim)
        self.average = MovingAverage(model) if settings.ema_decay > 0 else None
        self.parameters = [value for value in model.parameters() if value.requires_grad]
        self.guard = FiniteGuard(model)
        # False while weights and optimisers may not belong together.
        self.between_steps = True
        # A CUDA graph overwrites its own memory each time, so gradients that add up need another place.
        self.keep_grads = (
            settings.compile and settings.compile_mode in GRAPH_MODES and settings.accumulate > 1
        )
        if self.keep_grads:
            for value in self.parameters:
                value.grad = torch.zeros_like(value)
        self.wrapped = DistributedDataParallel(model) if workers.world_size > 1 else model
        # The model itself is not replaced: it is evaluated, in batches of any size, and saved by its names.
        self.forward = self._forward
        if settings.compile:
            self.forward = torch.compile(self._forward, mode=settings.compile_mode, dynamic=False)

    @property
    def result(self) -> nn.Module:
        """The weights that are evaluated and saved: the moving average if there is one."""
        return self.average.module if self.average is not None else self.model

    def train_step(self, batches: Iterator[Batch], step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Take step number ``step``, counted from 0, with the next ``train.accumulate`` batches.

        Where the loss or a gradient is not finite, in any process, the step is skipped: neither weights nor
        optimisers move, and batch norms return to their statistics of before.

        Returns:
            This process's mean loss and its task's counts; 1.0 if the step was skipped, else 0.0: on the
            device.
        """
        settings, optim = self.config.train, self.config.optim
        self.between_steps = False
        rate = learning_rate(step, optim, settings.epochs, self.steps_per_epoch)
        # Dropout and stochastic depth follow from seed, step and rank: no random state to save.
        torch.manual_seed((settings.seed * 1_000_003 + step) * 4096 + self.workers.rank)

        loss, counts = torch.zeros((), device=self.device), self.task.start(self.device)
        for batch in itertools.islice(batches, settings.accumulate):
            with self.autocast:
                batch_loss, logits = self.forward(batch)
            (batch_loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
            loss = loss + batch_loss.detach() / settings.accumulate
            counts = counts + self.task.count(logits.detach(), batch)

        norm = nn.utils.get_total_norm([value.grad for value in self.parameters if value.grad is not None])
        if optim.clip_norm > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, optim.clip_norm, norm)
        skipped = self.workers.all_reduce(self.guard.is_bad(loss, norm)).clamp_(max=1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_factor", 1.0)
            optimizer.found_inf = skipped  # type: ignore[attr-defined]  # torch's own, of GradScaler
            optimizer.step()
        self.model.zero_grad(set_to_none=not self.keep_grads)
        self.guard.restore_buffers(skipped)
        if self.average is not None:
            self.average.update(average_decay(settings.ema_decay, step))
        self.between_steps = True
        return loss, counts, skipped

    def train_mode(self) -> None:
        """Put the model in training mode, all but what is frozen."""
        self.model.train()
        for module in self.frozen:
            module.training = False

    def is_finite(self) -> bool:
        """Return whether weights, statistics and average are finite; a GPU is waited for."""
        return self.guard.is_finite(self.model, self.result)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.task.forward(self.wrapped, batch)
        return self.task.loss(logits, batch), logits


class Trainer:
    """Train a model on a split and keep its checkpoints.

    The run's folder receives ``config.yaml``, ``environment.json``, ``metrics.jsonl``, the weights of the
    last epoch (``last.safetensors``), of the best by validation (``best.safetensors``; of epochs with
    one score that of the least loss) and of every ``train.keep_every``-th (``epoch_0010.safetensors``), and
    ``resume.pt``, from which `fit` continues, or ``diverged.pt`` where it could not. With a moving average of
    the weights, it is what is evaluated and saved.

    Args:
        config: The settings; a batch larger than the split is made smaller, with a note.
        model: The model.
        task: Loss and metrics.
        train: Training split, on the device.
        val: Validation split, on the device; None if nothing is to be chosen.
        run_dir: The run's folder.
        description: What a checkpoint says of itself besides weights: model, classes, preprocessing.
        resume: Continue from the folder's last state.
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
        """Build loader, optimisers and log; read the state when resuming."""
        self.device, self.task, self.val = train.points.device, task, val
        self.workers: Workers = join_workers(self.device)
        self.config = config = fit_batches(config, len(train) * task.draws, self.workers.world_size)
        if task.config is None:
            task.configure(config)
        task.look_at_training(train)
        if config.train.patience and val is None:
            raise ValueError("train.patience: expected a validation split to watch: data.train_split=train")
        if self.device.type == "cpu":
            keep_freed_memory()
        self.loader = training_loader(config, task, train, self.workers)
        self.steps_per_epoch = len(self.loader) // config.train.accumulate
        self.model = model.to(self.device)
        self.state = TrainState(config, self.model, task, self.device, self.workers, self.steps_per_epoch)
        self.epoch, self.best, self.best_loss, self.best_epoch, self.seconds = 0, -math.inf, math.inf, 0, 0.0
        self.totals = EpochTotals(task.start(self.device))
        self.description, self.run_dir = description, Path(run_dir).expanduser()
        self.keep_previous = True  # the state before the last, when one is saved
        run_state.check_folder(self.run_dir, resume, self.workers)
        unwritten = run_state.restore(self) if resume else ""
        about = (self.run_dir, config, self.device, self.epoch, resume, unwritten)
        self.log = RunLog(*about, self.workers.first, progress, task.shown, self.is_over)

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.epoch * self.steps_per_epoch + self.totals.steps

    @property
    def result(self) -> nn.Module:
        """The weights that are evaluated and saved; see `TrainState.result`."""
        return self.state.result

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or the score, looked at now, has not risen in ``train.patience``."""
        settings, since = self.config.train, self.epoch - self.best_epoch
        stale = 0 < settings.patience <= since and self.epoch % settings.eval_every == 0
        return stale or self.epoch >= settings.epochs

    def fit(self) -> None:
        """Train to the last epoch, or until `is_over`, evaluating, logging and saving after each.

        SIGINT (Ctrl-C) and SIGTERM end it after the current step, with everything saved.

        Raises:
            Stopped: At such a signal, in all processes.
            Diverged: If ``train.max_skipped`` steps in a row, or all of an epoch, are skipped, or val loss
                is not finite. The present weights go to ``diverged.pt``; the last state stays.
            OutOfMemory: Naming the settings to lower.
            RuntimeError: If an update breaks the weights; the last state is from before.
            OSError: If a checkpoint cannot be saved; the previous one is whole.
        """
        epochs = self.config.train.epochs
        if self.workers.first:
            log_schedule(self.config, self.steps_per_epoch)
            if self.step == 0:
                run_state.save(self)  # so that --resume works from here on
        self.log.start(self.step, epochs * self.steps_per_epoch)
        with kept_random(), StopSignals(self.workers.world_size > 1) as signals:
            try:
                while not self.is_over:
                    self._train_epoch(signals)
                self._stop_if_asked(signals)
                if self.epoch < epochs and self.workers.first:
                    print(f"no better {self.task.goal} since epoch {self.best_epoch}: train.patience is over")
            except (Stopped, Diverged, OutOfMemory) as error:
                run_state.save_at_stop(self, error)
                raise
            finally:
                self.log.close()
        self.workers.barrier()  # no process reads the checkpoints before they are written

    def evaluate(self, split: Split) -> Evaluation:
        """Evaluate the weights that would be saved now on a split."""
        size, amp = self.config.train.eval_batch_size, self.config.train.amp
        return evaluate(self.result, split, self.task, size, amp, self.workers, None, self.log.validating)

    def _train_epoch(self, signals: StopSignals) -> None:
        """Take the steps that are left of an epoch, evaluate, log and save."""
        settings, totals = self.config.train, self.totals
        with guard_memory(
            f"a training step with {self.loader.batch_size} clouds of {self.config.data.num_points:,} points",
            "lower train.batch_size (and raise train.accumulate as much), data.num_points, or model.args",
        ):
            self._train_steps(signals)
        start = time.perf_counter()
        row = {"epoch": self.epoch + 1, "step": self.step, **self._train_metrics()}
        for module in dict.fromkeys((self.model, self.result)):  # all processes evaluate what will be saved
            for buffer in module.buffers():
                self.workers.broadcast(buffer)
        self._stop_if_asked(signals)
        last = self.epoch + 1 == settings.epochs
        if self.val is not None and (last or (self.epoch + 1) % settings.eval_every == 0):
            # One of several processes must not leave the others waiting.
            with signals.at_once(self.workers.world_size == 1):
                seen = self.evaluate(self.val)
            if not math.isfinite(seen.loss):
                raise Diverged(f"the validation loss of epoch {self.epoch + 1} is {seen.loss}")
            row |= {"val_loss": seen.loss} | {f"val_{name}": value for name, value in seen.metrics.items()}
        evaluated = time.perf_counter() - start
        self.seconds += evaluated
        clouds = self.steps_per_epoch * settings.accumulate * settings.batch_size
        row["seconds"] = round(totals.seconds + evaluated, 2)
        row["clouds_per_second"] = round(clouds / totals.seconds, 1)
        self.epoch += 1
        self.totals = EpochTotals(self.task.start(self.device), totals.in_a_row)
        self.log.row(row, settings.epochs)  # first: one of an epoch that was not saved is dropped later
        run_state.save_epoch(self, row)

    def _train_steps(self, signals: StopSignals) -> None:
        """Take the steps that are left of an epoch; wait for a GPU once in ``max_skipped`` of them."""
        totals, most = self.totals, self.config.train.max_skipped
        self.state.train_mode()
        taken = totals.steps * self.config.train.accumulate
        batches = itertools.islice(self.loader.epoch(self.epoch), taken, None)
        start = time.perf_counter()
        try:
            while totals.steps < self.steps_per_epoch:
                self._stop_if_asked(signals)
                loss, counts, skipped = self.state.train_step(batches, self.step)
                bad = skipped > 0
                totals.steps += 1
                totals.loss += (loss / self.workers.world_size).to(totals.loss).masked_fill(bad, 0.0)
                totals.counts += counts.masked_fill(bad, 0)
                totals.skipped += skipped
                totals.in_a_row = (totals.in_a_row + skipped) * skipped
                self.log.tick(loss)
                look = self.device.type == "cpu" or self.step % most == 0
                if look and totals.in_a_row >= most:
                    raise Diverged(
                        f"{int(totals.in_a_row)} steps in a row had a loss or gradients of NaN or infinity "
                        "and were skipped"
                    )
        except (Stopped, Diverged):  # in all processes at the same step
            totals.all_reduce(self.workers)
            raise
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            took = time.perf_counter() - start
            totals.seconds += took
            self.seconds += took

    def _train_metrics(self) -> dict[str, float]:
        """Return what the log says of the steps of an epoch; raise if they broke the weights."""
        loss, counts = self.totals.all_reduce(self.workers)
        if not self.state.is_finite():
            raise RuntimeError(
                f"the weights hold NaN or infinity after epoch {self.epoch + 1}: training was stopped and "
                "nothing of this epoch was saved; try a smaller optim.lr, or train.amp=false"
            )
        skipped = int(self.totals.skipped)
        if skipped == self.steps_per_epoch:
            raise Diverged(f"no step of epoch {self.epoch + 1} had a loss and gradients that are finite")
        optim, steps = self.config.optim, self.steps_per_epoch
        return {
            "lr": learning_rate(self.step - 1, optim, self.config.train.epochs, steps),
            "skipped": skipped,
            "train_loss": float(loss) / (self.steps_per_epoch - skipped),
            **{f"train_{name}": value for name, value in self.task.metrics(counts).items()},
        }

    def _stop_if_asked(self, signals: StopSignals) -> None:
        """Stop all processes if one has received a signal."""
        if number := self.workers.max(signals.received):
            raise Stopped(number, "stopped")
