"""Tables of ShapeNetPart's layout: its categories, the parts of each, and the lists of its splits."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bixt3d.datasets.files import WHERE, read_lines
from bixt3d.datasets.readers.text import lines_of
from bixt3d.suggest import nearest

TABLE = "synsetoffset2category.txt"
MOST_PARTS = 10_000  # a larger part id is a mistake, and would build a model of that many parts
MISSING = 0.01  # share of listed files that may be absent: the official archive lacks one in a thousand
# Parts of the official release: of each category how many, numbered on through the table.
OFFICIAL = {
    "Airplane": 4,
    "Bag": 2,
    "Cap": 2,
    "Car": 4,
    "Chair": 4,
    "Earphone": 3,
    "Guitar": 3,
    "Knife": 2,
    "Lamp": 4,
    "Laptop": 2,
    "Motorbike": 6,
    "Mug": 2,
    "Pistol": 3,
    "Rocket": 3,
    "Skateboard": 3,
    "Table": 3,
}

logger = logging.getLogger(__name__)


class Shape(NamedTuple):
    """One shape: its category's number, its name `<folder>/<id>`, its points, and its labels where apart."""

    category: int
    name: str
    path: Path
    labels: Path | None = None


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no whole JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {WHERE}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not whole JSON ({error})") from None


def read_categories(path: Path) -> dict[str, str]:
    """Reads the folder of each category, in the table's order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no category and its folder, or has one of them again.
    """
    read_lines(path)  # is there, is text, has lines
    table: dict[str, str] = {}
    for number, line in enumerate(lines_of(path.read_bytes()), start=1):
        if not line.strip():
            continue
        words = line.strip().rsplit(None, 1)
        if len(words) != 2 or words[1] in ("", ".", "..") or "/" in words[1]:
            raise ValueError(f"{path}, line {number}: expected a category and its folder, got {line!r}")
        if words[0] in table or words[1] in table.values():
            raise ValueError(f"{path}, line {number}: expected each category and folder once, got {line!r}")
        table[words[0]] = words[1]
    return table


def list_path(folder: Path, split: str) -> Path:
    """Returns where the list of a split lies."""
    return folder / "train_test_split" / f"shuffled_{split}_file_list.json"


def read_list(folder: Path, split: str, table: dict[str, str]) -> list[Shape]:
    """Reads the shapes of a split.

    Entries end in ``<folder>/<id>``; what stands before, backslashes and an ending do not matter. A shape's
    points are ``<folder>/<id>.txt``, or ``<folder>/points/<id>.pts`` with its labels in
    ``<folder>/points_label/<id>.seg``. Shapes without labels are left out, as are files that are not there,
    up to `MISSING` of them, with a count in the log.

    Raises:
        FileNotFoundError: The list, or too many of its files, are missing.
        ValueError: An entry is of another form, or there twice.
    """
    path = list_path(folder, split)
    entries = read_json(path)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
        raise ValueError(f"{path}: expected a list of strings shape_data/<folder>/<id>")
    numbers = {synset: index for index, synset in enumerate(table.values())}
    shapes: dict[str, Shape] = {}
    left: dict[str, list[str]] = {"files that are not there": [], "shapes without labels": []}
    for number, entry in enumerate(entries, start=1):
        words = entry.replace("\\", "/").split("/")
        synset, token = words[-2] if len(words) > 1 else "", words[-1]
        token = token.removesuffix(".txt").removesuffix(".pts")
        if synset not in numbers or token in ("", ".", ".."):
            raise ValueError(
                f"{path}, entry {number}: expected shape_data/<folder>/<id> with a folder of {TABLE}, got "
                f"{entry!r}{nearest(synset, numbers) if synset else ''}"
            )
        name = f"{synset}/{token}"
        if name in shapes:
            raise ValueError(f"{path}, entry {number}: expected each shape once, got {entry!r} again")
        plain, apart = folder / f"{name}.txt", folder / synset / "points" / f"{token}.pts"
        labels = folder / synset / "points_label" / f"{token}.seg"
        shapes[name] = Shape(numbers[synset], name, plain)
        if not plain.is_file() and apart.is_file():
            shapes[name] = Shape(numbers[synset], name, apart, labels)
            if not labels.is_file():
                left["shapes without labels"].append(name)
        elif not plain.is_file():
            left["files that are not there"].append(name)
    missing, bare = left.values()
    if len(missing) > MISSING * len(entries):
        raise FileNotFoundError(
            f"{shapes[missing[0]].path} is missing, one of {len(missing)} of {len(entries)} that {path} "
            f"names. Unpack the data set again; {WHERE}."
        )
    if len(bare) == len(entries):
        raise FileNotFoundError(f"{shapes[bare[0]].labels} is missing: no shape of {path} has labels")
    for what, names in left.items():
        if names:
            logger.warning(
                "%s names %d %s; they are left out: %s", path, len(names), what, ", ".join(names[:3])
            )
    return [shape for name, shape in shapes.items() if name not in {*missing, *bare}]


def official_starts() -> dict[str, int]:
    """Returns the first part id of each category of the official release."""
    return dict(zip(OFFICIAL, np.cumsum([0, *OFFICIAL.values()]).tolist(), strict=False))


def read_part_table(folder: Path, categories: tuple[str, ...]) -> dict[str, dict[str, int]] | None:
    """Reads the parts of each category from `parts.json`, or knows them; None where neither helps."""
    path = folder / "parts.json"
    if not path.is_file():
        if not set(categories) <= set(OFFICIAL):
            return None
        starts = official_starts()
        return {c: {f"{c} {i}": starts[c] + i for i in range(OFFICIAL[c])} for c in categories}
    stated = read_json(path)
    if not isinstance(stated, dict) or set(stated) != set(categories):
        known = ", ".join(sorted(stated)) if isinstance(stated, dict) else type(stated).__name__
        raise ValueError(f"{path}: expected the categories of {TABLE} ({', '.join(categories)}), got {known}")
    table: dict[str, dict[str, int]] = {}
    for category in categories:
        ids = stated[category]
        whole = isinstance(ids, dict) and all(type(i) is int and 0 <= i < MOST_PARTS for i in ids.values())
        if not whole or not ids or len(set(ids.values())) < len(ids):
            raise ValueError(
                f"{path}: {category}: expected {{part name: part id}} with whole numbers from 0 to "
                f"{MOST_PARTS - 1}, each once, got {ids!r}"
            )
        table[category] = ids
    return table


def read_part_codes(folder: Path, count: int) -> tuple[int, ...]:
    """Reads `labels.json`, `{part id: number}`, by which a user's files say part ids from 0 to ``count`` - 1.

    Part ids that it lacks have their own number; () where all have.

    Raises:
        ValueError: It holds anything but whole numbers from 0.
    """
    path = folder / "labels.json"
    if not path.is_file():
        return ()
    stated = read_json(path)
    whole = isinstance(stated, dict) and all(type(code) is int and code >= 0 for code in stated.values())
    if not whole or not all(key.isdecimal() for key in stated):
        raise ValueError(f"{path}: expected {{part id: number}}, whole numbers from 0, got {stated!r:.80}")
    codes = tuple(stated.get(str(part), part) for part in range(count))
    return codes if codes != tuple(range(count)) else ()


def name_parts(table: dict[str, dict[str, int]]) -> tuple[str, ...]:
    """Names each part id; one that several categories share has the names of all of them."""
    names: dict[int, list[str]] = {}
    for ids in table.values():
        for name, part in ids.items():
            if name not in names.setdefault(part, []):
                names[part].append(name)
    return tuple(" / ".join(names.get(part, [f"part {part}"])) for part in range(1 + max(names)))
