"""Sampling by buckets chooses what the reference chooses, ties and rounding included."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bixt3d.ops import farthest_point_sample, sampling
from bixt3d.ops.backends import installed
from tests.markers import data_dir, needs_data, needs_numba

pytestmark = needs_numba


def clouds(kind: str, count: int) -> Tensor:
    points = torch.randn(3, count, 3)
    if kind == "grid":
        return (points * 2).round()
    if kind == "tenths":  # distances that are equal but for rounding
        return torch.randint(6, (3, count, 3)) * 0.1
    if kind == "repeated":
        return points[:, torch.arange(count) % 70]
    if kind == "one place":
        return torch.ones(3, count, 3)
    if kind == "flat":
        return points * torch.tensor([1.0, 1.0, 0.0])
    if kind == "far":
        return points + 1e4
    return points * {"plain": 1.0, "tiny": 1e-25, "huge": 1e25, "beyond": 1e38}[kind]


KINDS = ("plain", "grid", "tenths", "repeated", "one place", "flat", "far", "tiny", "huge", "beyond")


def same_samples(xyz: Tensor, num_samples: int, start: int = 0) -> None:
    expected = farthest_point_sample(xyz, num_samples, start, backend="torch", validate=False)
    index = farthest_point_sample(xyz, num_samples, start, backend="bucket", validate=False)
    assert index.dtype == torch.int64
    assert index.equal(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 33, 64, 65, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_reference(kind: str, count: int, dtype: torch.dtype) -> None:
    xyz = clouds(kind, count).to(dtype)
    for start in {0, count // 3, count - 1}:
        same_samples(xyz, max(1, count * 3 // 4), start)
        same_samples(xyz, count, start)


@needs_data
def test_stored_clouds_keep_their_order() -> None:
    import h5py

    with h5py.File(data_dir() / "modelnet40_ply_hdf5_2048" / "ply_data_test0.h5") as file:
        xyz = torch.from_numpy(file["data"][:16])
    same_samples(xyz, xyz.shape[1])


@pytest.mark.parametrize("batch", [1, 5])
def test_with_several_threads(batch: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        same_samples(torch.randn(batch, 300, 3), 100)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(bad: float) -> None:
    """Where nobody looked, the reference says what becomes of them."""
    xyz = torch.randn(2, 300, 3)
    xyz[1, 7, 0] = bad
    same_samples(xyz, 40)


def test_layout_precision_and_gradients_do_not_matter() -> None:
    same_samples(torch.randn(2, 3, 90).transpose(1, 2).requires_grad_(), 30)
    same_samples(torch.randn(2, 90, 6)[..., 2:5], 30)
    same_samples(torch.randn(1, 90, 3).expand(3, -1, -1), 30)
    same_samples((torch.randn(2, 90, 3) * 300).half(), 30)


def test_random_start() -> None:
    xyz = torch.randn(64, 40, 3)
    index = farthest_point_sample(xyz, 6, "random", backend="bucket")
    assert len(index[:, 0].unique()) > 10
    for cloud, row in zip(xyz[:9], index.tolist(), strict=False):
        assert [row] == farthest_point_sample(cloud[None], 6, row[0], backend="torch").tolist()


@pytest.mark.parametrize(("count", "used"), [(sampling.FEWEST - 1, []), (sampling.FEWEST, ["bucket"])])
def test_auto_takes_it_for_clouds_that_are_large_enough(
    count: int, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, sample = [], sampling._sample

    def record(xyz: Tensor, num_samples: int, first: Tensor, backend: str) -> Tensor:
        asked.append(backend)
        return sample(xyz, num_samples, first, backend)

    monkeypatch.setattr(sampling, "_sample", record)
    xyz = torch.randn(1, count, 3)
    assert farthest_point_sample(xyz, 9).equal(farthest_point_sample(xyz, 9, backend="torch"))
    assert asked == [*(used or ["torch"]), "torch"]


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    installed.cache_clear()
    try:
        xyz = torch.randn(1, 300, 3)
        assert farthest_point_sample(xyz, 9).equal(farthest_point_sample(xyz, 9, backend="torch"))
        with pytest.raises(ImportError, match=r"backend 'numba' is not installed .*`pip install numba`"):
            farthest_point_sample(xyz, 9, backend="bucket")
    finally:
        installed.cache_clear()


def test_on_another_device() -> None:
    with pytest.raises(RuntimeError, match="backend 'bucket' runs on CPUs, got points on meta"):
        farthest_point_sample(torch.empty(1, 300, 3, device="meta"), 2, backend="bucket")


def test_a_full_disk_keeps_nothing_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def full(*_: object) -> None:
        tried.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    from bixt3d.ops.bucket import compiled  # needs numba

    assert compiled(_twice)(3) == 6 and tried


def _twice(x):  # type: ignore[no-untyped-def]
    return 2 * x
