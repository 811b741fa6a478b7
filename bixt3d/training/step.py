"""A step of training: gradients of its batches, then the optimisers and the moving average of the weights.

Nothing here looks at a number that the device computes, so a GPU never waits for the step that follows.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bixt3d.config import Config
from bixt3d.datasets.loader import Batch
from bixt3d.tasks import Task
from bixt3d.training.batchnorm import share_batchnorm
from bixt3d.training.device import Workers, autocast
from bixt3d.training.memory import OutOfMemory, describe, guarded, is_out_of_memory, largest_fit
from bixt3d.training.optim import build_optimizers

# Modes of torch.compile that record CUDA graphs on a GPU; elsewhere they only compile.
GRAPH_MODES = ("reduce-overhead", "max-autotune")


class MovingAverage(nn.Module):
    """Exponential moving average of a model's weights, and of BatchNorm's statistics beside them.

    What is counted in whole numbers, such as BatchNorm's batches, is the model's latest. ``module`` holds the
    average and starts as a copy of the model.
    """

    def __init__(self, model: nn.Module) -> None:
        """Copy the model."""
        super().__init__()
        self.module = copy.deepcopy(model)
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counted = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Keep the share ``decay`` of the average and take the rest from the model as it is now."""
        averages, values = zip(*self._averaged, strict=True)
        torch._foreach_lerp_(averages, values, 1.0 - decay)
        for latest, value in self._counted:
            latest.copy_(value)


class Learner:
    """A model in training, with what a step changes: weights, optimisers, moving average.

    Args:
        config: The settings.
        model: The model, on the device.
        task: How the model is called, and the loss.
        device: Where it is.
        workers: Processes that share every batch.
    """

    def __init__(
        self, config: Config, model: nn.Module, task: Task, device: torch.device, workers: Workers
    ) -> None:
        """Build optimisers and moving average; compile the forward pass if the settings say so."""
        settings = config.train
        self.config, self.model, self.task, self.device = config, model, task, device
        self.workers = workers
        if workers.world_size > 1 and settings.sync_batchnorm:
            share_batchnorm(model)
        self.optimizers = build_optimizers(model, config.optim)
        self.average = MovingAverage(model) if settings.ema_decay > 0 else None
        self.parameters = [value for value in model.parameters() if value.requires_grad]
        # Statistics of a batch that is left out must not stay: what they were after the step before.
        self.buffers = list(model.buffers())
        self.kept = [value.clone() for value in self.buffers]
        # A buffer may hold infinity on purpose, as masks of attention do; the others stay finite.
        self.infinite = {name for name, value in model.named_buffers() if not bool(value.isfinite().all())}
        self.statistics = [
            value
            for name, value in model.named_buffers()
            if value.is_floating_point() and name not in self.infinite
        ]
        self.loss = torch.zeros((), device=device)
        # Whether weights and optimisers belong together.
        self.between_steps = True
        # A CUDA graph overwrites its own memory each time, so sums over several times need another place.
        self.keep = settings.compile and settings.compile_mode in GRAPH_MODES and settings.accumulate > 1
        if self.keep:
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

    def take(self, batches: Iterator[Batch], rate: float, first: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step with the next batches; see `step`.

        Returns:
            The mean loss, the task's counts, and whether the step was left out, all on the device.

        Raises:
            OutOfMemory: Naming a batch that fits, if there is one.
        """
        loss, counts = torch.zeros((), device=self.device), self.task.start(self.device)
        for batch in itertools.islice(batches, self.config.train.accumulate):
            part, logits = guarded(self.learn, batch, self._what_fits)
            loss = loss + part / self.config.train.accumulate
            counts = counts + self.task.count(logits, batch)
        try:
            self.between_steps = False
            skipped = self.step(rate, first)
            self.between_steps = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"memory ran out in the optimiser, after {describe(batch)} ({error})") from None
        return loss, counts, skipped

    def finite(self) -> bool:
        """Whether weights, statistics and their average are; a GPU is waited for."""
        values = [
            value
            for module in (self.model, self.result)
            for name, value in (*module.named_parameters(), *module.named_buffers())
            if value.is_floating_point() and name not in self.infinite
        ]
        return bool(torch.stack([value.isfinite().all() for value in values]).all())

    def learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Add up the gradients of a batch; return its mean loss, a scalar, and its logits."""
        with autocast(self.device, self.config.train.amp):
            loss, logits = self.forward(batch)
        (loss / self.config.train.accumulate).backward()  # type: ignore[no-untyped-call]
        self.loss = self.loss + loss.detach()
        return loss.detach(), logits.detach()

    def step(self, rate: float, first: bool) -> Tensor:
        """Move the weights by their gradients, and the average after them.

        Where the loss or a gradient is not finite, in any process, nothing moves: neither weights nor what
        the optimisers remember, and batch norms go back to their statistics of before.

        Args:
            rate: Learning rate.
            first: Whether no step came before: the average then begins with these weights.

        Returns:
            1 where the step was left out, else 0: a float scalar on the device.
        """
        for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
            group["lr"] = rate
        skipped = self._not_finite()
        for optimizer in self.optimizers:
            optimizer.found_inf = skipped  # type: ignore[attr-defined]  # torch's own, of GradScaler
            optimizer.step()
        self.model.zero_grad(set_to_none=not self.keep)
        self._keep_buffers(skipped)
        if self.average is not None:
            self.average.update(0.0 if first else self.config.train.ema_decay)
        return skipped

    def _drop(self) -> None:
        """Forget what was learned since the last step."""
        self.model.zero_grad(set_to_none=not self.keep)
        self.loss = torch.zeros_like(self.loss)
        with torch.no_grad():
            for value, kept in zip(self.buffers, self.kept, strict=True):
                value.copy_(kept)

    def _what_fits(self, batch: Batch, failure: str) -> str:
        self._drop()
        said = f"a step with {describe(batch)} ran out of memory ({failure})"
        settings, processes = self.config.train, self.workers.world_size
        if processes > 1:  # the others wait elsewhere, so nothing can be tried
            half = processes * max(1, len(batch.label) // 2)
            return f"{said}: try train.batch_size={half} and twice the train.accumulate"

        def work(smaller: Batch) -> None:
            with autocast(self.device, self.config.train.amp):
                loss = self.task.loss(self.task.forward(self.model, smaller), smaller)
            loss.backward()  # type: ignore[no-untyped-call]

        size = largest_fit(work, batch)
        self._drop()
        if size == 0:
            return f"{said}, and so did smaller batches: lower data.num_points or the model's size"
        batches = settings.accumulate * len(batch.label) // size
        return (
            f"{said}; {size} clouds fit: train.batch_size={size} train.accumulate={batches} makes steps of "
            "as many clouds"
        )

    @torch.no_grad()
    def _not_finite(self) -> Tensor:
        """Clip the gradients; return 1 if they, the loss or new statistics are not finite, else 0."""
        gradients = [value.grad for value in self.parameters if value.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.config.optim.clip_norm > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.optim.clip_norm, norm)
        fine = norm.isfinite() & self.loss.isfinite()
        if self.statistics:
            fine &= torch.stack(torch._foreach_norm(self.statistics, float("inf"))).isfinite().all()
        bad = (~fine).float()
        self.loss = torch.zeros_like(self.loss)
        return self.workers.sum(bad).clamp_(max=1.0)

    @torch.no_grad()
    def _keep_buffers(self, skipped: Tensor) -> None:
        for value, kept in zip(self.buffers, self.kept, strict=True):
            kept.copy_(torch.where(skipped > 0, kept, value))
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.kept)

    def state(self) -> dict[str, Any]:
        """Return what `restore` goes on from."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of the same model, optimisers and average."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            # Version 0.1.0 also saved how many updates there were.
            average = {name: value for name, value in state["average"].items() if name != "n_averaged"}
            self.average.load_state_dict(average)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            wanted = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            # What may change on the way, such as weight decay, comes from the settings.
            for group, values in zip(optimizer.param_groups, wanted, strict=True):
                group.update(values)
        if self.buffers:
            torch._foreach_copy_(self.kept, self.buffers)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.task.forward(self.wrapped, batch)
        return self.task.loss(logits, batch), logits


def _tensors(model: nn.Module) -> list[Tensor]:
    return [value.detach() for value in (*model.parameters(), *model.buffers())]
