"""Options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bixt3d.inference import Predictor
    from bixt3d.tasks.results import NoCategory

AXES = ("x", "y", "z", "-x", "-y", "-z", "auto")
CHECKPOINT = "weights file, run's folder (best, else last) or shipped name"


class UsageError(Exception):
    """Options that do not go together: the program's usage is shown with the message."""


def add_settings(options: argparse.ArgumentParser, cfg: str) -> None:
    """Add ``--cfg`` and ``--set``; ``cfg`` is the help of ``--cfg``."""
    group = options.add_argument_group("settings")
    group.add_argument("--cfg", metavar="CONFIG", help=cfg)
    group.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the config's; give them last",
    )


def add_machine(options: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    group = options.add_argument_group("machine")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: CUDA if there is one)")


def add_common(options: argparse.ArgumentParser) -> None:
    """Add what every command has, and `bixt3d.commands.endings.one_line_errors` heeds."""
    group = options.add_argument_group("extensions and errors")
    group.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py",
        help="run this file first; it registers models, data sets or tasks of your own",
    )
    group.add_argument("--traceback", action="store_true", help="print the whole traceback of an error")


def add_checkpoint(options: argparse.ArgumentParser) -> None:
    """Add a checkpoint, as an argument or as ``--checkpoint``; `checkpoint_of` returns it."""
    options.add_argument("words", nargs="*", metavar="CHECKPOINT", help=CHECKPOINT)
    options.add_argument("--checkpoint", metavar="CHECKPOINT", help="the same, by name")


def checkpoint_of(args: argparse.Namespace) -> str:
    """Return the only checkpoint of a command line.

    Raises:
        UsageError: If it names none, or several.
    """
    given = [*args.words, *([args.checkpoint] if args.checkpoint else [])]
    if len(given) != 1:
        raise UsageError(f"expected one checkpoint, got {' '.join(given) or 'none'}")
    return str(given[0])


def checkpoint_and_files(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Return a command line's checkpoint and files: the first word is the checkpoint if no option names it.

    Raises:
        UsageError: If no checkpoint is named.
    """
    if args.checkpoint:
        return args.checkpoint, args.files
    if not args.files:
        raise UsageError("expected a checkpoint: the first argument, or --checkpoint")
    return args.files[0], args.files[1:]


def add_up(options: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add ``--up``; `join_axes` reads ``--up -z``."""
    options.add_argument(
        "--up",
        choices=AXES,
        metavar="AXIS",
        help="axis of the files that points up: x, y, z, -x, -y, -z or auto (default: as in the training)",
    )


def add_turns(options: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add ``--turns``."""
    options.add_argument(
        "--turns",
        type=at_least_one,
        default=1,
        metavar="N",
        help="look at each cloud N times, turned about its up axis, and take the mean; for classifiers and "
        "clouds whose turn nobody knows (default: 1)",
    )


def at_least_one(text: str) -> int:
    """Read a whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, got {text}")
    return int(text)


def join_axes(words: Sequence[str]) -> list[str]:
    """Return a command line with ``--up -z`` as ``--up=-z``, or argparse takes the axis for an option."""
    joined: list[str] = []
    for word in words:
        if joined[-1:] == ["--up"] and word in AXES:
            joined[-1] = f"--up={word}"
        else:
            joined.append(word)
    return joined


def place(text: str) -> Path:
    """Return a path of the command line, with ``~`` for the user's folder."""
    return Path(text).expanduser()


def split_names(words: Sequence[str]) -> list[str]:
    """Return names that a user separates by blanks or commas."""
    return [name for word in words for name in word.split(",") if name]


def folder_of(checkpoint: str | Path) -> Path:
    """Return the folder of what is made from a checkpoint: its run's, but ``runs`` for weights that ship.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
    """
    from bixt3d.training.checkpoint import find_checkpoint
    from bixt3d.training.weights import place_beside

    return place_beside(find_checkpoint(checkpoint))


def category_of(predictor: Predictor, file: Path) -> str:
    """Return the category that a file's folder is named for, whatever the case; "" if it is for none."""
    known = {name.casefold(): name for name in predictor.classes or ()}
    return known.get(file.absolute().parent.name.casefold(), "")


def ask_category(file: Path, error: NoCategory) -> str:
    """Return what to do about a file whose category nothing tells."""
    names = error.names if len(error.names) <= 3 else ["NAME"]
    options = " or ".join(f"--category {shlex.quote(name)}" for name in names)
    return f"{file}: {error}; say {options}, or put the file in a folder of that name"
