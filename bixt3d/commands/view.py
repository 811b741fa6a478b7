"""Look at shapes, as they are or as a model labels them.

Parts, errors and attention are shown in a window, on a web page, or as
pictures. H explains the window's keys, there and in the terminal.

Examples:
  bixt3d view scans
  bixt3d view psb_cpu
  bixt3d view psb_cpu scan.ply --category Human
  bixt3d view runs/parts --html parts.html --shapes 20
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from bixt3d.commands.options import (
    UsageError,
    add_machine,
    add_turns,
    add_up,
    ask_category,
    category_of,
    folder_of,
    place,
)

if TYPE_CHECKING:
    from bixt3d.visualize.gallery import Clouds

PAGE = 50  # shapes of a web page, where no number is asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d view``."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="a checkpoint (weights file, run's folder or shipped name), then meshes, clouds or folders; "
        "without files the data of its training, without a checkpoint the files as they are",
    )
    parser.add_argument("--checkpoint", help="the checkpoint, if the first FILE is none")
    which = parser.add_argument_group("which shapes")
    add_up(which)
    add_turns(which)
    which.add_argument("--data", metavar="FOLDER", help="data folder (default: that of the training)")
    which.add_argument("--split", default="test", help="train, val or test (default: test)")
    which.add_argument("--category", help="only shapes of this one; for files, what they are")
    which.add_argument(
        "--shapes",
        type=int,
        metavar="N",
        help="at most N, spread over the split (default: all; --html: 50, --png: 6)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--html", type=place, metavar="FILE", help="write a web page instead of a window")
    output.add_argument("--png", type=place, metavar="FOLDER", help="write pictures instead of a window")
    output.add_argument(
        "--out",
        type=place,
        default=Path("views"),
        metavar="FOLDER",
        help="for pictures taken in the window (default: views)",
    )
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    """Open the window, or write the page or the pictures."""
    checkpoint, files = _checkpoint_and_files(args)
    if args.shapes is not None and args.shapes < 1:
        raise UsageError(f"--shapes: expected 1 or more, got {args.shapes}")
    from bixt3d.visualize.browse import readable
    from bixt3d.visualize.file_clouds import FileClouds
    from bixt3d.visualize.pictures import PICTURES, write_pictures
    from bixt3d.visualize.viewer import view

    if checkpoint is None:
        gallery: Clouds = FileClouds(files, args.up)
    else:
        args.ending.folder = folder_of(checkpoint)
        gallery = open_gallery(args, checkpoint, files, args.shapes or (PAGE if args.html else None))
    title = f"bixt3d · {checkpoint or ' '.join(files)}"
    if args.html:
        from bixt3d.visualize.html import write_page

        few = islice(readable(gallery), args.shapes or PAGE)
        print(f"page: {write_page((cloud for _, cloud in few), args.html, title)}")
    if args.png:
        write_pictures(gallery, args.png, args.shapes or PICTURES)
    if not args.html and not args.png:
        view(gallery, args.out, title, args.shapes or PICTURES)


def _checkpoint_and_files(args: argparse.Namespace) -> tuple[str | None, list[str]]:
    """Return a command line's checkpoint, if it names one, and its files.

    The first word is the checkpoint, unless an option names it, or the word is a cloud, or a folder without
    weights.

    Raises:
        UsageError: If there is nothing to look at, or options need a checkpoint.
    """
    if args.checkpoint:
        return args.checkpoint, args.files
    if not args.files:
        raise UsageError("expected a checkpoint or files to look at, got neither")
    first = Path(args.files[0]).expanduser()
    plain = first.is_dir() and not any(first.glob("*.safetensors"))
    if not plain and not (first.is_file() and first.suffix != ".safetensors"):
        return args.files[0], args.files[1:]
    if args.data or args.category:
        raise UsageError("--data and --category belong to a checkpoint")
    return None, args.files


def open_gallery(args: argparse.Namespace, checkpoint: str, files: list[str], shapes: int | None) -> Clouds:
    """Return the shapes that a command line asks for, at most so many of them."""
    from bixt3d.inference import Predictor
    from bixt3d.inference.clouds import find_clouds
    from bixt3d.inference.loading import training_split
    from bixt3d.suggest import nearest
    from bixt3d.tasks.results import NoCategory
    from bixt3d.training.device import pick_device
    from bixt3d.visualize.browse import spread
    from bixt3d.visualize.gallery import Gallery

    predictor = Predictor(checkpoint, pick_device(args.device), args.up, turns=args.turns)
    predictor.require_clouds("view")
    if files:
        found = find_clouds(files)[0][:shapes]
        told = [args.category or category_of(predictor, path) for path in found]
        for category, path in zip(told, found, strict=True):
            try:
                predictor.category_number(category or None)
            except NoCategory as error:
                raise ValueError(ask_category(path, error)) from None
        return Gallery(predictor, list(map(str, found)), [path.name for path in found], told)
    split = training_split(predictor, args.split, args.data)
    names = Gallery.of_split(predictor, split).categories
    chosen = [shape for shape, name in enumerate(names) if args.category in (None, name)]
    if not chosen:
        known = sorted(set(names))
        raise ValueError(
            f"--category: expected one of {', '.join(known)}, got {args.category!r}"
            f"{nearest(args.category, known)}"
        )
    if shapes is not None:
        chosen = [chosen[place] for place in spread(len(chosen), shapes)]
    return Gallery.of_split(predictor, split, chosen)
