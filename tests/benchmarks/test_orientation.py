"""Orientations of clouds: how they are turned, the surest of six answers, and the page."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from benchmarks import orientation
from bixt3d import Split
from bixt3d.datasets.augment import parallel_turns
from bixt3d.datasets.orientation import AXES, turn
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.inference.looks import Looks
from bixt3d.training.experiment import train
from tests.training.tiny import make_config

CPU = torch.device("cpu")


def clouds(count: int = 48) -> Tensor:
    return torch.randn(count, 20, 3, generator=Generator().manual_seed(0))


def test_turned_about_y_keeps_heights_and_reaches_all_sides() -> None:
    points = clouds(200)
    turned = orientation.about_y(points)
    torch.testing.assert_close(turned[..., 1], points[..., 1])
    torch.testing.assert_close(turned.norm(dim=-1), points.norm(dim=-1))
    angle = torch.atan2(turned[:, 0, 0], turned[:, 0, 2]) - torch.atan2(points[:, 0, 0], points[:, 0, 2])
    assert float(angle.cos().min()) < -0.95 and abs(float(angle.cos().mean())) < 0.15
    assert turned.equal(orientation.about_y(points))


def test_each_parallel_position_has_as_many_clouds() -> None:
    points = clouds()
    turned = orientation.parallel(points)
    fits = (
        torch.isclose(torch.einsum("tij,bnj->btni", parallel_turns(), points), turned[:, None]).all(3).all(2)
    )
    assert fits.sum(1).tolist() == [1] * 48 and fits.sum(0).tolist() == [2] * 24


@pytest.mark.parametrize("axis", AXES)
def test_another_axis_up_is_what_turn_undoes(axis: str) -> None:
    points = clouds(2)
    lying = orientation.with_up(points, axis)
    torch.testing.assert_close(turn(lying, axis), points)
    sign = -1 if axis.startswith("-") else 1
    torch.testing.assert_close(sign * lying[..., "xyz".index(axis[-1])], points[..., 1])


class Knows:
    """Stands for a model that is sure of class 1 only where clouds stand on y's low side."""

    looks = Looks(1, True)

    def arrange(self, split: Split) -> Split:
        return split

    def probabilities(self, split: Split, device: torch.device) -> Tensor:
        right = split.points[:, 0, 1] > 0.9  # (S,), the first point marks what is up
        return torch.where(right[:, None], torch.tensor([[0.1, 0.9]]), torch.tensor([[0.6, 0.4]]))


def test_the_most_confident_answer_counts() -> None:
    points = 0.1 * clouds(48)
    points[:, 0] = torch.tensor([0.0, 1.0, 0.0])
    split = Split(points, torch.ones(48, dtype=torch.int64), ("a", "b"))
    found = orientation.measure(Knows(), split, CPU)  # type: ignore[arg-type]
    assert found["as they stand"] == found["turned about y"] == found["turned about y, mean of 4 turns"] == 1
    assert found["24 positions"] == pytest.approx(4 / 24) and found["24 positions, up unknown"] == 1
    assert found["y up, not told"] == 1 and found["-z up, not told"] == 0
    assert found["mean of six up axes, not told"] == pytest.approx(1 / 6)


class Doubts(Knows):
    """Knows a class where clouds stand, the right one from two sides of four; is surer where they lie.

    The most probable label misleads, as what lies is one class or any other: it has more entropy.
    """

    def __init__(self, even: bool) -> None:
        self.looks = Looks(1, True, even)

    def probabilities(self, split: Split, device: torch.device) -> Tensor:
        right = split.points[:, 0, 1] > 0.9  # (S,)
        facing = (split.points[:, 1, 2] > 0)[:, None]
        few = [0.004] * 5
        stands = torch.where(facing, torch.tensor([[0.30, 0.68, *few]]), torch.tensor([[0.51, 0.47, *few]]))
        return torch.where(right[:, None], stands, torch.tensor([[0.7, *[0.05] * 6]]))


def test_the_least_even_answer_counts_after_a_training_that_laid_clouds() -> None:
    points = 0.1 * clouds(48)
    points[:, 0], points[:, 1] = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.1, 0.0, 0.3])
    split = Split(points, torch.ones(48, dtype=torch.int64), tuple("abcdefg"))
    even, sure = (orientation.measure(Doubts(one), split, CPU) for one in (True, False))  # type: ignore[arg-type]
    assert even["24 positions, up unknown"] > 0.3 and sure["24 positions, up unknown"] == 0
    assert even["turned about y"] < 0.7 and even["turned about y, mean of 4 turns"] == 1


def test_page_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shapes(tmp_path / "data", per_class=12, num_points=64, progress=False)
    settings = ["data.name=shapes", f"data.root={tmp_path / 'data'}", f"run.dir={tmp_path / 'run'}"]
    train(make_config(*settings, "train.epochs=1", "data.normalization=robust"), device=CPU)
    command: list[Any] = ["orientation", tmp_path / "run", "--names", "small", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--shapes", "18", "--retrieval"])
    orientation.main()
    page = (tmp_path / "out" / "README.md").read_text()
    assert "up unknown: the most confident" in page
    assert "a trial on 18 of the" in page and "| 24 positions, up unknown " in page
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["clouds", "small"] and len(rows) == 19
    assert all(0 <= float(row[1]) <= 100 for row in rows[1:])
