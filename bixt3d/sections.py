"""The sections of the settings: a frozen dataclass each, with its choices, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

from bixt3d.settings import Section, settings

MOST_POINTS = 10_000_000  # of a cloud
Order = Literal["stored", "fps", "random"]


@settings
@dataclass(frozen=True)
class DataConfig(Section):
    """Which clouds, and how they are laid out before training."""

    section: ClassVar[str] = "data"
    # A data set of `bixt3d.open_dataset`, registered ones included.
    name: str = "modelnet40"
    root: str = "data"
    num_points: int = 1024
    # "stored": the first num_points as stored (PointMLP's protocol); "fps": farthest-point order; "random":
    # others every epoch, a fixed draw for evaluation. Part segmentation needs "random", and labels all
    # points.
    order: Order = "stored"
    # "train" holds out a fixed validation part; "trainval" trains on all of the official training set.
    train_split: Literal["train", "trainval"] = "train"
    # Draw as many clouds of each class (or category) in an epoch, rare ones several times.
    balanced: bool = False
    # "1/5": the first of five parts of train and val together, alike in every class, is the val split.
    fold: str | None = None
    # Another seed holds out others, also where a data set has a val split of its own.
    val_seed: int = 0
    # Features of a point beside xyz, by name and in this order; null: the normals, where the data set has
    # them. [] is xyz alone.
    features: tuple[str, ...] | None = None
    # What features are divided by, by name, such as {intensity: 4095}: numbers of about 1 learn best.
    divide: dict[str, float] = field(default_factory=dict)
    # The files' axis that points up; clouds are turned so that y does, as in ModelNet40. null: as they are.
    up: Literal["x", "y", "z", "-x", "-y", "-z"] | None = None
    # Estimate normals from neighbouring points where the files have none.
    estimate_normals: bool = False
    # "max": clouds are centred on their mean and scaled by their farthest point. "robust": stray points are
    # found first, by the distances to their neighbours; they give neither centre nor scale, and models of
    # whole clouds do not see them.
    normalization: Literal["max", "robust"] = "max"

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        self.expect("more than 0", lambda value: value > 0, "num_points")
        self.expect(f"up to {MOST_POINTS:,}", lambda value: value <= MOST_POINTS, "num_points")
        self.expect("a name", bool, "name")
        self.expect("0 to 2**32 - 1", lambda value: 0 <= value < 1 << 32, "val_seed")
        self.expect(
            "such as 1/5, from 1/N to N/N", lambda value: value is None or bool(fold_of(value)), "fold"
        )
        self.expect("more than 0 a feature", lambda of: all(0 < by < inf for by in of.values()), "divide")
        if self.fold is not None and self.train_split == "trainval":
            raise ValueError("data.fold: expected data.train_split=train, got trainval, which holds none out")


@settings
@dataclass(frozen=True)
class AugmentConfig(Section):
    """Random changes to training clouds; the defaults are PointMLP's (scale an axis, shift, shuffle)."""

    section: ClassVar[str] = "augment"
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
    # The same for other features, by name.
    feature_dropout: dict[str, float] = field(default_factory=dict)
    # Deviation of normal noise on features, by name; normals have none.
    feature_jitter: dict[str, float] = field(default_factory=dict)
    shuffle: bool = True
    # Pass over up to this share of a cloud's stored points, others every time, before num_points are kept.
    thin: float = 0.0
    # Probability of a cloud to be mixed with another of its batch (PointCutMix-R); for classification.
    mix: float = 0.0
    # Turn a cloud by quarters about y, or to any of the 24 positions whose axes are parallel to these.
    turn: Literal["none", "quarter", "axes"] = "none"
    # Probability of a cloud to be turned, by rotate_degrees and turn.
    turned: float = 1.0
    # Probability of a cloud to be laid on another side, where the answer is to be unsure; for classification.
    lying: float = 0.0
    # Move clouds into the unit sphere again after they are turned and scaled.
    refit: bool = False
    # Probability of a cloud to suffer each kind of damage; how much of it is drawn, up to:
    damage: float = 0.5
    tilt: float = 0.0  # degrees about each of x, y and z
    bend: float = 0.0  # share by which lengths change where a few long waves bend the cloud
    noise: float = 0.0  # deviation of noise on xyz, one a cloud
    missing: float = 0.0  # share of the stored points that are lost anywhere
    holes: float = 0.0  # share of them that are lost in a few places
    strays: float = 0.0  # share of the points that lie anywhere in the cloud's ball
    clusters: float = 0.0  # share of them that lie in clusters about a few others

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        self.expect("more than 0", lambda value: 0 < value < inf, "scale_low")
        shares = ("dropout", "mirror", "normal_dropout", "thin", "missing", "holes", "strays", "clusters")
        # of clouds that all lie nothing is learned, and none is left to count
        self.expect("0 <= value < 1", lambda value: 0 <= value < 1, *shares, "bend", "lying")
        self.expect("0 <= value <= 1", lambda value: 0 <= value <= 1, "mix", "turned", "damage")
        if self.turn == "axes":  # the same clouds would have their class, and none
            self.expect("0 with augment.turn=axes, where any side is up", lambda value: value == 0, "lying")
        self.expect("at least scale_low", lambda value: self.scale_low <= value < inf, "scale_high")
        zero_or_more = ("shift", "jitter_std", "jitter_clip", "rotate_degrees", "tilt", "noise")
        self.expect("0 or more", lambda value: 0 <= value < inf, *zero_or_more)
        self.expect(
            "0 <= value < 1 a feature", lambda of: all(0 <= p < 1 for p in of.values()), "feature_dropout"
        )
        self.expect(
            "0 or more a feature", lambda of: all(0 <= p < inf for p in of.values()), "feature_jitter"
        )


@settings
@dataclass(frozen=True)
class ModelConfig(Section):
    """A model's name and its own arguments, as `bixt3d.create_model` takes them."""

    section: ClassVar[str] = "model"
    name: str = "bixt_ti_cls"
    args: dict[str, Any] = field(default_factory=dict)
    # Weights that the model starts from: a checkpoint, a run's folder or a name of `bixt3d.list_weights` (all
    # but a head of other classes), or an official ImageNet BiXT checkpoint (the trunk).
    init_from: str | None = None


@settings
@dataclass(frozen=True)
class OptimConfig(Section):
    """Optimiser, schedule and loss."""

    section: ClassVar[str] = "optim"
    name: Literal["adamw", "muon", "sgd", "adam"] = "adamw"
    lr: float = 1e-3
    # The learning rate of all but the head (and the embedding of categories) is multiplied by it.
    body_lr_factor: float = 1.0
    min_lr: float = 1e-6
    momentum: float = 0.9
    weight_decay: float = 0.05
    # Decay biases, norms and latents as well.
    decay_all: bool = False
    warmup_epochs: float = 10.0
    # "cosine" down to min_lr, or "step": multiplied by step_factor every step_epochs, down to min_lr.
    schedule: Literal["cosine", "step"] = "cosine"
    step_epochs: int = 40
    step_factor: float = 0.5
    # Change the learning rate at every "step" or every "epoch".
    schedule_unit: Literal["step", "epoch"] = "step"
    clip_norm: float = 1.0
    # Mass moved from the true class to the others together (PointMLP's and PointNeXt's definition).
    label_smoothing: float = 0.2

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        more = ("lr", "body_lr_factor", "step_epochs", "step_factor")
        self.expect("more than 0", lambda value: 0 < value < inf, *more)
        self.expect("0 <= value < 1", lambda value: 0 <= value < 1, "label_smoothing", "momentum")
        self.expect(f"at most optim.lr={self.lr}", lambda value: value <= self.lr, "min_lr")
        zero_or_more = ("weight_decay", "warmup_epochs", "clip_norm", "min_lr")
        self.expect("0 or more", lambda value: 0 <= value < inf, *zero_or_more)


@settings
@dataclass(frozen=True)
class LossConfig(Section):
    """Which labels count in the loss, and how much."""

    section: ClassVar[str] = "loss"
    # "none": all alike; "balanced": rare classes (or parts, by their points) weigh as much in all as frequent
    # ones; or a list of numbers, one a class or part. They are scaled to a mean of 1.
    class_weights: Any = "none"
    # Labels that do not count in losses and scores, beside -1, which never does: classes, or parts.
    ignore: tuple[int, ...] = ()

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""

        def is_weight(value: Any) -> bool:
            return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < inf

        def fits(stated: Any) -> bool:
            listed = isinstance(stated, list) and bool(stated) and all(map(is_weight, stated))
            return listed or stated in ("none", "balanced")

        self.expect("none, balanced, or a list of numbers from 0 up", fits, "class_weights")


@settings
@dataclass(frozen=True)
class TrainConfig(Section):
    """The loop."""

    section: ClassVar[str] = "train"
    epochs: int = 300
    batch_size: int = 32
    # Batches whose gradients are added up before a step.
    accumulate: int = 1
    eval_batch_size: int = 64
    # Epochs between evaluations of the validation split; the last epoch is always evaluated.
    eval_every: int = 1
    # Of the moving average of the weights, at most (1 + step) / (10 + step); 0 turns it off.
    ema_decay: float = 0.999
    # bfloat16 autocast, where the device has units for it; float32 elsewhere.
    amp: bool = False
    # torch.compile of the model and its loss; the first step then takes minutes.
    compile: bool = False
    # torch.compile's own: "default", or "reduce-overhead" (on a GPU, steps are CUDA graphs), "max-autotune".
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    # Steps whose gradients are not finite are left out; after so many in a row (on a GPU, at most twice as
    # many) the run stops.
    max_skipped: int = 10
    # Over several processes, batch norms in training take the statistics of all, as a single process does.
    sync_batchnorm: bool = True
    # Parts of the model that stay as they are, by the names of modules: [encoder] trains the head alone.
    freeze: tuple[str, ...] = ()
    # Stop when the validation score has not risen for so many epochs; 0: never.
    patience: int = 0
    # Keep the weights of every so many epochs, as epoch_0010.safetensors and so on; 0: of none.
    keep_every: int = 0
    seed: int = 42

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        sizes = ("epochs", "batch_size", "accumulate", "eval_batch_size", "eval_every", "max_skipped")
        self.expect("more than 0", lambda value: value > 0, *sizes)
        self.expect("0 to 2**63 - 1", lambda value: 0 <= value < 1 << 63, "seed")
        self.expect("0 or more", lambda value: value >= 0, "patience", "keep_every")
        self.expect("0 <= value < 1", lambda value: 0 <= value < 1, "ema_decay")


@settings
@dataclass(frozen=True)
class RunConfig(Section):
    """Where results go."""

    section: ClassVar[str] = "run"
    # `load_config` puts runs/<name of the file> where a file names none.
    dir: str = "runs/unnamed"
    # Where curves go beside metrics.jsonl: of tensorboard, wandb and trackio; null: as `tensorboard` says.
    logger: tuple[str, ...] | None = None
    # The older spelling: true is [tensorboard], where it is installed, and false is [].
    tensorboard: bool = True

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        self.expect("a folder", lambda value: bool(value.strip()), "dir")
        known = ("tensorboard", "wandb", "trackio")
        self.expect(
            f"names of {', '.join(known)}, each once",
            lambda names: names is None or (set(names) <= set(known) and len(set(names)) == len(names)),
            "logger",
        )


@settings
@dataclass(frozen=True)
class Config(Section):
    """One experiment."""

    # A task of `bixt3d.tasks`, registered ones included; "": the one that the model is built for.
    task: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: RunConfig = field(default_factory=RunConfig)
    # The task's own arguments, such as the radius of a scene's columns.
    task_args: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ValueError for settings that do not fit together."""
        order, augment = self.data.order, self.augment
        if self.model.args.get("sampling") == "prefix" and (order != "fps" or augment.shuffle):
            raise ValueError(
                "model.args.sampling=prefix takes the first points for the farthest-point sample: it needs "
                f"data.order=fps and augment.shuffle=false, got {order} and {augment.shuffle}"
            )
        if augment.thin and order == "random":
            raise ValueError("augment.thin: data.order=random draws other points every epoch already")


def fold_of(stated: str) -> tuple[int, int] | None:
    """Return the number of a fold, from 1, and how many there are, from "1/5"; None for other text."""
    number, _, folds = stated.partition("/")
    if not (number.isdecimal() and folds.isdecimal() and 2 <= int(folds) and 1 <= int(number) <= int(folds)):
        return None
    return int(number), int(folds)
