"""Sample the meshes of a benchmark anew, as our measured data sets were.

modelnet40: <class>/<split>/*.off become modelnet40_ply_hdf5_2048/ in OUT.
psb: <category>/*.off with a label a face beside them become part data.

Examples:
  bixt3d data sample modelnet40 ModelNet40 data
  bixt3d data sample psb LabeledDB data/psb_benchmark_v0_normal
"""

from __future__ import annotations

import argparse

from bixt3d.commands.options import place

POINTS = {"modelnet40": 1024, "psb": 2500}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d data sample``."""
    parser.add_argument("name", choices=tuple(POINTS), help="which meshes they are")
    parser.add_argument("source", type=place, metavar="FOLDER", help="the folder of the meshes")
    parser.add_argument("out", type=place, metavar="OUT", help="data folder; of psb the new folder itself")
    parser.add_argument(
        "--num-points", type=int, metavar="N", help="points of a shape (default: 1024; psb: 2500)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same points (default: 0)"
    )


def run(args: argparse.Namespace) -> None:
    """Write the data set, and say where."""
    from bixt3d.datasets.sample import sample_modelnet40, sample_psb
    from bixt3d.suggest import counted

    num_points = POINTS[args.name] if args.num_points is None else args.num_points
    if args.name == "modelnet40":
        print(sample_modelnet40(args.source, args.out, num_points, args.seed))
        return
    done = sample_psb(args.source, args.out, num_points, args.seed)
    sizes = ", ".join(f"{count} {split}" for split, count in done.counts.items())
    print(f"{done.folder}: {sizes}; {counted(len(done.parts), 'category', 'categories')}")
