"""Tables and pictures of an evaluation."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from bixt3d.tasks.classification import class_rows
from bixt3d.training.files import text_table, write_confusion, write_csv


def test_reports(tmp_path: Path) -> None:
    counts = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    table = text_table(class_rows(counts, ("cup", "flower pot", "lamp"))).splitlines()
    assert [line.split() for line in table[1:]] == [
        ["cup", "4", "75.0%", "flower", "pot", "(1)"],
        ["flower", "pot", "4", "100.0%", "-"],
        ["lamp", "0", "-", "-"],
    ]
    write_csv(class_rows(counts, ("cup", "flower pot", "lamp")), tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [
            ["cup", "4", "0.75", "flower pot (1)"],
            ["flower pot", "4", "1", "-"],
            ["lamp", "0", "-", "-"],
        ]
    assert text_table([["a", "b"], ["c", 2.5], ["d", None]]) == "a  b\nc  2.5\nd  -"
    write_confusion(counts, ("cup", "flower, pot", "lamp"), tmp_path / "confusion.csv")
    with open(tmp_path / "confusion.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["cup", "flower, pot", "lamp"]
    assert rows[1:] == [["cup", "3", "1", "0"], ["flower, pot", "0", "4", "0"], ["lamp", "0", "0", "0"]]
