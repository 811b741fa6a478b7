"""Label parts without learning: what a model has to beat. Each fits on train and val, and is scored on test.

    python -m benchmarks.part_baselines --root data/psb_benchmark_v0_normal --out results/psb_baselines.md

The majority part of the category; the part of the nearest training point of the category, in unit-sphere xyz;
the vote of the nine nearest in xyz and 0.3 times the normal.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from benchmarks.table import environment_line, markdown_table
from bixt3d import open_dataset
from bixt3d.datasets.split import Split
from bixt3d.metrics import CONVENTIONS, part_miou

NORMAL_WEIGHT = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", required=True, help="folder in ShapeNetPart's layout")
    parser.add_argument("--out", type=Path, help="markdown file that the table is written to")
    args = parser.parse_args()
    train, test = (open_dataset("shapenetpart", args.root, name) for name in ("trainval", "test"))
    rows = []
    for name, neighbors, weight in (
        ("majority part of the category", 0, 0.0),
        ("nearest training point, xyz", 1, 0.0),
        (f"nine nearest, xyz and {NORMAL_WEIGHT} normal", 9, NORMAL_WEIGHT),
    ):
        scores = score(test, predict(train, test, neighbors, weight))
        rows.append([name, *(f"{100 * value:.1f}" for value in scores)])
    head = ["", *(f"{kind} mIoU % ({c})" for c in CONVENTIONS for kind in ("class", "instance"))]
    command = f"python -m benchmarks.part_baselines --root {args.root}"
    text = f"{markdown_table(head, rows)}\n\n`{command}`\n\n{environment_line(torch.device('cpu'))}\n"
    print(text)
    if args.out:
        args.out.write_text(f"# Part labels without learning\n\n{text}")


def own_points(split: Split, shape: int) -> int:
    return split.num_points if split.count is None else int(split.count[shape])


def predict(train: Split, test: Split, neighbors: int, weight: float) -> torch.Tensor:
    """Vote among training points of the same category: parts (S, N) of all points of the test split."""
    assert train.parts is not None and train.category is not None and test.category is not None
    scale = np.array([1.0, 1.0, 1.0, weight, weight, weight], dtype=np.float32)
    prediction = torch.zeros(len(test), test.num_points, dtype=torch.int64)
    for category, ids in enumerate(train.parts_of_category):
        shapes = (train.category == category).nonzero()[:, 0].tolist()
        known = np.concatenate([train.points[s, : own_points(train, s)].numpy() for s in shapes]) * scale
        label = np.concatenate([train.parts[s, : own_points(train, s)].numpy() for s in shapes])
        tree = cKDTree(known) if neighbors else None
        for shape in (test.category == category).nonzero()[:, 0].tolist():
            if tree is None:
                prediction[shape] = int(np.bincount(label).argmax())
                continue
            near = tree.query(test.points[shape].numpy() * scale, k=neighbors)[1].reshape(-1, neighbors)
            votes = np.stack([(label[near] == part).sum(1) for part in ids], 1)  # (N, parts)
            prediction[shape] = torch.tensor(ids)[votes.argmax(1)]
    return prediction


def score(test: Split, prediction: torch.Tensor) -> list[float]:
    assert test.parts is not None and test.category is not None
    logits = torch.nn.functional.one_hot(prediction, test.num_parts).float()  # (S, N, P)
    valid = None
    if test.count is not None:
        valid = torch.arange(test.num_points) < test.count[:, None]  # (S, N)
    scores = []
    for convention in CONVENTIONS:
        means = part_miou(logits, test.parts, test.category, test.parts_of_category, convention, valid)
        scores += [float(means["class_miou"]), float(means["instance_miou"])]  # type: ignore[arg-type]
    return scores


if __name__ == "__main__":
    main()
