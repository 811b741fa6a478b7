"""What a checkpoint says of its model: both ways to JSON, older names, damage, and comparisons."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bixt3d.datasets import Preprocess
from bixt3d.tasks import Description, compare_facts

WHOLE: dict[str, Any] = {
    "task": "part_segmentation",
    "model": {"name": "bixt_ti_partseg", "args": {"num_parts": 5}},
    "classes": ["Mug", "Täble"],
    "parts_of_category": [[0, 1], [2, 3, 4]],
    "preprocess": {
        "num_points": 48,
        "order": "random",
        "stored_points": 80,
        "features": ["normal", "color"],
        "up": "-z",
        "estimate_normals": True,
        "normalization": "robust",
        "channels": 9,
    },
    "dataset": "shapenetpart",
    "config": {"train": {"epochs": 3}},
    "metrics": {"epoch": 3, "val_oa": 0.5},
}


def test_there_and_back() -> None:
    description = Description.from_dict(json.loads(json.dumps(WHOLE)))
    assert description.to_dict() == WHOLE == json.loads(description.to_json())
    assert description.facts == {name: WHOLE[name] for name in ("classes", "parts_of_category")}
    assert description.preprocess == Preprocess(48, "random", 80, ("normal", "color"), "-z", True, "robust")
    assert description.preprocess.channels == 9
    assert Description.from_dict({**WHOLE, "format": 1}) == description


@pytest.mark.parametrize(
    ("augment", "optional"),
    [
        ({"normal_dropout": 0.3, "feature_dropout": {"color": 0.1}}, ("normal", "color")),
        ({"normal_dropout": 0.0, "feature_dropout": {"color": 0.1, "height": 0.2}}, ("color",)),
        ({"feature_dropout": 3}, ()),
        (None, ()),
    ],
)
def test_what_training_dropped_may_be_missing(augment: Any, optional: tuple[str, ...]) -> None:
    description = Description.from_dict({**WHOLE, "config": {"augment": augment}})
    assert description.preprocess.optional == optional
    assert description.to_dict()["preprocess"] == WHOLE["preprocess"]


def test_of_earlier_versions() -> None:
    """No task was named at first, then another name; features had none; a preset stood in the settings."""
    stated = {
        "model": {"name": "bixt_ti_cls", "args": {}},
        "classes": ["a", "b"],
        "preprocess": {"num_points": 32, "order": "stored", "stored_points": 32},
    }
    first = Description.from_dict(stated)
    assert first.task == "classification" and first.preprocess.features == ()
    assert (first.dataset, first.config, first.metrics) == ("", {}, {})
    normals = {**stated, "preprocess": {**stated["preprocess"], "channels": 6}, "task": "part segmentation"}  # type: ignore[dict-item]
    second = Description.from_dict(normals)
    assert second.task == "part_segmentation" and second.preprocess.features == ("normal",)
    assert Description.from_dict(second.to_dict()) == second


def test_facts_are_the_tasks_own() -> None:
    """Classes are not for every task."""
    stated = {name: value for name, value in WHOLE.items() if name not in ("classes", "parts_of_category")}
    description = Description.from_dict({**stated, "task": "own", "mean": 0.5, "unit": "m"})
    assert description.facts == {"mean": 0.5, "unit": "m"} and description.task == "own"


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"model": "bixt_ti_cls"},
        {"model": {"name": "bixt_ti_cls"}},
        {"model": {"args": {}}},
        {"model": {"name": 3, "args": {}}},
        {"model": {"name": "x", "args": [1]}},
        {"classes": "ab"},
        {"classes": [1, 2]},
        {"classes": None},
        {"preprocess": None},
        {"preprocess": []},
        {"preprocess": {}},
        {"preprocess": {**WHOLE["preprocess"], "order": "any"}},
        {"preprocess": {**WHOLE["preprocess"], "num_points": 0}},
        {"preprocess": {**WHOLE["preprocess"], "num_points": "48"}},
        {"preprocess": {**WHOLE["preprocess"], "channels": 6}},
        {"preprocess": {**WHOLE["preprocess"], "features": 3}},
        {"preprocess": {**WHOLE["preprocess"], "divide": {"color": 2.0}}},
        {"preprocess": {**WHOLE["preprocess"], "divide": {"intensity": 2.0}}},
        {"preprocess": {**WHOLE["preprocess"], "divide": 5}},
        {"preprocess": {**WHOLE["preprocess"], "features": ["normal", "normal"]}},
        {"preprocess": {"num_points": 4, "order": "fps", "stored_points": 4, "channels": 7}},
        {"config": [1]},
        {"metrics": "good"},
    ],
)
def test_damage_is_found(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Description.from_dict({**WHOLE, **change})


@pytest.mark.parametrize("lost", ["model", "preprocess"])
def test_what_is_missing_is_found(lost: str) -> None:
    with pytest.raises(ValueError, match="expected a whole description: model, classes, preprocess; got"):
        Description.from_dict({name: value for name, value in WHOLE.items() if name != lost})


def test_of_a_model_with_a_new_head() -> None:
    description = Description.from_dict(WHOLE)
    resized = description.resized({"num_parts": 2}, {"classes": ["x"], "parts_of_category": [[0, 1]]})
    assert resized.model == {"name": "bixt_ti_partseg", "args": {"num_parts": 2}}
    assert resized.facts == {"classes": ["x"], "parts_of_category": [[0, 1]]}
    assert resized.preprocess == description.preprocess
    assert resized.metrics == {}  # those of the old head
    assert description == Description.from_dict(WHOLE)  # which stays


def test_labels_are_compared() -> None:
    known = {"classes": ["a", "b", "c", "d"], "part_names": ["x"], "mean": 0.5, "new": [1]}
    compare_facts("best", known, {"classes": ["a", "b", "c", "d"]}, "data")
    # Names of parts are for people, and what is no list is no label.
    compare_facts("best", known, {"part_names": ["y"], "mean": 0.7, "unknown": [3]}, "data")
    with pytest.raises(
        ValueError, match=r"^best knows 4 classes \(a, b, c \.\.\.\), data has 2 \(a, c \.\.\.\)$"
    ):
        compare_facts("best", known, {"classes": ["a", "c"]}, "data")
