"""Single changes against a baseline, every one trained for each seed and scored on the validation split.

The test split is never opened. What is tried stands in a file, the runs that are done in another, beside the
table: called again, only what is missing is trained, so a long list may be stopped at any time, and
several processes may share it by their seeds.

    python -m benchmarks.recipe --seeds 1 2 --out results/recipe.md

    python -m benchmarks.recipe --baselines naive --seeds 3 --only latents --out results/recipe.md
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from benchmarks.sweep import learn
from benchmarks.table import markdown_table, spread
from bixt3d.config import load_config
from bixt3d.datasets.split import Split
from bixt3d.suggest import nearest
from bixt3d.training.device import pick_device
from bixt3d.training.experiment import LABELS, open_splits
from bixt3d.training.log import environment
from bixt3d.training.stop import Stopped

INTRODUCTION = """# Recipe: single changes, on the validation split

Each change alone beside the baseline, small and briefly trained; the test split was not opened. Gain: mean
and standard deviation of the differences of runs with the same seed. Time: CPU time against the baseline's
with the same seed, other work on the machine. Last epoch, moving average of the weights.
"""
PLAN = Path(__file__).with_suffix(".yaml")


class Trial(NamedTuple):
    """One thing to train: a baseline (no change), or a change of it."""

    baseline: str
    about: str
    change: str
    config: str
    settings: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN, help="baselines and changes (recipe.yaml)")
    parser.add_argument("--baselines", nargs="+", help="only these")
    parser.add_argument("--only", nargs="+", default=[], metavar="ABOUT", help="only changes about these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="the table; the runs lie beside it, .jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trials = list(read_plan(args.plan))
    for option, given, known in (
        ("--baselines", args.baselines or [], {t.baseline for t in trials}),
        ("--only", args.only, {t.about for t in trials if t.about}),
    ):
        for name in given:
            if name not in known:
                listed = ", ".join(sorted(known))
                parser.error(f"{option}: unknown {name!r}{nearest(name, sorted(known))}; known: {listed}")
    rows = args.out.with_suffix(".jsonl")
    wanted = [t for t in trials if not args.baselines or t.baseline in args.baselines]
    wanted = [t for t in wanted if not args.only or not t.change or t.about in args.only]
    opened: dict[str, tuple[dict[str, Split], int]] = {}
    for seed in args.seeds:  # the outer loop, so that what is done first covers everything
        for trial in wanted:
            if not any(row["seed"] == seed and is_of(row, trial) for row in read_rows(rows)):
                try:
                    row = run(trial, seed, args.device, opened)
                except Stopped as stopped:
                    print("stopped; called again, it goes on after the runs that are done", file=sys.stderr)
                    sys.exit(128 + stopped.number)
                args.out.parent.mkdir(parents=True, exist_ok=True)
                with rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    args.out.write_text(report(trials, read_rows(rows)))


def read_plan(path: Path) -> Iterator[Trial]:
    """Yield each baseline and after it its changes."""
    for name, baseline in yaml.safe_load(path.read_text())["baselines"].items():
        common = tuple(baseline["set"])
        yield Trial(name, "", "", baseline["cfg"], common)
        for about, changes in baseline["changes"].items():
            for change in changes:
                yield Trial(name, about, change, baseline["cfg"], (*common, *change.split()))


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_of(row: dict[str, Any], trial: Trial) -> bool:
    return (row["config"], tuple(row["settings"])) == (trial.config, trial.settings)


def run(
    trial: Trial, seed: int, device_name: str | None, opened: dict[str, tuple[dict[str, Split], int]]
) -> dict[str, Any]:
    """Train once; the row of the last epoch, and what it took."""
    device = pick_device(device_name)
    config = load_config(trial.config, [*trial.settings, f"train.seed={seed}", "run.tensorboard=false"])
    data = f"{config.data} {config.augment.thin > 0}"
    if data not in opened:
        opened.clear()  # one data set at a time
        opened[data] = open_splits(config, device, ("train", "val"), train="train")
    begun = time.process_time()
    row = learn(config, *opened[data])[-1]
    where = environment(device)
    return {
        "baseline": trial.baseline,
        "config": trial.config,
        "settings": trial.settings,
        "seed": seed,
        **{key: round(row[key], 5) for key in row if key.startswith(("train_", "val_"))},
        "cpu_minutes": round((time.process_time() - begun) / 60, 3),
        **{key: where[key] for key in ("processor", "gpu", "threads", "torch", "commit")},
    }


def report(trials: list[Trial], rows: list[dict[str, Any]]) -> str:
    """Return the tables, one a baseline."""
    of: dict[Trial, dict[int, dict[str, Any]]] = defaultdict(dict)
    for trial in trials:
        of[trial] = {row["seed"]: row for row in rows if is_of(row, trial)}
    text = INTRODUCTION
    for baseline in (t for t in trials if not t.change and of[t]):
        base = of[baseline]
        scored = next(iter(base.values()))
        goal = "oa" if "val_oa" in scored else "class_miou_pointnet2"
        lines = []
        for trial in (t for t in trials if t.baseline == baseline.baseline and of[t]):
            done = of[trial]
            shared = sorted(done.keys() & base.keys())
            gains = [100 * (done[s][f"val_{goal}"] - base[s][f"val_{goal}"]) for s in shared]
            cost = [done[s]["cpu_minutes"] / base[s]["cpu_minutes"] for s in shared]
            lines.append(
                [
                    trial.about,
                    f"`{trial.change}`" if trial.change else "**baseline**",
                    spread([100 * row[f"val_{goal}"] for row in done.values()]),
                    spread(gains, "+") if gains and trial.change else "",
                    f"{statistics.mean(row['val_loss'] for row in done.values()):.3f}",
                    f"{statistics.mean(cost):.2f}" if cost else "",
                    " ".join(map(str, sorted(done))),
                ]
            )
        head = ["", "change", f"val {LABELS[goal]} %", "gain", "val loss", "time", "seeds"]
        minutes = statistics.mean(row["cpu_minutes"] for row in base.values())
        where = next(iter(base.values()))
        commits = sorted({row["commit"] for t in trials for row in of[t].values()})
        text += (
            f"\n## {baseline.baseline}\n\n{markdown_table(head, lines)}\n\n"
            f"`--cfg {baseline.config} --set {' '.join(baseline.settings)}`: {minutes:.1f} CPU minutes a "
            f"run on {where['gpu'] or where['processor']}, threads: {where['threads']}, "
            f"torch {where['torch']}, commits {', '.join(commits)}.\n"
        )
    return text


if __name__ == "__main__":
    main()
