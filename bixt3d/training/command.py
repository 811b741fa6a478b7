"""What the command-line programs share: their common options, and mistakes that end in one line."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bixt3d.config import Config, load_config
from bixt3d.training.device import leave_workers


def parser(description: str | None, cfg: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every program takes; ``cfg`` is the help of ``--cfg``."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--cfg", help=cfg)
    options.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the file's; give them last",
    )
    options.add_argument("--device", help="cpu, cuda, cuda:1 ...; CUDA where there is one by default")
    return options


def experiment(cfg: str, overrides: list[str]) -> Config:
    """Read an experiment's settings; its folder is ``runs/<name of the file>`` unless they name one."""
    config = load_config(cfg, overrides)
    config.run.dir = config.run.dir or str(Path("runs") / Path(cfg).stem)
    return config


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line for what a user can mend, and leave the other processes in order."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        yield
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; a training goes on from its last saved epoch with --resume")
    finally:
        leave_workers()
