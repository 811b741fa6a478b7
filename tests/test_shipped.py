"""Files that ship: found beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from bixt3d import shipped

ROOT = Path(__file__).resolve().parents[1]


def test_in_a_checkout_they_lie_beside_the_package() -> None:
    assert shipped.shipped("configs") == ROOT / "configs"
    assert shipped.find_config("psb_cpu") == ROOT / "configs/psb_cpu.yaml"


def test_in_a_wheel_they_lie_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bixt3d/configs").mkdir(parents=True)
    (tmp_path / "bixt3d/configs/mine.yaml").touch()
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "bixt3d")
    assert shipped.list_configs() == ["mine"]
    assert shipped.find_config("mine") == tmp_path / "bixt3d/configs/mine.yaml"


def test_a_file_of_the_users_own_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("psb_cpu").touch()
    assert shipped.find_config("psb_cpu") == Path("psb_cpu")
    Path("psb_cpu").unlink()
    Path("psb_cpu").mkdir()  # such as a folder of data
    assert shipped.find_config("psb_cpu") == ROOT / "configs/psb_cpu.yaml"


def test_missing_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    with pytest.raises(
        FileNotFoundError, match=r"no config file psb_gpu; \. holds mine\.yaml; did you mean 'psb_cpu'"
    ):
        shipped.find_config("psb_gpu")
