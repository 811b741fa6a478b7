"""Optimiser, parameter groups and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from bixt3d.config import OptimConfig
from bixt3d.training.muon import Muon


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
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    spared: set[str] = set()
    if not config.decay_all:
        own = getattr(model, "no_weight_decay", None)
        spared = own() if callable(own) else {name for name, value in named if value.ndim < 2}
    optimizers: list[torch.optim.Optimizer] = []
    if config.name == "muon":
        ends = ("head.", "encoder.tokenizer.", "embedding.")
        hidden = [(n, v) for n, v in named if v.ndim == 2 and not n.startswith(ends)]
        taken = dict(hidden)
        named = [(n, v) for n, v in named if n not in taken]
        if hidden:
            matrices = [v for _, v in hidden]
            optimizers.append(Muon(matrices, lr=config.lr, weight_decay=config.weight_decay))
    groups = [
        {"params": [v for n, v in named if n not in spared], "weight_decay": config.weight_decay},
        {"params": [v for n, v in named if n in spared], "weight_decay": 0.0},
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
