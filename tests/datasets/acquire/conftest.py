from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bixt3d.datasets.modelnet40 import HDF5_FOLDER
from tests.datasets.acquire.sets import write_modelnet, zipped
from tests.datasets.acquire.site import Server, serving


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_modelnet(tmp_path / "made" / HDF5_FOLDER)


@pytest.fixture
def archive(whole: Path) -> bytes:
    return zipped(whole)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"
