"""The k-d tree finds what the reference finds, in its order, ties and rounding included."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from bixt3d.ops import SearchTree, interpolate, knn, neighbors
from bixt3d.ops.kdtree import knn_kdtree
from tests.ops.graphs import operations


def clouds(kind: str) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    points = torch.randn(3, 300, 3, generator=draw)
    if kind == "grid":  # each point has neighbours at equal distances
        return (points * 2).round()
    if kind == "repeated":  # a short cloud, as folders store it
        return points[:, torch.arange(300) % 70]
    if kind == "one place":
        return torch.ones(3, 300, 3)
    if kind == "line":  # spacings that are equal but for rounding
        return torch.stack([torch.arange(300) * 0.1, torch.zeros(300), torch.zeros(300)], -1).expand(
            3, -1, -1
        )
    return points * {"plain": 1.0, "tiny": 1e-25, "huge": 1e25, "far": 1.0}[kind] + 1e4 * (kind == "far")


KINDS = ("plain", "grid", "repeated", "one place", "line", "tiny", "huge", "far")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 24, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_reference(kind: str, k: int, dtype: torch.dtype) -> None:
    points = clouds(kind).to(dtype)
    query = torch.cat([points[:, :40], points[:, :30] + 0.05], 1)
    assert knn(query, points, k, backend="kdtree").equal(knn(query, points, k, backend="torch"))


def test_half_precision() -> None:
    points = clouds("plain").half()
    assert knn(points, points, 5, backend="kdtree").equal(knn(points, points, 5, backend="torch"))


@pytest.mark.parametrize("batch", [1, 5])
def test_with_several_threads(batch: int) -> None:
    points = torch.randn(batch, 500, 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = knn(points, points, 8, backend="kdtree")
    finally:
        torch.set_num_threads(threads)
    assert found.equal(knn(points, points, 8, backend="torch"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(bad: float) -> None:
    """Where nobody looked, the reference says what becomes of them."""
    points = clouds("plain").clone()
    points[1, 7, 0] = bad
    query = points[:, 20:40]
    expected = knn(query, points, 4, backend="torch", validate=False)
    assert knn(query, points, 4, backend="kdtree", validate=False).equal(expected)


@pytest.mark.parametrize("kind", ["plain", "grid", "repeated", "line", "lattice"])
def test_few_queries_go_to_the_reference(kind: str) -> None:
    """Its cost is the square's, so it is for rows with a quarter of the points at equal distances alone."""
    asked = []

    def settle(query: Tensor, points: Tensor, k: int) -> Tensor:
        asked.append(query.shape[1])
        return knn(query, points, k, backend="torch")

    points = torch.randn(2, 4096, 3)
    if kind == "lattice":
        axis = torch.arange(16.0) * 0.1
        points = torch.cartesian_prod(axis, axis, axis).expand(2, -1, -1)
    elif kind != "plain":
        points = torch.cat([clouds(kind)[:2] + 20 * i for i in range(13)], 1)
    assert knn_kdtree(points, points, 16, settle).equal(knn(points, points, 16, backend="torch"))
    assert sum(asked) < 0.01 * points.shape[1]


class TestSearchTree:
    def test_trees_are_built_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import scipy.spatial

        built = []

        def build(*args: object, **options: object) -> object:
            built.append(1)
            return tree(*args, **options)

        tree = scipy.spatial.cKDTree
        monkeypatch.setattr(scipy.spatial, "cKDTree", build)
        points, query = torch.randn(3, 2100, 3), torch.randn(3, 50, 3)
        trees = SearchTree(points)
        for k in (3, 8):
            assert knn(query, trees, k).equal(knn(query, points, k, backend="torch"))
        features = torch.randn(3, 2100, 5)
        assert len(built) == 3
        assert interpolate(query, trees, features).equal(interpolate(query, points, features))
        assert len(built) == 6  # three more for the search without

    @pytest.mark.parametrize("backend", ["torch", "kdtree", "auto"])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_agrees_with_its_points(self, backend: str, dtype: torch.dtype) -> None:
        points, query = clouds("grid").to(dtype), torch.randn(3, 20, 3)
        assert knn(query, SearchTree(points), 9, backend).equal(knn(query, points, 9, "torch"))

    def test_gradients(self) -> None:
        sizes = ((6, 3), (600, 3), (600, 2))
        fine, coarse, features = (torch.randn(2, *size).double().requires_grad_() for size in sizes)
        of_trees, of_points = (
            interpolate(fine, SearchTree(coarse), features),
            interpolate(fine, coarse, features),
        )
        assert of_trees.equal(of_points)
        for one, other in zip(
            torch.autograd.grad(of_trees.sin().sum(), [fine, coarse, features]),
            torch.autograd.grad(of_points.sin().sum(), [fine, coarse, features]),
            strict=True,
        ):
            assert one.equal(other)

    def test_on_a_device_without_trees(self) -> None:
        trees = SearchTree(torch.empty(1, 600, 3, device="meta"))
        assert knn(trees.points[:, :7], trees, 4).shape == (1, 7, 4)

    def test_compiles(self) -> None:
        points = torch.randn(2, 600, 3)
        index, names = operations(lambda points: knn(points, SearchTree(points), 4), points)
        assert index.equal(knn(points, points, 4))
        assert "bixt3d.knn.default" in names

    def test_not_clouds(self) -> None:
        with pytest.raises(ValueError, match=r"points: expected .*\(B, N, 3\)"):
            knn(torch.zeros(1, 4, 3), SearchTree(torch.zeros(4, 3)), 1)


@pytest.mark.parametrize(
    ("count", "trees"),
    [(neighbors.FEWEST - 1, 0), (neighbors.MOST_SCANNED, 0), (neighbors.MOST_SCANNED + 1, 1)],
)
def test_auto_takes_it_for_clouds_that_are_large_enough(
    count: int, trees: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def tree(*arguments: object) -> Tensor:
        built.append(1)
        return knn_kdtree(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(neighbors, "knn_kdtree", tree)
    points = torch.randn(1, count, 3)
    assert knn(points, points, 4).equal(knn(points, points, 4, backend="torch"))
    assert len(built) == trees
    knn(points, points, 4, chunk_size=16)  # asks for the reference
    assert len(built) == trees


def test_interpolation_goes_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, fine = torch.randn(2, 2100, 3), torch.randn(2, 70, 3)
    features = torch.randn(2, 2100, 5)
    expected = knn(fine, coarse, 3, backend="torch")
    found = interpolate(fine, coarse, features)
    asked = []
    monkeypatch.setattr(neighbors, "knn_kdtree", lambda *args: asked.append(1) or knn_kdtree(*args))
    assert interpolate(fine, coarse, features).equal(found)
    assert asked == [1]
    monkeypatch.setattr(neighbors, "knn", lambda *args, **options: expected)
    assert interpolate(fine, coarse, features).equal(found)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"backend 'scipy' is not installed .*`pip install scipy`"):
        knn(torch.randn(1, 9, 3), torch.randn(1, 9, 3), 2, backend="kdtree")


def test_on_another_device() -> None:
    points = torch.empty(1, 300, 3, device="meta")
    with pytest.raises(RuntimeError, match="backend 'kdtree' runs on CPUs, got points on meta"):
        knn(points, points, 2, backend="kdtree", validate=False)
