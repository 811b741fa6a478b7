"""Labels of a data set numbered as a model knows them: classes, categories and parts matched by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bixt3d.datasets.mapped import each_cloud
from bixt3d.datasets.split import Split


def match_labels(split: Split, facts: Mapping[str, Any]) -> Split:
    """Return a split with its labels numbered as a checkpoint's facts say; unchanged if it has others.

    Args:
        split: Data with all of the model's classes or some, in any order; for parts, categories.
        facts: ``classes``, and for parts ``parts_of_category`` and ``part_names``.

    Raises:
        ValueError: If a category has other parts than the model knows.
    """
    known, table = tuple(facts.get("classes", ())), facts.get("parts_of_category")
    own = split.classes if table is None else split.categories
    places = _places(own, known)
    alike = table is None or (
        table == [list(ids) for ids in split.parts_of_category]
        and not _permuted(table, split.part_names, tuple(facts.get("part_names", ())))
    )
    if places is None or (own == known and alike):
        return split
    number = torch.tensor(places, device=split.label.device)  # (own classes,)
    if table is None:
        return replace(split, label=number[split.label], classes=known)
    assert split.category is not None and split.parts is not None
    names = tuple(facts.get("part_names", ()))
    total = max(map(max, table)) + 1
    part = torch.zeros(len(own), split.num_parts, dtype=torch.int64, device=number.device)
    for row, (name, place) in enumerate(zip(own, places, strict=True)):
        ids = split.parts_of_category[row]
        part[row, list(ids)] = torch.tensor(
            _parts(name, ids, split.part_names, table[place], names), device=number.device
        )
    return replace(
        split,
        parts=each_cloud(split.parts, partial(_renumber, table=part.tolist()), split.category),  # (S, N)
        category=number[split.category],
        categories=known,
        parts_of_category=tuple(map(tuple, table)),
        part_names=names if len(names) == total else (),
        part_codes=(),
    )


def _renumber(parts: Tensor, category: Tensor | None, table: list[list[int]]) -> Tensor:
    """Return parts (S, N) of shapes of these categories (S,) by the model's numbers."""
    assert category is not None
    number = torch.tensor(table, device=parts.device)
    return torch.where(parts < 0, -1, number[category[:, None], parts])


def _parts(
    category: str, ids: Sequence[int], names: Sequence[str], known: Sequence[int], known_names: Sequence[str]
) -> list[int]:
    """Return the model's numbers for the parts of a category."""
    if names and known_names:
        there = [known_names[part] for part in known]
        places = _places([names[part] for part in ids], there)
        if places is not None:
            return [known[place] for place in places]
        got = f"{', '.join(names[part] for part in ids)}; the model knows {', '.join(there)}"
    elif len(ids) == len(known):
        return list(known)
    else:
        got = f"{len(ids)} parts; the model knows {len(known)}"
    raise ValueError(f"{category}: expected the parts that the model knows, got {got}")


def _permuted(table: Sequence[Sequence[int]], names: Sequence[str], known: Sequence[str]) -> bool:
    """Whether two namings of the same parts give a category the same names in another order."""
    if not names or not known:
        return False
    found = [_places([names[part] for part in ids], [known[part] for part in ids]) for ids in table]
    return any(places is not None and places != sorted(places) for places in found)


def _places(names: Sequence[str], known: Sequence[str]) -> list[int] | None:
    """Return where names stand among those that are known, whatever the case; None if one does not."""
    folded = [name.casefold() for name in known]
    places = []
    for name in names:
        if name in known:
            places.append(list(known).index(name))
        elif folded.count(name.casefold()) == 1:
            places.append(folded.index(name.casefold()))
        else:
            return None
    return places if len(set(places)) == len(places) else None
