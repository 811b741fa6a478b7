"""Notes that many files share."""

from __future__ import annotations

import logging

from bixt3d.commands.repeats import Repeats


def record(
    text: str, name: str = "bixt3d.datasets.readers.cloud", level: int = logging.WARNING
) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "name": name, "levelno": level})


def test_the_first_are_shown_and_the_others_counted() -> None:
    repeats = Repeats()
    notes = [f"a/{place}.csv: colours up to {200 + place} are divided by 255" for place in range(9)]
    assert [repeats.filter(record(note)) for note in notes] == [True] * 3 + [False] * 6
    assert repeats.filter(record("a/0.csv: 2 points are NaN"))
    assert repeats.rest() == ["6 more files: colours up to … are divided by …"]


def test_notes_of_few_points_are_folded() -> None:
    repeats, name = Repeats(), "bixt3d.inference.predictor"
    notes = [f"few/c{place}.txt: it has {20 + place} points, the model looks at 512" for place in range(11)]
    assert sum(repeats.filter(record(note, name)) for note in notes) == 3
    assert repeats.rest() == ["8 more files: it has … points, the model looks at …"]
    left_out = [f"left out: few/d{place}.txt: the file is empty" for place in range(9)]
    assert all(repeats.filter(record(note, name)) for note in left_out)


def test_other_lines_are_always_shown() -> None:
    repeats = Repeats()
    for _ in range(9):
        assert repeats.filter(record("step 3: the loss is NaN", "bixt3d.training.trainer"))
        assert repeats.filter(record("read 3 train shapes: done", level=logging.INFO))
        assert repeats.filter(record("train: left out:\n  a.ply: damaged"))
        assert repeats.filter(record("no file at all"))
    assert repeats.rest() == []
