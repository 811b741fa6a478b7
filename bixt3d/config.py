"""The settings of an experiment, from YAML, overrides or Python, checked alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bixt3d.sections import (
    MOST_POINTS,
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    Order,
    RunConfig,
    TrainConfig,
    fold_of,
)
from bixt3d.settings import Section, build, check_layer, check_names, convert, merge
from bixt3d.shipped import find_config, list_configs

MOST_BYTES = 1_000_000  # of a file of settings

__all__ = [
    "MOST_POINTS",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Order",
    "RunConfig",
    "TrainConfig",
    "fold_of",
    "list_configs",
    "load_config",
]


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
    given = [("override", parse_overrides([one])) for one in overrides]  # in turn: {} clears what others fill
    merged: dict[str, Any] = {}
    for origin, layer in ((source, stated), *given):
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


def dotted(value: Any, name: str = "") -> dict[str, Any]:
    """Return what nested dictionaries hold, by dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key in value for k, v in dotted(value[key], f"{name}.{key}" if name else key).items()}
