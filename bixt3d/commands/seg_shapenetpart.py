"""Train a part segmenter, then evaluate it once on the test split.

With --checkpoint only evaluate.

Example:
  python tools/seg_shapenetpart.py --set data.root=data
"""

from __future__ import annotations

import argparse

from bixt3d.commands import evaluate, train
from bixt3d.commands.options import CHECKPOINT, UsageError, add_machine, add_settings

CFG = "shapenetpart_encdec"
STOPPED = train.STOPPED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``tools/seg_shapenetpart.py``."""
    parser.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    parser.add_argument("--checkpoint", help=f"only evaluate: {CHECKPOINT}")
    evaluate.add_results(parser)
    parser.set_defaults(picture=None, config=None, dry_run=False, only="points", words=[])
    add_settings(parser, f"name or YAML file of the settings (default: {CFG})")
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    """Train, or evaluate."""
    if args.checkpoint and args.resume:
        raise UsageError("--checkpoint only evaluates, --resume trains: give one of them")
    if args.checkpoint:
        evaluate.run(args)
        return
    if args.split or args.out or args.picture is not None:
        raise UsageError("--split, --out and --picture belong to --checkpoint")
    args.cfg = args.cfg or CFG
    train.run(args)
