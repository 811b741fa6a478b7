"""What the command-line programs share: their common options, and mistakes that end in one line."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bixt3d.config import Config, load_config
from bixt3d.presets import labels_parts
from bixt3d.training.device import leave_workers

RESUMABLE = "stopped; a training goes on from its last saved epoch with --resume"


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


def experiment(cfg: str, overrides: list[str], parts: bool) -> Config:
    """Read an experiment's settings; its folder is ``runs/<name of the file>`` unless they name one.

    Args:
        cfg: The file.
        overrides: Settings that go before the file's.
        parts: Whether the program trains models of parts, rather than classifiers.

    Raises:
        ValueError: If the settings are of the other program, or not valid.
        FileNotFoundError: If there is no such file.
    """
    config = load_config(cfg, overrides)
    if labels_parts(config.model.name) != parts:
        kind, program = ("classifier", "train_cls") if parts else ("model of parts", "seg_shapenetpart")
        raise ValueError(f"{cfg} trains a {kind}, {config.model.name}: use tools/{program}.py")
    config.run.dir = config.run.dir or str(Path("runs") / Path(cfg).stem)
    return config


@contextmanager
def one_line_errors(stopped: str = "stopped") -> Iterator[None]:
    """End the program with one line for what a user can mend.

    The other processes of several are left in order at a good end alone: after an error they may never come.

    Args:
        stopped: What Ctrl-C is answered with.
    """
    first = os.environ.get("RANK", "0") == "0"  # all of several processes read the same data
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what is no text
    try:
        yield
        sys.stdout.flush()
        leave_workers()
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # what a shell calls the same end of other programs
    except FileExistsError as error:
        sys.exit(f"error: {error if error.filename is None else f'{error.filename} is a file, no folder'}")
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as error:
        if first:
            print(f"\n{error if error.args else stopped}", file=sys.stderr)
        sys.exit(128 + getattr(error, "number", signal.SIGINT))  # as shells call the end by a signal
