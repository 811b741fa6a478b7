"""Ways through clouds: which can be shown, which are the worst, which is next, which to open with."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from bixt3d.mistakes import is_mistake
from bixt3d.visualize.draw import camera_for
from bixt3d.visualize.gallery import Clouds, Gallery, is_out_of_memory
from bixt3d.visualize.scene import LabelledCloud

# What a single cloud may fail by, such as a damaged file or too little memory; the others can still be seen.
FAULTS = (ValueError, OSError, RuntimeError, MemoryError)


def is_told(clouds: Sequence[LabelledCloud], error: Exception) -> bool:
    """Return whether a cloud that cannot be had is only told of, rather than the end of all.

    What a model or a task of one's own gets wrong in a `Gallery` is a bug; in another sequence nothing is.
    """
    return not isinstance(clouds, Gallery) or is_out_of_memory(error) or is_mistake(error)


def reason(error: Exception) -> str:
    """Return in one line why a cloud cannot be had."""
    return "not enough memory for it" if is_out_of_memory(error) else " ".join(str(error).split())


def readable(
    clouds: Sequence[LabelledCloud], indices: Sequence[int] | None = None
) -> Iterator[tuple[int, LabelledCloud]]:
    """Give each cloud and its place; of those that cannot be shown, say why and go on.

    Args:
        clouds: Such as a `Gallery`.
        indices: Which of them; all if None.
    """
    for index in range(len(clouds)) if indices is None else indices:
        try:
            cloud = clouds[index]
        except FAULTS as error:
            if not is_told(clouds, error):
                raise
            name = f"{clouds.titles[index]}: " if isinstance(clouds, Clouds) else ""
            why = reason(error)
            print(f"left out: {'' if name.strip(': ') in why else name}{why}", flush=True)
            continue
        yield index, cloud


def worst_first(clouds: Sequence[LabelledCloud]) -> list[int]:
    """Return the places of clouds, that of the worst prediction first; those without a truth come last.

    All clouds are labelled for it, which takes its time, and is told.
    """
    quality: list[float] = []
    told = time.monotonic()
    for index in range(len(clouds)):
        try:
            found = clouds.quality(index) if isinstance(clouds, Clouds) else clouds[index].quality
        except FAULTS as error:
            if not is_told(clouds, error):
                raise
            found = None
        quality.append(np.inf if found is None else found)
        if time.monotonic() - told > 2:
            told = time.monotonic()
            print(f"sorting: {index + 1} of {len(clouds)} clouds", file=sys.stderr, flush=True)
    return sorted(range(len(clouds)), key=lambda index: quality[index])


def opening(clouds: Sequence[LabelledCloud], count: int = 8) -> int:
    """Return the place of a cloud to open with, of up to so many spread over all: see `interest`."""
    places = spread(len(clouds), count)
    if isinstance(clouds, Gallery) and len(clouds) > count:
        parts = [0 if truth is None else len(np.unique(truth)) for truth in clouds.truths]
        if max(parts):
            places = sorted(range(len(parts)), key=lambda place: -parts[place])[:count]
    values = {}
    for index in places:
        try:
            cloud = clouds[index]
        except FAULTS as error:
            if not is_told(clouds, error):
                raise
            continue
        values[index] = interest(cloud)
    return max(values, key=lambda index: values[index], default=0)


def interest(cloud: LabelledCloud) -> float:
    """Return how much there is to see of a cloud: many parts, labelled well, and no block's outline."""
    labels = cloud.truth if cloud.truth is not None else cloud.prediction
    kinds = 1 if labels is None else len(np.unique(labels))
    quality = 0.5 if cloud.quality is None else cloud.quality
    points = cloud.upright
    seen = (points @ camera_for(points).axes.T)[:, :2]
    places = (seen - seen.min(0)) / max(float(np.ptp(seen, axis=0).max()), np.finfo(np.float64).tiny)
    filled = len(np.unique(np.rint(15 * places), axis=0)) / 256
    return float(kinds**0.5 * quality * (1.2 - filled))


def spread(total: int, count: int) -> list[int]:
    """Return up to ``count`` of the numbers from 0 to ``total - 1``, evenly spread and rising.

    Raises:
        ValueError: If ``count`` is less than one.
    """
    if count < 1:
        raise ValueError(f"shapes: expected 1 or more, got {count}")
    count = min(total, count)
    return [place * total // count for place in range(count)]


def next_category(categories: Sequence[str], index: int) -> int:
    """Return the next place with another category than that at ``index``, or ``index`` if there is none."""
    for step in range(1, len(categories)):
        other = (index + step) % len(categories)
        if categories[other] != categories[index]:
            return other
    return index
