"""Time the first reading of part data in ShapeNetPart's layout: text files of 2,500 points into the cache.

python -m benchmarks.parse_parts --out results/parse_parts.md
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import environment_line, markdown_table
from bixt3d import open_dataset

POINTS = 2500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="markdown file that the table is written to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.files)
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            open_dataset("shapenetpart", folder, "train")
            seconds.append(time.perf_counter() - begun)
    per_ten_thousand = [f"{10_000 / args.files * value:.1f}" for value in seconds]
    table = markdown_table(
        ["files", "first reading, s per 10,000 files", "from the cache, s per 10,000 files"],
        [[args.files, *per_ten_thousand]],
    )
    command = f"python -m benchmarks.parse_parts --files {args.files}"
    text = f"{table}\n\n`{command}`\n\n{environment_line(torch.device('cpu'))}\n"
    print(text)
    if args.out:
        args.out.write_text(f"# Reading part data\n\nText files of {POINTS} points.\n\n{text}")


def write(folder: Path, files: int) -> None:
    rng = np.random.default_rng(0)
    (folder / "001").mkdir()
    (folder / "train_test_split").mkdir()
    (folder / "synsetoffset2category.txt").write_text("Thing\t001\n")
    (folder / "parts.json").write_text('{"Thing": {"a": 0, "b": 1}}')
    names = [f"shape_data/001/{index}" for index in range(files)]
    (folder / "train_test_split" / "shuffled_train_file_list.json").write_text(json.dumps(names))
    for index in range(files):
        rows = np.concatenate([rng.uniform(-1, 1, (POINTS, 6)), rng.integers(0, 2, (POINTS, 1))], 1)
        text = ("%.6f %.6f %.6f %.6f %.6f %.6f %.6f\n" * POINTS) % tuple(rows.ravel().tolist())
        (folder / "001" / f"{index}.txt").write_text(text)


if __name__ == "__main__":
    main()
