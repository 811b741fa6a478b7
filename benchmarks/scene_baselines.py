"""Label scenes without learned features: what a model has to beat. Each fits on train and val.

    python -m benchmarks.scene_baselines --root data/scenes

The class of the most points; one of two, below and above one height over the ground; and of each slice of
height the class of the most training points in it. The ground is the height below which 2 % of the points
around lie, in squares 20 units wide.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.table import environment_line, markdown_table
from bixt3d import metrics, open_dataset
from bixt3d.datasets.columns import GROUND
from bixt3d.datasets.split import Split

SIDE = 20.0  # of a square, in the files' unit
SLICE, SLICES = 0.25, 40  # of height; the lowest and the highest slice hold what is beyond


class Points(NamedTuple):
    """The points of a split whose label counts: slice of height (N,) and label (N,)."""

    slices: Tensor
    label: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with labels.yaml, train and test")
    parser.add_argument("--up", default="z", help="axis that points up (default: z)")
    parser.add_argument("--out", type=Path, help="markdown file that the table is written to")
    args = parser.parse_args()
    splits = [open_dataset("scenes", args.root, name, up=args.up) for name in ("trainval", "test")]
    train, test = map(labelled_points, splits)
    rows = []
    for name, answers in predictions(train, splits[0].num_parts).items():
        confusion = metrics.confusion_matrix(answers[test.slices], test.label, splits[0].num_parts)
        said = metrics.segmentation(confusion)
        rows.append([name, *(f"{100 * said[key]:.1f}" for key in ("oa", "macc", "miou"))])
    text = markdown_table(["", "OA %", "mAcc %", "mIoU %"], rows)
    command = f"python -m benchmarks.scene_baselines --root {args.root}"
    text += f"\n\n`{command}`\n\n{environment_line(torch.device('cpu'))}\n"
    print(text)
    if args.out:
        args.out.write_text(f"# Scenes labelled without learned features\n\n{text}")


def labelled_points(split: Split) -> Points:
    """Return the points of all scenes, y up, whose label counts."""
    assert split.parts is not None
    slices, label = [], []
    for scene in range(len(split)):
        own = slice(None if split.count is None else int(split.count[scene]))
        xyz, parts = split.points[scene, own, :3], split.parts[scene, own]
        slices.append((heights(xyz) / SLICE).floor().clamp(0, SLICES - 1).long()[parts >= 0])
        label.append(parts[parts >= 0])
    return Points(torch.cat(slices), torch.cat(label))


def heights(xyz: Tensor) -> Tensor:
    """Return how far each point (N, 3), y up, is above the ground of its square: (N,)."""
    cell = (xyz[:, [0, 2]] / SIDE).floor().long()
    _, square = torch.unique(cell, dim=0, return_inverse=True)
    above = torch.empty(len(xyz))
    for number in range(int(square.max()) + 1):
        inside = square == number
        y = xyz[inside, 1]
        above[inside] = y - y.kthvalue(1 + int(GROUND * (len(y) - 1))).values
    return above


def predictions(train: Points, num_labels: int) -> dict[str, Tensor]:
    """Return the label of each slice (SLICES,) by each way, fitted on training points."""
    counts = torch.zeros(SLICES, num_labels, dtype=torch.int64)
    counts.index_put_((train.slices, train.label), torch.tensor(1), accumulate=True)
    below = counts.cumsum(0)  # (SLICES, K), of all slices up to one
    above = counts.sum(0) - below
    right = below.amax(1) + above.amax(1)  # (SLICES,)
    best = int(right.argmax())
    low, high = below[best].argmax(), above[best].argmax()
    return {
        "the class of the most points": counts.sum(0).argmax().expand(SLICES),
        f"two classes, split at {SLICE * (best + 1):.2f} above the ground": torch.where(
            torch.arange(SLICES) <= best, low, high
        ),
        f"a class for each {SLICE} above the ground": counts.argmax(1),
    }


if __name__ == "__main__":
    main()
