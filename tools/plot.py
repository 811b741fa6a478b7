"""Plot runs: their training curves, their scores of every class, and, of a single
classifier, which classes it takes for which.

    python tools/plot.py runs/modelnet40_naive runs/modelnet40_grouping
    python tools/plot.py runs/psb_cpu_* --out pictures --format pdf
    python tools/plot.py --throughput results/throughput.json

Scores and confusions are those that training and tools/evaluate.py wrote.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from bixt3d.metrics import CONVENTIONS
from bixt3d.training.command import one_line_errors
from bixt3d.visualize.comparison import plot_runs
from bixt3d.visualize.runs import find_runs, read_throughput
from bixt3d.visualize.speed import throughput


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument(
        "runs", nargs="*", metavar="RUN", help="folder of a training or an evaluation, or RUN/best"
    )
    options.add_argument("--labels", nargs="+", metavar="NAME", help="what to call the runs (their folders)")
    options.add_argument("--out", default="plots", help="folder of the pictures (plots)")
    options.add_argument("--format", default="png", choices=("png", "pdf", "svg"), help="(png)")
    options.add_argument(
        "--convention",
        default="pointnet2",
        choices=CONVENTIONS,
        help="mean IoU of models of parts (pointnet2)",
    )
    options.add_argument("--throughput", metavar="FILE", help="JSON of measured speeds to draw")
    args = options.parse_args()
    if not args.runs and not args.throughput:
        options.error("name a run, or measured speeds by --throughput")
    said = []
    with one_line_errors():
        if args.runs:
            runs = find_runs(args.runs, args.labels)
            said += plot_runs(runs, args.out, f".{args.format}", args.convention)
        if args.throughput:
            rows = read_throughput(args.throughput)
            said.append(str(throughput(rows, Path(args.out).expanduser() / f"throughput.{args.format}")))
    for line in said:
        print(textwrap.fill(line, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


if __name__ == "__main__":
    main()
