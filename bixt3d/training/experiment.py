"""An experiment from settings to result: open the data, build the model, train, evaluate on test."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bixt3d.config import Config, config_from, load_config
from bixt3d.datasets import open_dataset
from bixt3d.datasets.folder import STORED_POINTS
from bixt3d.datasets.loader import arrange_split
from bixt3d.datasets.split import Split
from bixt3d.metrics import CONVENTIONS
from bixt3d.models.encoder import PointModel
from bixt3d.models.factory import create_model
from bixt3d.models.official import initialize_from
from bixt3d.presets import labels_parts
from bixt3d.training.checkpoint import find_checkpoint, load_checkpoint
from bixt3d.training.device import Workers, join_workers
from bixt3d.training.evaluate import Evaluation, evaluate
from bixt3d.training.report import text_table, write_csv, write_result
from bixt3d.training.stop import StopSignals
from bixt3d.training.tasks import ClassificationTask, PartSegmentationTask, Task
from bixt3d.training.trainer import Trainer
from bixt3d.training.weights import place_beside

# Fields of a split for those who do not read its parts.
NO_PARTS: dict[str, Any] = {
    "parts": None,
    "category": None,
    "categories": (),
    "parts_of_category": (),
    "part_names": (),
}
LABELS = {
    "oa": "OA",
    "macc": "mAcc",
    **{
        f"{name}_{convention}": f"{label} ({convention})"
        for convention in CONVENTIONS
        for name, label in (
            ("accuracy", "part accuracy"),
            ("instance_miou", "instance mIoU"),
            ("class_miou", "class mIoU"),
        )
    },
}


def open_splits(
    config: Config, device: torch.device, names: tuple[str, ...], train: str | None = None
) -> tuple[dict[str, Split], int]:
    """Open splits of the experiment's data set on a device, arranged as training and evaluation take them.

    Args:
        config: The settings.
        device: Where the splits go.
        names: Which splits.
        train: The one among them that batches may draw other points from every epoch.

    Returns:
        The splits by name, and how many points each cloud of the first was chosen from.

    Raises:
        ValueError: If the data set does not have what the model needs, or too few points.
    """
    data = config.data
    opened, stored_points = {}, 0
    for name in names:
        draws = name == train and (config.augment.thin > 0 or data.order == "random")
        # What draws, and what is put in another order, chooses among all stored points.
        limit = data.num_points if data.order == "stored" and not draws else None
        if limit is None and data.name == "folder":  # stores more than that where more are asked for
            limit = max(data.num_points, STORED_POINTS)
        labelled = labels_parts(config.model.name)
        split = open_dataset(data.name, data.root, name, None if labelled else limit)
        if not data.normals:
            split = replace(split, points=split.points[..., :3].contiguous())
        split = split.to(device)
        stored_points = stored_points or split.num_points
        if labelled:
            if split.parts is None:
                raise ValueError(f"{config.model.name} labels parts, and {data.name} has no part labels")
            opened[name] = split  # evaluation labels every point
        else:
            split = replace(split, **NO_PARTS)
            if not (draws and data.order == "random"):
                split = arrange_split(split, split.num_points if draws else data.num_points, data.order)
            opened[name] = split
    return opened, stored_points


def describe(config: Config, split: Split, stored_points: int) -> dict[str, Any]:
    """Describe a model of this experiment: what its checkpoint needs to be used without settings.

    Raises:
        ValueError: If the settings give the model a size that is not the data's.
    """
    labelled = labels_parts(config.model.name)
    given: dict[str, Any] = {"in_dims": split.channels}
    if labelled:
        given |= {"num_parts": split.num_parts, "num_categories": len(split.categories)}
    else:
        given |= {"num_classes": len(split.classes)}
    for key, value in given.items():
        stated = config.model.args.get(key, value)
        if stated != value and (key, stated) != ("num_categories", 0):  # not told the category
            raise ValueError(
                f"model.args.{key}: expected {value}, as {config.data.name} has, got {stated}; leave it out"
            )
    description: dict[str, Any] = {
        "task": "part segmentation" if labelled else "classification",
        "model": {"name": config.model.name, "args": {**given, **config.model.args}},
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
    if labelled:
        description["parts_of_category"] = [list(ids) for ids in split.parts_of_category]
        description["part_names"] = list(split.part_names)
    return description


def build_task(config: Config, split: Split) -> Task:
    """Build the task of this experiment's model on a split's data."""
    smoothing = config.optim.label_smoothing
    if labels_parts(config.model.name):
        return PartSegmentationTask(
            split.categories, split.parts_of_category, config.data.num_points, smoothing
        )
    return ClassificationTask(split.classes, smoothing)


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
        assert isinstance(model, PointModel)
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


def train_model(config: Config, device: torch.device, resume: bool = False) -> dict[str, Any]:
    """Train a model, then evaluate its last and its best epoch once on the test split.

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
    splits, stored_points = open_splits(config, device, names, train=chosen)
    train, test = splits[chosen], splits["test"]
    description = describe(config, train, stored_points)
    model = build_model(config, description, resume)
    task = build_task(config, train)
    if workers.first:
        count = sum(value.numel() for value in model.parameters())
        sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
        print(f"{config.model.name}: {count:,} parameters on {device}\n{config.data.name}: {sizes}")
    run_dir = Path(config.run.dir)
    trainer = Trainer(config, model, task, train, splits.get("val"), run_dir, description, resume)
    before = trainer.seconds
    trainer.fit()
    with StopSignals() as signals, signals.at_once(workers.world_size == 1):
        result = _test(config, device, test, task, workers)
    # The whole run's, over every time it was resumed.
    result["minutes"] = round((before + time.perf_counter() - begun) / 60, 2)
    if workers.first:
        write_result(run_dir / "result.json", result)
        print(f"{result['minutes']} minutes; everything is in {run_dir}")
    return result


def _test(config: Config, device: torch.device, test: Split, task: Task, workers: Workers) -> dict[str, Any]:
    """Evaluate a finished run's checkpoints on the test split, and write their tables."""
    run_dir = Path(config.run.dir)
    result: dict[str, Any] = {}
    for name in ("last", "best"):
        if not (run_dir / f"{name}.safetensors").is_file():
            continue  # without a validation split no epoch is best
        model, meta = load_checkpoint(run_dir / name, device)
        seen = evaluate(model, test, task, config.train.eval_batch_size, config.train.amp, workers)
        result[name] = {"epoch": meta["metrics"]["epoch"], **seen.metrics}
        if workers.first:
            why = "last epoch" if name == "last" else f"epoch {meta['metrics']['epoch']}, best on val"
            print(f"test, {why}:\n{scores(seen)}")
            write_csv(task.table(seen.counts), run_dir / f"{name}_test.csv")
    return result


def scores(seen: Evaluation) -> str:
    """Return a line for each metric, under the name by which it is known."""
    width = 2 + max(len(LABELS[name]) for name in seen.metrics)
    return "\n".join(f"{LABELS[name]:{width}}{100 * value:.2f}%" for name, value in seen.metrics.items())


def evaluate_checkpoint(
    checkpoint: str | Path,
    split_name: str = "test",
    cfg: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: torch.device | str | None = None,
    out: Path | None = None,
) -> tuple[Evaluation, Split, Path]:
    """Evaluate a checkpoint on a split, print its table, and write ``result.json`` and ``table.csv``.

    Args:
        checkpoint: Weights file, its name without suffix, or a run's folder.
        split_name: Which split.
        cfg: YAML file with the settings; those of the checkpoint's training if None.
        overrides: Settings that go before the file's.
        device: Where to compute.
        out: Folder for the results; one beside the checkpoint if None.

    Returns:
        The evaluation with its counts on the CPU, the split, and the folder.

    Raises:
        ValueError: If the checkpoint is damaged or knows other classes than the data.
        FileNotFoundError: If checkpoint, settings or data are missing.
    """
    path, device = find_checkpoint(checkpoint), torch.device(device or "cpu")
    model, meta = load_checkpoint(path, device)
    config = load_config(cfg, overrides) if cfg else config_from(meta["config"], overrides)
    config.model.name = meta["model"]["name"]
    split = open_splits(config, device, (split_name,))[0][split_name]
    if list(split.classes) != meta["classes"]:
        raise ValueError(
            f"{path} knows {len(meta['classes'])} classes ({', '.join(meta['classes'][:3])} ...), "
            f"{config.data.name} has {len(split.classes)} ({', '.join(split.classes[:3])} ...)"
        )
    known = meta.get("parts_of_category")
    if known is not None and known != [list(ids) for ids in split.parts_of_category]:
        raise ValueError(f"{path} knows other parts than {config.data.name} has: {known} is what it knows")
    task = build_task(config, split)
    seen = evaluate(model, split, task, config.train.eval_batch_size, config.train.amp)
    rows = task.table(seen.counts.cpu())
    epoch = meta["metrics"]["epoch"]
    print(f"{text_table(rows)}\n\n{split_name}: {len(split)} shapes of {config.data.name}, epoch {epoch}")
    print(scores(seen))
    learned = meta.get("config", {}).get("data", {}).get("train_split")
    if split_name in ("train", "trainval") or (split_name == "val" and learned == "trainval"):
        print(f"the model was trained on these shapes ({learned}): this says nothing about others")
    out = out or place_beside(path) / f"{path.stem}_{split_name}"
    out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, out / "table.csv")
    write_result(out / "result.json", {"split": split_name, "shapes": len(split), **seen.metrics})
    return replace(seen, counts=seen.counts.cpu()), split, out
