"""Write the made data set: python tools/make_shapes.py --root data"""

from __future__ import annotations

import argparse
import time

from bixt3d.datasets.synthetic.shapes import CATEGORIES, write_shapes


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make labelled shapes with parts, in the layouts of ModelNet40 and ShapeNetPart."
    )
    parser.add_argument("--root", default="data", help="folder that gets shapes/ (default: data)")
    parser.add_argument(
        "--per-class",
        type=int,
        default=100,
        help=f"shapes for each of {len(CATEGORIES)} categories (default: 100)",
    )
    parser.add_argument("--num-points", type=int, default=2048, help="points a shape (default: 2048)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()

    start = time.perf_counter()
    try:
        path = write_shapes(
            args.root,
            per_class=args.per_class,
            num_points=args.num_points,
            seed=args.seed,
            progress=not args.quiet,
        )
    except ValueError as error:
        parser.error(str(error))
    count = args.per_class * len(CATEGORIES)
    print(f"{count} shapes of {args.num_points} points in {path} ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main()
