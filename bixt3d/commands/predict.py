"""Name the class of meshes and clouds, or label their parts.

Examples:
  bixt3d predict modelnet40_cpu chair.off table.ply
  bixt3d predict runs/parts scan.xyz --category chair --ply coloured
"""

from __future__ import annotations

import argparse
import sys

from bixt3d.commands.options import UsageError, add_machine, checkpoint_and_files, folder_of, place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d predict``."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="meshes (.off .obj .ply ...) or clouds (.xyz .npy ...), after the checkpoint",
    )
    parser.add_argument(
        "--checkpoint", help="weights file, run's folder or shipped name, if the first FILE is none"
    )
    parser.add_argument("--category", help="category of the files, for a part segmenter that is told it")
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: table")
    output.add_argument(
        "--top", type=int, default=3, metavar="N", help="how many classes to show (default: 3)"
    )
    output.add_argument("--ply", type=place, metavar="FOLDER", help="write clouds coloured by part")
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    """Predict."""
    checkpoint, files = checkpoint_and_files(args)
    if not files:
        raise UsageError(f"expected files after the checkpoint {checkpoint}, got none")
    if args.top < 1:
        raise UsageError(f"--top: expected 1 or more, got {args.top}")
    from bixt3d.inference import Predictor
    from bixt3d.mistakes import is_mistake
    from bixt3d.training.device import pick_device
    from bixt3d.visualize import Gallery
    from bixt3d.visualize.listing import class_row, listing, part_row
    from bixt3d.visualize.ply import ply_names, write_ply

    args.ending.folder = folder_of(checkpoint)
    predictor = Predictor(checkpoint, pick_device(args.device))
    if (args.ply or args.category) and not predictor.task.per_point:
        raise ValueError(f"--ply and --category are for part segmenters; {checkpoint} names classes")
    if args.ply:
        args.ply.mkdir(parents=True, exist_ok=True)
    clouds = Gallery.of_files(predictor, files, args.category or "", attention=False)
    width = max(map(len, files))
    rows = []
    try:
        for index, (name, ply) in enumerate(zip(files, ply_names(files), strict=True)):
            try:
                if not predictor.task.per_point:
                    row = class_row(name, predictor(name), predictor.classes, args.top)
                else:
                    row = part_row(name, clouds[index])
                    if args.ply:
                        row["ply"] = str(write_ply(clouds[index], args.ply / ply))
            except (ValueError, OSError) as error:
                if not is_mistake(error):
                    raise
                row = {"file": name, "error": str(error)}
            rows.append(row)
            if "error" in row:
                print(f"error: {row['error']}", file=sys.stderr)
            elif args.format == "table":
                print(listing([{**row, "file": name.ljust(width)}], "table"), flush=True)
    finally:  # a whole document also of what is done when Ctrl-C comes
        if args.format != "table":
            print(listing(rows, args.format))
    failed = sum("error" in row for row in rows)
    if args.ply:
        print(f"{len(rows) - failed} coloured clouds are in {args.ply}", file=sys.stderr)
    if failed:
        sys.exit(f"{failed} of {len(files)} files failed")
