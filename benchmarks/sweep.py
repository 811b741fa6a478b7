"""Train an experiment once for each value of one setting and seed, and compare them on the validation split.

The test split is never opened. Example, the sweep behind the tokenizer's default:

    python -m benchmarks.sweep --cfg configs/modelnet40_cpu.yaml --key model.args.coord_scale \
        --values 1 3.14 10 40 100 --set train.epochs=2 --out results/coord_scale.md
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import environment_line, markdown_table, spread
from bixt3d.config import Config, load_config
from bixt3d.datasets.split import Split
from bixt3d.training import Trainer
from bixt3d.training.device import pick_device
from bixt3d.training.experiment import build_model, describe
from bixt3d.training.splits import build_task, open_splits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cfg", required=True)
    parser.add_argument("--key", required=True, help="the setting that is varied")
    parser.add_argument("--values", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice by default")
    parser.add_argument("--title", default="Sweep")
    parser.add_argument("--out", type=Path, help="markdown file that the table is appended to")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    rows = []
    opened: dict[str, tuple[dict[str, Split], int]] = {}
    for value in args.values:
        scores, minutes = [], []
        for seed in args.seeds:
            overrides = [*args.set, f"{args.key}={value}", f"train.seed={seed}", "run.tensorboard=false"]
            config = load_config(args.cfg, overrides)
            data = f"{config.data} {config.augment.thin}"
            if data not in opened:
                opened[data] = open_splits(config, device, ("train", "val"), train="train")
            begun = time.process_time()
            row = learn(config, *opened[data])[-1]
            minutes.append((time.process_time() - begun) / 60)
            scores.append(row)
            print(json.dumps({args.key: value, "seed": seed, **row}), flush=True)
        task = build_task(config)
        shown = [[100 * row[f"val_{name}"] for row in scores] for name in task.shown]
        loss = statistics.mean(row["train_loss"] for row in scores)
        rows.append([value, *map(spread, shown), f"{loss:.3f}", f"{statistics.mean(minutes):.1f}"])
    names = [f"val {task.titles.get(name, name)} %" for name in task.shown]
    table = markdown_table([args.key, *names, "train loss", "CPU minutes"], rows)
    changed = f" --set {' '.join(args.set)}" if args.set else ""
    command = (
        f"python -m benchmarks.sweep --cfg {args.cfg} --key {args.key} --values {' '.join(args.values)}"
        f" --seeds {' '.join(map(str, args.seeds))}{changed}"
    )
    text = f"## {args.title}\n\n{table}\n\n`{command}`\n\n{environment_line(device)}\n"
    print(text)
    if args.out:
        before = args.out.read_text() + "\n" if args.out.exists() else ""
        args.out.write_text(before + text)


def learn(config: Config, splits: dict[str, Split], stored_points: int) -> list[dict[str, Any]]:
    """Train once; the metrics of every epoch, as in metrics.jsonl."""
    train = splits["train"]
    task = build_task(config)
    task.set_facts(task.facts(train))
    description = describe(config, train, stored_points, task)
    model = build_model(config, description)
    task.bind_model(model)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(config, model, task, train, splits["val"], folder, description, progress=False).fit()
        return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
