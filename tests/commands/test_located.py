"""Where data sets are, or how to get them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bixt3d.commands.located import locate
from bixt3d.datasets.modelnet40 import HDF5_FOLDER
from bixt3d.datasets.shapenetpart import FOLDER


@pytest.mark.parametrize(
    ("name", "folder"),
    [("modelnet40", HDF5_FOLDER), ("shapenetpart", FOLDER), ("shapes", f"shapes/{HDF5_FOLDER}")],
)
def test_data_that_is_there(name: str, folder: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    found = place.parent if name == "shapes" else place
    for root in (tmp_path, found):  # the data folder, or its own
        assert locate(name, root)[0] == found


@pytest.mark.parametrize(
    ("name", "root", "get"),
    [
        ("modelnet40", "data", "bixt3d data get modelnet40 --root data"),
        ("shapenetpart", "data", "bixt3d data get shapenetpart --root data"),
        ("shapenetpart", "data/shapes", "bixt3d data make --root data"),
        ("shapes", "data", "bixt3d data make --root data"),
        ("shapenetpart", "data/psb_benchmark_v0_normal", "see data/README.md, which says how it is made"),
        ("folder", "mine", "see data/README.md, which shows the layout of your own files"),
    ],
)
def test_data_that_is_not(
    name: str, root: str, get: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(name, root) == (None, get)


def test_own_files(tmp_path: Path) -> None:
    assert locate("folder", tmp_path)[0] == tmp_path and locate("mine", tmp_path)[0] == tmp_path
