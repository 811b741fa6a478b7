"""Look at shapes as a model labels them.

Parts, errors and attention are shown in a window, on a web page, or as pictures.
H explains the window's keys, there and in the terminal.

Examples:
  bixt3d view psb_cpu
  bixt3d view psb_cpu scan.ply --category Human
  bixt3d view runs/parts --html parts.html --shapes 20
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bixt3d.commands.options import UsageError, add_machine, checkpoint_and_files, folder_of, place

if TYPE_CHECKING:
    from bixt3d.visualize.gallery import Gallery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d view``."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="meshes or clouds, after the checkpoint; shapes of the training's data if none",
    )
    parser.add_argument(
        "--checkpoint", help="weights file, run's folder or shipped name, if the first FILE is none"
    )
    which = parser.add_argument_group("which shapes")
    which.add_argument("--data", metavar="FOLDER", help="data folder (that of the training)")
    which.add_argument("--split", default="test", help="train, val or test (test)")
    which.add_argument("--category", help="only shapes of this one; for files, what they are")
    which.add_argument(
        "--shapes", type=int, metavar="N", help="at most so many, spread over the split (all; --html 50)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--html", type=place, metavar="FILE", help="write a web page instead of a window")
    output.add_argument("--png", type=place, metavar="FOLDER", help="write pictures, not a window (6)")
    output.add_argument(
        "--out", type=place, default=Path("views"), metavar="FOLDER", help="for the window's pictures (views)"
    )
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    """Open the window, or write the page or the pictures."""
    checkpoint, files = checkpoint_and_files(args)
    if args.shapes is not None and args.shapes < 1:
        raise UsageError(f"--shapes: expected 1 or more, got {args.shapes}")
    from bixt3d.visualize.pictures import PICTURES, readable, write_pictures
    from bixt3d.visualize.viewer import view

    args.ending.folder = folder_of(checkpoint)
    gallery = open_gallery(args, checkpoint, files, args.shapes or (50 if args.html else None))
    title = f"bixt3d · {checkpoint}"
    if args.html:
        from bixt3d.visualize.html import write_page

        print(f"page: {write_page((cloud for _, cloud in readable(gallery)), args.html, title)}")
    if args.png:
        write_pictures(gallery, args.png, args.shapes or PICTURES)
    if not args.html and not args.png:
        view(gallery, args.out, title, args.shapes or PICTURES)


def open_gallery(args: argparse.Namespace, checkpoint: str, files: list[str], shapes: int | None) -> Gallery:
    """Return the shapes that a command line asks for, at most so many of them."""
    from bixt3d.inference import Predictor
    from bixt3d.suggest import nearest
    from bixt3d.training.device import pick_device
    from bixt3d.visualize.gallery import Gallery, training_split
    from bixt3d.visualize.pictures import spread

    predictor = Predictor(checkpoint, pick_device(args.device))
    if files:
        return Gallery.of_files(predictor, files[:shapes], args.category or "")
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
