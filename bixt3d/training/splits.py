"""Splits of an experiment, opened or given, as its task takes them; and its training batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bixt3d.config import Config, check_config, fold_of, override
from bixt3d.datasets import cuts_clouds, open_dataset, prepare_split
from bixt3d.datasets.augment import lay_down, mix_clouds
from bixt3d.datasets.features import check_divide, divide_features
from bixt3d.datasets.folder import log_repeats
from bixt3d.datasets.holdout import cut_train
from bixt3d.datasets.loader import CloudLoader
from bixt3d.datasets.mapped import each_cloud
from bixt3d.datasets.relabel import match_labels
from bixt3d.datasets.split import Split
from bixt3d.models.factory import task_of
from bixt3d.tasks import Task, compare_facts, make_task
from bixt3d.training.distributed import Workers

logger = logging.getLogger(__name__)


def build_task(
    config: Config, task: Task | type[Task] | str | None = None, model: nn.Module | None = None
) -> Task:
    """Build the task of an experiment: the one that is given, else the settings', else the model's.

    Raises:
        ValueError: If it is unknown, or the settings do not suit it.
    """
    said = getattr(model, "task", "classification") if model is not None else ""
    return make_task(task or config.task or said or task_of(config.model.name), config)


def open_splits(
    config: Config,
    device: torch.device,
    names: Sequence[str],
    train: str | None = None,
    task: Task | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Split], int]:
    """Open splits of the experiment's data set on a device, arranged as its task takes them.

    Args:
        config: The settings.
        device: Where the splits go.
        names: Which splits.
        train: The one among them that batches may draw other points from every epoch.
        task: The task; that of the settings if None.
        facts: A checkpoint's, as which labels are numbered, by name; None: as the data number them.

    Returns:
        The splits by name, and how many points each cloud of the first was chosen from.

    Raises:
        ValueError: If the data set does not have what the task needs, or too few points.
    """
    task = build_task(config) if task is None else task
    opened, stored_points = {}, 0
    for name in names:
        split = _open(config, name, name == train, task)
        split = split if facts is None else match_labels(split, facts)
        split = labelled_clouds(name, split, task).to(device)
        stored_points = stored_points or split.num_points
        opened[name] = task.arrange(split, name == train)
    return opened, stored_points


def _open(config: Config, name: str, training: bool, task: Task) -> Split:
    """Open a split with the points that its task chooses among: all that are stored, or the first."""
    limit = task.wanted_points(training) if cuts_clouds(config.data.name) else None
    split = read_split(config, name, limit)
    if limit is not None and not split.normalized:  # centre and radius are those of all stored points
        split = read_split(config, name)
    if split.num_points < task.least_points:
        # a data set that samples surfaces has as many as are asked for; others say what they have
        split = read_split(config, name, task.least_points)
    elif limit is None:  # else the reader has said it
        log_repeats(name, split, config.data.num_points)
    return split


def read_split(config: Config, name: str, num_points: int | None = None) -> Split:
    """Open a split of the experiment's data set as it is stored, cut as the settings say.

    Args:
        config: The settings.
        name: Which split.
        num_points: How many points of each cloud; None for all that are stored.

    Raises:
        ValueError: As `bixt3d.datasets.open_dataset`.
        FileNotFoundError: If the data are not there.
    """
    data = config.data
    cut = name in ("train", "val") and _draws_val(config)
    split = open_dataset(
        data.name,
        data.root,
        "trainval" if cut else name,
        num_points,
        features=data.features,
        up=data.up,
        estimate_normals=data.estimate_normals,
    )
    split = _divided(config, split)
    return _cut_train(config, split, name) if cut else split


def _divided(config: Config, split: Split) -> Split:
    """Return a split whose features are divided as the settings say, as `Preprocess` does it to a cloud."""
    if not config.data.divide:
        return split
    try:
        check_divide(config.data.divide, split.features)
    except ValueError as error:
        raise ValueError(f"data.{error}") from None
    change = partial(_divide, features=split.features, divide=config.data.divide)
    return replace(split, points=each_cloud(split.points, change))


def _divide(points: Tensor, values: None, features: tuple[str, ...], divide: Mapping[str, float]) -> Tensor:
    return divide_features(points, features, divide)


def _draws_val(config: Config) -> bool:
    """Whether the settings draw another val split than the data set's."""
    return config.data.fold is not None or config.data.val_seed != 0


def _cut_train(config: Config, whole: Split, name: str) -> Split:
    data = config.data
    return cut_train(whole, name, data.val_seed, None if data.fold is None else fold_of(data.fold))


def labelled_clouds(name: str, split: Split, task: Task) -> Split:
    """Return the clouds of a split that have a label; how many have none is said."""
    kept = task.labelled(split)
    count = int(kept.sum())
    if count == len(split):
        return split
    if not count:
        raise ValueError(f"{name}: expected clouds with a label that counts, got {len(split)} without")
    logger.warning("%s: %d of %d clouds have no label: left out", name, len(split) - count, len(split))
    return split.select(kept)


def open_all(
    config: Config, device: torch.device, task: Task, given: dict[str, Split]
) -> tuple[dict[str, Split], int]:
    """Return the splits of a training, its own first, and from how many points clouds were chosen.

    Args:
        config: The settings.
        device: Where the splits go.
        task: Arranges them.
        given: Splits of the caller's own, by name: train, val, test; the others come from the settings.

    Raises:
        ValueError: If splits do not have the same features and labels, or as `open_splits`.
    """
    chosen = config.data.train_split
    wanted = [name for name in ("val", "test") if name != "val" or chosen == "train" or "val" in given]
    if "train" not in given:
        missing = [chosen, *(name for name in wanted if name not in given)]
        splits, stored_points = open_splits(config, device, missing, chosen, task)
        chosen_split = splits[chosen]
    else:
        data = config.data
        given = {
            name: _divided(config, prepare_split(split, data.features, data.up, data.estimate_normals))
            for name, split in given.items()
        }
        given = {name: labelled_clouds(name, split, task) for name, split in given.items()}
        own = given["train"].to(device)
        drawn = ("val",) if _draws_val(config) else ()  # from the clouds that are given
        missing = [name for name in wanted if name not in given and name not in drawn]
        given = {**given, **_others(config, own, missing)}
        if "val" in wanted and "val" not in given:
            own, given = _cut(config, own, given)
        splits, stored_points, chosen_split = {}, own.num_points, task.arrange(own, True)
    for name in wanted:
        if name in given:
            split = labelled_clouds(name, given[name], task).to(device)
            if split.features != chosen_split.features:
                raise ValueError(
                    f"{name}: expected features {', '.join(chosen_split.features) or 'none'}, as the "
                    f"training clouds have, got {', '.join(split.features) or 'none'}"
                )
            compare_facts("the training split", task.facts(chosen_split), task.facts(split), name)
            splits[name] = task.arrange(split)
    order = [name for name in wanted if name in splits]
    return {chosen: chosen_split, **{name: splits[name] for name in order}}, stored_points


def _others(config: Config, own: Split, names: Sequence[str]) -> dict[str, Split]:
    """Open what is missing beside a training split of one's own, where the settings' data set fits it."""
    found = {}
    for name in names:
        try:
            data = config.data
            split = open_dataset(
                *(data.name, data.root, name, None, data.features, False), data.up, data.estimate_normals
            )
            split = _divided(config, split)
        except FileNotFoundError:
            continue
        except ValueError as error:  # such as a feature that it lacks
            logger.warning("%s of %s is left out: %s", name, config.data.name, error)
            continue
        if (split.classes, split.features, split.categories) == (own.classes, own.features, own.categories):
            found[name] = split
        else:
            logger.info("%s of %s has other classes or features: left out", name, config.data.name)
    return found


def _cut(config: Config, own: Split, given: dict[str, Split]) -> tuple[Split, dict[str, Split]]:
    try:
        val = _cut_train(config, own, "val")
    except ValueError:
        logger.info("no class has two clouds: none are held out for validation")
        return own, given
    logger.info("val: %d of the %d training clouds are held out", len(val), len(own))
    return _cut_train(config, own, "train"), {**given, "val": val}


def fit_batches(config: Config, clouds: int, processes: int = 1) -> Config:
    """Return the settings with a step that is no larger than the training set; a smaller one is noted."""
    settings = check_config(config).train
    size = min(settings.batch_size, max(1, clouds // processes) * processes)
    batches = clouds // processes // max(1, size // processes)
    accumulate = min(settings.accumulate, max(1, batches))
    if (size, accumulate) == (settings.batch_size, settings.accumulate):
        return config
    logger.warning(
        "the training set has %s clouds: train.batch_size=%s train.accumulate=%s instead of %s and %s",
        *(clouds, size, accumulate, settings.batch_size, settings.accumulate),
    )
    return override(config, train={"batch_size": size, "accumulate": accumulate})


def training_loader(config: Config, task: Task, train: Split, workers: Workers) -> CloudLoader:
    """Return this process's loader of augmented training batches; the task chooses their points.

    Raises:
        ValueError: If the processes cannot share a batch, or it is too small to mix its clouds.
    """
    settings = config.train
    if settings.batch_size % workers.world_size:
        raise ValueError(
            f"train.batch_size: expected a multiple of the {workers.world_size} processes, got "
            f"{settings.batch_size}"
        )
    mix, lying = config.augment.mix, config.augment.lying
    size = settings.batch_size // workers.world_size
    if mix and size == 1:
        raise ValueError(
            f"augment.mix: a batch of one cloud has no other to mix it with: expected train.batch_size of "
            f"{2 * workers.world_size} or more, got {settings.batch_size}"
        )
    return CloudLoader(
        train,
        size,
        shuffle=True,
        groups=task.groups(train)[1] if config.data.balanced else None,
        drop_last=True,
        repeats=task.draws,
        choose=task.choose(),
        mix=partial(mix_clouds, probability=mix) if mix else None,
        lay=partial(lay_down, probability=lying, features=train.features) if lying else None,
        keep_count=task.takes_count,
        augment=task.augmentation(train),
        seed=settings.seed,
        rank=workers.rank,
        world_size=workers.world_size,
    )
