"""`bixt3d train`: which configs it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

import bixt3d
from bixt3d.commands.train import experiment


def experiment_of(folder: Path, text: str, only: str | None) -> bixt3d.Config:
    (folder / "mine.yaml").write_text(text)
    return experiment(str(folder / "mine.yaml"), [], only)


def test_a_task_of_ones_own_goes_with_its_door(registries: None, tmp_path: Path) -> None:
    class PointTask(bixt3d.Task):
        name, per_point = "point_task", True

    bixt3d.register_task("point_task", PointTask)
    text = "task: point_task"
    for only in ("points", None):
        assert experiment_of(tmp_path, text, only).task == "point_task"
    with pytest.raises(ValueError, match=r"mine\.yaml is for point task: use tools/seg_shapenetpart\.py"):
        experiment_of(tmp_path, text, "shapes")
    with pytest.raises(ValueError, match=r"mine\.yaml is for classification: use tools/train_cls\.py"):
        experiment_of(tmp_path, "", "points")


def test_config_by_name(registries: None) -> None:
    assert experiment("psb_cpu", ["train.epochs=3"]).train.epochs == 3
