"""Labels matched by name: some of a model's classes, other orders, parts within their category."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bixt3d.datasets.relabel import match_labels
from bixt3d.datasets.split import Split

KNOWN = ("bed", "chair", "lamp", "table")


def classes_of(split: Split) -> list[str]:
    return [split.classes[label] for label in split.label.tolist()]


def labelled(*classes: str) -> Split:
    return Split(torch.randn(6, 5, 3), torch.arange(6) % len(classes), classes)


@pytest.mark.parametrize("own", [("table", "bed"), ("Chair",), ("table", "lamp", "chair", "bed"), KNOWN])
def test_classes_keep_their_names(own: tuple[str, ...]) -> None:
    split = labelled(*own)
    matched = match_labels(split, {"classes": list(KNOWN)})
    assert matched.classes == KNOWN
    assert classes_of(matched) == [name.lower() for name in classes_of(split)]
    assert torch.equal(matched.points, split.points)


@pytest.mark.parametrize("own", [("table", "sofa"), ("chair", "Chair")])
def test_classes_that_are_not_the_models_stay(own: tuple[str, ...]) -> None:
    split = labelled(*own)
    assert match_labels(split, {"classes": list(KNOWN)}) is split
    assert match_labels(split, {}) is split


FACTS = {
    "classes": ["bag", "cap", "mug"],
    "parts_of_category": [[0, 1], [2, 3], [4]],
    "part_names": ["body", "handle", "panel", "peak", "all"],
}


def caps_and_bags(names: tuple[str, ...] = ("peak", "panel", "handle", "body")) -> Split:
    """Caps are category 0 with parts 0 and 1; bags are category 1 with 2 and 3."""
    category = torch.tensor([0, 1, 0])
    parts = torch.tensor([[0, 1, 1], [2, 3, 3], [1, 1, 0]])
    return Split(
        torch.randn(3, 3, 3),
        torch.zeros(3, dtype=torch.int64),
        ("shape",),
        parts=parts,
        category=category,
        categories=("cap", "bag"),
        parts_of_category=((0, 1), (2, 3)),
        part_names=names,
    )


def test_parts_are_matched_within_their_category() -> None:
    matched = match_labels(caps_and_bags(), FACTS)
    assert matched.categories == ("bag", "cap", "mug") and matched.part_names == tuple(FACTS["part_names"])
    assert matched.category.tolist() == [1, 0, 1]  # type: ignore[union-attr]
    assert matched.parts.tolist() == [[3, 2, 2], [1, 0, 0], [2, 2, 3]]  # type: ignore[union-attr]


def test_parts_without_names_go_by_their_order() -> None:
    matched = match_labels(caps_and_bags(()), FACTS)
    assert matched.parts.tolist() == [[2, 3, 3], [0, 1, 1], [3, 3, 2]]  # type: ignore[union-attr]


def test_other_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cap: expected the parts .* got peak, brim; the model knows panel"):
        match_labels(caps_and_bags(("peak", "brim", "handle", "body")), FACTS)
    split = replace(caps_and_bags(()), categories=("mug", "bag"))
    with pytest.raises(ValueError, match="mug: expected the parts .* got 2 parts; the model knows 1"):
        match_labels(split, FACTS)


def test_parts_of_the_same_numbers_are_matched_by_name_too() -> None:
    """Scenes have one category: a labels.yaml with its names in another order keeps all numbers."""
    split = caps_and_bags()
    facts = {
        "classes": list(split.categories),
        "parts_of_category": [list(ids) for ids in split.parts_of_category],
        "part_names": list(split.part_names),
    }
    assert match_labels(split, facts) is split
    first, second = split.parts_of_category[0][:2]
    names = list(split.part_names)
    names[first], names[second] = names[second], names[first]
    matched = match_labels(split, {**facts, "part_names": names})
    assert matched.parts is not None and split.parts is not None and split.category is not None
    ours, theirs = split.parts[split.category == 0], matched.parts[split.category == 0]
    assert (theirs[ours == first] == second).all() and (theirs[ours == second] == first).all()
    assert tuple(matched.part_names) == tuple(names)
    renamed = ["house", *split.part_names[1:]]
    assert match_labels(split, {**facts, "part_names": renamed}) is split
