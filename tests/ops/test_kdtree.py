"""The k-d tree finds what the reference finds, in its order, ties and rounding included."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from bixt3d.ops import interpolate, knn, neighbors
from bixt3d.ops.kdtree import knn_kdtree


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


def test_few_queries_go_to_the_reference() -> None:
    """Its cost is the square's, so it settles ties alone."""
    asked = []

    def settle(query: Tensor, points: Tensor, k: int) -> Tensor:
        asked.append(query.shape[1])
        return knn(query, points, k, backend="torch")

    points = torch.randn(2, 4000, 3)
    knn_kdtree(points, points, 16, settle)
    assert sum(asked) < 0.01 * 8000


@pytest.mark.parametrize(("count", "trees"), [(neighbors.FEWEST - 1, 0), (neighbors.FEWEST, 1)])
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


def test_interpolation_goes_by_it() -> None:
    coarse, fine = torch.randn(2, 300, 3), torch.randn(2, 400, 3)
    features = torch.randn(2, 300, 5)
    assert interpolate(fine, coarse, features).shape == (2, 400, 5)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"backend 'scipy' is not installed .*`pip install scipy`"):
        knn(torch.randn(1, 9, 3), torch.randn(1, 9, 3), 2, backend="kdtree")


def test_on_another_device() -> None:
    points = torch.empty(1, 300, 3, device="meta")
    with pytest.raises(RuntimeError, match="backend 'kdtree' runs on CPUs, got points on meta"):
        knn(points, points, 2, backend="kdtree", validate=False)
