"""Batches of a training, as the settings ask for them."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from bixt3d.config import Config
from bixt3d.datasets.augment import augment, check_changes, mix_clouds
from bixt3d.datasets.loader import CloudLoader
from bixt3d.datasets.split import Split
from bixt3d.tasks import Task
from bixt3d.training.device import Workers


def training_loader(config: Config, task: Task, train: Split, workers: Workers) -> CloudLoader:
    """Return this process's loader of augmented training batches; the task chooses their points.

    Raises:
        ValueError: If a batch cannot be dealt out to the processes, or is too small to mix its clouds, or the
            split does not fill one step.
    """
    settings = config.train
    if settings.batch_size % workers.world_size:
        raise ValueError(
            f"train.batch_size: expected a multiple of the {workers.world_size} processes, got "
            f"{settings.batch_size}"
        )
    mix, size = config.augment.mix, settings.batch_size // workers.world_size
    if mix and size == 1:
        raise ValueError(
            f"augment.mix: a batch of one cloud has no other to mix it with: expected train.batch_size of "
            f"{2 * workers.world_size} or more, got {settings.batch_size}"
        )
    loader = CloudLoader(
        train,
        size,
        shuffle=True,
        drop_last=True,
        choose=task.choose(),
        mix=partial(mix_clouds, probability=mix) if mix else None,
        augment=_augmentation(config, train.features),
        seed=settings.seed,
        rank=workers.rank,
        world_size=workers.world_size,
    )
    if len(loader) < settings.accumulate:
        raise ValueError(
            f"train.accumulate: an epoch has {len(loader)} batches, fewer than {settings.accumulate}"
        )
    return loader


def _augmentation(config: Config, features: tuple[str, ...]) -> partial[Tensor]:
    settings = config.augment
    check_changes(settings.feature_dropout, features, "augment.feature_dropout")
    check_changes(settings.feature_jitter, features, "augment.feature_jitter")
    return partial(
        augment,
        scale_low=settings.scale_low,
        scale_high=settings.scale_high,
        shift_reach=settings.shift,
        jitter_std=settings.jitter_std,
        jitter_clip=settings.jitter_clip,
        rotate_degrees=settings.rotate_degrees,
        mirror_probability=settings.mirror,
        normal_dropout=settings.normal_dropout,
        feature_dropout=settings.feature_dropout,
        feature_jitter=settings.feature_jitter,
        features=features,
    )
