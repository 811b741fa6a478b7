"""An experiment from settings to result: open the data, build the model, train, evaluate on test."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bixt3d.config import Config
from bixt3d.datasets import open_dataset
from bixt3d.datasets.loader import arrange_split
from bixt3d.datasets.split import Split
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.factory import create_model
from bixt3d.models.official import initialize_from
from bixt3d.training.checkpoint import load_checkpoint
from bixt3d.training.device import join_workers
from bixt3d.training.evaluate import evaluate
from bixt3d.training.report import write_result
from bixt3d.training.tasks import ClassificationTask
from bixt3d.training.trainer import Trainer


def open_splits(
    config: Config, device: torch.device, names: tuple[str, ...]
) -> tuple[dict[str, Split], int]:
    """Open splits of the experiment's data set on a device, arranged as training and evaluation take them.

    Returns:
        The splits by name, and how many points each cloud was chosen from.
    """
    data = config.data
    opened, stored_points = {}, 0
    for name in names:
        # Thinning and farthest-point order choose among all stored points; else the first ones are enough.
        thinned = config.augment.thin > 0 and name in ("train", "trainval")
        limit = data.num_points if data.order == "stored" and not thinned else None
        split = open_dataset(data.name, data.root, name, limit).to(device)
        stored_points = split.num_points
        keep = stored_points if thinned else data.num_points
        opened[name] = arrange_split(split, keep, data.order)
    return opened, stored_points


def describe(config: Config, split: Split, stored_points: int) -> dict[str, Any]:
    """Describe a classifier of this experiment: what its checkpoint needs to be used without settings."""
    given = {"num_classes": len(split.classes), "in_dims": split.channels}
    for key, value in given.items():
        if config.model.args.get(key, value) != value:
            raise ValueError(
                f"model.args.{key}: expected {value}, as {config.data.name} has, got "
                f"{config.model.args[key]}; leave it out"
            )
    args = {**given, **config.model.args}
    return {
        "task": "classification",
        "model": {"name": config.model.name, "args": args},
        "classes": list(split.classes),
        "preprocess": {
            "num_points": config.data.num_points,
            "order": config.data.order,
            "channels": split.channels,
            # How many points a mesh is sampled to before that.
            "stored_points": stored_points,
        },
        "dataset": config.data.name,
    }


def build_model(config: Config, description: dict[str, Any], resume: bool = False) -> nn.Module:
    """Build the experiment's model from its seed, and start its trunk from a checkpoint if one is named.

    Raises:
        ValueError: For an unknown model or argument, or a checkpoint that does not fit.
        FileNotFoundError: If the checkpoint is missing.
    """
    torch.manual_seed(config.train.seed)
    model = create_model(description["model"]["name"], **description["model"]["args"])
    source = config.model.init_from
    if source is not None and not resume:
        if not Path(source).is_file():
            raise FileNotFoundError(f"model.init_from: no file {source}, an official BiXT checkpoint (.pth)")
        assert isinstance(model, PointClassifier)
        try:
            # Checkpoints of timm's training script carry their command line as a Namespace.
            with torch.serialization.safe_globals([argparse.Namespace]):
                state = torch.load(source, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
            if not all(isinstance(value, torch.Tensor) for value in state.values()):
                raise ValueError("it holds other things than tensors")
        except Exception as error:  # torch raises several kinds for a damaged or foreign file
            raise ValueError(f"model.init_from: {source} cannot be read ({error})") from None
        initialize_from(model, state)
    return model


def train_classifier(config: Config, device: torch.device, resume: bool = False) -> dict[str, Any]:
    """Train a classifier, then evaluate its last and its best epoch once on the test split.

    Args:
        config: The settings; ``run.dir`` says where results go.
        device: Where to compute.
        resume: Go on with the run in ``run.dir``.

    Returns:
        What ``result.json`` receives: for ``last`` and ``best`` the epoch and the test metrics, and minutes.
    """
    begun = time.perf_counter()
    workers = join_workers(device)
    chosen = config.data.train_split
    names = (chosen, "test") if chosen == "trainval" else (chosen, "val", "test")
    splits, stored_points = open_splits(config, device, names)
    train, test = splits[chosen], splits["test"]
    description = describe(config, train, stored_points)
    model = build_model(config, description, resume)
    task = ClassificationTask(train.classes, config.optim.label_smoothing)
    if workers.first:
        count = sum(value.numel() for value in model.parameters())
        sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
        print(f"{config.model.name}: {count:,} parameters on {device}; {config.data.name}: {sizes}")
    run_dir = Path(config.run.dir)
    trainer = Trainer(config, model, task, train, splits.get("val"), run_dir, description, resume)
    before = trainer.seconds
    trainer.fit()
    result: dict[str, Any] = {}
    for name in ("last", "best"):
        if not (run_dir / f"{name}.safetensors").is_file():
            continue  # without a validation split no epoch is best
        model, meta = load_checkpoint(run_dir / name, device)
        seen = evaluate(model, test, task, config.train.eval_batch_size, config.train.amp, workers)
        result[name] = {"epoch": meta["metrics"]["epoch"], **seen.metrics}
        if workers.first:
            scores = "  ".join(f"{key} {100 * value:.2f}%" for key, value in seen.metrics.items())
            why = "last epoch" if name == "last" else f"epoch {meta['metrics']['epoch']}, best on val"
            print(f"test  {scores}  ({why})")
    # The whole run's, over every time it was resumed.
    result["minutes"] = round((before + time.perf_counter() - begun) / 60, 2)
    if workers.first:
        write_result(run_dir / "result.json", result)
        print(f"{result['minutes']} minutes; everything is in {run_dir}")
    return result
