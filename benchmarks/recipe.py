"""Single changes against a baseline, every one trained for each seed and scored on the validation split.

The test split is never opened. What is tried stands in a file, the runs that are done in another, beside the
table: called again, only what is missing is trained, so a long list may be stopped at any time, and
several processes may share it by their seeds. A run is known by all settings that it had, so a config or a
default that changes makes its runs missing.

    python -m benchmarks.recipe --seeds 1 2 --out results/recipe.md

    python -m benchmarks.recipe --baselines naive --seeds 3 --only latents --out results/recipe.md
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from benchmarks.sweep import learn
from benchmarks.table import markdown_table, spread
from bixt3d.commands.endings import one_line_errors
from bixt3d.config import Config, load_config, override, to_dict
from bixt3d.datasets.split import Split
from bixt3d.models.factory import find_builder
from bixt3d.suggest import nearest
from bixt3d.tasks import metric_titles
from bixt3d.training.device import pick_device
from bixt3d.training.files import write_text
from bixt3d.training.guards import Stopped
from bixt3d.training.log import environment
from bixt3d.training.splits import open_splits

INTRODUCTION = """# Recipe: single changes, on the validation split

Each change alone beside the baseline, small and briefly trained ("whole": as the config has it); the test
split was not opened. Gain: mean and standard deviation of the differences of runs with the same seed. Time:
CPU time against the baseline's with the same seed on the same processor, other work on the machine. Last
epoch, moving average of the weights. ± over two seeds says little, and a score is of few shapes: 985 of
ModelNet40, so that 90 % is known to 1 point; 38 of the parts. The loss counts label smoothing, where there
is any. What a baseline has where nothing is set stands in its config. Every run with all its settings:
recipe.jsonl.
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
    with one_line_errors():
        if args.out.suffix != ".md":
            raise ValueError(f"--out: expected a file .md, beside which the runs go, got {args.out}")
        trials = list(read_plan(args.plan))
        check_names("--baselines", args.baselines or [], {t.baseline for t in trials})
        check_names("--only", args.only, {t.about for t in trials if t.about})
        train_missing(args, trials)
        write_text(args.out, report(trials, read_rows(args.out.with_suffix(".jsonl"))))
        print(f"written to {args.out}")


def check_names(option: str, given: list[str], known: set[str]) -> None:
    for name in given:
        if name not in known:
            listed = ", ".join(repr(one) for one in sorted(known))
            raise ValueError(f"{option}: unknown {name!r}{nearest(name, sorted(known))}; known: {listed}")


def train_missing(args: argparse.Namespace, trials: list[Trial]) -> None:
    """Train what is wanted and not among the rows yet, and add a row for each."""
    rows = args.out.with_suffix(".jsonl")
    wanted = [t for t in trials if not args.baselines or t.baseline in args.baselines]
    wanted = [t for t in wanted if not args.only or not t.change or t.about in args.only]
    stated = {trial: resolve(trial) for trial in wanted}  # all settings are read before one is trained
    opened: dict[str, tuple[dict[str, Split], int]] = {}
    for seed in args.seeds:  # the outer loop, so that what is done first covers everything
        for trial in wanted:
            if any(row["seed"] == seed and is_of(row, stated[trial]) for row in read_rows(rows)):
                continue
            try:
                row = run(trial, seed, args.device, opened)
            except Stopped as stopped:
                print("stopped; called again, it goes on after the runs that are done", file=sys.stderr)
                sys.exit(128 + stopped.number)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            with rows.open("a") as file:
                file.write(json.dumps({**row, "resolved": stated[trial]}) + "\n")
            print(json.dumps(row), flush=True)


def read_plan(path: Path) -> Iterator[Trial]:
    """Yield each baseline and after it its changes."""
    for name, baseline in yaml.safe_load(path.read_text())["baselines"].items():
        common = tuple(baseline["set"])
        yield Trial(name, "", "", baseline["cfg"], common)
        for about, changes in baseline["changes"].items():
            for change in changes:
                yield Trial(name, about, change, baseline["cfg"], (*common, *change.split()))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the runs that are done.

    Raises:
        ValueError: If a line is damaged.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: no JSON; a process that was killed as it wrote leaves such a line: "
                "delete it"
            ) from None
    return rows


def resolve(trial: Trial) -> dict[str, Any]:
    """Return every setting of a trial by its full name, defaults too, but the seed and where the run lies."""
    return flat(load_config(trial.config, trial.settings))


def flat(config: Config) -> dict[str, Any]:
    takes = inspect.signature(find_builder(config.model.name)).parameters
    given = {key: p.default for key, p in takes.items() if p.default is not p.empty} | config.model.args
    stated: dict[str, Any] = {"task": config.task}
    for section, values in to_dict(config).items():
        if isinstance(values, dict) and section != "run":
            stated |= {f"{section}.{key}": value for key, value in values.items()}
    del stated["model.args"], stated["train.seed"]
    stated |= {f"model.args.{key}": value for key, value in given.items()}
    resolved: dict[str, Any] = json.loads(json.dumps(stated, default=lambda value: value.__name__))  # a class
    return resolved


@cache
def defaults(model: str) -> dict[str, Any]:
    """Return what every setting is where nothing is said."""
    return flat(override(Config(), model={"name": model}))


def is_of(row: Mapping[str, Any], resolved: Mapping[str, Any]) -> bool:
    """Whether a row is of these settings; one that came later than the row had its default then."""
    known = dict(row["resolved"])
    if "data.normals" in known:  # the older spelling
        known["data.features"] = None if known.pop("data.normals") else []
    return _plain({**defaults(known["model.name"]), **known}) == _plain(resolved)


def _plain(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are compared: a model by its family and sizes, numbers to six digits."""
    builder = find_builder(stated["model.name"])
    plain = {
        key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in stated.items()
    }
    return {**plain, "model.name": getattr(builder, "func", builder).__name__}


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
        stated = resolve(trial)
        of[trial] = {row["seed"]: row for row in rows if is_of(row, stated)}
    text = INTRODUCTION
    for baseline in (t for t in trials if not t.change and of[t]):
        base = of[baseline]
        scored = next(iter(base.values()))
        goal = "oa" if "val_oa" in scored else "class_miou_pointnet2"
        alike = [t for t in trials if t.baseline == baseline.baseline]
        lines = []
        for trial in (t for t in alike if of[t]):
            done = of[trial]
            shared = sorted(done.keys() & base.keys())
            gains = [100 * (done[s][f"val_{goal}"] - base[s][f"val_{goal}"]) for s in shared]
            cost = [
                done[s]["cpu_minutes"] / base[s]["cpu_minutes"]
                for s in shared
                if done[s]["processor"] == base[s]["processor"] and done[s]["gpu"] == base[s]["gpu"]
            ]
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
        head = ["", "change", f"val {metric_titles()[goal]} %", "gain", "val loss", "time", "seeds"]
        minutes = statistics.mean(row["cpu_minutes"] for row in base.values())
        where = next(iter(base.values()))
        every = [row for t in alike for row in of[t].values()]
        machines = sorted({row["gpu"] or row["processor"] for row in every})
        commits = sorted({row["commit"] for row in every})
        text += (
            f"\n## {baseline.baseline}\n\n{markdown_table(head, lines)}\n\n"
            f"`--cfg {baseline.config} --set {' '.join(baseline.settings)}`: {minutes:.1f} CPU minutes a "
            f"run on {', '.join(machines)}, threads: {where['threads']}, "
            f"torch {where['torch']}, commits {', '.join(commits)}.\n"
        )
    return text


if __name__ == "__main__":
    main()
