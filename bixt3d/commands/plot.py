"""Plot runs: training curves, scores of every class, confusions.

For a single classifier it also shows which classes are confused. Scores come
from the files that `bixt3d train` and `bixt3d evaluate` write.

Examples:
  bixt3d plot runs/modelnet40_naive runs/modelnet40_grouping
  bixt3d plot runs/psb_cpu_* --out pictures --format pdf
  bixt3d plot --throughput results/throughput.json
"""

from __future__ import annotations

import argparse
import textwrap

from bixt3d.commands.options import UsageError, place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d plot``."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="folder of a training or an evaluation, or RUN/best"
    )
    parser.add_argument("--throughput", metavar="FILE", help="JSON of measured speeds to draw")
    parser.add_argument(
        "--convention",
        default="pointnet2",
        choices=("pointnet2", "pointmlp"),
        help="mean IoU of part segmenters (default: pointnet2)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--labels", nargs="+", metavar="NAME", help="names of the runs (default: their folders)"
    )
    output.add_argument(
        "--out", type=place, default="plots", metavar="FOLDER", help="of the pictures (default: plots)"
    )
    output.add_argument("--format", default="png", choices=("png", "pdf", "svg"), help="default: png")


def run(args: argparse.Namespace) -> None:
    """Draw the pictures, and say where they are."""
    if not args.runs and not args.throughput:
        raise UsageError("name a run, or measured speeds by --throughput")
    from bixt3d.visualize.bars import throughput
    from bixt3d.visualize.comparison import plot_runs
    from bixt3d.visualize.runs import find_runs, read_throughput

    said = []
    if args.runs:
        said += plot_runs(find_runs(args.runs, args.labels), args.out, f".{args.format}", args.convention)
    if args.throughput:
        said.append(str(throughput(read_throughput(args.throughput), args.out / f"throughput.{args.format}")))
    for line in said:
        print(textwrap.fill(line, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
