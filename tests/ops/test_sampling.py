"""Farthest point sampling: hand-computed choices, an obvious numpy twin, published indices, clear errors."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bixt3d.ops import farthest_point_sample
from tests.markers import fixtures_dir, needs_cuda, needs_fixtures, needs_pytorch3d, needs_torch_cluster
from tests.ops.graphs import operations

LINE = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [7, 0, 0]]])


def twin(xyz: NDArray[np.float64], num_samples: int, start: int) -> list[int]:
    """One cloud (N, 3), one sample after another, all distances anew each time."""
    chosen = [start]
    while len(chosen) < num_samples:
        to_each = ((xyz[:, None] - xyz[None, chosen]) ** 2).sum(-1)  # (N, chosen)
        chosen.append(int(to_each.min(1).argmax()))
    return chosen


@pytest.mark.parametrize(("start", "expected"), [(0, [0, 3, 2, 1]), (1, [1, 3, 2, 0]), (2, [2, 3, 0, 1])])
def test_points_on_a_line(start: int, expected: list[int]) -> None:
    index = farthest_point_sample(LINE, 4, start=start)
    assert index.dtype == torch.int64
    assert index.tolist() == [expected]


def test_ties_go_to_the_lowest_index() -> None:
    square = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]])
    assert farthest_point_sample(square, 4).tolist() == [[0, 2, 1, 3]]


def test_each_operation_rounds_to_float32() -> None:
    # On a grid of 0.1 many distances differ by their rounding only, so what is farthest hangs on it.
    xyz = (np.random.randint(0, 6, (300, 3)) * np.float32(0.1)).astype(np.float32)
    nearest = np.full(300, np.inf, np.float32)
    expected, current = [], 0
    for _ in range(150):
        expected.append(current)
        dx, dy, dz = (xyz - xyz[current]).T
        nearest = np.minimum(nearest, dx * dx + dy * dy + dz * dz)
        current = int(nearest.argmax())
    assert nearest.dtype == np.float32
    assert farthest_point_sample(torch.from_numpy(xyz)[None], 150).tolist() == [expected]


@pytest.mark.parametrize(("batch", "count", "samples"), [(1, 1, 1), (3, 17, 17), (2, 200, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_twin(batch: int, count: int, samples: int, dtype: torch.dtype) -> None:
    xyz = torch.randn(batch, count, 3, dtype=dtype)
    start = count // 2
    expected = [twin(cloud, samples, start) for cloud in xyz.double().numpy()]
    assert farthest_point_sample(xyz, samples, start=start).tolist() == expected


def test_fewer_samples_are_a_prefix_of_more() -> None:
    xyz = torch.randn(2, 64, 3)
    torch.testing.assert_close(farthest_point_sample(xyz, 64)[:, :9], farthest_point_sample(xyz, 9))


def test_all_samples_are_a_permutation() -> None:
    index = farthest_point_sample(torch.rand(2, 33, 3), 33)
    assert index.sort(1).values.tolist() == [list(range(33))] * 2


def test_a_cloud_does_not_depend_on_its_batch() -> None:
    xyz = torch.randn(4, 40, 3) * torch.tensor([1.0, 1e-3, 50.0, 1.0])[:, None, None]
    alone = torch.cat([farthest_point_sample(cloud[None], 12) for cloud in xyz])
    assert farthest_point_sample(xyz, 12).tolist() == alone.tolist()


def test_identical_points_give_valid_indices() -> None:
    index = farthest_point_sample(torch.ones(2, 5, 3), 5)
    assert index.shape == (2, 5)
    assert ((index >= 0) & (index < 5)).all()


def test_memory_layout_does_not_matter() -> None:
    channels_first = torch.randn(2, 3, 50)
    strided = channels_first.transpose(1, 2)
    sliced = torch.cat([strided, strided], -1)[..., :3]
    expected = farthest_point_sample(strided.contiguous(), 20).tolist()
    assert farthest_point_sample(strided, 20).tolist() == expected
    assert farthest_point_sample(sliced, 20).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_points_are_measured_in_float32(dtype: torch.dtype) -> None:
    xyz = (torch.randn(2, 60, 3) * 300).to(dtype)  # squared distances beyond the largest float16
    assert farthest_point_sample(xyz, 30).tolist() == farthest_point_sample(xyz.float(), 30).tolist()


def test_float64_is_not_rounded() -> None:
    xyz = torch.zeros(1, 3, 3, dtype=torch.float64)
    xyz[0, :, 0] = torch.tensor([1.0, 1 + 1e-12, 1 + 3e-12], dtype=torch.float64)
    assert farthest_point_sample(xyz, 3).tolist() == [[0, 2, 1]]


def test_points_are_left_alone() -> None:
    xyz = torch.randn(2, 20, 3, requires_grad=True)
    before = xyz.detach().clone()
    assert not farthest_point_sample(xyz, 5).requires_grad
    assert torch.equal(xyz.detach(), before)


class TestCompile:
    def test_the_loop_is_one_operation(self) -> None:
        xyz = torch.randn(2, 30, 3)
        index, names = operations(lambda xyz: farthest_point_sample(xyz, 20), xyz)
        assert index.equal(farthest_point_sample(xyz, 20))
        assert "bixt3d.fps.default" in names
        assert len(names) < 6

    def test_registration(self) -> None:
        xyz, first = torch.randn(2, 9, 3, dtype=torch.float64), torch.tensor([8, 0])
        torch.library.opcheck(torch.ops.bixt3d.fps.default, (xyz, 4, first, "torch"))


def test_shapes_on_the_meta_device() -> None:
    xyz = torch.empty(2, 300, 3, device="meta")
    for start in (7, "random"):
        index = farthest_point_sample(xyz, 5, start)
        assert (index.shape, index.dtype, index.device) == ((2, 5), torch.int64, xyz.device)


class TestRandomStart:
    def test_comes_from_the_generator_of_torch(self) -> None:
        xyz = torch.randn(64, 100, 3)
        torch.manual_seed(3)
        first = farthest_point_sample(xyz, 4, start="random")
        torch.manual_seed(3)
        assert torch.equal(first, farthest_point_sample(xyz, 4, start="random"))
        assert not torch.equal(first, farthest_point_sample(xyz, 4, start="random"))

    def test_each_cloud_draws_its_own_and_goes_on_from_there(self) -> None:
        xyz = torch.randn(1, 50, 3).repeat(200, 1, 1)
        index = farthest_point_sample(xyz, 3, start="random")
        assert len(index[:, 0].unique()) > 30
        for row in index[:20].tolist():
            assert row == twin(xyz[0].double().numpy(), 3, row[0])


@needs_fixtures
def test_published_indices() -> None:
    with np.load(fixtures_dir() / "pointmlp_grouping.npz") as numbers:
        index = farthest_point_sample(torch.from_numpy(numbers["xyz"]), int(numbers["num_groups"]))
        np.testing.assert_array_equal(index.numpy(), numbers["fps_index"])


class TestErrors:
    @pytest.mark.parametrize(
        ("xyz", "message"),
        [
            (torch.zeros(5, 3), r"\(B, N, 3\).* got torch.float32 tensor of shape \(5, 3\)"),
            (torch.zeros(1, 5, 2), r"\(B, N, 3\).*shape \(1, 5, 2\)"),
            (torch.zeros(1, 5, 6), r"\(B, N, 3\).*shape \(1, 5, 6\)"),
            (torch.zeros(1, 5, 3, dtype=torch.int64), r"floating-point.* got torch.int64"),
            (torch.zeros(0, 5, 3), r"B, N > 0.* got .*\(0, 5, 3\)"),
            (torch.zeros(2, 0, 3), r"B, N > 0.* got .*\(2, 0, 3\)"),
            (np.zeros((1, 5, 3)), "got ndarray"),
        ],
    )
    def test_not_clouds(self, xyz: Any, message: str) -> None:
        with pytest.raises(ValueError, match=f"xyz: expected .*{message}"):
            farthest_point_sample(xyz, 1)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_the_cloud_with_a_bad_value_is_named(self, value: float) -> None:
        xyz = torch.zeros(3, 5, 3)
        xyz[1, 4, 2] = value
        with pytest.raises(ValueError, match="cloud 1 of the batch holds NaN or infinity"):
            farthest_point_sample(xyz, 2)

    @pytest.mark.parametrize("num_samples", [5, 0, -1])
    def test_number_of_samples(self, num_samples: int) -> None:
        with pytest.raises(ValueError, match=rf"num_samples: expected 1 to 4 .*4 points.*got {num_samples}"):
            farthest_point_sample(LINE, num_samples)

    @pytest.mark.parametrize("num_samples", [2.0, True, "2", None])
    def test_number_of_samples_is_an_integer(self, num_samples: Any) -> None:
        with pytest.raises(ValueError, match="num_samples: expected an integer, got"):
            farthest_point_sample(LINE, num_samples)

    @pytest.mark.parametrize("start", [4, -1, "first", 1.0, True, None])
    def test_start(self, start: Any) -> None:
        with pytest.raises(ValueError, match=r'start: expected 0 to 3 or "random", got'):
            farthest_point_sample(LINE, 2, start=start)

    def test_unknown_backend(self) -> None:
        with pytest.raises(ValueError, match=r"backend: expected one of .*torch_cluster.*, got 'cuda'"):
            farthest_point_sample(LINE, 2, backend="cuda")

    @pytest.mark.parametrize(
        ("backend", "install"),
        [("pytorch3d", "conda install .*pytorch3d"), ("torch_cluster", "pip install .*")],
    )
    def test_missing_backend_says_how_to_install(
        self, backend: str, install: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, backend, None)  # importing it fails, installed or not
        with pytest.raises((ImportError, ValueError), match=f"'{backend}' is not installed.*{install}"):
            farthest_point_sample(LINE, 2, backend=backend)


def check_backend(backend: str, device: str = "cpu") -> None:
    for count, samples in ((1, 1), (49, 7), (50, 50), (100, 27), (1000, 254)):
        xyz = torch.randn(3, count, 3, device=device)
        for start in (0, count - 1):
            expected: Tensor = farthest_point_sample(xyz, samples, start=start, backend="torch")
            assert farthest_point_sample(xyz, samples, start=start, backend=backend).equal(expected)
    index = farthest_point_sample(torch.randn(2, 40, 3, device=device), 5, start="random", backend=backend)
    assert index.dtype == torch.int64
    assert index.shape == (2, 5)


@pytest.mark.usefixtures("threads")
def test_auto_agrees_with_torch() -> None:
    check_backend("auto")


@needs_torch_cluster
def test_torch_cluster_agrees() -> None:
    check_backend("torch_cluster")


@needs_pytorch3d
def test_pytorch3d_agrees() -> None:
    check_backend("pytorch3d")


@needs_cuda
def test_cuda_agrees_with_the_cpu() -> None:
    xyz = torch.randn(3, 500, 3)
    for backend in ("auto", "torch"):
        index = farthest_point_sample(xyz.cuda(), 100, start=7, backend=backend)
        assert index.is_cuda
        assert index.cpu().equal(farthest_point_sample(xyz, 100, start=7))
