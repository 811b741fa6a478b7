"""Named bundles of settings: training recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def labels_parts(model_name: str) -> bool:
    """Whether the model of that name labels points with parts: its settings and its task are others."""
    return "partseg" in model_name


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The recipe for LayerNorm Transformers on small clouds: AdamW, warm-up, cosine, moving average.
    "bixt3d": {
        "optim": {
            "name": "adamw",
            "lr": 1e-3,
            "min_lr": 1e-6,
            "weight_decay": 0.05,
            "decay_all": False,
            "warmup_epochs": 10.0,
            "schedule": "cosine",
            "schedule_unit": "step",
            "clip_norm": 1.0,
            "label_smoothing": 0.2,
        },
        "train": {"epochs": 300, "batch_size": 32, "ema_decay": 0.999, "amp": True},
    },
    # PointMLP's released training scripts: this one for ModelNet40, the next for models of parts.
    "pointmlp": {
        "optim": {
            "name": "sgd",
            "lr": 0.1,
            "min_lr": 0.005,
            "momentum": 0.9,
            "weight_decay": 2e-4,
            "decay_all": True,
            "warmup_epochs": 0.0,
            "schedule": "cosine",
            "schedule_unit": "epoch",
            "clip_norm": 1.0,
            "label_smoothing": 0.2,
        },
        "train": {"epochs": 300, "batch_size": 32, "ema_decay": 0.0, "amp": False},
    },
}
# What stands in for a preset of the same name where the model labels parts.
PART_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "pointmlp": {
        "optim": {
            "name": "adam",
            "lr": 3e-3,
            "min_lr": 0.9e-5,
            "weight_decay": 0.0,
            "decay_all": True,
            "warmup_epochs": 0.0,
            "schedule": "step",
            "step_epochs": 40,
            "step_factor": 0.5,
            "schedule_unit": "epoch",
            "clip_norm": 0.0,
            "label_smoothing": 0.0,
        },
        "train": {"epochs": 350, "batch_size": 32, "ema_decay": 0.0, "amp": False},
    },
}
