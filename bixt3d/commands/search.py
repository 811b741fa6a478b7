"""Find the shapes of a folder that look most like one.

What is alike a trained model says: shapes are compared by the cosine of their
embeddings. Any classifier or part segmenter will do, also for shapes of other
classes than it knows.

Examples:
  bixt3d search chair.off scans
  bixt3d search chair.off scans --checkpoint runs/mine --html alike.html
"""

from __future__ import annotations

import argparse

from bixt3d.commands.options import CHECKPOINT, UsageError, add_machine, add_turns, add_up, place

WEIGHTS = "modelnet40_robust"  # what tells shapes apart where nothing else is named
FORMATS = ("table", "csv", "json")
HEAD = ("file", "cosine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d search``."""
    parser.add_argument("query", type=place, metavar="QUERY", help="mesh or cloud to search for")
    parser.add_argument(
        "files", nargs="+", type=place, metavar="FOLDER", help="where to search: folders at any depth, files"
    )
    parser.add_argument(
        "--checkpoint",
        default=WEIGHTS,
        metavar="CHECKPOINT",
        help=f"{CHECKPOINT} (default: {WEIGHTS})",
    )
    parser.add_argument("--category", help="category of all shapes, for a part segmenter that is told it")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many to show (default: 10)")
    add_up(parser)
    add_turns(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    output.add_argument("--html", type=place, metavar="FILE", help="write a page with thumbnails")
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    """Search."""
    if args.top < 1:
        raise UsageError(f"--top: expected 1 or more, got {args.top}")
    if args.query.is_dir():
        raise UsageError(
            f"QUERY: expected one file, got the folder {args.query}; the file comes first, the folder second"
        )
    import json
    import sys

    from bixt3d.inference import Predictor
    from bixt3d.inference.clouds import find_clouds
    from bixt3d.tasks.results import NoCategory
    from bixt3d.training.device import pick_device
    from bixt3d.training.files import csv_text, text_table
    from bixt3d.visualize.search import name_below, search, write_search

    predictor = Predictor(args.checkpoint, pick_device(args.device), args.up, turns=args.turns)
    predictor.require_clouds("search")
    files, _ = find_clouds(args.files)
    try:
        found = search(predictor, args.query, files, args.top, args.category)
    except NoCategory as error:
        raise UsageError(f"{error}; say --category NAME, of all shapes") from None
    base = args.files[0] if len(args.files) == 1 and args.files[0].is_dir() else None
    named = [(name_below(one.file, base), one.similarity) for one in found]
    if args.format == "json":
        print(json.dumps([{"file": str(one.file), "cosine": one.similarity} for one in found], indent=2))
    elif args.format == "csv":
        print(csv_text([HEAD, *named]).rstrip())
    else:
        print(text_table([HEAD, *((name, f"{near:.3f}") for name, near in named)]))
    if args.html:
        page = write_search(predictor, args.query, found, base, args.html, args.category)
        print(f"page: {page}", file=sys.stderr)
