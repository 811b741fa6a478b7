"""Loggers of a run beside its own files: TensorBoard, Weights & Biases (wandb), and trackio."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from bixt3d.config import Config, RunConfig, to_dict

PROJECT = "bixt3d"
# For each name of run.logger: the module that it needs, and the extra that installs it.
NEEDS = {
    "tensorboard": ("torch.utils.tensorboard", "logs"),
    "wandb": ("wandb", "wandb"),
    "trackio": ("trackio", "trackio"),
}


class Board(Protocol):
    """What receives the metrics of each epoch."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Take the metrics of an epoch by name, after that step."""

    def close(self) -> None:
        """Write what is left."""


class _TensorBoard:
    def __init__(self, run_dir: Path, config: Config, step: int) -> None:
        writer = importlib.import_module(NEEDS["tensorboard"][0]).SummaryWriter
        # Events after the step are of epochs that are now trained again.
        self.writer = writer(str(run_dir / "tensorboard"), purge_step=step + 1 if step else None)
        self.close = self.writer.close

    def write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()


class _Run:
    """A run of wandb or trackio, whose ``init`` gives the same kind of object."""

    def __init__(self, name: str, run_dir: Path, config: Config, more: Mapping[str, Any]) -> None:
        module = importlib.import_module(name)
        title = run_dir.resolve().name
        self.run = module.init(project=PROJECT, name=title, config=to_dict(config), **more)
        self.close = self.run.finish

    def write(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)


def _wandb(run_dir: Path, config: Config, step: int) -> Board:
    # Its files are wandb/run-DATE-ID, or offline-run-DATE-ID.
    before = sorted((run_dir / "wandb").glob("*run-*-*"), key=lambda path: path.name.split("run-")[1])
    known = {"id": before[-1].name.rsplit("-", 1)[1], "resume": "allow"} if step and before else {}
    return _Run("wandb", run_dir, config, {"dir": str(run_dir), **known})


def _trackio(run_dir: Path, config: Config, step: int) -> Board:
    return _Run("trackio", run_dir, config, {"resume": "allow" if step else "never"})


BOARDS: dict[str, Callable[[Path, Config, int], Board]] = {
    "tensorboard": _TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def check_loggers(run: RunConfig) -> tuple[str, ...]:
    """Return the names of a run's loggers, after importing them.

    ``run.logger`` names them. Without it, ``run.tensorboard`` asks for TensorBoard where it is installed.

    Raises:
        ImportError: If one that ``run.logger`` names is not installed, with the line that installs it.
    """
    asked = ("tensorboard",) * run.tensorboard if run.logger is None else run.logger
    found = []
    for name in asked:
        module, extra = NEEDS[name]
        try:
            importlib.import_module(module)
        except ImportError:
            if run.logger is None:
                continue
            raise ImportError(f'run.logger: {name} is not installed: pip install "bixt3d[{extra}]"') from None
        found.append(name)
    return tuple(found)


def open_board(name: str, run_dir: Path, config: Config, step: int) -> Board:
    """Open a logger of a run at a step; of a run that is resumed it continues what it has."""
    return BOARDS[name](run_dir, config, step)
