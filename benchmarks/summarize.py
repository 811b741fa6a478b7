"""Gather finished runs of one experiment, one a seed, into a folder of results.

    python -m benchmarks.summarize runs/cpu_* --title "ModelNet40 on a CPU" --out results/modelnet40_cpu

It writes the table (mean and standard deviation over the seeds), the training curves, the confusion matrix
of the first run, and each run's settings, metrics and result.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path

import torch

from benchmarks.table import markdown_table
from bixt3d.config import config_from
from bixt3d.training import ClassificationTask, evaluate, load_checkpoint
from bixt3d.training.experiment import open_splits
from bixt3d.training.report import class_table, write_confusion
from bixt3d.visualize.plots import confusion_matrix, read_metrics, training_curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows, scores = [], []
    for run in args.runs:
        result = json.loads((run / "result.json").read_text())
        environment = json.loads((run / "environment.json").read_text())
        seed = load_checkpoint(run / "last", "cpu")[1]["config"]["train"]["seed"]
        last = result["last"]
        scores.append((100 * last["oa"], 100 * last["macc"]))
        rows.append(
            [
                seed,
                f"{scores[-1][0]:.2f}",
                f"{scores[-1][1]:.2f}",
                f"{result['minutes']:.1f}",
                environment["threads"],
                environment["commit"],
            ]
        )
        for name in ("metrics.jsonl", "config.yaml", "environment.json", "result.json"):
            target = args.out / f"seed{seed}"
            target.mkdir(exist_ok=True)
            shutil.copy(run / name, target / name)
    oa, macc = zip(*scores, strict=True)
    if len(oa) > 1:
        spread = [f"{statistics.mean(v):.2f} ± {statistics.stdev(v):.2f}" for v in (oa, macc)]
        rows.append(["mean ± std", *spread, "", "", ""])
    table = markdown_table(["seed", "test OA %", "test mAcc %", "minutes", "threads", "commit"], rows)
    curves = {f"seed {row[0]}": read_metrics(run) for row, run in zip(rows, args.runs, strict=False)}
    training_curves(curves, args.out / "curves.png")
    text = evaluation(args.runs[0], args.out)
    runs = " ".join(map(str, args.runs))
    command = f'python -m benchmarks.summarize {runs} --title "{args.title}" --out {args.out}'
    (args.out / "README.md").write_text(
        f"# {args.title}\n\n{table}\n\nEach run: `{environment['command']}` with its own seed, on "
        f"{environment['processor']}, torch {environment['torch']}. Last epoch, moving average of the "
        "weights; the test split was evaluated once a run and chose nothing.\n\n![curves](curves.png)\n\n"
        f"![confusion matrix](confusion.png)\n\n```\n{text}\n```\n\nGathered by `{command}`.\n"
    )
    print(table)


def evaluation(run: Path, out: Path) -> str:
    """Evaluate a run's last epoch once more for its confusion matrix; return the table of classes."""
    model, meta = load_checkpoint(run / "last", "cpu")
    config = config_from(meta["config"])
    test = open_splits(config, torch.device("cpu"), ("test",))[0]["test"]
    task = ClassificationTask(test.classes)
    counts = evaluate(model, test, task, config.train.eval_batch_size, config.train.amp).counts
    confusion_matrix(counts, test.classes, out / "confusion.png")
    write_confusion(counts, test.classes, out / "confusion.csv")
    return class_table(counts, test.classes)


if __name__ == "__main__":
    main()
