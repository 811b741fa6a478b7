"""Compare runs in one table: scores, parameters, epochs, minutes.

Validation scores are those of the last epoch, and the mean over the last 20.
Runs of one config that differ in seed or fold have a line with mean ± std,
named by the settings in which configs differ. A table wider than the terminal
is folded; --out, or another format, writes it whole.

Examples:
  bixt3d compare runs/modelnet40_cpu runs/modelnet40_naive
  bixt3d compare runs/psb_cpu_* --format markdown
"""

from __future__ import annotations

import argparse
import shutil
import sys

from bixt3d.commands.options import place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d compare``."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a training")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--labels", nargs="+", metavar="NAME", help="names of the runs (default: their folders)"
    )
    output.add_argument(
        "--format", choices=("table", "markdown", "csv", "json"), default="table", help="default: table"
    )
    output.add_argument("--out", type=place, metavar="FILE", help="write it to a file (default: print it)")


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from bixt3d.training.files import csv_text, markdown_table, text_table, write_text
    from bixt3d.visualize.run_table import folded, number_rows, run_rows, text_rows, to_json
    from bixt3d.visualize.runs import find_runs

    rows = run_rows(find_runs(args.runs, args.labels))
    if args.format == "json":
        text = to_json(rows)
    elif args.format == "csv":
        text = csv_text(number_rows(rows)).rstrip()
    elif args.format == "markdown":
        text = markdown_table(text_rows(rows))
    else:
        width = sys.maxsize if args.out else shutil.get_terminal_size().columns
        text = "\n\n".join(map(text_table, folded(text_rows(rows), width)))
    if args.out:
        write_text(args.out, text + "\n")
        print(f"table: {args.out}")
    else:
        print(text)
