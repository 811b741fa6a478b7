"""Baselines of scanned objects: their statistics by hand, and neighbours that tell sizes apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.objects import nearest_neighbours, statistics_of


def test_statistics_are_metres_heights_and_points(tmp_path: Path) -> None:
    xyz = np.array([[0, 0, 5], [4, 0, 5], [4, 1, 6], [0, 1, 7]], np.float64) + [5e5, 5e6, 0]
    np.savez(tmp_path / "one.npz", xyz=xyz)
    found = statistics_of(tmp_path / "one.npz", up=2)
    level = np.array([0, 0, 0.5, 1])
    wanted = [*np.log1p([1, 4, 2]), *np.percentile(level, (10, 25, 50, 75, 90)), level.std(), np.log(4)]
    assert found == pytest.approx(wanted)


def test_neighbours_tell_objects_apart_by_size(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 5)):
        for name, size in (("small", 1.0), ("large", 9.0)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                xyz = generator.random((50, 3)) * size
                np.savez(tmp_path / split / name / f"{number}.npz", xyz=xyz)
    confusion = nearest_neighbours(tmp_path, ("small", "large"), up=2)
    np.testing.assert_array_equal(confusion, [[5, 0], [0, 5]])
