"""Turn labelled clouds of your own into part data that a config can train on.

Files may be PLY, LAS, PCD, NPZ or text with a label a point, CloudCompare's
scalar fields included. A label is a whole number from 0, or in text and NPZ a
word; points with -1, or an empty word, belong to no part and are left out.
Folders are categories; train, val and test are kept.

Examples:
  bixt3d data import-parts scans data/my_parts
  bixt3d data import-parts scans data/my_parts --names labels.yaml
"""

from __future__ import annotations

import argparse

from bixt3d.commands.options import UsageError, place, split_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d data import-parts``."""
    parser.add_argument("source", type=place, metavar="FOLDER", help="the folder of the files")
    parser.add_argument(
        "out", type=place, nargs="?", metavar="OUT", help="new folder, which is data.root of a config then"
    )
    parser.add_argument("--out", dest="out_option", type=place, metavar="FOLDER", help="the same, by name")
    parser.add_argument(
        "--names",
        type=place,
        metavar="FILE",
        help="YAML or JSON, label: name, or these below each category (default: the files' numbers or words)",
    )
    parser.add_argument(
        "--features", nargs="*", metavar="NAME", help="beside xyz (default: normals, if all files have them)"
    )
    parser.add_argument(
        "--num-points", type=int, metavar="N", help="the most points of a shape (default: all are kept)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")


def run(args: argparse.Namespace) -> None:
    """Write the data, and say what they hold."""
    out = args.out or args.out_option
    if out is None or (args.out and args.out_option):
        raise UsageError("expected one folder to write: OUT, or --out")
    from bixt3d.datasets.import_parts import import_parts

    features = None if args.features is None else split_names(args.features)
    done = import_parts(args.source, out, args.names, features, args.num_points, args.seed)
    sizes = ", ".join(f"{count} {split}" for split, count in done.counts.items())
    print(f"{done.folder}: {sizes}; beside xyz: {', '.join(done.features) or 'nothing'}")
    for category, parts in done.parts.items():
        print(f"  {category}: {', '.join(parts)}")
    for line in done.left_out:
        print(f"left out: {line}")
    if done.others:
        both = " ".join((*done.features, *done.others))
        print(f"not kept: {', '.join(done.others)}, which all files hold: --features {both} keeps all")
    named = "" if done.features in ((), ("normal",)) else f" data.features={','.join(done.features)}"
    print(f"train: bixt3d train own_parts --set data.root={done.folder} run.dir=runs/NAME{named}")
