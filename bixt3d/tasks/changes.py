"""What the settings of ``augment`` do to the points of a training batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Generator, Tensor

from bixt3d.config import Config
from bixt3d.datasets.augment import augment, check_changes
from bixt3d.datasets.damage import damage


def configured_changes(config: Config, features: tuple[str, ...]) -> Callable[[Tensor, Generator], Tensor]:
    """Return what moves and damages points (B, n, C) as the settings say: ``(points, generator) -> points``.

    Raises:
        ValueError: If they name a feature that there is not.
    """
    settings = config.augment
    check_changes(settings.feature_dropout, features, "augment.feature_dropout")
    check_changes(settings.feature_jitter, features, "augment.feature_jitter")
    change = partial(
        augment,
        scale_low=settings.scale_low,
        scale_high=settings.scale_high,
        shift_reach=settings.shift,
        jitter_std=settings.jitter_std,
        jitter_clip=settings.jitter_clip,
        rotate_degrees=settings.rotate_degrees,
        turn=settings.turn,
        turned=settings.turned,
        mirror_probability=settings.mirror,
        normal_dropout=settings.normal_dropout,
        feature_dropout=settings.feature_dropout,
        feature_jitter=settings.feature_jitter,
        features=features,
    )
    harm = partial(
        damage,
        probability=settings.damage,
        tilt_degrees=settings.tilt,
        most_bent=settings.bend,
        refit=settings.refit,
        noise=settings.noise,
        strays=settings.strays,
        clusters=settings.clusters,
        features=features,
    )
    return lambda points, generator: harm(change(points, generator), generator)
