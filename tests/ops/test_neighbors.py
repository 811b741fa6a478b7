"""Nearest neighbours, gathering and interpolation against hand-computed cases and brute force in numpy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bixt3d.ops import gather_points, interpolate, knn, neighbors
from bixt3d.ops.neighbors import reduce_points
from tests.markers import fixtures_dir, needs_cuda, needs_fixtures, needs_pytorch3d, needs_torch_cluster
from tests.ops.graphs import operations

LINE = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [7, 0, 0]]])


def squared_distances(query: Tensor, points: Tensor) -> Tensor:
    difference = query.double()[:, :, None] - points.double()[:, None]  # (B, S, N, 3)
    return difference.square().sum(-1)  # (B, S, N)


def brute_force(query: Tensor, points: Tensor, k: int) -> Tensor:
    distances = squared_distances(query, points).numpy()
    return torch.from_numpy(distances.argsort(-1, kind="stable")[..., :k])


class TestKnn:
    def test_points_on_a_line(self) -> None:
        query = torch.tensor([[[0.9, 0, 0], [2.2, 0, 0], [100, 0, 0]]])
        index = knn(query, LINE, 3)
        assert index.dtype == torch.int64
        assert index.tolist() == [[[1, 0, 2], [2, 1, 0], [3, 2, 1]]]

    def test_all_three_axes_count(self) -> None:
        points = torch.tensor([[[3.0, 0, 0], [0, 2, 0], [0, 0, 1], [1, 1, 1]]])
        assert knn(torch.zeros(1, 1, 3), points, 4).tolist() == [[[2, 3, 1, 0]]]

    @pytest.mark.parametrize(
        ("batch", "num_query", "count", "k"), [(1, 1, 1, 1), (2, 7, 30, 30), (3, 64, 20, 5), (2, 16, 300, 24)]
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_agrees_with_brute_force(
        self, batch: int, num_query: int, count: int, k: int, dtype: torch.dtype
    ) -> None:
        query = torch.randn(batch, num_query, 3, dtype=dtype)
        points = torch.randn(batch, count, 3, dtype=dtype)
        assert knn(query, points, k).equal(brute_force(query, points, k))

    def test_far_from_the_origin_small_distances_are_kept(self) -> None:
        # the expanded form a^2 + b^2 - 2ab is off by about 1 here, the spacing is 1/8
        points = torch.rand(1, 200, 3).mul(64).round() / 8 + 4096
        query = points[:, :50] + torch.tensor([1 / 32, 0, 0])
        found = squared_distances(query, points).gather(2, knn(query, points, 10))
        expected = squared_distances(query, points).sort(-1).values[..., :10]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_a_point_is_its_own_nearest(self) -> None:
        points = torch.randn(2, 100, 3)
        assert knn(points, points, 4)[..., 0].tolist() == [list(range(100))] * 2

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    @pytest.mark.parametrize("k", [1, 2, 20, 63, 64])
    def test_the_lowest_index_comes_first_among_equally_near(self, k: int, dtype: torch.dtype) -> None:
        axis = torch.arange(4, dtype=dtype)
        points = torch.cartesian_prod(axis, axis, axis)[None]  # (1, 64, 3)
        points = points[:, torch.randperm(64)]
        assert knn(points, points, k).equal(brute_force(points, points, k))

    def test_coinciding_points_come_in_order(self) -> None:
        assert knn(torch.randn(2, 1, 3), torch.ones(2, 300, 3), 40).tolist() == [[list(range(40))]] * 2
        points = torch.randn(1, 500, 3).repeat(1, 4, 1)
        assert knn(points[:, :50], points, 24).equal(brute_force(points[:, :50], points, 24))

    def test_each_operation_rounds_to_float32(self) -> None:
        # On a grid of 0.1 many distances differ by their rounding only, so the order hangs on it.
        points = (np.random.randint(0, 6, (300, 3)) * np.float32(0.1)).astype(np.float32)
        query = points[:40] + np.float32(0.05)
        dx, dy, dz = (query[:, None] - points[None]).transpose(2, 0, 1)
        squared = dx * dx + dy * dy + dz * dz  # (40, 300)
        assert squared.dtype == np.float32
        index = knn(torch.from_numpy(query)[None], torch.from_numpy(points)[None], 100)
        assert index[0].tolist() == squared.argsort(-1, kind="stable")[:, :100].tolist()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_devices_that_do_not_look_for_equals_find_the_same(self, dtype: torch.dtype) -> None:
        squared = torch.randn(3, 5, 50, dtype=dtype).square()
        squared[0] = torch.randint(4, (5, 50)).to(dtype)
        squared[1, :, :9] = torch.inf
        for k in (1, 7, 45, 50):
            expected = torch.from_numpy(squared.numpy().argsort(-1, kind="stable")[..., :k])
            assert neighbors._smallest(squared, k).equal(expected)
            assert neighbors._smallest_of_keys(squared, k).equal(expected)  # as on a GPU

    def test_squares_beyond_the_largest_float(self) -> None:
        points = torch.tensor([[[1e30, 0, 0], [2, 0, 0], [-1e30, 1, 0], [1, 0, 0]]])
        assert knn(torch.zeros(1, 1, 3), points, 4).tolist() == [[[3, 1, 0, 2]]]

    def test_compile_passes_over_it_as_one_operation(self) -> None:
        query, points = torch.randn(2, 10, 3), torch.randn(2, 30, 3)
        index, names = operations(lambda query, points: knn(query, points, 4), query, points)
        assert index.equal(knn(query, points, 4))
        assert "bixt3d.knn.default" in names
        assert len(names) < 6

    def test_registration(self) -> None:
        query, points = torch.randn(2, 5, 3), torch.randn(2, 9, 3)
        torch.library.opcheck(torch.ops.bixt3d.knn.default, (query, points, 4, "torch", None))
        torch.library.opcheck(torch.ops.bixt3d.knn.default, (query.double(), points.double(), 4, "kdtree", 2))

    @pytest.mark.parametrize("chunk_size", [1, 3, 17, 40])
    def test_chunks_do_not_change_the_result(self, chunk_size: int) -> None:
        query, points = torch.randn(3, 40, 3), torch.randn(3, 90, 3)
        expected = knn(query, points, 8)
        assert knn(query, points, 8, chunk_size=chunk_size).equal(expected)

    @pytest.mark.parametrize("budget", [1, 90, 500, 90 * 40, 90 * 80])
    def test_the_chosen_chunks_do_not_change_the_result(
        self, budget: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        query, points = torch.randn(3, 40, 3), torch.randn(3, 90, 3)
        monkeypatch.setitem(neighbors.CHUNK, "cpu", budget)  # distances held at once, from one up
        assert knn(query, points, 8).equal(brute_force(query, points, 8))

    def test_half_precision_is_measured_in_float32(self) -> None:
        query, points = (torch.randn(2, 20, 3) * 300).half(), (torch.randn(2, 60, 3) * 300).half()
        expected = squared_distances(query, points).sort(-1).values[..., :9]
        torch.testing.assert_close(
            squared_distances(query, points).gather(2, knn(query, points, 9)), expected
        )
        assert knn(query, points.float(), 9).equal(knn(query.float(), points, 9))

    def test_memory_layout_and_gradients_do_not_matter(self) -> None:
        query = torch.randn(2, 3, 30).transpose(1, 2).requires_grad_()
        points = torch.randn(2, 50, 6)[..., :3]
        index = knn(query, points, 5)
        assert not index.requires_grad
        assert index.equal(brute_force(query.detach(), points, 5))


class TestKnnErrors:
    @pytest.mark.parametrize("which", ["query", "points"])
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (torch.zeros(4, 3), r"\(B, N, 3\).* got torch.float32 tensor of shape \(4, 3\)"),
            (torch.zeros(1, 4, 6), r"\(B, N, 3\).*shape \(1, 4, 6\)"),
            (torch.zeros(1, 4, 3, dtype=torch.int32), r"floating-point.* got torch.int32"),
            (torch.zeros(1, 0, 3), r"B, N > 0.* got .*\(1, 0, 3\)"),
            ([[[0.0, 0.0, 0.0]]], "got list"),
        ],
    )
    def test_not_clouds(self, which: str, bad: Any, message: str) -> None:
        given: dict[str, Any] = {"query": LINE, "points": LINE, which: bad}
        with pytest.raises(ValueError, match=f"{which}: expected .*{message}"):
            knn(**given, k=1)

    @pytest.mark.parametrize("which", ["query", "points"])
    def test_the_cloud_with_a_bad_value_is_named(self, which: str) -> None:
        bad = torch.zeros(3, 4, 3)
        bad[2, 0, 0] = float("nan")
        given: dict[str, Tensor] = {"query": torch.zeros(3, 4, 3), "points": torch.zeros(3, 4, 3), which: bad}
        with pytest.raises(ValueError, match=f"{which}: .*cloud 2 of the batch holds NaN or infinity"):
            knn(**given, k=1)

    def test_batches_of_different_size(self) -> None:
        with pytest.raises(ValueError, match=r"query and points must agree .*\(2, 4, 3\).*\(1, 4, 3\)"):
            knn(torch.zeros(2, 4, 3), LINE, 1)

    @pytest.mark.parametrize("k", [5, 0, -3])
    def test_more_neighbours_than_points(self, k: int) -> None:
        with pytest.raises(ValueError, match=rf"k: expected 1 to 4 .*4 points.*, got {k}"):
            knn(LINE, LINE, k)

    @pytest.mark.parametrize("k", [2.0, True, None])
    def test_k_is_an_integer(self, k: Any) -> None:
        with pytest.raises(ValueError, match="k: expected an integer, got"):
            knn(LINE, LINE, k)

    @pytest.mark.parametrize("backend", neighbors.BACKENDS)
    @pytest.mark.parametrize("chunk_size", [0, 5, True])
    def test_chunk_size(self, backend: str, chunk_size: int) -> None:
        with pytest.raises(ValueError, match="chunk_size: expected (1 to 4|an integer)"):
            knn(LINE, LINE, 1, backend, chunk_size=chunk_size)

    def test_unknown_backend(self) -> None:
        with pytest.raises(ValueError, match=r"backend: expected one of .*torch_cluster.*, got 'faiss'"):
            knn(LINE, LINE, 1, backend="faiss")

    @pytest.mark.parametrize(
        ("backend", "install"),
        [("pytorch3d", "conda install .*pytorch3d"), ("torch_cluster", "pip install .*")],
    )
    def test_missing_backend_says_how_to_install(
        self, backend: str, install: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, backend, None)  # importing it fails, installed or not
        with pytest.raises((ImportError, ValueError), match=f"'{backend}' is not installed.*{install}"):
            knn(LINE, LINE, 1, backend=backend)


def check_backend(backend: str, device: str = "cpu") -> None:
    for num_query, count, k in ((1, 1, 1), (30, 20, 20), (50, 200, 24)):
        query = torch.randn(3, num_query, 3, device=device)
        points = torch.randn(3, count, 3, device=device)
        index = knn(query, points, k, backend=backend)
        assert index.dtype == torch.int64
        assert index.equal(knn(query, points, k, backend="torch"))


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
    query, points = torch.randn(3, 100, 3), torch.randn(3, 500, 3)
    for backend in ("auto", "torch"):
        index = knn(query.cuda(), points.cuda(), 24, backend=backend)
        assert index.is_cuda
        assert index.cpu().equal(knn(query, points, 24))


def test_shapes_on_the_meta_device() -> None:
    query, points = torch.empty(2, 300, 3, device="meta"), torch.empty(2, 400, 3, device="meta")
    for k in (1, 5):
        index = knn(query, points, k)
        assert (index.shape, index.dtype, index.device) == ((2, 300, k), torch.int64, points.device)
    features = torch.empty(2, 400, 7, device="meta", requires_grad=True)
    assert interpolate(query, points, features).shape == (2, 300, 7)
    assert gather_points(features, index).shape == (2, 300, 5, 7)
    assert reduce_points(features, index, "max").shape == (2, 300, 7)


class TestGatherPoints:
    def test_rows_of_each_cloud(self) -> None:
        features = torch.arange(12.0).view(2, 3, 2)
        assert gather_points(features, torch.tensor([[2, 0], [1, 1]])).tolist() == [
            [[4, 5], [0, 1]],
            [[8, 9], [8, 9]],
        ]

    def test_any_shape_of_indices(self) -> None:
        features, index = torch.randn(3, 10, 4), torch.randint(10, (3, 5, 2))
        expected = torch.stack([cloud[rows] for cloud, rows in zip(features, index, strict=True)])
        assert gather_points(features, index).equal(expected)

    def test_gradient_adds_up_over_repeated_rows(self) -> None:
        features = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
        index = torch.tensor([[0, 0, 2], [1, 1, 1]])
        gather_points(features, index).sum().backward()
        assert features.grad is not None
        assert features.grad[..., 0].tolist() == [[2, 0, 1], [0, 3, 0]]
        assert torch.autograd.gradcheck(lambda f: gather_points(f, index), (features,))


class TestInterpolate:
    def test_weights_are_inverse_squared_distances(self) -> None:
        coarse = torch.tensor([[[0.0, 0, 0], [3, 0, 0]]])
        fine = torch.tensor([[[1.0, 0, 0], [1.5, 0, 0], [3, 0, 0]]])
        features = torch.tensor([[[10.0, 0], [20, 5]]])
        # at distance 1 and 2: (4 * 10 + 20) / 5; halfway: the mean; on a point: its own
        expected = torch.tensor([[[12.0, 1], [15, 2.5], [20, 5]]])
        torch.testing.assert_close(interpolate(fine, coarse, features, k=2), expected)

    @pytest.mark.parametrize("k", [1, 3, 8])
    def test_agrees_with_brute_force(self, k: int) -> None:
        fine, coarse = (torch.randn(2, n, 3, dtype=torch.float64) for n in (50, 12))
        features = torch.randn(2, 12, 5, dtype=torch.float64)
        expected = np.empty((2, 50, 5))
        for b in range(2):
            for n in range(50):
                squared = ((coarse[b] - fine[b, n]) ** 2).sum(-1).numpy()
                nearest = squared.argsort()[:k]
                weight = 1 / (squared[nearest] + 1e-8)
                expected[b, n] = weight @ features[b].numpy()[nearest] / weight.sum()
        np.testing.assert_allclose(interpolate(fine, coarse, features, k=k).numpy(), expected, rtol=1e-9)

    def test_three_neighbours_by_default(self) -> None:
        fine, coarse, features = torch.randn(1, 9, 3), torch.randn(1, 6, 3), torch.randn(1, 6, 2)
        default = interpolate(fine, coarse, features)
        torch.testing.assert_close(default, interpolate(fine, coarse, features, k=3))
        assert (default - interpolate(fine, coarse, features, k=2)).abs().max() > 1e-3

    def test_fewer_coarse_points_than_k_are_all_used(self) -> None:
        fine, features = torch.randn(2, 7, 3), torch.randn(2, 1, 4)
        torch.testing.assert_close(
            interpolate(fine, torch.randn(2, 1, 3), features), features.expand(2, 7, 4)
        )

    def test_a_constant_stays_constant(self) -> None:
        constant = torch.full((2, 16, 3), 2.5)
        found = interpolate(torch.randn(2, 64, 3), torch.randn(2, 16, 3), constant)
        torch.testing.assert_close(found, torch.full((2, 64, 3), 2.5))

    def test_gradients(self) -> None:
        fine, coarse, features = (
            torch.randn(2, n, c, dtype=torch.float64, requires_grad=True) for n, c in ((6, 3), (5, 3), (5, 2))
        )
        assert torch.autograd.gradcheck(interpolate, (fine, coarse, features))

    def test_gradient_is_finite_where_points_coincide(self) -> None:
        coarse = torch.randn(1, 5, 3, requires_grad=True)
        features = torch.randn(1, 5, 2, requires_grad=True)
        interpolate(coarse.detach(), coarse, features).square().sum().backward()
        for tensor in (coarse, features):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_features_keep_their_type(self, dtype: torch.dtype) -> None:
        fine, coarse, features = torch.randn(1, 9, 3), torch.randn(1, 6, 3), torch.randn(1, 6, 2)
        found = interpolate(fine, coarse, features.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), interpolate(fine, coarse, features), rtol=0.03, atol=0.03)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_points_may_coincide(self, dtype: torch.dtype) -> None:
        coarse, features = torch.randn(1, 6, 3).to(dtype), torch.randn(1, 6, 2).to(dtype)
        torch.testing.assert_close(interpolate(coarse, coarse, features), features)

    @needs_fixtures
    def test_published_numbers(self) -> None:
        with np.load(fixtures_dir() / "pointmlp_grouping.npz") as numbers:
            xyz, new_xyz, coarse = (torch.from_numpy(numbers[name]) for name in ("xyz", "new_xyz", "coarse"))
            found = interpolate(xyz, new_xyz, coarse)
            np.testing.assert_allclose(found.numpy(), numbers["interpolated"], rtol=1e-4, atol=1e-4)


class TestInterpolateErrors:
    @pytest.mark.parametrize("which", ["fine_xyz", "coarse_xyz", "coarse_features"])
    def test_not_clouds(self, which: str) -> None:
        given: dict[str, Any] = {"fine_xyz": LINE, "coarse_xyz": LINE, "coarse_features": LINE}
        for bad in (torch.zeros(4, 3), torch.zeros(1, 4, 3, dtype=torch.int64), torch.zeros(1, 0, 3), None):
            with pytest.raises(ValueError, match=f"{which}: expected .*floating-point"):
                interpolate(**{**given, which: bad})

    def test_one_feature_for_each_coarse_point(self) -> None:
        with pytest.raises(ValueError, match="coarse_xyz and coarse_features must agree"):
            interpolate(LINE, LINE, torch.zeros(1, 5, 2))

    def test_batches_of_different_size(self) -> None:
        with pytest.raises(ValueError, match="must agree in their first"):
            interpolate(torch.zeros(2, 4, 3), LINE, LINE)

    @pytest.mark.parametrize("which", ["fine_xyz", "coarse_xyz"])
    def test_nan_in_points(self, which: str) -> None:
        given = {"fine_xyz": LINE, "coarse_xyz": LINE, "coarse_features": LINE}
        with pytest.raises(ValueError, match="NaN or infinity"):
            interpolate(**{**given, which: LINE / 0})

    @pytest.mark.parametrize("k", [0, -1, 1.5, None])
    def test_k(self, k: Any) -> None:
        with pytest.raises(ValueError, match="k: expected a positive integer"):
            interpolate(LINE, LINE, LINE, k=k)
