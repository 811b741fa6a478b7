"""Gather every score in results/ into one page, beside what others published.

It reads each experiment's folder, as `benchmarks.summarize` leaves them: settings, result and environment of
every seed. Parameters and multiply-accumulates are counted anew, so the data sets must be where the settings
say. Nothing is trained and no score is computed.

    python -m benchmarks.scores --out results/README.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from benchmarks.epochs import COLUMNS, FILE
from benchmarks.models import Spec, count_macs, count_parameters
from benchmarks.table import command_line, markdown_table, spread
from bixt3d.commands.endings import one_line_errors
from bixt3d.config import Config, load_config
from bixt3d.training.experiment import describe
from bixt3d.training.files import write_text
from bixt3d.training.splits import open_splits

PUBLISHED = Path(__file__).with_name("published.yaml")
CPU = torch.device("cpu")
# The columns of a data set: name in a result, in the list of what is published, and at the top.
CLASSIFIED = (("oa", "oa", "OA %"), ("macc", "macc", "mAcc %"))
LABELLED = (
    ("class_miou_pointmlp", "class", "class mIoU % (pointmlp)"),
    ("instance_miou_pointmlp", "instance", "instance mIoU % (pointmlp)"),
    ("class_miou_pointnet2", "", "class mIoU % (pointnet2)"),
)


class Experiment(NamedTuple):
    """Runs of the same settings on the same hardware, one a seed."""

    folder: Path
    config: Config
    seeds: list[int]
    results: list[dict[str, Any]]
    epochs: list[dict[str, Any]]  # of the seeds that have them: what `benchmarks.epochs` writes
    environments: list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--published", type=Path, default=PUBLISHED)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    experiments = list(find_experiments(args.results))
    if not experiments:
        parser.error(f"--results: expected folders with result.json of finished runs in {args.results}")
    with one_line_errors():
        published = yaml.safe_load(args.published.read_text())
        text = page(experiments, published, args.out.parent)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, text)
        print(text)


def find_experiments(root: Path) -> Iterable[Experiment]:
    """Yield the experiments below ``root``: runs of one folder that differ by their seeds alone."""
    found: dict[tuple[Path, str], list[Path]] = {}
    for result in sorted(root.glob("*/*/result.json")):
        config = yaml.safe_load((result.parent / "config.yaml").read_text())
        config["train"].pop("seed")
        config["run"] = None
        where = json.loads((result.parent / "environment.json").read_text())
        alike = json.dumps([config, where["gpu"], where["processor"], where["threads"]])
        found.setdefault((result.parent.parent, alike), []).append(result.parent)
    kinds = Counter(folder for folder, _ in found)
    for (folder, _), runs in found.items():
        configs = [load_config(run / "config.yaml") for run in runs]
        yield Experiment(
            folder if len(runs) > 1 or kinds[folder] == 1 else runs[0],
            configs[0],
            [config.train.seed for config in configs],
            [json.loads((run / "result.json").read_text()) for run in runs],
            [json.loads((run / FILE).read_text()) for run in runs if (run / FILE).exists()],
            [json.loads((run / "environment.json").read_text()) for run in runs],
        )


def page(experiments: list[Experiment], published: dict[str, list[dict[str, Any]]], beside: Path) -> str:
    """Return the page: a table for each data set, ours first, then what others published."""
    text = """# Scores

Ours: last epoch (moving average of the weights, where `train.ema_decay` is not 0), no voting; the test split
was evaluated once a run and chose nothing. Mean ± standard deviation over the seeds. Minutes: of a run,
evaluation included. GMAC: multiply-accumulates of a cloud in matrix products, forward; of others, half the
FLOPs they state.
A config may have changed since its run: each run's own settings are the config.yaml in its log, to be given
as --cfg.
"""
    for data_set in dict.fromkeys(title(e.config) for e in experiments):
        chosen = [e for e in experiments if title(e.config) == data_set]
        name = chosen[0].config.data.name
        labelled = "class_miou_pointmlp" in chosen[0].results[0]["last"]
        columns = LABELLED if labelled else CLASSIFIED
        text += f"\n## {data_set}\n\n" + table(chosen, columns, beside)
        text += "\n" + "".join(f"- {command(e)}\n" for e in chosen)
        if name in published:
            where = WHERE.get(name, "")
            text += f"\nPublished by others, not measured here{where}; what is not known is left out:\n\n"
            text += published_table(published[name], columns)
        if f"{name}_logs" in published:
            text += THREE_WAYS + three_ways(chosen, published[f"{name}_logs"], columns[0][0], columns[1][0])
    return f"{text}\nGathered by `{command_line('benchmarks.scores')}`.\n"


WHERE = {
    "modelnet40": " (the official point clouds; ours were sampled anew)",
    "shapenetpart": " (ShapeNetPart, 2,048 points: another data set than the one above)",
}


THREE_WAYS = """
Trainings read in three ways, OA in per cent. Best on test is what most others report; nothing of ours is
chosen by it. What is not ours was read from logs in public repositories. Where ours has its last epoch alone,
no others were kept; where it has no mean, the last 20 epochs begin in the first half of a short training,
which is not done learning then. Deviations are over runs, those of a single run over its epochs.

"""


def three_ways(experiments: list[Experiment], logs: list[dict[str, Any]], goal: str, second: str) -> str:
    """Return the table of last, mean of the last 20 and best on test: ours, then those of logs."""
    named = {
        **COLUMNS,
        "macc": "mAcc, mean of the last 20",
        "runs": "runs",
        "epochs": "epochs",
        "source": "source",
    }
    body = []
    for e in experiments:
        row = {"last": spread([100 * result["last"][goal] for result in e.results])}
        if len(e.epochs) == len(e.results):  # of all seeds, or of none
            row |= {key: spread([100 * one[key][goal] for one in e.epochs]) for key in COLUMNS}
            row["macc"] = spread([100 * one["mean"][second] for one in e.epochs])
            if any(2 * one["of"][0] <= one["last"]["epoch"] for one in e.epochs):
                row |= {"mean": "", "macc": ""}
            elif len(e.epochs) == 1 and e.epochs[0]["std"]:
                row["mean"] += f" ± {100 * e.epochs[0]['std'][goal]:.2f}"
        row |= {"runs": len(e.results), "epochs": e.config.train.epochs, "source": f"ours: {e.folder.name}"}
        body.append([e.config.model.name, *(row.get(key, "") for key in named)])
    body += [[row["model"], *(row.get(key, "") for key in named)] for row in logs]
    return markdown_table(["model", *named.values()], body) + "\n"


def title(config: Config) -> str:
    """Return what a data set is called: by its folder, where it is none of its name."""
    own = Path(config.data.root).name
    return config.data.name if own == "data" else f"{own} ({config.data.name}'s layout)"


def table(experiments: list[Experiment], columns: tuple[tuple[str, str, str], ...], beside: Path) -> str:
    head = ["model", "points", *(top for *_, top in columns)]
    head += ["parameters", "GMAC", "minutes", "hardware", "seeds", "commit", "log"]
    rows = []
    for e in experiments:
        parameters, macs = size_of(e.config)
        scores = [[100 * result["last"][key] for result in e.results] for key, *_ in columns]
        some = e.environments[0]
        cores = "" if some["gpu"] else f", {some['threads']} thread{'s' * (some['threads'] > 1)}"
        rows.append(
            [
                e.config.model.name,
                e.config.data.num_points,
                *map(spread, scores),
                f"{parameters:,}",
                f"{macs / 1e9:.3g}",
                f"{statistics.mean(result['minutes'] for result in e.results):.0f}",
                f"{some['gpu'] or some['processor']}{cores}",
                " ".join(map(str, e.seeds)),
                ", ".join(sorted({where["commit"] for where in e.environments})),
                f"[{e.folder.name}]({os.path.relpath(e.folder, beside)})",
            ]
        )
    return markdown_table(head, rows) + "\n"


def published_table(rows: list[dict[str, Any]], columns: tuple[tuple[str, str, str], ...]) -> str:
    shown = {"model": "published", "points": "points"}
    shown |= {key: top.removesuffix(" (pointmlp)") for _, key, top in columns if key}
    shown |= {"miou": "mIoU by", "parameters": "parameters, M", "gmac": "GMAC", "voting": "voting"}
    shown |= {"selection": "epoch chosen by", "source": "source"}
    keys = [key for key in shown if any(key in row for row in rows)]
    body = [[row.get(key, "") for key in keys] for row in rows]
    return markdown_table([shown[key] for key in keys], body) + "\n"


def size_of(config: Config) -> tuple[int, int]:
    """Count parameters and multiply-accumulates of an experiment's model on its data."""
    splits, stored = open_splits(config, CPU, ("test",))
    model = describe(config, splits["test"], stored).model
    spec = Spec(model["name"], model["name"], model["args"])
    return count_parameters(spec.build()), count_macs(spec, config.data.num_points, CPU)


def command(experiment: Experiment) -> str:
    seeds = "" if len(experiment.seeds) == 1 else ", and so for each seed"
    return f"{experiment.folder.name}: `python {experiment.environments[0]['command']}`{seeds}"


if __name__ == "__main__":
    main()
