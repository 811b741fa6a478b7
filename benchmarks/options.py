"""Options that benchmarks of trained models share, and those of benchmarks that train; what they open."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bixt3d.commands.endings import one_line_errors
from bixt3d.commands.options import at_least_one
from bixt3d.training.files import write_text


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a module's docstring."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark that looks at trained models: which, and where it writes."""
    parser.add_argument("runs", nargs="+", help="checkpoints: files, runs, or names of shipped weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--names", nargs="+", help="what the models are called there")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice by default")


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add those of `add_runs`, and which shapes, settings and device."""
    add_runs(parser)
    parser.add_argument("--shapes", type=at_least_one, help="a trial on so many shapes, spread out")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all models")
    parser.add_argument("--device")


def add_trainings(parser: argparse.ArgumentParser, seeds: Sequence[int] = (1, 2, 3)) -> None:
    """Add the options of a benchmark that trains: seeds, settings, threads, and the page it writes."""
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all trainings")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="markdown file that is written")


def train_and_write(args: argparse.Namespace, run: Callable[[argparse.Namespace, Path], str]) -> None:
    """Run a benchmark that trains in a folder of its own, and write and print the page that it returns."""
    with one_line_errors(), TemporaryDirectory() as scratch:
        torch.set_num_threads(args.threads)
        text = run(args, Path(scratch))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, text)
        print(text)
