"""Configs and other files that ship: inside the package in a wheel, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from bixt3d.suggest import nearest

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return the folder of that name, such as ``configs``."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def list_configs() -> list[str]:
    """Return the sorted names of the project's experiments, which `load_config` takes; see configs/."""
    return sorted(path.stem for path in shipped("configs").glob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """Return a config's file, which is named by its path, or by its name if it ships.

    Raises:
        FileNotFoundError: If there is none, naming those that are there.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if str(path) in list_configs():
        return shipped("configs") / f"{path}.yaml"
    beside = sorted(each.name for each in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    hint = f"; {path.parent} holds {', '.join(beside)}" if beside else ""
    known = nearest(path, list_configs()) if path.name == str(path) else ""
    raise FileNotFoundError(f"no config file {path}{hint}{known}")
