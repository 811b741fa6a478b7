"""Make labelled synthetic shapes with parts.

They have the layouts of ModelNet40 and ShapeNetPart.

Example:
  bixt3d data make --root data --per-class 20
"""

from __future__ import annotations

import argparse
import time

from bixt3d.commands.options import place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d data make``."""
    parser.add_argument(
        "--root", type=place, default="data", metavar="FOLDER", help="gets shapes/ (default: data)"
    )
    parser.add_argument(
        "--per-class", type=int, default=100, metavar="N", help="shapes of a category (default: 100)"
    )
    parser.add_argument(
        "--num-points", type=int, default=2048, metavar="N", help="points of a shape (default: 2048)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same bytes (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> None:
    """Write the shapes."""
    from bixt3d.datasets.synthetic.shapes import CATEGORIES, write_shapes
    from bixt3d.suggest import counted

    start = time.perf_counter()
    path = write_shapes(
        args.root,
        per_class=args.per_class,
        num_points=args.num_points,
        seed=args.seed,
        progress=not args.quiet,
    )
    shapes = counted(args.per_class * len(CATEGORIES), "shape")
    print(f"{shapes} of {counted(args.num_points, 'point')} in {path} ({time.perf_counter() - start:.1f} s)")
