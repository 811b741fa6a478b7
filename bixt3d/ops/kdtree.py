"""Nearest neighbours on CPUs by k-d trees (scipy), in the reference's order among equally near points."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bixt3d.ops.backends import require

# Distances in the reference's precision are this near, relatively, to those of the trees in double precision.
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}
# Distances whose squares lose their digits, or overflow.
SMALLEST = {torch.float32: 1e-18, torch.float64: 1e-150}
LARGEST = {torch.float32: 1e18, torch.float64: 1e150}

Search = Callable[[Tensor, Tensor, int], Tensor]


def knn_kdtree(query: Tensor, points: Tensor, k: int, settle: Search) -> Tensor:
    """Find neighbours by a k-d tree a cloud: (B, S, 3), (B, N, 3) -> (B, S, k).

    One neighbour more is looked at. Queries whose distances differ by less than rounding, as those of points
    that coincide or lie on a grid, are settled by the reference, which knows their order.

    Args:
        query: Query points, float32 or float64, on the CPU.
        points: Points to search, of the same type.
        k: Number of neighbours, at most N.
        settle: The reference, ``settle(query, points, k)``.

    Raises:
        ImportError: If scipy is not installed.
        RuntimeError: For points on another device than the CPU.
    """
    if points.device.type != "cpu":
        raise RuntimeError(
            f"backend 'kdtree' runs on CPUs, got points on {points.device}; use the backend torch"
        )
    require("scipy")
    index = torch.empty(*query.shape[:2], k, dtype=torch.int64)
    threads = torch.get_num_threads()

    def search(cloud: int) -> None:
        found, sure = _search(query[cloud], points[cloud], k, 1 if len(points) > 1 else threads)
        index[cloud] = torch.from_numpy(found)
        rows = torch.from_numpy(np.flatnonzero(~sure))
        if len(rows):
            index[cloud, rows] = settle(query[cloud : cloud + 1, rows], points[cloud : cloud + 1], k)[0]

    if threads == 1 or len(points) == 1:
        for cloud in range(len(points)):
            search(cloud)
    else:  # scipy lets other threads run while it searches
        with ThreadPoolExecutor(min(threads, len(points))) as pool:
            list(pool.map(search, range(len(points))))
    return index


def _search(
    query: Tensor, points: Tensor, k: int, workers: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return neighbours of one cloud (S, k), nearest first, and of which queries the order is sure (S,)."""
    from scipy.spatial import cKDTree

    count = min(k + 1, len(points))
    try:
        # Splits at the middle of a box instead of the median: half the time to build, the same to search.
        tree = cKDTree(points.numpy(), balanced_tree=False, compact_nodes=False)
        distance, index = tree.query(query.numpy(), k=range(1, count + 1), workers=workers)
    except ValueError:  # scipy's refusal of NaN and infinity, which the reference puts somewhere
        return np.zeros((len(query), k), np.int64), np.zeros(len(query), bool)
    least = distance[:, :-1] * (1 + ROUNDING[points.dtype]) + SMALLEST[points.dtype]
    sure: NDArray[np.bool_] = (distance[:, 1:] > least).all(axis=1) & (
        distance[:, -1] < LARGEST[points.dtype]
    )
    return index[:, :k], sure
