"""Labels of a user's clouds as parts: numbers or words, which become the ids of parts.json."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.names import RENAME
from bixt3d.suggest import counted

FILLERS = (255, 65_535, (1 << 32) - 1)  # what programs write for none that keep labels in 1, 2 or 4 bytes

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """A file of a user: its category, and its split where a folder says it."""

    path: Path
    category: str
    split: str


def label_of(cloud: FileCloud) -> NDArray[np.int64] | NDArray[np.str_]:
    """Returns the label of each point (N,), a number or a word, or the last column without a name, if whole.

    Raises:
        ValueError: It has none.
    """
    labels, words = cloud.labels, cloud.words
    if labels is None and words is not None:
        return words
    if labels is None and cloud.unfit_labels:
        raise ValueError(f"label: {cloud.unfit_labels}")
    if labels is None and cloud.columns is not None:
        last = cloud.columns[:, -1]
        if (last == np.round(last)).all():
            return last.astype(np.int64)
        raise ValueError(f"expected whole numbers in the last column, for labels, got {last[0]:g}")
    if labels is None:
        held = ", ".join(("xyz", *cloud.named)) if cloud.named else "xyz alone"
        advice = RENAME if cloud.named else ""
        raise ValueError(f"expected a label a point, such as a field 'label', got {held}{advice}")
    return labels


def is_part(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Says which labels (N,) are of a part: (N,)."""
    return labels != "" if labels.dtype.kind == "U" else labels >= 0


def in_numbers(
    labels: Mapping[Source, NDArray[Any]], names: Mapping[Any, Any]
) -> tuple[dict[Source, NDArray[np.int64]], Mapping[Any, Any]]:
    """Returns words as numbers in the order of all words, -1 where there is none, and which these are.

    Raises:
        ValueError: Some have words and some numbers, or numbers are named.
    """
    worded = [at for at, own in labels.items() if own.dtype.kind == "U"]
    if not worded:
        return dict(labels), names
    some = next(word for word in labels[worded[0]].tolist() if word)
    got = f"words such as {some!r:.40} in {worded[0].path}"
    if names:
        raise ValueError(f"names: expected whole numbers for labels, got {got}: leave names out")
    if len(worded) < len(labels):
        other = next(at for at in labels if at not in worded)
        raise ValueError(f"expected one kind of labels, got {got}, and numbers in {other.path}")
    known = sorted(set().union(*(np.unique(own).tolist() for own in labels.values())) - {""})
    numbers = {"": -1} | {word: at for at, word in enumerate(known)}
    found = {}
    for at, own in labels.items():
        held, place = np.unique(own, return_inverse=True)
        found[at] = np.array([numbers[word] for word in held.tolist()], np.int64)[place.reshape(-1)]
    return found, dict(enumerate(known))


def note_filler(labels: Mapping[Source, NDArray[np.int64]]) -> None:
    """Says of how many points a label is that many programs write for none."""
    for filler in FILLERS:
        points = {at: int((own == filler).sum()) for at, own in labels.items()}
        held = [at for at, count in points.items() if count]
        if held:
            count, files = counted(sum(points.values()), "point"), counted(len(held), "file")
            logger.warning(
                "label %d becomes a part: %s in %s, such as %s; where it stands for no label, make it -1",
                *(filler, count, files, held[0].path),
            )


def number_parts(
    clouds: Mapping[Source, FileCloud], labels: Mapping[Source, NDArray[np.int64]], names: Mapping[Any, Any]
) -> tuple[dict[str, dict[str, int]], dict[str, dict[int, int]]]:
    """Returns parts.json, and for each category the part id of each label."""
    present: dict[str, set[int]] = {}
    for at in clouds:
        present.setdefault(at.category, set()).update(np.unique(labels[at][labels[at] >= 0]).tolist())
    flat = bool(names) and not any(isinstance(value, Mapping) for value in names.values())
    of_category = {str(category): own for category, own in names.items()}  # YAML reads 12 as a number
    shared = {label: at for at, label in enumerate(sorted(set().union(*present.values())))}
    parts: dict[str, dict[str, int]] = {}
    ids: dict[str, dict[int, int]] = {}
    begin = 0
    for category in sorted(present):
        own = names if flat else of_category.get(category, {})
        table = {str(label): str(name) for label, name in own.items()}
        nameless = [label for label in sorted(present[category]) if table and str(label) not in table]
        if nameless or (names and not table):
            missing = f"label {nameless[0]}" if nameless else "its labels"
            raise ValueError(f"names: {category}: expected a name for {missing}, got {dict(own)!r:.80}")
        ids[category] = {
            label: shared[label] if flat else begin + at for at, label in enumerate(sorted(present[category]))
        }
        begin += len(ids[category])
        parts[category] = {
            table.get(str(label), f"part {label}"): part for label, part in ids[category].items()
        }
        if len(parts[category]) < len(ids[category]):
            raise ValueError(f"names: {category}: expected each name once, got {', '.join(table.values())}")
    return parts, ids


def label_numbers(ids: Mapping[str, Mapping[int, int]]) -> dict[int, int]:
    """Returns the label in the files of each part id, which several categories may share."""
    return {part: label for own in ids.values() for label, part in own.items()}
