"""The settings of an experiment: a frozen dataclass a section, filled from YAML, overrides or Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Literal

from bixt3d.settings import Section, build, check_layer, check_names, convert, merge, settings
from bixt3d.shipped import find_config, list_configs

MOST_BYTES = 1_000_000  # of a file of settings
MOST_POINTS = 10_000_000  # of a cloud
Order = Literal["stored", "fps", "random"]

__all__ = ["Config", "list_configs", "load_config"]


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
    # Features of a point beside xyz, by name and in this order; null: the normals, where the data set has
    # them. [] is xyz alone.
    features: tuple[str, ...] | None = None
    # The files' axis that points up; clouds are turned so that y does, as in ModelNet40. null: as they are.
    up: Literal["x", "y", "z", "-x", "-y", "-z"] | None = None
    # Estimate normals from neighbouring points where the files have none.
    estimate_normals: bool = False

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        self.expect("more than 0", lambda value: value > 0, "num_points")
        self.expect(f"up to {MOST_POINTS:,}", lambda value: value <= MOST_POINTS, "num_points")
        self.expect("a name", bool, "name")


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

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        self.expect("more than 0", lambda value: 0 < value < inf, "scale_low")
        self.expect(
            "0 <= value < 1", lambda value: 0 <= value < 1, "dropout", "mirror", "normal_dropout", "thin"
        )
        self.expect("0 <= value <= 1", lambda value: 0 <= value <= 1, "mix")
        self.expect("at least scale_low", lambda value: self.scale_low <= value < inf, "scale_high")
        zero_or_more = ("shift", "jitter_std", "jitter_clip", "rotate_degrees")
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
    seed: int = 42

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        sizes = ("epochs", "batch_size", "accumulate", "eval_batch_size", "eval_every", "max_skipped")
        self.expect("more than 0", lambda value: value > 0, *sizes)
        self.expect("0 to 2**63 - 1", lambda value: 0 <= value < 1 << 63, "seed")
        self.expect("0 <= value < 1", lambda value: 0 <= value < 1, "ema_decay")


@settings
@dataclass(frozen=True)
class RunConfig(Section):
    """Where results go."""

    section: ClassVar[str] = "run"
    # `load_config` puts runs/<name of the file> where a file names none.
    dir: str = "runs/unnamed"
    tensorboard: bool = True

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        self.expect("a folder", lambda value: bool(value.strip()), "dir")


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
    train: TrainConfig = field(default_factory=TrainConfig)
    run: RunConfig = field(default_factory=RunConfig)

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


def load_config(path: str | Path | Config, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment's settings.

    A file from anywhere may be read: it executes nothing and reaches no variable of the environment. Look at
    ``data.root`` and ``model.init_from``, which a training reads, and ``run.dir``, where it writes.

    Args:
        path: A YAML file, a name of `list_configs`, or settings that the overrides change.
        overrides: Settings such as ``"optim.lr=1e-3"``, which go before the file's.

    Returns:
        The settings, every key known and of the right type; ``run.dir`` is ``runs/<name of the file>`` where
        nothing else is said.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For an unknown key (naming the nearest), a wrong type, or a value out of range.
    """
    if isinstance(path, Config):
        return config_from(to_dict(path), overrides)
    path = find_config(path)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: expected settings, {MOST_BYTES:,} bytes at most, got a larger file")
    from bixt3d.yaml import parse_yaml

    try:
        stated = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    return _combine({} if stated is None else stated, overrides, str(path), f"runs/{path.stem}")


def config_from(stated: Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Check settings that come as a dictionary, such as a checkpoint's, and apply overrides.

    Raises:
        ValueError: As `load_config`.
    """
    if isinstance(stated, Config):
        stated = to_dict(stated)
    elif isinstance(stated, Mapping):
        run = stated.get("run")
        if isinstance(run, Mapping) and run.get("dir") == "":  # as shipped weights have it
            stated = {**stated, "run": {name: value for name, value in run.items() if name != "dir"}}
    return _combine(stated, overrides, "config")


def check_config(config: Config) -> Config:
    """Return the settings, checked anew from the values that they have now.

    Raises:
        ValueError: For a setting of another type, out of its choices or range.
    """
    checked: Config = build(Config, config, "")
    return checked


def override(config: Config, **sections: Any) -> Config:
    """Return the settings with others in some sections: ``override(config, train={"epochs": 3})``.

    Raises:
        ValueError: For an unknown section or name, a wrong type, or a value out of range.
    """
    check_names(Config, sections, "")
    changed = {}
    for name, values in sections.items():
        section = getattr(config, name)
        if isinstance(section, Section) and isinstance(values, Mapping):
            values = build(type(section), {**vars(section), **values}, name)
        changed[name] = values
    return replace(config, **changed)


def to_dict(config: Config) -> dict[str, Any]:
    """Return the settings as dictionaries of JSON's and YAML's own kinds."""
    sections = asdict(config)
    for section in sections.values():
        for name, value in section.items() if isinstance(section, dict) else ():
            section[name] = list(value) if isinstance(value, tuple) else value
    return sections


def _combine(stated: Any, overrides: Sequence[str], source: str, folder: str | None = None) -> Config:
    from bixt3d.yaml import parse_overrides

    overrides = [overrides] if isinstance(overrides, str) else overrides
    given = parse_overrides(overrides)
    merged: dict[str, Any] = {}
    for origin, layer in ((source, stated), ("override", given)):
        if not isinstance(layer, Mapping):
            raise ValueError(f"{origin}: expected keys and values at the top, got {type(layer).__name__}")
        try:
            layer = _present(layer)
            check_layer(Config, layer, "")
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None
        merged = merge(merged, layer)
    if folder is not None:
        merged["run"] = {"dir": folder, **merged.get("run", {})}
    config: Config = build(Config, merged, "")
    return config


def _present(layer: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a layer with the older names of shipped weights and results as present ones."""
    layer = {name: value for name, value in layer.items() if (name, value) != ("preset", "")}
    data = layer.get("data")
    if isinstance(data, Mapping) and "normals" in data:
        others = {name: value for name, value in data.items() if name != "normals"}
        normals = convert(data["normals"], bool, "data.normals")
        layer["data"] = {"features": None if normals else [], **others}
    return layer
