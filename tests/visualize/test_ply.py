"""Labelled clouds as PLY files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from bixt3d.visualize import LabelledCloud
from bixt3d.visualize.ply import ply_names, write_ply


def cloud(**changes: object) -> LabelledCloud:
    points = np.random.default_rng(0).normal(size=(50, 3)) * 1e6 + 4e6  # as on a map
    about: dict[str, object] = {
        "ids": [3, 5],
        "names": ["a", "b", "c", "body", "e", "han\ndle"],
        "prediction": np.where(np.arange(50) % 3 == 0, 5, 3),
        "confidence": np.linspace(0.5, 1, 50, dtype=np.float32),
        **changes,
    }
    return LabelledCloud("mug", points, **about)  # type: ignore[arg-type]


def test_another_library_reads_every_column(tmp_path: Path) -> None:
    made = cloud()
    read = trimesh.load(write_ply(made, tmp_path / "new" / "mug.ply"))
    np.testing.assert_array_equal(read.vertices, made.points)  # to the last digit
    np.testing.assert_array_equal(read.colors[:, :3], np.round(255 * made.colors("prediction")))
    columns = read.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(columns["part"].ravel(), made.prediction)
    np.testing.assert_array_equal(columns["confidence"].ravel(), made.confidence)


def test_truth_has_its_own_parts_and_names_stay_on_their_line(tmp_path: Path) -> None:
    truth = np.full(50, 5)
    path = write_ply(cloud(truth=truth), tmp_path / "mug.ply", "truth")
    columns = trimesh.load(path).metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(columns["part"].ravel(), truth)
    assert b"comment part 5 han dle\n" in path.read_bytes()


def test_a_mode_that_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode: expected one of prediction, confidence, got 'truth'"):
        write_ply(cloud(), tmp_path / "mug.ply", "truth")


def test_no_name_twice() -> None:
    files = ["a/chair.off", "b/chair.obj", Path("chair.ply"), "mug.off"]
    assert ply_names(files) == ["chair_parts.ply", "chair_parts_2.ply", "chair_parts_3.ply", "mug_parts.ply"]
