"""Evaluate the kept epochs of finished runs on the test split: last, mean of the last 20, best on test.

    bixt3d train modelnet40_cpu --set train.keep_every=1
    python -m benchmarks.epochs runs/modelnet40_cpu

A run keeps epochs by ``train.keep_every``; its last one is always there. *Last* is what this project reports.
*Best on test* is the epoch of the highest test score: most published scores are chosen so, none here is.
Into each run's folder goes epochs.json, with the scores of every kept epoch; `benchmarks.summarize` and
`benchmarks.scores` show the three columns of the runs that have one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import markdown_table
from bixt3d.commands.endings import one_line_errors
from bixt3d.config import config_from
from bixt3d.tasks import metric_titles
from bixt3d.tasks.description import GIVEN
from bixt3d.training import load_checkpoint
from bixt3d.training.checkpoint import SUFFIX
from bixt3d.training.device import pick_device
from bixt3d.training.evaluate import evaluate
from bixt3d.training.files import write_text
from bixt3d.training.folder import KEPT
from bixt3d.training.splits import build_task, open_splits

FILE = "epochs.json"
LAST = 20  # epochs of the mean
COLUMNS = {"last": "last", "mean": f"mean of the last {LAST}", "best_on_test": "best on test"}
HEAD = ("score, %", *COLUMNS.values(), "epochs of the mean", "best epoch")
# By how much a score of the last epoch may differ from the run's own, which another machine has rounded.
NEAR = 0.005

Row = dict[str, float]  # an epoch and its test scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="such as data.root=FOLDER")
    parser.add_argument("--device", help="cuda where there is one, by default")
    args = parser.parse_args()
    with one_line_errors():
        told = {}
        for run in args.runs:
            told[run] = columns(*score(run, args.set, pick_device(args.device)))
            write_text(run / FILE, json.dumps(told[run], indent=1) + "\n")
        print(markdown_table(["run", *HEAD], [[run, *row] for run, one in told.items() for row in rows(one)]))


def score(run: Path, overrides: Sequence[str], device: torch.device) -> tuple[list[Row], str]:
    """Evaluate a run's kept epochs and its last on the test split; return their scores, and the task's goal.

    Raises:
        ValueError: If the run is not finished, has kept no epoch, or is of other clouds than the data's.
    """
    if not (run / "result.json").is_file():
        raise ValueError(f"{run}: expected a finished run, with result.json; the test split is for the end")
    kept = sorted((path for path in run.iterdir() if KEPT.fullmatch(path.name)), key=lambda path: path.stem)
    if not kept:
        raise ValueError(f"{run}: expected epochs that train.keep_every keeps, got none; train it with that")
    _, about = load_checkpoint(run / f"last{SUFFIX}", device)
    if about["dataset"] in ("", GIVEN):
        raise ValueError(f"{run}: expected a run on a data set, got one on {GIVEN}")
    config = config_from(about["config"], overrides)
    task = build_task(config)
    split = open_splits(config, device, ("test",), task=task)[0]["test"]
    task.set_facts(task.facts(split))
    found: dict[int, Row] = {}
    for path in [*kept, run / f"last{SUFFIX}"]:
        model, about = load_checkpoint(path, device)
        epoch = about["metrics"]["epoch"]
        if epoch not in found:
            task.bind_model(model)
            size, amp = config.train.eval_batch_size, config.train.amp
            found[epoch] = {"epoch": epoch, **evaluate(model, split, task, size, amp).metrics}
            print(f"epoch {epoch}: {task.goal} {task.show(found[epoch][task.goal])}", flush=True)
    last = json.loads((run / "result.json").read_text())["last"]
    now = found[max(found)]
    if now["epoch"] != last["epoch"] or abs(now[task.goal] - last[task.goal]) > NEAR:
        raise ValueError(
            f"{run}: expected {task.goal} {last[task.goal]:.4f} of epoch {last['epoch']}, as in result.json, "
            f"got {now[task.goal]:.4f} of epoch {now['epoch']}: these are other test clouds or another run's "
            "weights; --set data.root=FOLDER if the data have moved"
        )
    return [found[epoch] for epoch in sorted(found)], task.goal


def columns(found: Sequence[Row], goal: str) -> dict[str, Any]:
    """Return the three columns of a run, from the scores of its epochs in order, and these.

    The mean is over those of the last 20 epochs that were kept, which are named; a deviation needs two.
    """
    final = [row for row in found if row["epoch"] > found[-1]["epoch"] - LAST]
    names = [name for name in found[-1] if name != "epoch"]
    each = {name: [row[name] for row in final] for name in names}
    return {
        "split": "test",
        "last": found[-1],
        "mean": {name: statistics.mean(values) for name, values in each.items()},
        "std": {name: statistics.stdev(values) for name, values in each.items()} if len(final) > 1 else None,
        "of": [row["epoch"] for row in final],
        "best_on_test": max(found, key=lambda row: row[goal]),  # the first of equals
        "epochs": list(found),
    }


def rows(told: dict[str, Any]) -> list[list[str]]:
    """Return a row for each score of a run's three columns, under `HEAD`, in per cent."""
    titles, count = metric_titles(), len(told["of"])
    return [
        [
            titles.get(name, name),
            f"{100 * told['last'][name]:.2f}",
            f"{100 * mean:.2f}" + (f" ± {100 * told['std'][name]:.2f}" if told["std"] else ""),
            f"{100 * told['best_on_test'][name]:.2f}",
            f"{count} from {told['of'][0]} to {told['of'][-1]}" if count > 1 else f"{told['of'][0]} alone",
            str(told["best_on_test"]["epoch"]),
        ]
        for name, mean in told["mean"].items()
    ]


if __name__ == "__main__":
    main()
