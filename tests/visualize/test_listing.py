"""Predictions as text."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from bixt3d.inference import Prediction
from bixt3d.visualize import LabelledCloud
from bixt3d.visualize.listing import class_row, listing, part_row

CLASSES = ["chair, high", "mug", 'a "lamp"']


def rows() -> list[dict[str, object]]:
    seen = Prediction("mug", 1, np.array([0.25, 0.7, 0.05], np.float32), np.zeros((4, 3)))
    return [class_row("x.off", seen, CLASSES, 2), {"file": "bad.off", "error": "bad.off: no mesh"}]


def part_rows() -> list[dict[str, object]]:
    cloud = LabelledCloud(
        "x.off",
        np.zeros((4, 3)),
        "Mug",
        [2, 3],
        ["", "", "body", "handle"],
        prediction=np.array([3, 2, 3, 3]),
        confidence=np.array([0.5, 1.0, 0.75, 1.0]),
    )
    return [part_row("x.off", cloud)]


def test_names_that_would_break_a_table() -> None:
    first, second = (dict(rows()[0], file=name) for name in ("a\n\x1b[2J\udce9.off", "Ünï 椅.off"))
    shown = listing([first, second], "table").splitlines()
    assert [line[: line.index("  ")] for line in shown] == ["a\\n\\x1b[2J\\udce9.off", "Ünï 椅.off"]


def test_table() -> None:
    assert listing(rows(), "table") == "x.off  mug 70.0%  chair, high 25.0%"
    assert listing(part_rows(), "table") == "x.off  4 points  handle 75.0%  body 25.0%"
    assert listing([], "table") == ""


def test_json_has_what_failed() -> None:
    good, bad = json.loads(listing(rows(), "json"))
    assert good["class"] == "mug"
    assert good["classes"][1] == {"class": "chair, high", "probability": 0.25}
    assert bad == {"file": "bad.off", "error": "bad.off: no mesh"}
    (parts,) = json.loads(listing(part_rows(), "json"))
    assert (parts["category"], parts["points"]) == ("Mug", 4)
    assert parts["parts"][0] == {"part": 3, "name": "handle", "points": 3, "confidence": 0.75}


def test_csv_has_a_row_a_file() -> None:
    first, bad = csv.DictReader(io.StringIO(listing(rows(), "csv")))
    assert list(first) == ["file", "class", "probability", "class_2", "probability_2", "error"]
    assert list(first.values()) == ["x.off", "mug", "0.7", "chair, high", "0.25", ""]
    assert bad["file"] == "bad.off" and bad["error"] == "bad.off: no mesh" and bad["class"] == ""
    other = {"file": "y.off", "category": "Lamp", "points": 9, "parts": [{"name": "shade", "points": 9}]}
    one, two = csv.DictReader(io.StringIO(listing([*part_rows(), other], "csv")))
    assert (one["category"], one["points"], one["handle_points"], one["body_points"]) == (
        "Mug",
        "4",
        "3",
        "1",
    )
    assert (two["shade_points"], two["handle_points"]) == ("9", "")
    twice = {**other, "points": 12, "parts": [*other["parts"], {"name": "shade", "points": 3}]}
    assert next(csv.DictReader(io.StringIO(listing([twice], "csv"))))["shade_points"] == "12"
    assert listing([], "csv") == "file"


def test_axis_that_was_found() -> None:
    turned = [{**rows()[0], "up": "-z"}]
    assert listing(turned, "table") == "x.off  mug 70.0%  chair, high 25.0%  up -z"
    assert next(csv.DictReader(io.StringIO(listing(turned, "csv"))))["up"] == "-z"


class Verdict:
    def __str__(self) -> str:
        return "leans, by 3°"


def test_answers_of_a_task_of_ones_own() -> None:
    cloud = LabelledCloud("x.off", np.zeros((4, 3)), verdict="leans")
    answers: tuple[object, ...] = (1.5, np.float32(0.25), Verdict())
    listed = [class_row("x.off", answer, None, 2) for answer in answers] + [part_row("x.off", cloud)]
    assert [row["answer"] for row in listed] == [1.5, 0.25, "leans, by 3°", "leans"]
    assert listing(listed, "table").splitlines()[1:] == ["x.off  0.25", "x.off  leans, by 3°", "x.off  leans"]
    assert [row["answer"] for row in json.loads(listing(listed, "json"))] == [
        1.5,
        0.25,
        "leans, by 3°",
        "leans",
    ]
    read = list(csv.DictReader(io.StringIO(listing(listed, "csv"))))
    assert [row["answer"] for row in read] == ["1.5", "0.25", "leans, by 3°", "leans"]


def test_parts_without_confidence() -> None:
    sure = LabelledCloud("x", np.zeros((2, 3)), "Mug", [0], ["body"], prediction=np.array([0, 0]))
    assert part_row("x.off", sure)["parts"] == [{"part": 0, "name": "body", "points": 2}]
    assert listing([part_row("x.off", sure)], "csv").splitlines() == [
        "file,category,points,body_points",
        "x.off,Mug,2,2",
    ]


def test_another_form() -> None:
    with pytest.raises(ValueError, match="format: expected one of table, json, csv, got 'xml'"):
        listing(rows(), "xml")
