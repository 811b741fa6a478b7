"""Measure trained classifiers on damaged clouds: noise, missing points, outliers, rotations, stretching.

    python -m benchmarks.corruption runs/modelnet40_cpu/last runs/modelnet40_cpu_naive/last \
        --out results/corruption

Every model sees the same damaged test clouds, drawn by a seed that follows from the corruption and its
severity. The damage is done to all stored points, before a model chooses and orders its own among them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.table import command_line, environment_line, markdown_table
from bixt3d import open_dataset
from bixt3d.config import Config, config_from
from bixt3d.datasets import augment
from bixt3d.datasets.loader import arrange_split
from bixt3d.datasets.split import Split, unit_sphere
from bixt3d.models.classifier import PointClassifier
from bixt3d.ops import gather_points
from bixt3d.training import load_checkpoint
from bixt3d.training.checkpoint import write_text
from bixt3d.training.command import one_line_errors
from bixt3d.training.device import pick_device
from bixt3d.training.evaluate import evaluate
from bixt3d.training.experiment import NO_PARTS, build_task
from bixt3d.training.report import write_csv
from bixt3d.visualize.plots import robustness_curves

Change = Callable[[Tensor, float, Generator], Tensor]
Scores = dict[str, dict[str, dict[str, float | None]]]  # corruption -> model -> severity -> OA


def noise(points: Tensor, std: float, generator: Generator) -> Tensor:
    """Move each point (B, N, C) by normal noise, and cut coordinates to -1..1."""
    moved = augment.jitter(points, std, math.inf, generator)
    return torch.cat([moved[..., :3].clamp(-1, 1), moved[..., 3:]], -1)


def missing(points: Tensor, share: float, generator: Generator) -> Tensor:
    """Leave out a share of the points (B, N, C), each as likely; the others keep their order: (B, M, C)."""
    batch, count, _ = points.shape
    drawn = torch.rand(batch, count, generator=generator).argsort(dim=1, stable=True)  # (B, N)
    return gather_points(points, drawn[:, round(share * count) :].sort(1).values)


def missing_region(points: Tensor, share: float, generator: Generator) -> Tensor:
    """Leave out a drawn point and those nearest to it, a share of (B, N, C); the others keep their order."""
    batch, count, _ = points.shape
    centre = torch.randint(count, (batch, 1), generator=generator)  # (B, 1)
    xyz = points[..., :3]
    order = (xyz - gather_points(xyz, centre)).norm(dim=-1).argsort(dim=1, stable=True)  # (B, N)
    return gather_points(points, order[:, round(share * count) :].sort(1).values)


def outliers(points: Tensor, share: float, generator: Generator) -> Tensor:
    """Put a share of the points (B, N, C) somewhere in the unit ball, evenly; normals there are drawn too."""
    batch, count, channels = points.shape
    drawn = torch.rand(batch, count, generator=generator).argsort(dim=1, stable=True)  # (B, N)
    chosen = drawn[:, : round(share * count)]  # (B, k)
    directions = F.normalize(torch.randn(*chosen.shape, 6, generator=generator).view(batch, -1, 2, 3), dim=-1)
    radius = torch.rand(*chosen.shape, 1, generator=generator) ** (1 / 3)  # (B, k, 1)
    stray = torch.cat([radius * directions[:, :, 0], directions[:, :, 1]], -1)[..., :channels]  # (B, k, C)
    return points.scatter(1, chosen[..., None].expand_as(stray), stray)


def rotate(points: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Turn each cloud (B, N, C) about an axis drawn evenly, by an angle from U(-degrees, degrees)."""
    axis = F.normalize(torch.randn(len(points), 3, generator=generator), dim=-1)  # (B, 3)
    reach = math.radians(degrees)
    angle = reach * (2 * torch.rand(len(points), 1, generator=generator) - 1)  # (B, 1)
    cross = torch.linalg.cross(torch.eye(3)[None], (angle * axis)[:, None])  # (B, 3, 3), of the cross product
    turn = torch.linalg.matrix_exp(cross)  # (B, 3, 3)
    vectors = points.reshape(*points.shape[:2], -1, 3)  # (B, N, 1 or 2, 3)
    return torch.einsum("bij,bnvj->bnvi", turn, vectors).flatten(2)  # (B, N, C)


def stretch(points: Tensor, factor: float, generator: Generator) -> Tensor:
    """Scale each axis of each cloud (B, N, C) by a factor from U(1 / factor, factor)."""
    return augment.scale(points, 1 / factor, factor, generator)


@dataclass(frozen=True)
class Corruption:
    """One kind of damage; `change` is None where a model is given fewer points instead.

    `normalized`: clouds are moved back into the unit sphere afterwards. `shown` formats a severity.
    """

    name: str
    severities: tuple[float, ...]
    shown: Callable[[float], str]
    says: str
    change: Change | None = None
    normalized: bool = False
    repeated: bool = False

    def apply(self, points: Tensor, severity: float) -> Tensor:
        """Damage clouds (B, N, C) on the CPU: (B, M, C), the same every time."""
        assert self.change is not None
        # A seed of its own, so that a corruption or severity more changes none of the others.
        generator = Generator().manual_seed(zlib.crc32(f"{self.name} {severity:g}".encode()))
        changed = self.change(points, severity, generator)
        if not self.normalized:
            return changed
        return torch.cat([unit_sphere(changed[..., :3]), changed[..., 3:]], -1)


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def angle(degrees: float) -> str:
    return f"{degrees:g}°"


def number(value: float) -> str:
    return f"{value:g}"


CORRUPTIONS = (
    Corruption(
        "noise",
        (0.01, 0.02, 0.04, 0.08),
        number,
        "normal noise of this deviation on each coordinate, which is then cut to -1..1 (ModelNet40-C's "
        "gaussian, there 0.01 to 0.03; PointCloud-C's jitter, 0.01 to 0.05 and not cut)",
        noise,
    ),
    Corruption(
        "missing points",
        (0.25, 0.5, 0.75),
        percent,
        "this share of the points is left out, each as likely (PointCloud-C's drop global, the same range)",
        missing,
    ),
    Corruption(
        "missing region",
        (0.25, 0.5),
        percent,
        "a drawn point and those nearest to it are left out, this share of all, one hole (PointCloud-C's "
        "drop local leaves out 10 to 49 % in 1 to 7 holes, ModelNet40-C's cutout 6 to 29 % in 2 to 10)",
        missing_region,
    ),
    Corruption(
        "outliers",
        (0.01, 0.05, 0.1),
        percent,
        "this share of the points is replaced by points drawn evenly in the unit ball (PointCloud-C's add "
        "global adds 1 to 5 % to the cloud, ModelNet40-C's background 2 to 5 % in a cube; here they replace, "
        "at drawn places, as a model that takes the first points would not see what is appended)",
        outliers,
        normalized=True,
    ),
    Corruption(
        "rotation about y",
        (15, 45, 180),
        angle,
        "a turn about the up axis by an angle drawn evenly between minus and plus this one",
        augment.rotate_up,
        normalized=True,
    ),
    Corruption(
        "rotation about any axis",
        (15, 30),
        angle,
        "a turn about an axis drawn evenly, by an angle drawn evenly between minus and plus this one "
        "(PointCloud-C draws a turn about each of x, y and z up to 6 to 30°, ModelNet40-C up to 5 to 17.5°)",
        rotate,
        normalized=True,
    ),
    Corruption(
        "stretching",
        (1.5, 2),
        number,
        "each axis is scaled by a factor drawn evenly between 1 / this and this (PointCloud-C's scale, there "
        "1.6 to 2)",
        stretch,
        normalized=True,
    ),
    Corruption(
        "number of points",
        (1024, 512, 256, 128),
        number,
        "the model is given so many points, chosen in its own order, whatever it was trained with",
    ),
    Corruption(
        "few points, repeated",
        (512, 256, 128),
        number,
        "so many points, chosen as before, are all that the cloud has; a model that was trained with more "
        "sees them repeated, as `Predictor` does it",
        repeated=True,
    ),
)


def choose(split: Split, num_points: int, order: str) -> Split:
    """Return the points that a model takes of each cloud; too few are repeated, as `Predictor` does it."""
    own = split.num_points
    if own < num_points:
        points = split.points[:, torch.arange(num_points) % own]  # (S, num_points, C)
        split = replace(split, points=points, count=torch.full((len(split),), own))
    return arrange_split(split, num_points, order)


@dataclass(frozen=True)
class Trained:
    """A classifier and the settings of its training."""

    name: str
    model: nn.Module
    config: Config
    channels: int

    def see(self, split: Split, corruption: Corruption | None, severity: float) -> Split:
        """Return the points that the model looks at; a split that is damaged already, or is to be thinned."""
        data = self.config.data
        split = replace(split, points=split.points[..., : self.channels])
        if corruption is None or corruption.change is not None:
            return choose(split, data.num_points, data.order)
        few = choose(split, int(severity), data.order)
        return choose(few, data.num_points, data.order) if corruption.repeated else few

    def accuracy(self, split: Split, device: torch.device) -> float:
        """Return the overall accuracy on a split as `see` gives it."""
        split, train = split.to(device), self.config.train
        task = build_task(self.config, split)
        return evaluate(self.model, split, task, train.eval_batch_size, train.amp).metrics["oa"]


def load(run: str, name: str, overrides: Sequence[str], device: torch.device) -> Trained:
    """Load a classifier by what a user calls it.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is damaged, or no classifier.
    """
    model, meta = load_checkpoint(run, device)
    if not isinstance(model, PointClassifier):
        raise ValueError(f"{run}: expected a classifier, got a model of parts ({meta['model']['name']})")
    config = config_from(meta["config"], overrides)
    config.model.name = meta["model"]["name"]
    return Trained(name, model, config, model.in_dims)


def open_clouds(models: Sequence[Trained]) -> Split:
    """Open the test split of the data set that all models were trained on, with all stored points.

    Raises:
        ValueError: If the models are of several data sets, or know other classes or channels than the data.
    """
    data = models[0].config.data
    for other in models:
        if (other.config.data.name, other.config.data.root) != (data.name, data.root):
            raise ValueError(
                f"expected models of one data set, got {data.name} in {data.root} for {models[0].name} and "
                f"{other.config.data.name} in {other.config.data.root} for {other.name}; --set data.root=... "
                "if it only moved"
            )
    split = replace(open_dataset(data.name, data.root, "test"), **NO_PARTS)
    if split.count is not None:
        raise ValueError(f"{data.name} in {data.root}: expected clouds of equally many points of their own")
    for trained in models:
        assert isinstance(trained.model, PointClassifier) and trained.model.description is not None
        if trained.model.description["classes"] != list(split.classes):
            raise ValueError(f"{trained.name} knows other classes than {data.name} in {data.root} has")
        if trained.channels > split.channels:
            raise ValueError(f"{trained.name} takes normals, and {data.name} in {data.root} has none")
    return split


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
    chosen: dict[tuple[int, str, int], Split] = {}  # models that take the same points share their search
    row: dict[str, float | None] = {}
    fewer = corruption is not None and corruption.change is None
    for trained in models:
        if fewer and severity > split.num_points:
            row[trained.name] = None
            continue
        key = trained.config.data.num_points, trained.config.data.order, trained.channels
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


def page(rows: list[list[str]], split: Split, whole: int | None, about: str) -> str:
    """Return the text of the page; `whole`: the data's number of shapes, where only some were looked at."""
    part = f"the {len(split)} test shapes"
    if whole is not None:
        part = f"a trial on {len(split)} of the {whole} test shapes, spread evenly"
    again = ", ".join(c.name for c in CORRUPTIONS if c.normalized)
    definitions = "\n".join(f"- {c.name}: {c.says}." for c in CORRUPTIONS)
    return f"""# Damaged clouds

Overall accuracy in per cent on {part}, each model trained as usual, on clean clouds.

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
drawn by a seed of each corruption and severity. Both benchmarks damage a draw of 1,024 points and have five
severities of each kind, so their numbers compare with these only roughly.

{about}
"""


def labels(runs: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """Return what the models are called: as told, or by the last part of what they were found by.

    Raises:
        ValueError: If there are not as many names as models, or two are the same.
    """
    if names is None:
        parts = [Path(run.removesuffix(".safetensors")) for run in runs]
        names = [f"{p.parent.name}/{p.name}" if p.name in ("last", "best") else p.name for p in parts]
    if len(names) != len(runs) or len(set(names)) < len(names):
        got = ", ".join(names)
        raise ValueError(f"--names: expected {len(runs)} different names, one a model, got {got}")
    return list(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", help="checkpoints: files, runs, or names of shipped weights")
    parser.add_argument("--out", type=Path, default=Path("results/corruption"), help="folder for the results")
    parser.add_argument("--names", nargs="+", help="what the models are called in table and picture")
    parser.add_argument("--shapes", type=int, help="a trial on so many shapes, spread over the split")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of all models")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's own choice by default")
    args = parser.parse_args()
    if args.shapes is not None and args.shapes < 1:
        parser.error(f"argument --shapes: expected a whole number from 1 up, got {args.shapes}")
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    begun, device = time.perf_counter(), pick_device(args.device)
    opened = partial(load, overrides=args.set, device=device)
    models = [opened(run, name) for run, name in zip(args.runs, labels(args.runs, args.names), strict=True)]
    split = whole = open_clouds(models)
    if args.shapes is not None and args.shapes < len(whole):
        split = whole.select(torch.linspace(0, len(whole) - 1, args.shapes).round().long())
    clean, scores = measure(models, split, device)
    rows = table(clean, scores)
    minutes = (time.perf_counter() - begun) / 60
    args.out.mkdir(parents=True, exist_ok=True)
    robustness_curves(clean, scores, args.out / "corruption.png")
    write_csv(rows, args.out / "table.csv")
    about = f"`{command_line('benchmarks.corruption')}`, {minutes:.1f} minutes\n\n{environment_line(device)}"
    trial = len(whole) if len(split) < len(whole) else None
    write_text(args.out / "README.md", page(rows, split, trial, about))
    print(markdown_table(rows[0], rows[1:]))


if __name__ == "__main__":
    main()
