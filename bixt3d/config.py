"""Experiment settings: the dataclasses of `bixt3d.settings`, filled from YAML and the command line.

A preset is a named bundle of settings. ``preset: x`` in a file stands below the file's own keys; given as
an override it stands above the file and below the other overrides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from bixt3d.presets import PART_PRESETS, PRESETS, labels_parts
from bixt3d.settings import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from bixt3d.suggest import nearest

__all__ = [
    "CHOICES",
    "MOST_BYTES",
    "MOST_POINTS",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "TrainConfig",
    "check_config",
    "config_from",
    "load_config",
]

MOST_BYTES = 1_000_000  # of a file of settings
MOST_POINTS = 10_000_000  # of a cloud
CHOICES = {
    "data.order": ("stored", "fps", "random"),
    "data.train_split": ("train", "trainval"),
    "optim.name": ("adamw", "muon", "sgd", "adam"),
    "optim.schedule": ("cosine", "step"),
    "optim.schedule_unit": ("step", "epoch"),
    "train.compile_mode": ("default", "reduce-overhead", "max-autotune"),
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment's settings.

    A file from anywhere may be read: it executes nothing and reaches no variable of the environment. Look at
    ``data.root`` and ``model.init_from``, which a training reads, and ``run.dir``, where it writes.

    Args:
        path: A YAML file.
        overrides: Settings such as ``"optim.lr=1e-3"``, which go before the file's.

    Returns:
        The settings, every key known and of the right type.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For an unknown key (naming the nearest), a wrong type, or a value out of range.
    """
    from omegaconf import OmegaConf

    path = Path(path)
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"; {path.parent} holds {', '.join(beside)}" if beside else ""
        raise FileNotFoundError(f"no config file {path}{hint}")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: expected settings, {MOST_BYTES:,} bytes at most, got a larger file")
    try:
        _refuse_aliases(path)
        stated = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # YAML has its own family of errors, which quote line and column.
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    return _combine(stated, overrides, str(path))


def _refuse_aliases(path: Path) -> None:
    """Raise ValueError for YAML's ``*name``: ten lines of them can stand for more than any memory holds."""
    import yaml  # type: ignore[import-untyped]

    for token in yaml.scan(path.read_text(encoding="utf-8")):
        if isinstance(token, yaml.AliasToken):
            raise ValueError(f"*{token.value}: aliases are not taken, write the values out")


def _check_plain(value: Any, key: str, source: str) -> None:
    """Raise ValueError for what OmegaConf would put together from elsewhere, such as the environment."""
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"{source}: {key}: expected a value, got {value!r}, which stands for another")
    entries: Mapping[Any, Any] = value if isinstance(value, Mapping) else {}
    for name, inner in entries.items():
        if not isinstance(name, str):
            raise ValueError(f"{source}: {key}: expected names as keys, got {name!r}")
        _check_plain(inner, f"{key}.{name}" if key else name, source)
    for inner in value if isinstance(value, (list, tuple)) else ():
        _check_plain(inner, key, source)


def config_from(stated: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Check settings that come as a dictionary, such as a checkpoint's, and apply overrides.

    Raises:
        ValueError: As `load_config`.
    """
    return _combine(stated, overrides, "config")


def _combine(stated: Any, overrides: Sequence[str], source: str) -> Config:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for text in overrides:
        if "=" not in text:
            raise ValueError(f"override {text!r}: expected key=value, such as optim.lr=1e-3")
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except Exception as error:  # the value of an override is YAML, with that family of errors
        raise ValueError(f"overrides {' '.join(overrides)}: {error}") from None
    if not isinstance(stated, Mapping) or not isinstance(given, Mapping):
        raise ValueError(f"{source}: expected keys and values at the top, got {type(stated).__name__}")
    parts = labels_parts(_model_name(given, _model_name(stated, "")))
    layers = [_preset(stated, source, parts), stated, _preset(given, "override", parts), given]
    merged = OmegaConf.structured(Config)
    for origin, layer in zip((source, source, "override", "override"), layers, strict=True):
        _check_keys(Config, layer, "", origin)
        _check_plain(layer, "", origin)
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", "") or ""
            raise ValueError(f"{origin}: {key}: {str(error).splitlines()[0]}") from None
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    check_config(config)
    return config


def check_config(config: Config) -> None:
    """Raise ValueError for a setting out of its range or choices."""
    for key, known in CHOICES.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if value not in known:
            hint = nearest(value, known)
            raise ValueError(f"{key}: expected one of {', '.join(known)}, got {value!r}{hint}")
    optim, train, augment = config.optim, config.train, config.augment
    positive = {
        "data.num_points": config.data.num_points,
        "train.epochs": train.epochs,
        "train.batch_size": train.batch_size,
        "train.accumulate": train.accumulate,
        "train.eval_batch_size": train.eval_batch_size,
        "train.eval_every": train.eval_every,
        "train.max_skipped": train.max_skipped,
        "optim.lr": optim.lr,
        "optim.step_epochs": optim.step_epochs,
        "optim.step_factor": optim.step_factor,
        "augment.scale_low": augment.scale_low,
    }
    for key, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{key}: expected more than 0, got {value}")
    if config.data.num_points > MOST_POINTS:
        raise ValueError(f"data.num_points: expected up to {MOST_POINTS:,}, got {config.data.num_points:,}")
    if not 0 <= train.seed < 1 << 63:
        raise ValueError(f"train.seed: expected 0 to 2**63 - 1, got {train.seed}")
    share = {
        "train.ema_decay": train.ema_decay,
        "optim.label_smoothing": optim.label_smoothing,
        "augment.dropout": augment.dropout,
        "augment.mirror": augment.mirror,
        "augment.normal_dropout": augment.normal_dropout,
        "augment.thin": augment.thin,
        "optim.momentum": optim.momentum,
    }
    for key, value in share.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{key}: expected 0 <= value < 1, got {value}")
    if not 0.0 <= augment.mix <= 1.0:
        raise ValueError(f"augment.mix: expected 0 <= value <= 1, got {augment.mix}")
    if not augment.scale_low <= augment.scale_high < math.inf:
        raise ValueError(f"augment.scale_high: expected at least scale_low, got {augment.scale_high}")
    if not optim.min_lr <= optim.lr:
        raise ValueError(f"optim.min_lr: expected at most optim.lr={optim.lr}, got {optim.min_lr}")
    if config.model.args.get("sampling") == "prefix" and (config.data.order != "fps" or augment.shuffle):
        raise ValueError(
            "model.args.sampling=prefix takes the first points for the farthest-point sample: it needs "
            f"data.order=fps and augment.shuffle=false, got {config.data.order} and {augment.shuffle}"
        )
    if augment.thin and config.data.order == "random":
        raise ValueError("augment.thin: data.order=random draws other points every epoch already")
    if labels_parts(config.model.name) and config.data.order != "random":
        raise ValueError(
            f"data.order: models of parts take other points every epoch and label all: expected random, got "
            f"{config.data.order}"
        )
    if labels_parts(config.model.name) and augment.mix:
        raise ValueError(
            f"augment.mix: clouds are mixed for classification alone: expected 0 for models of parts, got "
            f"{augment.mix}"
        )
    for key, value in {
        "augment.shift": augment.shift,
        "augment.jitter_std": augment.jitter_std,
        "augment.jitter_clip": augment.jitter_clip,
        "augment.rotate_degrees": augment.rotate_degrees,
        "optim.weight_decay": optim.weight_decay,
        "optim.warmup_epochs": optim.warmup_epochs,
        "optim.clip_norm": optim.clip_norm,
        "optim.min_lr": optim.min_lr,
    }.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{key}: expected 0 or more, got {value}")


def _model_name(layer: Mapping[Any, Any], otherwise: str) -> str:
    model = layer.get("model")
    return str(model.get("name", otherwise)) if isinstance(model, Mapping) else otherwise


def _preset(layer: Mapping[Any, Any], source: str, parts: bool) -> Mapping[str, Any]:
    name = layer.get("preset", "")
    if not name:
        return {}
    if not isinstance(name, str) or name not in PRESETS:
        known = tuple(PRESETS)
        raise ValueError(
            f"{source}: unknown preset {name!r}{nearest(name, known)}; known: {', '.join(known)}"
        )
    return PART_PRESETS.get(name, PRESETS[name]) if parts else PRESETS[name]


def _check_keys(schema: type, layer: Mapping[Any, Any], prefix: str, source: str) -> None:
    known = {f.name: f for f in fields(schema)}
    for key, value in layer.items():
        if key not in known:
            raise ValueError(
                f"{source}: unknown key {prefix}{key}{nearest(key, tuple(known))}; "
                f"{prefix.rstrip('.') or 'the top level'} has: {', '.join(known)}"
            )
        default = known[key].default_factory
        if default is dict and not isinstance(value, Mapping):
            raise ValueError(f"{source}: {prefix}{key}: expected keys and values, got {value!r}")
        if isinstance(default, type) and is_dataclass(default):
            if not isinstance(value, Mapping):
                raise ValueError(f"{source}: {prefix}{key}: expected keys and values, got {value!r}")
            _check_keys(default, value, f"{prefix}{key}.", source)
