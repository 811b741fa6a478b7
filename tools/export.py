"""Write a checkpoint as ONNX or as a program of torch, and check that the file gives what the model gives."""

from __future__ import annotations

import argparse
import logging

from bixt3d.inference.export import FORMATS, TOLERANCE, export_model
from bixt3d.training.checkpoint import find_checkpoint
from bixt3d.training.command import add_plugins, folder_of, one_line_errors, place
from bixt3d.training.weights import place_beside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="weights file, run's folder (best, else last) or shipped name")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="onnx, or torch's .pt2 (onnx)")
    parser.add_argument("--out", type=place, help="file; beside the checkpoint, or runs for a name")
    add_plugins(parser)
    args = parser.parse_args()
    with one_line_errors(args=args) as ending:
        ending.folder = folder_of(args.checkpoint)
        for chatty in ("onnx_ir", "onnxscript", "torch.onnx"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        checkpoint = find_checkpoint(args.checkpoint)
        name = checkpoint.with_suffix(FORMATS[args.format]).name
        out = args.out or place_beside(checkpoint) / name
        done = export_model(checkpoint, out, args.format)
        for name in done.inputs:
            print(f"input   {name}")
        print(f"output  {done.output}")
        print(f"a cloud has at least {done.least_points} points")
        if done.difference is None:
            print("not compared with the model: pip install onnxruntime")
        else:
            print(f"largest difference from the model {done.difference:.1e} (at most {TOLERANCE:.0e})")
        print(f"{done.path} ({done.path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
