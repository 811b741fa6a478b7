"""Learning rate, optimisers (AdamW, Muon, SGD, Adam), and the moving average of the weights."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bixt3d.config import Config, OptimConfig
from bixt3d.training.device import has_bfloat16

logger = logging.getLogger(__name__)

# Muon's Newton-Schulz iteration (K. Jordan, 2024): the coefficients push singular values fast to about 1.
NEWTON_SCHULZ_STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315
EPSILON = 1e-7
# Parameters whose sizes follow from the labels: the head, and the embedding of categories.
OUTPUTS = ("head.", "embedding.")


def learning_rate(step: int, config: OptimConfig, epochs: int, steps_per_epoch: int) -> float:
    """Return the learning rate of step ``step``: linear warm-up, then a half cosine or steps to ``min_lr``.

    It depends on nothing else, so a run that resumes needs no schedule's state.
    """
    if config.schedule_unit == "epoch":
        done, total = float(step // steps_per_epoch), float(epochs)
        warmup = config.warmup_epochs
    else:
        done, total = float(step), float(epochs * steps_per_epoch)
        warmup = config.warmup_epochs * steps_per_epoch
    if done < warmup:
        return config.lr * (done + 1) / (warmup + 1)
    if config.schedule == "step":
        falls = step // (steps_per_epoch * config.step_epochs)
        return max(config.min_lr, config.lr * config.step_factor**falls)
    share = min(1.0, (done - warmup) / max(1.0, total - warmup))
    return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1 + math.cos(math.pi * share))


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Build the optimisers; weight decay spares vectors and what the model names in ``no_weight_decay``.

    ``muon`` orthogonalises the updates of hidden matrices (K. Jordan, 2024), at AdamW's learning rate and
    update size; everything else, tokenizer, embedding and head included, goes to AdamW beside it.

    With ``body_lr_factor`` a group's ``lr_factor`` is what its learning rate is multiplied by.

    Raises:
        ValueError: For ``body_lr_factor`` where a model has no head.
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    factor = config.body_lr_factor
    spared: set[str] = set()
    if factor != 1.0 and not any(name.startswith(OUTPUTS) for name, _ in named):
        raise ValueError(
            "optim.body_lr_factor: expected a model with parameters under "
            f"{' or '.join(OUTPUTS)}, got {type(model).__name__} with none that are trained"
        )
    if not config.decay_all:
        own = getattr(model, "no_weight_decay", None)
        spared = own() if callable(own) else {name for name, value in named if value.ndim < 2}
    optimizers: list[torch.optim.Optimizer] = []
    if config.name == "muon":
        ends = (*OUTPUTS, "encoder.tokenizer.")
        hidden = [(n, v) for n, v in named if v.ndim == 2 and not n.startswith(ends)]
        taken = dict(hidden)
        named = [(n, v) for n, v in named if n not in taken]
        if hidden:
            matrices = [v for _, v in hidden]
            optimizers.append(Muon(matrices, lr=config.lr, weight_decay=config.weight_decay))
            optimizers[0].param_groups[0]["lr_factor"] = factor
    decays = {False: config.weight_decay, True: 0.0}
    parts = ((True, 1.0), (False, factor)) if factor != 1.0 else ((None, 1.0),)
    groups: list[dict[str, Any]] = [
        {
            "params": [
                value
                for name, value in named
                if (name in spared) == few and head in (None, name.startswith(OUTPUTS))
            ],
            "weight_decay": decay,
            "lr_factor": share,
        }
        for head, share in parts
        for few, decay in decays.items()
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        sgd = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
        if config.momentum:  # torch leaves them unset where the very first step is skipped
            for value in (value for group in sgd.param_groups for value in group["params"]):
                sgd.state[value]["momentum_buffer"] = torch.zeros_like(value)
        return [sgd]
    if config.name == "adam":
        return [torch.optim.Adam(groups, lr=config.lr, fused=True)]
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=config.lr, fused=True))
    return optimizers


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Push all singular values of each matrix (K, R, C) towards 1 by Newton-Schulz iteration.

    It computes in ``dtype`` and returns float32.
    """
    x = matrices.to(dtype)
    turned = x.shape[1] > x.shape[2]
    x = x.mT if turned else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(EPSILON)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT  # (K, R, R)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.mT if turned else x).float()


def _is_at_hand(value: Tensor) -> bool:
    """Whether a look at a value waits for nothing."""
    return value.device.type == "cpu"


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with Nesterov momentum and AdamW's update size (K. Jordan, 2024).

    Matrices of one shape are updated together, in bfloat16 where the device multiplies it fast: torch's own,
    of one matrix at a time, knows bfloat16 alone, which a processor without units for it emulates.
    """

    def __init__(self, params: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        """Take parameters, all matrices (R, C)."""
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.dtype = torch.bfloat16 if has_bfloat16(params[0].device) else torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; a closure is not evaluated.

        As torch's fused optimisers it leaves the step out where its attribute ``found_inf``, a scalar, is 1.
        """
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None and _is_at_hand(found_inf):
            if bool(found_inf):
                return
            found_inf = None
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            moved = [value for value in group["params"] if value.grad is not None]
            if not moved:
                continue
            gradients: list[Tensor] = [value.grad for value in moved]
            buffers = [self._buffer(value) for value in moved]
            if found_inf is not None:  # buffers that move towards themselves stay
                skip = found_inf > 0
                gradients = [torch.where(skip, *pair) for pair in zip(buffers, gradients, strict=True)]
            torch._foreach_lerp_(buffers, gradients, 1.0 - momentum)
            updates: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for value, ahead in zip(moved, torch._foreach_lerp(gradients, buffers, momentum), strict=True):
                updates.setdefault(tuple(value.shape), []).append((value, ahead))
            for shape, pairs in updates.items():
                values, aheads = zip(*pairs, strict=True)
                step = orthogonalize(torch.stack(aheads), self.dtype)  # (K, R, C)
                decay: Any = 1.0 - rate * group["weight_decay"]
                if found_inf is not None:
                    step, decay = step.masked_fill_(skip, 0.0), torch.where(skip, 1.0, decay)
                torch._foreach_mul_(values, decay)
                size = 0.2 * math.sqrt(max(shape)) * rate
                torch._foreach_add_(values, step.to(values[0].dtype).unbind(0), alpha=-size)

    def _buffer(self, value: Tensor) -> Tensor:
        state = self.state[value]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(value)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


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


def average_decay(most: float, step: int) -> float:
    """Return the share that a moving average keeps at a step, counted from 0: it warms up to ``most``.

    After few steps an average of ``most`` would still be the weights of the start.
    """
    return min(most, (1 + step) / (10 + step))


def log_schedule(config: Config, steps_per_epoch: int) -> None:
    """Log what the moving average spans, and warn where a training is too short for its settings."""
    decay, warmup = config.train.ema_decay, config.optim.warmup_epochs
    epochs = config.train.epochs
    steps = epochs * steps_per_epoch
    if decay > 0:
        span, last = (round(1 / (1 - value)) for value in (decay, average_decay(decay, steps - 1)))
        logger.info("moving average of the weights: over %s steps in the end", f"{last:,}")
        if steps < span:
            logger.warning(
                "train.ema_decay=%s averages over %s steps, and this training has %s: expected a smaller one",
                *(decay, f"{span:,}", f"{steps:,}"),
            )
    if warmup > epochs:
        rate = learning_rate(steps - 1, config.optim, epochs, steps_per_epoch)
        logger.warning(
            "optim.warmup_epochs=%g is longer than the training of %s epochs: the learning rate only reaches "
            "%.0f%% of optim.lr",
            *(warmup, epochs, 100 * rate / config.optim.lr),
        )


def _tensors(model: nn.Module) -> list[Tensor]:
    return [value.detach() for value in (*model.parameters(), *model.buffers())]
