"""Train from scratch and from an official ImageNet checkpoint, seed by seed, and compare on validation.

The test split is never opened. Both trainings of a seed draw the same: start of tokenizer and head, order,
augmentation. Only the trunk starts elsewhere; it needs the checkpoint's width, latents and layers.

    python -m benchmarks.transfer --cfg configs/modelnet40_naive.yaml --init bixt_ti_l64_p16.pth \
        --seeds 1 2 3 --set train.epochs=20 --out results/transfer.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.sweep import learn
from benchmarks.table import command_line, environment_line, markdown_table, spread
from bixt3d.commands.endings import one_line_errors
from bixt3d.config import load_config
from bixt3d.tasks import metric_titles
from bixt3d.training.device import pick_device
from bixt3d.training.files import write_text
from bixt3d.training.splits import build_task, open_splits

STARTS = ("scratch", "ImageNet")
MOST_ROWS = 20  # epochs in the table
Rows = list[dict[str, Any]]  # one an epoch, as in metrics.jsonl


def spread_over(count: int) -> list[int]:
    """Return which of so many rows the table shows: `MOST_ROWS` at most, the first and the last of them."""
    rows = min(count, MOST_ROWS)
    return [round(row * (count - 1) / max(1, rows - 1)) for row in range(rows)]


def summary(curves: dict[str, list[Rows]], goal: str) -> str:
    """Return the table: validation score by epoch for both starts, what the pairs differ by, and the time.

    Args:
        curves: For each of `STARTS` the rows of every seed, in the same order.
        goal: The score, as the task calls it.
    """
    key, body = f"val_{goal}", []
    seen = {start: [[row for row in rows if key in row] for rows in curves[start]] for start in STARTS}
    for index in spread_over(len(seen["scratch"][0])):
        scratch, started = ([100 * rows[index][key] for rows in seen[start]] for start in STARTS)
        gain = [after - before for before, after in zip(scratch, started, strict=True)]
        body.append([seen["scratch"][0][index]["epoch"], *map(spread, (scratch, started, gain))])
    minutes = ([sum(row["seconds"] for row in rows) / 60 for rows in curves[start]] for start in STARTS)
    body.append(["minutes", *map(spread, minutes), ""])
    label = f"val {metric_titles()[goal]} %"
    return markdown_table(["epoch", *(f"{label}, {start}" for start in STARTS), "difference of pairs"], body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cfg", required=True)
    parser.add_argument("--init", required=True, help="official BiXT checkpoint (.pth)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice by default")
    parser.add_argument("--out", type=Path, required=True, help="markdown file that is written")
    args = parser.parse_args()
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    curves: dict[str, list[Rows]] = {start: [] for start in STARTS}
    first = load_config(args.cfg, [*args.set, "data.train_split=train"])
    opened = open_splits(first, device, ("train", "val"), train="train")
    for seed in args.seeds:
        for start in reversed(STARTS):  # a checkpoint that does not fit says so before any training
            source = args.init if start == "ImageNet" else "null"
            pair = [f"model.init_from={source}", f"train.seed={seed}", "run.tensorboard=false"]
            config = load_config(args.cfg, [*args.set, "data.train_split=train", *pair])
            curves[start].append(learn(config, *opened))
            print(json.dumps({"start": start, "seed": seed, **curves[start][-1][-1]}), flush=True)
    table = summary(curves, build_task(first).goal)
    text = (
        f"# From ImageNet\n\n{table}\n\nMean and standard deviation over the seeds "
        f"{', '.join(map(str, args.seeds))}. Only the trunk starts from the checkpoint; tokenizer, head, "
        "order and augmentation of a seed are the same for both. The test split was not opened.\n\n"
        f"`{command_line('benchmarks.transfer')}`\n\n{environment_line(device)}\n"
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, text)
    print(text)


if __name__ == "__main__":
    main()
