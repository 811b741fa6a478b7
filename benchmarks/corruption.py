"""Measure trained classifiers on damaged clouds: noise, missing points, outliers, rotations, stretching.

    python -m benchmarks.corruption runs/modelnet40_cpu/last runs/modelnet40_cpu_naive/last \
        --out results/corruption
    python -m benchmarks.corruption modelnet40_cpu --suite modelnet-c --out results/modelnet-c

Every model sees the same damaged test clouds, drawn by a seed that follows from the corruption and its
severity. The damage is done to all stored points, before a model chooses and orders its own among them.
``--suite`` takes the corruptions of ModelNet-C or ModelNet40-C (`benchmarks.suites`) in place of our own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import suite_scores
from benchmarks.damage import CORRUPTIONS, Corruption
from benchmarks.options import add_models, parser_of
from benchmarks.suites import SUITES
from benchmarks.table import command_line, environment_line, markdown_table
from benchmarks.trained import Trained, opened, part_of
from bixt3d.commands.endings import one_line_errors
from bixt3d.datasets.split import Split
from bixt3d.training.device import pick_device
from bixt3d.training.files import write_csv, write_text
from bixt3d.visualize.plots import robustness_curves

Scores = dict[str, dict[str, dict[str, float | None]]]  # corruption -> model -> severity -> OA


def measure(models: Sequence[Trained], split: Split, device: torch.device) -> tuple[dict[str, float], Scores]:
    """Return each model's accuracy on clean clouds, and under every corruption and severity.

    None stands where a cloud has fewer points than asked for, or a model cannot work with so few.
    """
    clean = {name: value for name, value in _row(models, split, None, 0, device).items() if value is not None}
    scores: Scores = {}
    for corruption in CORRUPTIONS:
        rows = scores[corruption.name] = {trained.name: {} for trained in models}
        for severity in corruption.severities:
            damaged = split
            if corruption.change is not None:
                damaged = replace(split, points=corruption.apply(split.points, severity))
            shown = corruption.shown(severity)
            found = _row(models, damaged, corruption, severity, device)
            for name, value in found.items():
                rows[name][shown] = value
            print(corruption.name, shown, *(_cell(value) for value in found.values()), sep="  ", flush=True)
    return clean, scores


def _row(
    models: Sequence[Trained],
    split: Split,
    corruption: Corruption | None,
    severity: float,
    device: torch.device,
) -> dict[str, float | None]:
    # models that take the same points share their search
    chosen: dict[tuple[int, str, tuple[str, ...]], Split] = {}
    row: dict[str, float | None] = {}
    fewer = corruption is not None and corruption.change is None
    for trained in models:
        if fewer and severity > split.num_points:
            row[trained.name] = None
            continue
        key = trained.config.data.num_points, trained.config.data.order, trained.features
        if key not in chosen:
            chosen[key] = trained.see(split, corruption, severity)
        try:
            row[trained.name] = trained.accuracy(chosen[key], device)
        except ValueError:
            if not fewer:
                raise
            row[trained.name] = None  # fewer points at some layer than neighbours to look for
    return row


def mean_accuracy(scores: Scores, name: str) -> float:
    """Return a model's mean over the corruptions of the mean over their severities, fewer points left out."""
    means = []
    for corruption in CORRUPTIONS:
        if corruption.change is not None:
            row = scores[corruption.name][name].values()
            means.append(statistics.mean(value for value in row if value is not None))
    return statistics.mean(means)


def table(clean: dict[str, float], scores: Scores) -> list[list[str]]:
    """Return the rows of the table, its head first: corruption, severity, and each model's OA in per cent."""
    rows = [["corruption", "severity", *clean], ["none", "", *map(_cell, clean.values())]]
    for corruption, found in scores.items():
        for severity in next(iter(found.values())):
            rows.append([corruption, severity, *(_cell(found[name][severity]) for name in clean)])
    return [*rows, ["mean", "", *(_cell(mean_accuracy(scores, name)) for name in clean)]]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def page(
    rows: list[list[str]], models: Sequence[Trained], split: Split, whole: int | None, about: str
) -> str:
    """Return the text of the page; `whole`: the data's number of shapes, where only some were looked at."""
    part = part_of(split, whole)
    again = ", ".join(c.name for c in CORRUPTIONS if c.normalized)
    trained = "\n".join(model.about() for model in models)
    definitions = "\n".join(f"- {c.name}: {c.says}." for c in CORRUPTIONS)
    return f"""# Damaged clouds

Overall accuracy in per cent on {part}, each model trained on clean clouds:

{trained}

![Accuracy against the severity of each corruption](corruption.png)

{markdown_table(rows[0], rows[1:])}

The mean is over the corruptions, each the mean over its severities; the last two kinds, which give a model
fewer points of a whole cloud, are not in it. "-": the clouds do not store so many points, or a layer would
have fewer of them than neighbours to look for. The same numbers: [table.csv](table.csv).

What is done, to all {split.num_points:,} stored points of each cloud in the unit sphere, and where it differs
from ModelNet40-C (Sun et al. 2022) and PointCloud-C (Ren et al. 2022):

{definitions}

Afterwards clouds are centred and scaled to the unit sphere anew for these kinds alone: {again}.
ModelNet40-C does it for the same kinds, with a box of edge 2 in place of the sphere, PointCloud-C for scale
alone. Only then each model chooses its points, in farthest-point order or as they are stored; where
too few are left for it they are repeated, as `Predictor` does it. Every model sees the same damaged clouds,
drawn by a seed of each corruption and severity. Farthest-point order takes what stands apart first: of the
points that a model takes, more are outliers than of all, the more so the fewer it takes. Both benchmarks
damage a draw of 1,024 points and have five severities of each kind, so their numbers compare with these only
roughly.

{about}
"""


def run_suite(
    name: str,
    models: Sequence[Trained],
    split: Split,
    whole: int | None,
    device: torch.device,
    out: Path,
    begun: float,
) -> None:
    """Measure under a published suite, and write page and table, and suite.json for `benchmarks.zoo`."""
    suite = SUITES[name]
    clean, found = suite_scores.measure(suite, models, split, device)
    rows = suite_scores.table(suite, clean, found)
    minutes = (time.perf_counter() - begun) / 60
    command = command_line("benchmarks.corruption")
    about = f"`{command}`, {minutes:.1f} minutes\n\n{environment_line(device)}"
    write_csv(suite_scores.levels(clean, found), out / "table.csv")
    errors = [
        {"name": m.name, "sha256": m.sha256, "error": suite_scores.mean_error(suite, found, m.name)}
        for m in models
    ]
    told = {"suite": name, "shapes": len(split), "command": command, "models": errors}
    write_text(out / "suite.json", json.dumps(told, indent=2) + "\n")
    write_text(out / "README.md", suite_scores.page(suite, rows, part_of(split, whole), models, about))
    print(f"{markdown_table(rows[0], rows[1:])}\nwritten to {out}")


def main() -> None:
    parser = parser_of(__doc__)
    add_models(parser)
    parser.add_argument("--suite", choices=SUITES, help="corruptions of a published benchmark")
    args = parser.parse_args()
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    begun, device = time.perf_counter(), pick_device(args.device)
    models, split, trial = opened(args, device)
    if args.suite is not None:
        run_suite(args.suite, models, split, trial, device, args.out, begun)
        return
    clean, scores = measure(models, split, device)
    rows = table(clean, scores)
    minutes = (time.perf_counter() - begun) / 60
    about = f"`{command_line('benchmarks.corruption')}`, {minutes:.1f} minutes\n\n{environment_line(device)}"
    args.out.mkdir(parents=True, exist_ok=True)
    robustness_curves(clean, scores, args.out / "corruption.png")
    write_csv(rows, args.out / "table.csv")
    write_text(args.out / "README.md", page(rows, models, split, trial, about))
    print(f"{markdown_table(rows[0], rows[1:])}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
