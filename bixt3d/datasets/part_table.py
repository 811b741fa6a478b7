"""Which parts a category has, in data of ShapeNetPart's layout: by parts.json or the official release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.datasets.files import WHERE

MOST_PARTS = 10_000  # a larger part id is a mistake, and would build a model of that many parts
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


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no whole JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {WHERE}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not whole JSON ({error})") from None


def read_part_table(folder: Path, categories: tuple[str, ...]) -> dict[str, dict[str, int]] | None:
    """Reads the parts of each category from `parts.json`, or knows them; None where neither helps."""
    path = folder / "parts.json"
    if not path.is_file():
        if not set(categories) <= set(OFFICIAL):
            return None
        starts = dict(zip(OFFICIAL, np.cumsum([0, *OFFICIAL.values()]).tolist(), strict=False))
        return {c: {f"{c} {i}": starts[c] + i for i in range(OFFICIAL[c])} for c in categories}
    stated = read_json(path)
    if not isinstance(stated, dict) or set(stated) != set(categories):
        known = ", ".join(sorted(stated)) if isinstance(stated, dict) else type(stated).__name__
        raise ValueError(
            f"{path}: expected the categories of synsetoffset2category.txt ({', '.join(categories)}), came "
            f"{known}"
        )
    table: dict[str, dict[str, int]] = {}
    for category in categories:
        ids = stated[category]
        whole = isinstance(ids, dict) and all(type(i) is int and 0 <= i < MOST_PARTS for i in ids.values())
        if not whole or not ids or len(set(ids.values())) < len(ids):
            raise ValueError(
                f"{path}: {category}: expected {{part name: part id}} with whole numbers from 0 to "
                f"{MOST_PARTS - 1}, each once, came {ids!r}"
            )
        table[category] = ids
    return table


def name_parts(table: dict[str, dict[str, int]]) -> tuple[str, ...]:
    """Names each part id; one that several categories share has the names of all of them."""
    names: dict[int, list[str]] = {}
    for ids in table.values():
        for name, part in ids.items():
            if name not in names.setdefault(part, []):
                names[part].append(name)
    return tuple(" / ".join(names.get(part, [f"part {part}"])) for part in range(1 + max(names)))
