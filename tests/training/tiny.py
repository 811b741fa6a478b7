"""A task learned in seconds: 64 clouds of 32 points in 4 classes, and models of a few thousand weights."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from bixt3d.config import Config, config_from
from bixt3d.datasets.split import Split
from bixt3d.tasks import Task
from bixt3d.training import Trainer
from bixt3d.training.experiment import build_model, describe
from bixt3d.training.splits import build_task

CLASSES = ("ball", "board", "needle", "ring")
NAIVE = {"dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4, "coord_scale": 6.0}
# With BatchNorm in its grouping stages.
HIERARCHY = {
    "dim": 12,
    "num_heads": 2,
    "num_latents": 4,
    "embed_dim": 8,
    "widths": [12, 16],
    "reductions": [2, 2],
    "neighbors": 6,
    "coord_scale": 6.0,
}
TIMES = ("seconds", "clouds_per_second")


def make_split(count: int = 64, num_points: int = 32, seed: int = 0) -> Split:
    """Clouds whose class is their proportions."""
    generator = Generator().manual_seed(seed)
    label = torch.arange(count) % len(CLASSES)
    points = torch.randn(count, num_points, 3, generator=generator)
    points = points / points.norm(dim=-1, keepdim=True)
    sizes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.1, 1.0], [0.1, 1.0, 0.1], [1.0, 1.0, 0.1]])
    return Split(points * sizes[label][:, None], label, CLASSES)


def make_config(*overrides: str, hierarchy: bool = False) -> Config:
    """Settings of a few steps an epoch, with every random thing switched on."""
    args: dict[str, Any] = {**(HIERARCHY if hierarchy else NAIVE), "drop_path": 0.2, "dropout": 0.1}
    stated = {
        "data": {"num_points": 32},
        "augment": {"jitter_std": 0.01, "rotate_degrees": 20.0, "dropout": 0.2},
        "model": {"name": "bixt_ti_cls_hierarchy" if hierarchy else "bixt_ti_cls", "args": args},
        "optim": {"lr": 3e-3, "warmup_epochs": 1.0},
        "train": {"epochs": 3, "batch_size": 16, "ema_decay": 0.8},
        "run": {"tensorboard": False},
    }
    return config_from(stated, overrides)


CALM = (
    "augment.scale_low=1.0",
    "augment.scale_high=1.0",
    "augment.shift=0.0",
    "augment.jitter_std=0.0",
    "augment.rotate_degrees=0.0",
    "augment.dropout=0.0",
    "augment.shuffle=false",
    "model.args.drop_path=0.0",
    "model.args.dropout=0.0",
)


def make_task(config: Config, split: Split | None = None) -> Task:
    """The task of the settings, which knows the labels."""
    task = build_task(config)
    task.set_facts(task.facts(split or make_split()))
    return task


def make_trainer(
    run_dir: Path,
    config: Config,
    *,
    resume: bool = False,
    train: Split | None = None,
    val: Split | None = None,
    has_val: bool = True,
    task: Task | None = None,
    model: nn.Module | None = None,
) -> Trainer:
    """A trainer as tools/train_cls.py makes it, on the clouds above."""
    train = train or make_split()
    if has_val and val is None:
        val = make_split(22, seed=1)
    description = describe(config, train, train.num_points)
    return Trainer(
        config,
        model or build_model(config, description),
        task or make_task(config, train),
        train,
        val,
        run_dir,
        description,
        resume,
        progress=False,
    )


def signal_at(trainer: Trainer, step: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal before the given step."""
    take = trainer.state.train_step

    def signalled(*arguments: Any, **options: Any) -> Any:
        if trainer.step == step:
            os.kill(os.getpid(), number)
        return take(*arguments, **options)

    trainer.state.train_step = signalled  # type: ignore[method-assign]


def rows_of(run_dir: Path, timed: bool = False) -> list[dict[str, float]]:
    """The rows of metrics.jsonl, without how long they took."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return rows if timed else [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and what is in it."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file."""
    from safetensors.torch import load_file

    return load_file(path)


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Both hold the same tensors, bit for bit."""
    assert set(first) == set(second)
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


def awaken(model: nn.Module) -> nn.Module:
    """Give the head, which starts at zero, weights, so that outputs depend on inputs."""
    generator = Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("head.linear"):
                value.copy_(torch.randn(value.shape, generator=generator))
    return model.eval()
