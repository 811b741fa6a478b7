"""Trained classifiers that a benchmark looks at, and the test shapes that they are shown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.damage import Corruption
from benchmarks.models import count_parameters
from bixt3d import open_dataset
from bixt3d.config import Config, config_from, override
from bixt3d.datasets.loader import arrange_split
from bixt3d.datasets.spheres import normalize_split, unit_spheres
from bixt3d.datasets.split import Split
from bixt3d.datasets.strays import normalize_as
from bixt3d.inference.looks import Looks
from bixt3d.models.classifier import PointClassifier
from bixt3d.training import load_checkpoint
from bixt3d.training.checkpoint import find_checkpoint
from bixt3d.training.evaluate import evaluate
from bixt3d.training.splits import build_task
from bixt3d.training.weights import checksum


def choose(split: Split, num_points: int, order: str) -> Split:
    """Return the points that a model takes of each cloud; too few are repeated, as `Predictor` does it."""
    own = split.num_points
    if own < num_points:
        points = split.points[:, torch.arange(num_points) % own]  # (S, num_points, C)
        count = torch.full((len(split),), own) if split.count is None else split.count
        split = replace(split, points=points, count=count)
    return arrange_split(split, num_points, order)


@dataclass(frozen=True)
class Trained:
    """A classifier and the settings of its training."""

    name: str
    model: nn.Module
    config: Config
    features: tuple[str, ...]
    sha256: str  # of its file

    def see(self, split: Split, corruption: Corruption | None, severity: float) -> Split:
        """Return the points that the model looks at; a split that is damaged already, or is to be thinned."""
        data = self.config.data
        split = split.with_features(self.features)
        if data.normalization != "max":  # else clouds are normalised already, or are not to be
            split = normalize_as(split, data.normalization, drop=True)
        if corruption is None or corruption.change is not None:
            return choose(split, data.num_points, data.order)
        few = choose(split, int(severity), data.order)
        return choose(few, data.num_points, data.order) if corruption.repeated else few

    def arrange(self, split: Split) -> Split:
        """Return what the model sees of clouds as a file has them: normalised and chosen anew."""
        data = self.config.data
        if data.normalization == "max":
            split = replace(split, points=unit_spheres(split.points, split.count))
        else:
            split = normalize_as(split, data.normalization, drop=True)
        return choose(split, data.num_points, data.order)

    @property
    def looks(self) -> Looks:
        """How `Predictor` looks at clouds whose up axis is not known."""
        assert isinstance(self.model, PointClassifier) and self.model.description is not None
        augment = self.model.description.config.get("augment") or {}
        return Looks.of(1, True, build_task(self.config), augment)

    def about(self) -> str:
        """Return a line of what was trained, and how."""
        data, augment, train = self.config.data, self.config.augment, self.config.train
        return (
            f"- {self.name}: `{self.config.model.name}`, {count_parameters(self.model):,} parameters; "
            f"{train.epochs} epochs on `{data.train_split}`, {data.num_points} points, seed {train.seed}, "
            f"scaled {augment.scale_low:.3g} to {augment.scale_high:.3g}, shifted by up to {augment.shift:g}"
        )

    def accuracy(self, split: Split, device: torch.device) -> float:
        """Return the overall accuracy on a split as `see` gives it."""
        return float((self.probabilities(split, device).argmax(-1) == split.label).double().mean())

    def probabilities(self, split: Split, device: torch.device) -> Tensor:
        """Return the probability of each class (S, K) on a split as `see` gives it."""
        split, train, found = split.to(device), self.config.train, []
        task = build_task(self.config)
        task.set_facts(task.facts(split))
        evaluate(
            *(self.model, split, task, train.eval_batch_size, train.amp),
            watch=lambda logits, batch: found.append(logits.float().softmax(-1).cpu()),
        )
        return torch.cat(found)


def load(run: str, name: str, overrides: Sequence[str], device: torch.device) -> Trained:
    """Load a classifier by what a user calls it.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is damaged, or no classifier.
    """
    file = find_checkpoint(run)
    model, meta = load_checkpoint(file, device)
    if not isinstance(model, PointClassifier):
        raise ValueError(f"{run}: expected a classifier, got a model of parts ({meta['model']['name']})")
    config = override(config_from(meta["config"], overrides), model={"name": meta["model"]["name"]})
    return Trained(name, model, config, model.description.preprocess.features, checksum(file))


def open_clouds(models: Sequence[Trained]) -> Split:
    """Open the test split of the data set that all models were trained on, y up, with all stored points.

    Raises:
        ValueError: If the models are of several data sets, or know other classes or features than the data.
    """
    data = models[0].config.data
    for other in models:
        if other.config.data.up != data.up:
            raise ValueError(
                f"expected models whose data have one axis up, got {data.up} for {models[0].name} and "
                f"{other.config.data.up} for {other.name}"
            )
        if (other.config.data.name, other.config.data.root) != (data.name, data.root):
            raise ValueError(
                f"expected models of one data set, got {data.name} in {data.root} for {models[0].name} and "
                f"{other.config.data.name} in {other.config.data.root} for {other.name}; --set data.root=... "
                "if it only moved"
            )
    split = normalize_split(open_dataset(data.name, data.root, "test", up=data.up).without_parts())
    if split.count is not None:
        raise ValueError(f"{data.name} in {data.root}: expected clouds of equally many points of their own")
    for trained in models:
        assert isinstance(trained.model, PointClassifier) and trained.model.description is not None
        if list(trained.model.description.facts["classes"]) != list(split.classes):
            raise ValueError(f"{trained.name} knows other classes than {data.name} in {data.root} has")
        if not set(trained.features) <= set(split.features):
            raise ValueError(
                f"{trained.name} takes {', '.join(trained.features)}: expected {data.name} in {data.root} to "
                f"have it, got {', '.join(split.features) or 'xyz alone'}; damage is of xyz and normals"
            )
    return split


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


def opened(args: argparse.Namespace, device: torch.device) -> tuple[list[Trained], Split, int | None]:
    """Return the models of `add_models`'s options, their test shapes or some, and then how many there are."""
    if args.threads:
        torch.set_num_threads(args.threads)
    pairs = zip(args.runs, labels(args.runs, args.names), strict=True)
    models = [load(run, name, args.set, device) for run, name in pairs]
    whole = open_clouds(models)
    if args.shapes is None or args.shapes >= len(whole):
        return models, whole, None
    some = torch.linspace(0, len(whole) - 1, args.shapes).round().long()
    return models, whole.select(some), len(whole)


def part_of(split: Split, whole: int | None) -> str:
    """Say which shapes were looked at; ``whole``: the data's number of shapes, where only some were."""
    if whole is None:
        return f"the {len(split)} test shapes"
    return f"a trial on {len(split)} of the {whole} test shapes, spread evenly"
