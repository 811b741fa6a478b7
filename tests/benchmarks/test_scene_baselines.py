"""Baselines of scenes: heights over the ground around, and what is learned from them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.scene_baselines import Points, heights, main, predictions


def test_heights_are_over_the_ground_of_a_square() -> None:
    xyz = torch.rand(4000, 3) * torch.tensor([80.0, 5.0, 80.0])
    xyz[::4, 1] = 0
    xyz[:, 1] += 30 * (xyz[:, 0] / 20).floor()  # terraces
    xyz[3, 1] -= 100  # an echo from below
    expected = xyz[:, 1] - 30 * (xyz[:, 0] / 20).floor()
    assert (heights(xyz) - expected).abs().max() < 1e-4


def test_each_baseline_says_what_training_points_say() -> None:
    #                 5 points of road below, 3 of tree and 2 of sign above
    train = Points(torch.tensor([0, 0, 0, 0, 1, 6, 6, 7, 7, 6]), torch.tensor([1, 1, 1, 1, 1, 3, 3, 4, 4, 3]))
    majority, two, sliced = predictions(train, 5).values()
    assert set(majority.tolist()) == {1}
    assert two[:2].tolist() == [1, 1] and two[6:].unique().tolist() == [3]
    assert sliced[[0, 1, 6, 7]].tolist() == [1, 1, 3, 4]


def test_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.yaml").write_text("names: [none, low, high]\nignore: [0]")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        xyz = random.uniform(0, [30, 30, 8], (900, 3))
        xyz[::5, 2] = 0
        label = np.where(random.uniform(size=900) < 0.1, 0, 1 + (xyz[:, 2] > 4))
        np.savez(tmp_path / split / "a.npz", xyz=xyz, label=label)
    monkeypatch.setattr(sys, "argv", ["x", "--root", str(tmp_path), "--out", str(tmp_path / "out.md")])
    main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    (_, *most), (_, *two), (_, *sliced) = rows[1:]
    assert float(most[2]) < 40 and float(two[2]) > 95 and float(sliced[0]) > 95
    assert "Scenes labelled without learned features" in (tmp_path / "out.md").read_text()
