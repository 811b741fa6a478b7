"""What a user hands in: folders, estimated normals, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bixt3d.datasets.given import read_points
from bixt3d.datasets.normals import estimate_normals
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.inference.clouds import each_category, find_clouds

NORMALS = Preprocess(32, features=("normal",), estimate_normals=True)


def sphere(count: int = 300) -> torch.Tensor:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return points / points.norm(dim=-1, keepdim=True)


def test_folders_give_their_clouds_and_name_the_others(tmp_path: Path) -> None:
    for name in ("b/2.xyz", "a/1.XYZ", "a/deep/3.npy", "a/notes.pdf", ".hidden/4.xyz", "a/.5.xyz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    named = tmp_path / "a/notes.pdf"
    found, others = find_clouds([named, tmp_path])
    relative = [path.relative_to(tmp_path).as_posix() for path in found]
    assert relative == ["a/notes.pdf", "a/1.XYZ", "a/deep/3.npy", "b/2.xyz"] and others == [named]
    with pytest.raises(FileNotFoundError, match=r"hidden: expected meshes or clouds \(.*found none"):
        (tmp_path / ".hidden/4.xyz").unlink()
        find_clouds([tmp_path / ".hidden"])


def test_home_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.xyz").touch()
    assert find_clouds(["~/scans", "~/b.xyz"])[0] == [tmp_path / "scans/a.xyz", Path("~/b.xyz")]
    monkeypatch.chdir(tmp_path)
    np.savetxt("~old.xyz", sphere())
    assert find_clouds(["~old.xyz"])[0] == [Path("~old.xyz")]
    assert len(read_points("~old.xyz", Preprocess(32))) == 300


def test_normals_are_estimated_where_a_file_has_none(tmp_path: Path) -> None:
    cloud = sphere()
    np.savetxt(tmp_path / "bare.xyz", cloud)
    points = read_points(tmp_path / "bare.xyz", NORMALS)
    torch.testing.assert_close(points, torch.cat([cloud, estimate_normals(cloud)], -1))
    own = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(300, 3)
    np.savetxt(tmp_path / "whole.xyz", torch.cat([cloud, own], -1))
    torch.testing.assert_close(read_points(tmp_path / "whole.xyz", NORMALS)[:, 3:], own)
    with pytest.raises(ValueError, match="no feature normal"):
        read_points(tmp_path / "bare.xyz", Preprocess(32, features=("normal",)))


def test_normals_of_arrays_take_their_place_among_the_features() -> None:
    cloud, color = sphere(), torch.rand(300, 3, dtype=torch.float64)
    preprocess = Preprocess(32, features=("color", "normal"), estimate_normals=True)
    points = read_points(torch.cat([cloud, color], -1).numpy(), preprocess)
    torch.testing.assert_close(points, torch.cat([cloud, color, estimate_normals(cloud)], -1))
    whole = torch.cat([cloud, color, -cloud], -1)
    torch.testing.assert_close(read_points(whole, preprocess), whole)
    with pytest.raises(ValueError, match=r"expected points \(N, 9\), xyz and color, normal"):
        read_points(torch.cat([cloud, color[:, :2]], -1), preprocess)


def test_categories_of_several_clouds() -> None:
    assert each_category("mug", 2) == ["mug", "mug"] and each_category((0, 1), 2) == [0, 1]
    with pytest.raises(ValueError, match="category: expected one, or 3, one for each cloud, got 2"):
        each_category([0, 1], 3)
