"""Fine-tune a shipped classifier on few shapes of a class, and train the same model from scratch.

python -m benchmarks.finetune --root /data/dales_objects --up z --out results/finetune.md
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import add_trainings, parser_of, train_and_write
from benchmarks.small_sets import few
from benchmarks.table import command_line, environment_line, markdown_table, spread
from bixt3d.config import load_config
from bixt3d.datasets import open_dataset
from bixt3d.training import train

# A training of the settings' own, on so few shapes: shorter than theirs, and a short warm-up.
COMMON = [
    "data.train_split=trainval",
    "train.batch_size=16",
    "optim.warmup_epochs=1",
    "run.tensorboard=false",
]
STARTS = {
    "from scratch": [],
    "fine-tuned": ["model.init_from=modelnet40_cpu", "optim.body_lr_factor=0.25"],
    "head alone": ["model.init_from=modelnet40_cpu", "train.freeze=[encoder]"],
}


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the table: a row for each number of shapes a class, a column for each start."""
    body = []
    for size in dict.fromkeys(row["shapes"] for row in rows):
        of = {
            start: [row for row in rows if (row["shapes"], row["start"]) == (size, start)] for start in STARTS
        }
        body.append([size, *(spread([row["oa"] for row in same]) for same in of.values())])
    seconds = {start: sum(row["seconds"] for row in rows if row["start"] == start) / 60 for start in STARTS}
    body.append(["minutes in all", *(f"{value:.1f}" for value in seconds.values())])
    return markdown_table(["shapes a class", *(f"test OA %, {start}" for start in STARTS)], body)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--root", required=True, help="folder of train/<class>/* and test/<class>/*")
    parser.add_argument("--up", help="the files' axis that points up")
    parser.add_argument("--sizes", nargs="+", type=int, default=[5, 10, 20], help="training shapes a class")
    parser.add_argument("--epochs", type=int, default=20)
    add_trainings(parser)
    train_and_write(parser.parse_args(), run)


def run(args: argparse.Namespace, scratch: Path) -> str:
    splits = {name: open_dataset("folder", args.root, name, up=args.up) for name in ("trainval", "test")}
    classes, rows = splits["test"].classes, []
    for size in args.sizes:
        chosen = few(splits["trainval"], size * len(classes))
        for seed in args.seeds:
            for start, settings in STARTS.items():
                folder = scratch / f"{size}_{seed}_{start.replace(' ', '_')}"
                stated = [*COMMON, f"train.epochs={args.epochs}", f"train.seed={seed}", f"run.dir={folder}"]
                config = load_config("modelnet40_cpu", [*stated, *settings, *args.set])
                begun = time.perf_counter()
                done = train(config, train=chosen, test=splits["test"], device="cpu")
                took = round(time.perf_counter() - begun, 1)
                row = {"shapes": size, "seed": seed, "start": start, "seconds": took}
                rows.append({**row, "oa": 100 * done.last["oa"]})
                print(json.dumps(rows[-1]), flush=True)
    return (
        f"# Fine-tuning on few shapes\n\n{summary(rows)}\n\nMean and standard deviation over the seeds "
        f"{', '.join(map(str, args.seeds))}, of the last epoch of {args.epochs}, on the "
        f"{len(splits['test'])} test shapes of {len(classes)} classes ({', '.join(classes)}) of "
        f"`{Path(args.root).name}`. All trainings have the settings of `modelnet40_cpu.yaml` but "
        f"{', '.join(COMMON)}; beside them "
        + "; ".join(f"{start}: {', '.join(stated) or 'nothing'}" for start, stated in STARTS.items())
        + f".\n\n`{command_line('benchmarks.finetune')}`\n\n{environment_line(torch.device('cpu'))}\n"
    )


if __name__ == "__main__":
    main()
