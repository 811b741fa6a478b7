"""Classify real scanned objects: our configuration, from scratch and from weights, beside simple baselines.

python -m benchmarks.objects --root /data/dales_objects --out results/objects.md

Baselines: the majority; the nearest neighbours by size and height (which see metres, as the networks do not);
PointNet++ for as many minutes as ours takes from scratch, or --peer-factor times as many.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from benchmarks.options import add_trainings, parser_of, train_and_write
from benchmarks.peers.pointnet2 import pointnet2_ssg
from benchmarks.table import command_line, environment_line, markdown_table, spread
from bixt3d.config import Config, load_config
from bixt3d.datasets import open_dataset
from bixt3d.datasets.readers import read_cloud
from bixt3d.metrics import classification
from bixt3d.training import train

Array = np.ndarray[Any, Any]
# PointNet++ is shown 1,024 drawn points, of which it samples 512, and learns by AdamW at its usual rate.
PEER = [
    *("data.num_points=1024", "data.order=random", "augment.thin=0", "optim.name=adamw", "optim.lr=1e-3"),
    *("train.ema_decay=0", "model.name=bixt_nano_cls", "model.args={}"),
]


def statistics_of(path: Path, up: int) -> Array:
    """Return an object's size in metres, how its heights are spread, and its number of points, (10,)."""
    xyz = np.asarray(read_cloud(path), np.float64)[:, :3]
    low, high = xyz.min(0), xyz.max(0)
    size = high - low
    level = (xyz[:, up] - low[up]) / max(float(size[up]), 1e-9)
    flat = np.sort(np.delete(size, up))
    heights = np.percentile(level, (10, 25, 50, 75, 90))
    return np.array([*np.log1p([*flat, size[up]]), *heights, level.std(), np.log(len(xyz))])


def nearest_neighbours(root: Path, classes: tuple[str, ...], up: int, k: int = 5) -> Array:
    """Return the confusion (K, K) of a vote of the ``k`` objects whose statistics are the nearest."""
    rows: dict[str, tuple[Array, Array]] = {}
    for split in ("train", "test"):
        files = [
            (file, c) for c, name in enumerate(classes) for file in sorted((root / split / name).iterdir())
        ]
        table = np.stack([statistics_of(file, up) for file, _ in files])
        rows[split] = table, np.array([c for _, c in files])
    (seen, label), (asked, truth) = rows["train"], rows["test"]
    mean, std = seen.mean(0), seen.std(0) + 1e-9
    index = cKDTree((seen - mean) / std).query((asked - mean) / std, k)[1]  # (S, k), nearest first
    voted = [np.bincount(label[one], minlength=len(classes)).argmax() for one in index]
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, np.array(voted)), 1)
    return confusion


def settings(root: Path, seed: int, folder: Path, *more: str) -> Config:
    """Return the settings of one training."""
    stated = [f"data.root={root}", f"train.seed={seed}", f"run.dir={folder}", *more]
    return load_config("dales_cpu", stated)


def train_ours(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Train from scratch and from each weights, by every seed; a row of each, with epochs a minute."""
    starts = {"dales_cpu, from scratch": []} | {
        f"dales_cpu, from {name}": [f"model.init_from={name}", "optim.body_lr_factor=0.25"]
        for name in args.weights
    }
    rows = []
    for seed in args.seeds:
        for start, stated in starts.items():
            config = settings(args.root, seed, scratch / f"{start}_{seed}", *stated, *args.set)
            rows.append(one_training(start, config, seed))
    return rows


def train_peer(args: argparse.Namespace, scratch: Path, minutes: float) -> list[dict[str, Any]]:
    """Train PointNet++ by every seed for about so many minutes, after two epochs that are timed."""
    classes = len(open_dataset("folder", args.root, "test", up="z").classes)
    plain = [*PEER, *args.set]
    timed = one_training(
        "", settings(args.root, 0, scratch / "timed", *plain, "train.epochs=2"), 0, pointnet2_ssg(classes)
    )
    epochs = max(2, round(2 * minutes / timed["minutes"]))
    rows = []
    for seed in args.seeds:
        torch.manual_seed(seed)
        config = settings(args.root, seed, scratch / f"peer_{seed}", *plain, f"train.epochs={epochs}")
        rows.append(one_training(f"PointNet++ (SSG), {epochs} epochs", config, seed, pointnet2_ssg(classes)))
    return rows


def one_training(
    name: str, config: Config, seed: int, model: torch.nn.Module | None = None
) -> dict[str, Any]:
    begun = time.process_time()
    done = train(config, model=model, task=None if model is None else "classification", device="cpu")
    row = {"name": name, "seed": seed, "minutes": (time.process_time() - begun) / 60}
    row |= {key: 100 * done.last[key] for key in ("oa", "macc")}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--root", type=Path, required=True, help="folder of train/<class>/* and test/<class>/*"
    )
    parser.add_argument("--weights", nargs="*", default=["modelnet40_small"], help="weights to start from")
    parser.add_argument(
        "--peer-factor", type=float, default=1.0, help="minutes of PointNet++ over those of ours (default: 1)"
    )
    add_trainings(parser)
    train_and_write(parser.parse_args(), run)


def run(args: argparse.Namespace, scratch: Path) -> str:
    """Measure all, and return the page."""
    test = open_dataset("folder", args.root, "test", up="z")
    counts = np.bincount(np.asarray(test.label), minlength=len(test.classes))
    nearest = classification(torch.from_numpy(nearest_neighbours(args.root, test.classes, up=2)))
    ours = train_ours(args, scratch)
    scratched = [row["minutes"] for row in ours if row["name"].endswith("scratch")]
    rows = [*ours, *train_peer(args, scratch, args.peer_factor * float(np.mean(scratched)))]
    body: list[list[str]] = [
        ["majority", f"{100 * counts.max() / counts.sum():.1f}", f"{100 / len(counts):.1f}", ""],
        [
            "5 nearest by size and heights",
            *(f"{100 * float(nearest[key]):.1f}" for key in ("oa", "macc")),
            "",
        ],
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        same = [row for row in rows if row["name"] == name]
        taken = [spread([row[key] for row in same]) for key in ("oa", "macc", "minutes")]
        body.append([name, *taken])
    head = ["", "test OA %", "test mAcc %", "CPU minutes"]
    return (
        f"# Real scanned objects\n\n{markdown_table(head, body)}\n\nMean and standard deviation over the "
        f"seeds {', '.join(map(str, args.seeds))}; the last epoch on the {len(test)} test objects of "
        f"{len(test.classes)} classes\n({', '.join(test.classes)}), which choose nothing. The networks see a "
        "cloud scaled to the unit sphere; the\nneighbours see metres and the number of points. PointNet++ "
        f"learns by\n`{' '.join(PEER)}`,\nthe rest as ours.\n\n`{command_line('benchmarks.objects')}`\n\n"
        f"{environment_line(torch.device('cpu'))}\n"
    )


if __name__ == "__main__":
    main()
