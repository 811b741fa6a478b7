"""Name the class of meshes and clouds, or label their parts."""

from __future__ import annotations

import argparse
import sys

from bixt3d.inference import Predictor
from bixt3d.mistakes import is_mistake
from bixt3d.training.command import add_plugins, folder_of, one_line_errors, place
from bixt3d.training.device import pick_device
from bixt3d.visualize import Gallery
from bixt3d.visualize.listing import FORMATS, class_row, listing, part_row
from bixt3d.visualize.ply import ply_names, write_ply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="meshes (.off .obj .ply ...) or clouds (.xyz .npy ...)")
    parser.add_argument(
        "--checkpoint", required=True, help="weights file, run's folder (best, else last) or shipped name"
    )
    parser.add_argument("--category", help="category of the files, for a model of parts that is told it")
    parser.add_argument("--format", choices=FORMATS, default="table", help="how results are printed (table)")
    parser.add_argument("--top", type=int, default=3, help="how many classes to show (3)")
    parser.add_argument("--ply", type=place, metavar="FOLDER", help="write clouds coloured by part")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; CUDA where there is one by default")
    add_plugins(parser)
    args = parser.parse_args()
    if args.top < 1:
        parser.error(f"--top: expected 1 or more, got {args.top}")
    rows = []
    with one_line_errors(args=args) as ending:
        ending.folder = folder_of(args.checkpoint)
        predictor = Predictor(args.checkpoint, pick_device(args.device))
        if (args.ply or args.category) and not predictor.task.per_point:
            raise ValueError(f"--ply and --category are for models of parts; {args.checkpoint} names classes")
        if args.ply:
            args.ply.mkdir(parents=True, exist_ok=True)
        clouds = Gallery.of_files(predictor, args.files, args.category or "", attention=False)
        width = max(map(len, args.files))
        try:
            for index, (name, ply) in enumerate(zip(args.files, ply_names(args.files), strict=True)):
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
        sys.exit(f"{failed} of {len(args.files)} files failed")


if __name__ == "__main__":
    main()
