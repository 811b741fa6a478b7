"""What an experiment can be told: one dataclass a section, with its defaults. `bixt3d.config` fills them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class DataConfig:
    """Which clouds, and how they are laid out before training."""

    name: str = "modelnet40"
    root: str = "data"
    num_points: int = 1024
    # "stored": the first num_points as stored (PointMLP's protocol); "fps": farthest-point order; "random":
    # others every epoch, a fixed draw for evaluation. Models of parts need "random", and label every point.
    order: str = "stored"
    # "train" holds out a fixed validation part; "trainval" trains on all of the official training set.
    train_split: str = "train"
    # Take normals where the data set has them.
    normals: bool = True


@dataclass
class AugmentConfig:
    """Random changes to training clouds; the defaults are PointMLP's (scale an axis, shift, shuffle)."""

    scale_low: float = 2.0 / 3.0
    scale_high: float = 1.5
    shift: float = 0.2
    jitter_std: float = 0.0
    jitter_clip: float = 0.05
    rotate_degrees: float = 0.0
    dropout: float = 0.0
    # Probability of a cloud to be mirrored along x, and along z.
    mirror: float = 0.0
    # Probability of a cloud to lose its normals.
    normal_dropout: float = 0.0
    shuffle: bool = True
    # Pass over up to this share of a cloud's stored points, others every time, before num_points are kept.
    thin: float = 0.0
    # Probability of a cloud to be mixed with another of its batch (PointCutMix-R); not for models of parts.
    mix: float = 0.0


@dataclass
class ModelConfig:
    """A model's name and its own arguments, as `bixt3d.create_model` takes them."""

    name: str = "bixt_ti_cls"
    args: dict[str, Any] = field(default_factory=dict)
    # An official ImageNet BiXT checkpoint whose trunk the model starts from.
    init_from: str | None = None


@dataclass
class OptimConfig:
    """Optimiser, schedule and loss."""

    name: str = "adamw"
    lr: float = 1e-3
    min_lr: float = 1e-6
    momentum: float = 0.9
    weight_decay: float = 0.05
    # Decay biases, norms and latents as well.
    decay_all: bool = False
    warmup_epochs: float = 10.0
    # "cosine" down to min_lr, or "step": multiplied by step_factor every step_epochs, down to min_lr.
    schedule: str = "cosine"
    step_epochs: int = 40
    step_factor: float = 0.5
    # Change the learning rate at every "step" or every "epoch".
    schedule_unit: str = "step"
    clip_norm: float = 1.0
    # Mass moved from the true class to the others together (PointMLP's and PointNeXt's definition).
    label_smoothing: float = 0.2


@dataclass
class TrainConfig:
    """The loop."""

    epochs: int = 300
    batch_size: int = 32
    # Batches whose gradients are added up before a step.
    accumulate: int = 1
    eval_batch_size: int = 64
    # Epochs between looks at the validation split; the last epoch is always looked at.
    eval_every: int = 1
    # 0 turns the moving average of the weights off.
    ema_decay: float = 0.999
    # bfloat16 autocast, where the device has units for it; float32 elsewhere.
    amp: bool = False
    # torch.compile of the model and its loss; the first step then takes minutes.
    compile: bool = False
    # torch.compile's own: "default", or "reduce-overhead" (on a GPU, steps are CUDA graphs), "max-autotune".
    compile_mode: str = "default"
    # Steps whose gradients are not finite are left out; after so many in a row (on a GPU, at most twice as
    # many) the run stops.
    max_skipped: int = 10
    # Over several processes, batch norms in training take the statistics of all, as a single process does.
    sync_batchnorm: bool = True
    seed: int = 42


@dataclass
class RunConfig:
    """Where results go."""

    # runs/<name of the config file> if empty.
    dir: str = ""
    tensorboard: bool = True


@dataclass
class Config:
    """One experiment."""

    preset: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: RunConfig = field(default_factory=RunConfig)
