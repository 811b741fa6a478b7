"""Several clouds in one pass of a model, each answered as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d import metrics
from bixt3d.models.segmenter import segment_all_points
from bixt3d.progress import progress
from bixt3d.tasks.results import Segmentation, check_output

MANY = 100_000  # points whose labels take so long that somebody waits for them


def alike(keys: Sequence[Hashable]) -> list[list[int]]:
    """Return the positions of equal keys together, in the order of their first."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def label_points(
    model: Callable[..., Tensor],
    clouds: Sequence[Tensor],
    categories: Sequence[int | None],
    num_points: int | None,
    tell_count: bool = False,
) -> list[Tensor]:
    """Return the logits of every point of clouds of any sizes, (N_i, P) each.

    Args:
        model: Called with points and category.
        clouds: Normalised points (N_i, C).
        categories: Category of each cloud; None for a model that is not told.
        num_points: Points that the model takes at a time; None for whole clouds.
        tell_count: Call the model with the count as well, as `segment_all_points`.
    """
    found: list[Tensor] = [torch.empty(0)] * len(clouds)
    passes = [len(cloud) if num_points is None else -(-len(cloud) // num_points) for cloud in clouds]
    for places in alike(passes):
        rows = [len(clouds[place]) for place in places]
        row = torch.arange(max(rows), device=clouds[0].device)
        batch = torch.stack([clouds[place][row % len(clouds[place])] for place in places])  # (B, N, C)
        numbers = [categories[place] for place in places]
        told = None if None in numbers else row.new_tensor(numbers)  # (B,)
        count = None if min(rows) == max(rows) else row.new_tensor(rows)  # (B,)
        size = num_points or max(rows)
        with progress("labelling", max(rows) * len(rows), "points") as done:
            call = partial(_told, model, done) if max(rows) > MANY else model
            logits = segment_all_points(call, batch, told, size, count, tell_count)  # (B, N, P)
        for place, own, of_cloud in zip(places, rows, logits, strict=True):
            found[place] = of_cloud[:own]
    return found


def _told(model: Callable[..., Tensor], done: Callable[[int], None], points: Tensor, *told: Any) -> Tensor:
    logits = model(points, *told)
    done(points.shape[0] * points.shape[1])
    return logits


def name_parts(
    logits: Tensor,
    points: Tensor,
    category: int | None,
    parts_of_category: Sequence[Sequence[int]],
    names: Sequence[str],
    up: str | None = None,
) -> Segmentation:
    """Return what logits (N, P) say of a cloud (N, C), among its category's parts, or else those of any."""
    logits = logits.float()[None]  # (1, N, P)
    check_output(logits)
    any_of = sorted({one for ids in parts_of_category for one in ids})
    told = torch.zeros(1, dtype=torch.int64, device=logits.device)
    logits = metrics.mask_logits(logits, told, [any_of if category is None else parts_of_category[category]])
    shares, parts = (value[0].cpu().numpy() for value in logits.softmax(-1).max(-1))
    return Segmentation(parts, np.array(names)[parts], shares, points.cpu().numpy(), category, up)
