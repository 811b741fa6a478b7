"""Write a checkpoint as ONNX or as a program of torch.

The file takes clouds as they are, as predict does. It is run, and its
outputs are compared with the model's.

Example:
  bixt3d export modelnet40_cpu --out classifier.onnx
"""

from __future__ import annotations

import argparse

from bixt3d.commands.options import add_checkpoint, checkpoint_of, folder_of, place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d export``."""
    add_checkpoint(parser)
    parser.add_argument(
        "--format", choices=("onnx", "torch"), default="onnx", help="onnx, or torch's .pt2 (default: onnx)"
    )
    parser.add_argument(
        "--out", type=place, metavar="FILE", help="default: beside the checkpoint; in runs for a shipped name"
    )


def run(args: argparse.Namespace) -> None:
    """Export, and say how near the file's answers are to the model's."""
    from bixt3d.datasets.files import stated_size
    from bixt3d.inference.export import FORMATS, TOLERANCE, export_model
    from bixt3d.suggest import counted
    from bixt3d.training.checkpoint import find_checkpoint

    checkpoint = find_checkpoint(checkpoint_of(args))
    args.ending.folder = folder_of(checkpoint)
    out = args.out or args.ending.folder / checkpoint.with_suffix(FORMATS[args.format]).name
    done = export_model(checkpoint, out, args.format)
    for name in done.inputs:
        print(f"input   {name}")
    print(f"output  {done.output}")
    print(f"a cloud has at least {counted(done.least_points, 'point')}, in any place, size and order")
    print(f"largest difference from the model {done.difference:.1e} (at most {TOLERANCE:.0e})")
    print(f"{done.path} ({stated_size(done.path)})")
