"""What a training would do: its settings, data, parameters, memory and time; nothing is written."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bixt3d.commands.located import SAMPLED, SHAPES, locate
from bixt3d.config import Config, override, to_dict
from bixt3d.datasets import cuts_clouds
from bixt3d.datasets.acquire import SOURCES
from bixt3d.datasets.features import parse_features, width_of
from bixt3d.datasets.loader import Batch, CloudLoader
from bixt3d.datasets.mapped import Mapped
from bixt3d.datasets.part_table import OFFICIAL, official_starts
from bixt3d.datasets.split import Split
from bixt3d.datasets.synthetic.shapes import CATEGORIES
from bixt3d.suggest import counted
from bixt3d.tasks import Task
from bixt3d.training.distributed import Workers
from bixt3d.training.evaluate import evaluate
from bixt3d.training.experiment import build_model, check_points, describe
from bixt3d.training.folder import run_folder
from bixt3d.training.resume import holds_run
from bixt3d.training.splits import build_task, fit_batches, labelled_clouds, read_split, training_loader
from bixt3d.training.trainer import TrainState
from bixt3d.yaml import dump_yaml

HELD_OUT = 0.1  # of the training shapes, for validation, where a data set has no val split
GIB = 2**30
STEPS = 2  # that are timed, after one that is not


def dry_run(config: Config, device: torch.device) -> None:
    """Print what a training by these settings would read, need and take.

    Raises:
        ValueError: As the training would, for settings that do not fit the data or the model.
    """
    print(dump_yaml(to_dict(config)).rstrip() + "\n")
    run_dir = run_folder(config)
    print(f"run      {run_dir}{', which holds a run already' if holds_run(run_dir) else ''}")
    task = build_task(config)
    check_points(config)
    name = config.data.name
    folder, get = locate(name, config.data.root)
    mapped = 0
    if folder is not None:
        split, counts, mapped = read(config, task)
        sizes = ", ".join(f"{count:,} {part}" for part, count in counts.items())
        print(f"data     {name} in {folder}: {sizes}")
    else:
        print(f"data     {name} is not in {config.data.root}\n         get it: {get}")
        if task.per_point and name in SOURCES and not Path(config.data.root).expanduser().is_dir():
            print(
                f"         or make it of your own parts: bixt3d data import-parts FOLDER {config.data.root}"
            )
        made = made_up(config, task)
        if made is None:
            print("         what the model needs follows from the data, so that is all")
            return
        split, counts = made
        print("         made-up points of the official size stand for it below")
    estimate(config, task, split, counts, device, mapped)


def read(config: Config, task: Task) -> tuple[Split, dict[str, int], int]:
    """Return the first training clouds of a data set, the number of clouds in each split, and in files."""
    data, counts, first, mapped = config.data, {}, None, 0
    limit = task.wanted_points(True) if cuts_clouds(data.name) else None
    for part in (data.train_split, *(["val"] if data.train_split == "train" else []), "test"):
        split = labelled_clouds(part, read_split(config, part, limit), task)
        counts[part] = len(split)
        mapped += len(split) * isinstance(split.points, Mapped)
        if first is None:
            task.look_at_training(split)
            first = split[: needed(config)]
    assert first is not None
    return first, counts, mapped


def needed(config: Config) -> int:
    """Return of how many clouds a step needs."""
    return config.train.batch_size * config.train.accumulate


def made_up(config: Config, task: Task) -> tuple[Split, dict[str, int]] | None:
    """Return clouds and numbers like those of a data set whose size is known; None for another."""
    data, source = config.data, SOURCES.get(config.data.name)
    if Path(data.root).name in SAMPLED or (source is None and data.name != SHAPES):
        return None
    shapes = {"train": 700, "val": 100, "test": 200} if source is None else dict(source.shapes)
    if data.train_split == "trainval":
        counts = {"trainval": shapes["train"] + shapes.get("val", 0), "test": shapes["test"]}
    else:
        val = shapes.get("val", int(HELD_OUT * shapes["train"]))
        train = shapes["train"] - (0 if "val" in shapes else val)
        counts = {"train": train, "val": val, "test": shapes["test"]}
    normals = () if data.name == "modelnet40" else ("normal",)
    features = parse_features(normals if data.features is None else data.features)
    many, random = needed(config), torch.Generator().manual_seed(0)
    num_points = max(data.num_points, task.least_points)
    xyz = nn.functional.normalize(torch.randn(many, num_points, 3, generator=random), dim=-1)  # (S, N, 3)
    beside = [xyz.abs()[..., [i % 3 for i in range(width_of(feature))]] for feature in features]
    names = tuple(CATEGORIES) if source is None else tuple(f"class {i}" for i in range(source.classes))
    label = torch.randint(len(names), (many,), generator=random)
    split = Split(torch.cat([xyz, *beside], -1), label, names, features=features, normalized=True)
    if data.name == "shapenetpart":
        names, starts = tuple(OFFICIAL), official_starts()
        table = tuple(tuple(range(starts[name], starts[name] + OFFICIAL[name])) for name in names)
        first = torch.tensor([ids[0] for ids in table])[label]  # (S,)
        split = replace(
            split,
            classes=names,
            categories=names,
            category=label,
            parts=first[:, None].expand(-1, num_points).contiguous(),  # (S, N)
            parts_of_category=table,
        )
    return split, counts


def estimate(
    config: Config, task: Task, split: Split, counts: dict[str, int], device: torch.device, mapped: int = 0
) -> None:
    """Print a model's parameters, and what memory and time a training takes, from a few steps of it.

    Of the clouds ``mapped`` stay in files.
    """
    clouds = next(iter(counts.values())) * task.draws
    config = override(fit_batches(config, clouds), train={"compile": False})
    stored = split.to(device)
    split = task.arrange(stored, True)
    task.set_facts(task.facts(split))
    model = build_model(config, describe(config, split, stored.num_points, task)).to(device)
    task.bind_model(model)
    if task.config is None:
        task.configure(config)
    parameters = sum(value.numel() for value in model.parameters())
    print(f"model    {config.model.name}: {parameters:,} parameters on {device}")

    workers = Workers()
    loader = training_loader(config, task, split, workers)
    steps = clouds // config.train.batch_size // config.train.accumulate
    state = TrainState(config, model, task, device, workers, steps)
    batches = forever(loader)
    state.train_step(batches, 0)
    begun = now(device)
    for step in range(1, 1 + STEPS):
        state.train_step(batches, step)
    second = (now(device) - begun) / STEPS
    begun = now(device)
    evaluate(state.result, task.arrange(stored), task, config.train.eval_batch_size, config.train.amp)
    look = (now(device) - begun) / len(split)

    settings = config.train
    looks = counts.get("val", 0) * -(-settings.epochs // settings.eval_every)
    looks += counts["test"] * (2 if "val" in counts else 1)  # of the last epoch, and of the best
    hours = (settings.epochs * steps * second + looks * look) / 3600
    cloud = split[:1].points.numel() * 4
    held, apart = (sum(counts.values()) - mapped) * cloud, mapped * cloud
    files = f"; {apart / GIB:.1f} more are read from files" if mapped else ""
    print(f"memory   {(peak(device) + held) / GIB:.1f} GiB, of which the clouds are {held / GIB:.1f}{files}")
    epochs = counted(settings.epochs, "epoch")
    print(f"time     about {spoken(hours)}: {epochs} of {counted(steps, 'step')} of {second:.2g} s")


def forever(loader: CloudLoader) -> Iterator[Batch]:
    """Yield batches without end."""
    return itertools.chain.from_iterable(itertools.repeat(loader))


def now(device: torch.device) -> float:
    """Return the time in seconds when the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak(device: torch.device) -> int:
    """Return the most bytes that the device, or on a CPU this process, has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    most: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)


def spoken(hours: float) -> str:
    """Return a time in the unit that suits it."""
    if hours < 1 / 60:
        return counted(round(3600 * hours), "second")
    return counted(round(60 * hours), "minute") if hours < 2 else counted(round(hours), "hour")
