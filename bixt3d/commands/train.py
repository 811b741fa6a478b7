"""Train a model, then evaluate it once on the test split.

The config says the task: classification, part segmentation, or one of your own.
The run goes to run.dir, or else to runs/CONFIG, runs/CONFIG_2 and so on.

Examples:
  bixt3d train modelnet40_cpu
  bixt3d train --cfg my.yaml --set train.epochs=5 run.dir=runs/short
  bixt3d train modelnet40_cpu --dry-run
  bixt3d train modelnet40_cpu --resume
  bixt3d train runs/modelnet40_cpu --resume
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bixt3d.commands.options import UsageError, add_machine, add_settings

if TYPE_CHECKING:
    from bixt3d.config import Config

STOPPED = "stopped; continue from the last saved epoch with --resume"
RUN_CONFIG = "config.yaml"  # in a run's folder
DOORS = {"shapes": "train_cls", "points": "seg_shapenetpart"}  # of tools/, which train one kind of task each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d train``."""
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="name (bixt3d list configs) or YAML file of the settings"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print settings, data, parameters, memory and time, and end without training",
    )
    parser.add_argument("--only", choices=tuple(DOORS), help=argparse.SUPPRESS)
    add_settings(parser, "the config, by name")
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    """Train."""
    cfg = args.cfg or args.config
    if not cfg or (args.cfg and args.config):
        raise UsageError("expected one config: its name or file as an argument, or by --cfg")
    from bixt3d.training.device import pick_device
    from bixt3d.training.experiment import train
    from bixt3d.training.folder import run_folder

    if Path(cfg).expanduser().is_dir():  # of a run
        cfg = str(Path(cfg) / RUN_CONFIG)
    config = experiment(cfg, args.set, args.only)
    if args.dry_run:
        from bixt3d.commands.dry_run import dry_run

        dry_run(config, pick_device(args.device))
        return
    config = moved(config, cfg, args)
    numbered = not names_folder(args) and config.run.dir == f"runs/{Path(cfg).stem}"
    folder = run_folder(config)
    args.ending.folder = None if numbered and folder.exists() else folder
    train(config, device=pick_device(args.device), resume=args.resume, numbered=numbered)


def names_folder(args: argparse.Namespace) -> bool:
    """Whether a command line says where the run goes."""
    return any(text.partition("=")[0].strip() == "run.dir" for text in args.set)


def moved(config: Config, cfg: str, args: argparse.Namespace) -> Config:
    """Return the settings of a run that is resumed by its own config.yaml: its folder is where that lies."""
    from bixt3d.config import override
    from bixt3d.training.folder import has_state

    place = Path(cfg).expanduser().parent
    if not args.resume or names_folder(args) or Path(cfg).name != RUN_CONFIG or not has_state(place):
        return config
    return override(config, run={"dir": str(place)})


def experiment(cfg: str, overrides: list[str], only: str | None = None) -> Config:
    """Read the settings of a training.

    Args:
        cfg: The config's name or file.
        overrides: Settings that go before the config's.
        only: The kind of task that is expected: ``shapes`` or ``points``, whichever are labelled.

    Raises:
        ValueError: If the settings are of another kind of task, or not valid.
        FileNotFoundError: If there is no such file.
    """
    from bixt3d.config import load_config
    from bixt3d.training.splits import build_task

    config = load_config(cfg, overrides)
    task = build_task(config)
    kind = "points" if task.per_point else "shapes"
    if only and kind != only:
        raise ValueError(f"{cfg} is for {task.name.replace('_', ' ')}: use tools/{DOORS[kind]}.py")
    return config
