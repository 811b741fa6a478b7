"""Training on clouds in files is training on clouds in memory, also where it stops and goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bixt3d.datasets.cache import Arrays, cached
from bixt3d.datasets.mapped import Mapped, lay_out
from bixt3d.datasets.split import Split
from bixt3d.datasets.store import Store
from bixt3d.training.guards import Stopped
from tests.training.tiny import (
    assert_same,
    make_config,
    make_split,
    make_trainer,
    rows_of,
    signal_at,
    weights,
)


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """The clouds of `make_split`, in a file."""
    monkeypatch.setenv("BIXT3D_MEMORY", "0")
    split = make_split()
    (tmp_path / "source").touch()

    def build(store: Store) -> Arrays:
        for cloud in split.points.numpy():
            store.add(points=cloud)
        return {}

    arrays = cached([tmp_path / "source"], "train", build, folder=tmp_path)
    return replace(split, points=lay_out(arrays, "points", split.num_points, tmp_path))


def test_a_run_stops_on_a_map_and_goes_on_in_memory(tmp_path: Path, mapped: Split) -> None:
    """Bit for bit, and its clouds are known to be the same."""
    assert isinstance(mapped.points, Mapped)
    config = make_config("data.order=random", "data.num_points=20")
    make_trainer(tmp_path / "straight", config).fit()
    stopped = make_trainer(tmp_path / "stopped", config, train=mapped)
    signal_at(stopped, 5)
    with pytest.raises(Stopped):
        stopped.fit()
    again = make_trainer(tmp_path / "stopped", config, train=mapped, resume=True)
    signal_at(again, 9)
    with pytest.raises(Stopped):
        again.fit()
    make_trainer(tmp_path / "stopped", config, resume=True).fit()
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "straight")
    for name in ("last", "best"):
        one, other = (weights(tmp_path / run / f"{name}.safetensors") for run in ("stopped", "straight"))
        assert_same(one, other)


def test_other_clouds_in_files_are_not_resumed(tmp_path: Path, mapped: Split) -> None:
    make_trainer(tmp_path / "run", make_config("train.epochs=1"), train=mapped).fit()
    with pytest.raises(ValueError, match="with other clouds: 64 of 64 training clouds have changed"):
        make_trainer(tmp_path / "run", make_config("train.epochs=2"), resume=True, train=make_split(seed=3))
