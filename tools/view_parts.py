"""Look at shapes as a model labels them (parts, errors, attention): in a window, on a page, as pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from bixt3d.inference import Predictor
from bixt3d.suggest import nearest
from bixt3d.training.command import add_plugins, folder_of, one_line_errors, place
from bixt3d.training.device import pick_device
from bixt3d.visualize.gallery import Gallery, training_split
from bixt3d.visualize.pictures import PICTURES, readable, spread, write_pictures
from bixt3d.visualize.viewer import view


def open_gallery(args: argparse.Namespace, shapes: int | None) -> Gallery:
    """The shapes that the command line asks for, at most so many of them."""
    predictor = Predictor(args.checkpoint, pick_device(args.device))
    if args.files:
        return Gallery.of_files(predictor, args.files[:shapes], args.category or "")
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Keys of the window: H explains them, there and in the terminal."
    )
    parser.add_argument("files", nargs="*", help="meshes or clouds; shapes of the training's data by default")
    parser.add_argument("--checkpoint", required=True, help="weights file, run's folder or shipped name")
    parser.add_argument("--data", help="data folder; that of the training by default")
    parser.add_argument("--split", default="test", help="train, val or test (default)")
    parser.add_argument("--category", help="only shapes of this one; for files, what they are")
    parser.add_argument("--shapes", type=int, help="at most so many, spread over the split (all; --html 50)")
    parser.add_argument("--html", type=place, metavar="FILE", help="write a web page instead of a window")
    parser.add_argument("--png", type=place, metavar="FOLDER", help="write pictures, not a window (6)")
    parser.add_argument("--out", type=place, default=Path("views"), help="folder for the window's pictures")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; CUDA where there is one by default")
    add_plugins(parser)
    args = parser.parse_args()
    if args.shapes is not None and args.shapes < 1:
        parser.error(f"--shapes: expected 1 or more, got {args.shapes}")
    with one_line_errors(args=args) as ending:
        ending.folder = folder_of(args.checkpoint)
        gallery = open_gallery(args, args.shapes or (50 if args.html else None))
        title = f"bixt3d · {args.checkpoint}"
        if args.html:
            from bixt3d.visualize.html import write_page

            print(f"page: {write_page((cloud for _, cloud in readable(gallery)), args.html, title)}")
        if args.png:
            write_pictures(gallery, args.png, args.shapes or PICTURES)
        if not args.html and not args.png:
            view(gallery, args.out, title, args.shapes or PICTURES)


if __name__ == "__main__":
    main()
