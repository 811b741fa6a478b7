"""What a user may bring to a training: a model, a task and clouds with features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import bixt3d
from bixt3d.config import Config
from bixt3d.datasets.loader import Batch
from bixt3d.tasks import Task
from tests.training.tiny import make_config


def settings(run: Path, *overrides: str, **options: Any) -> Config:
    """Two epochs of a few steps; the data set of the settings is not there."""
    return make_config(f"run.dir={run}", "data.root=nowhere", "train.epochs=2", *overrides, **options)


class Pooled(nn.Module):
    """A model that knows nothing of bixt3d."""

    def __init__(self, outputs: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(channels, 16), nn.ReLU(), nn.Linear(16, 16))
        self.out = nn.Linear(16, outputs)

    def forward(self, points: Tensor) -> Tensor:
        logits: Tensor = self.out(self.map(points.abs()).amax(1))
        return logits


class SpreadTask(Task):
    """Regression, of no classes: how far points are from the plane y = 0."""

    name, goal = "spread", "close"

    def facts(self, split: bixt3d.Split) -> dict[str, Any]:
        return {"mean": float(split.points[..., 1].abs().mean()), "unit": "radius"}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        self.mean = facts["mean"]

    def model_args(self, split: bixt3d.Split) -> dict[str, Any]:
        return {"outputs": 1}

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return (self.mean + logits[:, 0] - batch.points[..., 1].abs().mean(1)).square().mean()

    def start(self, device: torch.device) -> Tensor:
        return torch.zeros(2, dtype=torch.float64, device=device)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        error = (self.mean + logits[:, 0] - batch.points[..., 1].abs().mean(1)).abs()
        return torch.stack([error.sum(), torch.ones_like(error).sum()]).double()

    def metrics(self, counts: Tensor) -> dict[str, float]:
        return {"close": 1.0 - float(counts[0] / counts[1])}

    def predict(self, model: nn.Module, points: Tensor, preprocess: Any, category: Any = None) -> float:
        return self.mean + float(model(*self.inputs(points, preprocess)))


def featured(count: int = 64, seed: int = 0, **changes: Any) -> bixt3d.Split:
    """Balls whose class is in their colour alone."""
    draw, label = np.random.default_rng(seed), np.arange(count) % 3
    color = 0.6 * np.eye(3)[label][:, None] + 0.4 * draw.random((count, 32, 3))
    clouds = [draw.normal(size=(count, 32, 3)), color, draw.random((count, 32, 1))]
    fields = {"classes": ["red", "green", "blue"], "features": ["color", "intensity"], **changes}
    return bixt3d.Split(np.concatenate(clouds, -1), label, **fields)
