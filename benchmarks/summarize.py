"""Gather finished runs of one experiment, one a seed, into a folder of results.

    python -m benchmarks.summarize runs/cpu_* --title "ModelNet40 on a CPU" --out results/modelnet40_cpu

It writes the table (mean and standard deviation over the seeds), the training curves, what the first run does
with every class or category (for a classifier, its confusion matrix), and each run's settings, metrics and
result. Where `benchmarks.epochs` has been run on them, a table says last, mean of the last 20 epochs and best
on test.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.epochs import COLUMNS, FILE, HEAD, rows
from benchmarks.table import markdown_table, spread
from bixt3d.tasks import metric_titles
from bixt3d.training import load_checkpoint
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.files import text_table, write_confusion
from bixt3d.visualize.plots import confusion_matrix, training_curves
from bixt3d.visualize.runs import read_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lines, scores, seeds = [], [], []
    for run in args.runs:
        result = json.loads((run / "result.json").read_text())
        environment = json.loads((run / "environment.json").read_text())
        seeds.append(load_checkpoint(run / "last", "cpu")[1]["config"]["train"]["seed"])
        scores.append({key: 100 * value for key, value in result["last"].items() if key in metric_titles()})
        shown = [f"{value:.2f}" for value in scores[-1].values()]
        lines.append(
            [seeds[-1], *shown, f"{result['minutes']:.1f}", environment["threads"], environment["commit"]]
        )
        for name in ("metrics.jsonl", "config.yaml", "environment.json", "result.json", FILE):
            target = args.out / f"seed{seeds[-1]}"
            target.mkdir(exist_ok=True)
            if name != FILE or (run / name).exists():
                shutil.copy(run / name, target / name)
    if len(scores) > 1:
        spreads = [spread([score[key] for score in scores]) for key in scores[0]]
        lines.append(["mean ± std", *spreads, "", "", ""])
    names = [f"{metric_titles()[key]} %" for key in scores[0]]
    table = markdown_table(["seed", *names, "minutes", "threads", "commit"], lines)
    curves = {f"seed {seed}": read_metrics(run) for seed, run in zip(seeds, args.runs, strict=True)}
    training_curves(curves, args.out / "curves.png")
    picture, text = evaluation(args.runs[0], args.out)
    runs = " ".join(map(str, args.runs))
    command = f'python -m benchmarks.summarize {runs} --title "{args.title}" --out {args.out}'
    (args.out / "README.md").write_text(
        f"# {args.title}\n\n{table}\n\nEach run: `{environment['command']}` with its own seed, on "
        f"{environment['processor']}, torch {environment['torch']}. Last epoch, moving average of the "
        "weights; the test split was evaluated once a run and chose nothing.\n\n"
        f"{three_columns(args.out, seeds)}![curves](curves.png)\n\n"
        f"{picture}The first of them:\n\n```\n{text}\n```\n\nGathered by `{command}`.\n"
    )
    print(table)


def three_columns(out: Path, seeds: Sequence[int]) -> str:
    """Return the table of the runs whose epochs were evaluated, each score read in three ways."""
    found = {seed: out / f"seed{seed}" / FILE for seed in seeds}
    told = {seed: json.loads(path.read_text()) for seed, path in found.items() if path.exists()}
    if not told:
        return ""
    lines = [[seed, *row] for seed, one in told.items() for row in rows(one)]
    if len(told) > 1:
        for name in next(iter(told.values()))["mean"]:
            columns = [[100 * one[key][name] for one in told.values()] for key in COLUMNS]
            lines.append(["mean ± std", metric_titles().get(name, name), *map(spread, columns), "", ""])
    return (
        "The kept epochs, evaluated after the training; deviations in a seed's row are over epochs. Best on "
        "test is what most others report; nothing here is chosen by it.\n\n"
        f"{markdown_table(['seed', *HEAD], lines)}\n\n"
    )


def evaluation(run: Path, out: Path) -> tuple[str, str]:
    """Evaluate a run's last epoch once more; return the line with its picture, and its table as text."""
    scored = evaluate_checkpoint(run / "last", out=out)
    (out / "result.json").unlink()  # each run's own lies beside its settings
    text = text_table(scored.task.table(scored.seen.counts))
    confusion = scored.task.confusion(scored.seen.counts)
    if confusion is None:
        return "", text
    confusion_matrix(*confusion, out / "confusion.png")
    write_confusion(*confusion, out / "confusion.csv")
    return "![confusion matrix](confusion.png)\n\n", text


if __name__ == "__main__":
    main()
