"""Tables and pictures of an evaluation."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from bixt3d.tasks.classification import class_rows
from bixt3d.training.files import text_table, write_confusion


def test_reports(tmp_path: Path) -> None:
    counts = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    table = text_table(class_rows(counts, ("cup", "flower pot", "lamp"))).splitlines()
    assert [line.split() for line in table[1:]] == [
        ["cup", "4", "75.0%", "flower", "pot", "(1)"],
        ["flower", "pot", "4", "100.0%", "-"],
        ["lamp", "0", "-", "-"],
    ]
    write_confusion(counts, ("cup", "flower, pot", "lamp"), tmp_path / "confusion.csv")
    with open(tmp_path / "confusion.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["cup", "flower, pot", "lamp"]
    assert rows[1:] == [["cup", "3", "1", "0"], ["flower, pot", "0", "4", "0"], ["lamp", "0", "0", "0"]]
