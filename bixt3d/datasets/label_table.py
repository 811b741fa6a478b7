"""What labels.yaml says of scenes: names of labels, which of them do not count, and the files' numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.suggest import counted, nearest
from bixt3d.yaml import parse_yaml

LABELS = ("labels.yaml", "semantic-kitti.yaml")
MOST_LABELS = 1 << 16  # SemanticKITTI's have 16 bits, above which stands the number of an object
EXAMPLE = "names: {1: road, 2: building}, and perhaps ignore: [0]"
KEYS = ("names", "ignore", "map")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelTable:
    """What a ``labels.yaml`` says.

    Attributes:
        names: Name of each label, those that are ignored included.
        ignore: Labels that do not count.
        numbers: Which label a number of the files stands for; None: the numbers are the labels.
        folders: Of each split, the folders in ``sequences``; none where each split is a folder.
        written: By which number files say a label, of several that stand for it; the first of ``numbers`` if
            None.
    """

    names: Mapping[int, str]
    ignore: frozenset[int]
    numbers: Mapping[int, int] | None = None
    folders: Mapping[str, Sequence[str]] | None = None
    written: Mapping[int, int] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The labels that count, sorted."""
        return tuple(sorted(set(self.names) - self.ignore))

    @property
    def part_names(self) -> tuple[str, ...]:
        """Name of each number from 0 to the last label that counts."""
        return tuple(self.names.get(number, f"label {number}") for number in range(self.ids[-1] + 1))

    @property
    def part_codes(self) -> tuple[int, ...]:
        """The number by which files say each number from 0 to the last label that counts; none: the same.

        A label that no number stands for has its own, or the next that is free.
        """
        written = dict(self.written or {})
        for number, label in (self.numbers or {}).items():
            written.setdefault(label, number)
        for label in self.ids:
            if label not in written:
                taken = {*written.values()}
                written[label] = label if label not in taken else max(taken) + 1
        codes = tuple(written.get(label, label) for label in range(self.ids[-1] + 1))
        return codes if codes != tuple(range(len(codes))) else ()

    def convert(self, values: NDArray[Any], path: Path) -> NDArray[np.int64]:
        """Return the labels of a file's numbers, or names of them, (N,): -1 where they are ignored.

        Raises:
            ValueError: For a number or word that is not named, with how many points have it.
        """
        if values.dtype.kind == "U":
            return self._convert_words(values, path)
        found, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        numbers = self.numbers or {number: number for number in {*self.names, *self.ignore}}
        labels = np.empty(len(found), np.int64)
        for at, value in enumerate(found.tolist()):
            label = -1 if value == -1 else numbers.get(value)
            if label is None or (label != -1 and label not in self.ignore and label not in self.names):
                known = ", ".join(map(str, sorted(numbers)[:8])) + (" ..." if len(numbers) > 8 else "")
                where = f"{LABELS[0]} names" if self.numbers is None else "the map of the labels has"
                raise ValueError(
                    f"{path}: expected labels that {where} ({known}), got {value} for "
                    f"{counted(int(counts[at]), 'point')}: add it there, with ignore if it does not count"
                )
            labels[at] = -1 if label in self.ignore else label
        return labels[place.reshape(-1)]

    def _convert_words(self, words: NDArray[np.str_], path: Path) -> NDArray[np.int64]:
        """Return the labels of a file's names of them (N,), -1 where they are ignored or empty."""
        known = {"": -1} | {name: -1 if label in self.ignore else label for label, name in self.names.items()}
        found, place, counts = np.unique(words, return_inverse=True, return_counts=True)
        for word, count in zip(found.tolist(), counts.tolist(), strict=True):
            if word not in known:
                names = ", ".join([*self.names.values()][:8])
                raise ValueError(
                    f"{path}: expected labels that {LABELS[0]} names ({names}), got {word!r} for "
                    f"{counted(count, 'point')}{nearest(word, known)}"
                )
        return np.array([known[word] for word in found.tolist()], np.int64)[place.reshape(-1)]


def read_table(folder: Path) -> LabelTable:
    """Read ``labels.yaml``: ``names`` by label, and perhaps ``ignore`` and ``map``, from numbers to labels.

    SemanticKITTI's own ``semantic-kitti.yaml`` is read as well.

    Raises:
        FileNotFoundError: There is neither.
        ValueError: It says something else; the message names the file and the key.
    """
    path = next((folder / name for name in LABELS if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"no file {folder / LABELS[0]}: expected the names of the labels, {EXAMPLE}")
    try:
        stated = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(stated, dict):
        raise ValueError(f"{path}: expected {EXAMPLE}, got {stated!r:.40}")
    numbers, folders, written = None, None, None
    if "learning_map" in stated:
        numbers = _whole(path, stated, "learning_map")
        written = _whole(path, stated, "learning_map_inv")
        names: Any = {label: stated.get("labels", {}).get(number) for label, number in written.items()}
        ignore: Any = [label for label, out in _mapping(path, stated, "learning_ignore").items() if out]
        parts = {"train": "train", "val": "valid", "test": "test"}
        split = _mapping(path, stated, "split") if "split" in stated else {}
        folders = {part: [f"{one:02d}" for one in split.get(key, [])] for part, key in parts.items()}
    else:
        _check_keys(path, stated)
        names, ignore = stated.get("names"), stated.get("ignore", [])
        numbers = _whole(path, stated, "map") if "map" in stated else None
        names = dict(enumerate(names)) if isinstance(names, list) else names
    _check_names(path, names)
    if not isinstance(ignore, list) or not all(map(_is_label, ignore)):
        raise ValueError(f"{path}: ignore: expected a list of labels, got {ignore!r:.60}")
    table = LabelTable(
        *({label: str(name) for label, name in names.items()}, frozenset(ignore), numbers, folders, written)
    )
    for number, label in (numbers or {}).items():
        if label not in (-1, *table.names, *table.ignore):
            raise ValueError(
                f"{path}: map: expected labels that have names, got {label} for {number}: name it"
            )
    if len(table.ids) < 2:
        raise ValueError(f"{path}: expected two labels or more that are not ignored, got {len(table.ids)}")
    return table


def _check_names(path: Path, names: Any) -> None:
    """Raise ValueError unless each label has a name of its own."""
    if (
        not isinstance(names, dict)
        or not all(map(_is_label, names))
        or not all(map(_is_name, names.values()))
    ):
        held = names.values() if isinstance(names, dict) else ()
        remedy = ": put yes, no, on and off in quotes" if any(isinstance(one, bool) for one in held) else ""
        raise ValueError(
            f"{path}: names: expected a name for each label, {EXAMPLE}, got {names!r:.60}{remedy}"
        )
    owner: dict[str, int] = {}
    for label, name in names.items():
        if owner.setdefault(str(name), label) != label:
            raise ValueError(
                f"{path}: names: expected each name once, got {name} for {owner[str(name)]} and {label}: to "
                f"make one label of both, name it once, and say map: {{{label}: {owner[str(name)]}, ...}}"
            )


def _check_keys(path: Path, stated: Mapping[str, Any]) -> None:
    """Warn of keys that mean nothing; raise ValueError for one that is nearly one of ours."""
    for key in stated:
        if key in KEYS:
            continue
        if close := nearest(key, KEYS):
            raise ValueError(f"{path}: expected {', '.join(KEYS)}, got {key}{close}")
        logger.warning("%s: %s is passed over: known are %s", path, key, ", ".join(KEYS))


def _is_label(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_LABELS


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool) and bool(str(value).strip())


def _mapping(path: Path, stated: Mapping[str, Any], key: str) -> dict[Any, Any]:
    value = stated.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {key}: expected keys and values, got {value!r:.60}")
    return value


def _whole(path: Path, stated: Mapping[str, Any], key: str) -> dict[int, int]:
    value = _mapping(path, stated, key)
    if not all(type(number) is int for pair in value.items() for number in pair):
        raise ValueError(f"{path}: {key}: expected whole numbers, got {value!r:.60}")
    return value
