"""Train on few synthetic shapes, and compare the moving average's warm-up with averages of a fixed decay.

A training does not depend on its average, so every decay is followed beside the same training.

    python -m benchmarks.small_sets --sizes 10 30 100 --seeds 1 2 --out results/small_sets.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.options import add_trainings, parser_of, train_and_write
from benchmarks.table import command_line, environment_line, markdown_table
from bixt3d.config import Config, load_config
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.split import Split
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.tasks import metric_titles
from bixt3d.training import Trainer
from bixt3d.training.evaluate import evaluate
from bixt3d.training.experiment import build_model, describe
from bixt3d.training.optim import MovingAverage
from bixt3d.training.splits import build_task, open_splits

FIXED = (0.0, 0.9, 0.99, 0.995)
PER_CLASS, NUM_POINTS = 100, 512  # of the synthetic shapes: 700 in train, 200 in test
# What each file learns from, and how long: the parts' 100 epochs would take the time of all the others.
SETTINGS: dict[str, list[str]] = {
    "own_data": ["data.name=shapes"],
    "psb_cpu": [
        *("data.train_split=train", "train.epochs=30", f"data.num_points={NUM_POINTS}"),
        *(
            "model.name=bixt_nano_partseg_encdec",
            "model.args={}",
            "augment.rotate_degrees=15",
            "augment.turned=1",
        ),
        *("augment.mirror=0", "augment.tilt=0", "augment.bend=0", "augment.normal_dropout=0.1"),
    ],
}


def few(split: Split, count: int) -> Split:
    """Return the first shapes of a split, as many of each class."""
    rank = torch.zeros_like(split.label)  # (S,), the place of a shape among those of its class
    for number in split.label.unique():
        own = split.label == number
        rank[own] = torch.arange(int(own.sum()))
    order = (rank * len(split.classes) + split.label).argsort()
    return split.select(order[:count].sort().values)


def learn(config: Config, train: Split, test: Split, folder: Path) -> dict[str, float]:
    """Return the test score of the settings' own average, ``"warm-up"``, and of each fixed decay."""
    task = build_task(config)
    task.set_facts(task.facts(train))
    description = describe(config, train, train.num_points, task)
    model = build_model(config, description)
    task.bind_model(model)
    trainer = Trainer(config, model, task, train, None, folder, description, progress=False)
    averages = {decay: MovingAverage(model) for decay in FIXED}
    take = trainer.state.train_step

    def followed(batches: Iterator[Batch], step: int) -> tuple[Tensor, Tensor, Tensor]:
        done = take(batches, step)
        for decay, average in averages.items():
            average.update(decay)
        return done

    trainer.state.train_step = followed  # type: ignore[method-assign]
    trainer.fit()
    models = {"warm-up": trainer.result, **{str(decay): one.module for decay, one in averages.items()}}
    size = config.train.eval_batch_size
    return {
        name: 100 * evaluate(one, test, task, size, config.train.amp).metrics[task.goal]
        for name, one in models.items()
    }


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the table of scores: a row for each file and number of shapes, means over the seeds."""
    body = []
    for name, size in dict.fromkeys((row["config"], row["shapes"]) for row in rows):
        same = [row["scores"] for row in rows if (row["config"], row["shapes"]) == (name, size)]
        mean = {key: sum(scores[key] for scores in same) / len(same) for key in same[0]}
        steps = next(row["steps"] for row in rows if (row["config"], row["shapes"]) == (name, size))
        gap = mean["warm-up"] - max(mean[str(decay)] for decay in FIXED)
        body.append([name, size, steps, *(f"{value:.1f}" for value in mean.values()), f"{gap:+.1f}"])
    decays = ["none" if decay == 0 else f"fixed {decay}" for decay in FIXED]
    return markdown_table(["settings", "shapes", "steps", "warm-up", *decays, "against the best"], body)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--cfg", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 30, 100])
    add_trainings(parser, seeds=(1, 2))
    train_and_write(parser.parse_args(), run)


def run(args: argparse.Namespace, scratch: Path) -> str:
    write_shapes(scratch, per_class=PER_CLASS, num_points=NUM_POINTS, progress=False)
    rows, device, titles = [], torch.device("cpu"), []
    for name in args.cfg:
        root = scratch if name == "own_data" else scratch / "shapes"
        stated = [*SETTINGS[name], f"data.root={root}", "run.tensorboard=false", *args.set]
        config = load_config(name, stated)
        task = build_task(config)
        titles.append(f"{metric_titles()[task.goal]} % for {name}, {config.train.epochs} epochs")
        splits = open_splits(config, device, ("train", "test"), train="train")[0]
        for size in args.sizes:
            for seed in args.seeds:
                chosen = load_config(config, [f"train.seed={seed}"])
                folder = scratch / f"{name}_{size}_{seed}"
                scores = learn(chosen, few(splits["train"], size), splits["test"], folder)
                steps = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
                rows.append({"config": name, "shapes": size, "seed": seed, "steps": steps, "scores": scores})
                print(json.dumps(rows[-1]), flush=True)
    return (
        f"# Small sets and the moving average\n\n{summary(rows)}\n\nTest score ({'; '.join(titles)}), means "
        f"over the seeds {', '.join(map(str, args.seeds))}, on 200 synthetic shapes of 10 classes with "
        f"{NUM_POINTS} points; as many training shapes of each class. `warm-up` is the average as the file "
        "says it: `train.ema_decay`, and at step t no more than (1 + t) / (10 + t). The others keep a fixed "
        "share from the first step on, beside the same training; `none` are the weights themselves.\n\n"
        f"`{command_line('benchmarks.small_sets')}`\n\n{environment_line(device)}\n"
    )


if __name__ == "__main__":
    main()
