"""Neighbours by looking at every point are the reference's, ties and all."""

from __future__ import annotations

import sys

import pytest
import torch

from bixt3d.ops import knn, neighbors
from bixt3d.ops.scan import WORTH_BOUNDING, knn_scan

KINDS = ("random", "grid", "same", "huge", "line")


def clouds(kind: str, count: int) -> torch.Tensor:
    points = torch.randn(3, count, 3)
    return {
        "random": points,
        "grid": (points * 2).round() / 2,
        "same": torch.ones(3, count, 3),
        "huge": points * 1e30,  # whose squares overflow
        "line": torch.cat([points[..., :1], torch.zeros(3, count, 2)], -1),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "k"), [(1, 1), (31, 31), (65, WORTH_BOUNDING), (300, 3), (700, 24)])
def test_agrees_with_the_reference(kind: str, count: int, k: int) -> None:
    points = clouds(kind, count)
    query = torch.cat([points[:, : count // 2], clouds("random", 9)], 1)
    assert knn_scan(query, points, k).equal(knn(query, points, k, backend="torch"))


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = clouds("grid", 200)
    expected = knn_scan(points, points, 16)
    monkeypatch.setattr("bixt3d.ops.backends.WORTH_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert knn_scan(points, points, 16).equal(expected)


def test_auto_takes_it_for_small_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("bixt3d.ops.scan.knn_scan", lambda *args: taken.append(1) or knn_scan(*args))
    points = torch.randn(1, 200, 3)
    expected = knn(points, points, 4, backend="torch")
    assert knn(points, points, 4).equal(expected) and len(taken) == 1
    assert knn(points.double(), points.double(), 4).equal(expected)
    knn(points[:, :4], points, 4)  # too little to load numba for
    knn(points, points, 4, chunk_size=10)
    assert len(taken) == 1


def test_without_numbers_the_reference_answers() -> None:
    points = torch.randn(1, 200, 3)
    points[0, 7] = torch.inf
    found = knn(points, points, 5, backend="scan", validate=False)
    assert found.equal(knn(points, points, 5, backend="torch", validate=False))


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(1, 20, 3)
    with pytest.raises(ValueError, match="float32"):
        knn(points.double(), points.double(), 4, backend="scan")
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match="pip install numba"):
        knn(points, points, 4, backend="scan")
    assert neighbors.MOST_SCANNED < 1 << 31  # the numbers of points have 32 bits in a key
