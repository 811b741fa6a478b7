"""Name the class of meshes and clouds."""

from __future__ import annotations

import argparse
import sys

from bixt3d.inference import Predictor
from bixt3d.training.device import pick_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="meshes (.off .obj .ply ...) or clouds (.xyz .npy ...)")
    parser.add_argument(
        "--checkpoint", required=True, help="weights file, its name without suffix, or a run's folder"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; CUDA where there is one by default")
    parser.add_argument("--top", type=int, default=3, help="how many classes to show")
    args = parser.parse_args()
    try:
        predictor = Predictor(args.checkpoint, pick_device(args.device))
        if predictor.part_names is not None:
            raise ValueError(
                f"{args.checkpoint} labels parts; in Python: "
                f"bixt3d.Predictor({args.checkpoint!r}).segment(file, category)"
            )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    failed = 0
    width = max(len(name) for name in args.files)
    for name in args.files:
        try:
            prediction = predictor(name)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        order = prediction.probabilities.argsort()[::-1][: args.top]
        shown = "  ".join(
            f"{predictor.classes[i] if predictor.classes else i} {100 * prediction.probabilities[i]:.1f}%"
            for i in order
        )
        print(f"{name:{width}}  {shown}")
    if failed:
        sys.exit(f"{failed} of {len(args.files)} files failed")


if __name__ == "__main__":
    main()
