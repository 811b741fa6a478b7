"""Nearest neighbours on CPUs by k-d trees (scipy), in the reference's order among equally near points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d.ops.backends import for_each_cloud, require, require_cpu, sort_neighbors

# Distances in the reference's precision are this near, relatively, to those of the trees in double precision.
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}
# Distances whose squares lose their digits, or overflow.
SMALLEST = {torch.float32: 1e-18, torch.float64: 1e-150}
LARGEST = {torch.float32: 1e18, torch.float64: 1e150}

Search = Callable[[Tensor, Tensor, int], Tensor]


class SearchTree:
    """Points (B, N, 3) to be searched more than once: `knn` and `interpolate` take it in their place.

    A k-d tree a cloud is built at the first search that goes by trees, and kept; other searches look at the
    points alone. The points must not change while it is in use.

    Attributes:
        points: The points.
    """

    def __init__(self, points: Tensor) -> None:
        """Keep the points; the trees wait for the first search."""
        self.points = points
        self._trees: dict[int, Any] = {}

    def tree(self, cloud: int) -> Any:
        """Return the cloud's tree, a `scipy.spatial.cKDTree`, or None for points with NaN or infinity."""
        if cloud not in self._trees:
            from scipy.spatial import cKDTree

            try:
                points = self.points[cloud].detach().double().numpy()
                # Splits at a box's middle instead of the median: half the time to build, the same to search.
                self._trees[cloud] = cKDTree(points, balanced_tree=False, compact_nodes=False)
            except ValueError:
                self._trees[cloud] = None
        return self._trees[cloud]


def knn_kdtree(
    query: Tensor, points: Tensor, k: int, settle: Search, trees: SearchTree | None = None
) -> Tensor:
    """Find neighbours by a k-d tree a cloud: (B, S, 3), (B, N, 3) -> (B, S, k).

    One neighbour more is looked at. Where distances differ by less than rounding, as those of points that
    coincide or lie on a grid, they are rounded as the reference does it and ordered anew, with as many more
    neighbours as it takes to be sure of the last.

    Args:
        query: Query points, float32 or float64, on the CPU.
        points: Points to search, of the same type.
        k: Number of neighbours, at most N.
        settle: The reference, ``settle(query, points, k)``: for numbers that are not finite or too large, and
            for queries with more than a quarter of the points at equal distances.
        trees: The points' trees, if there are any already.

    Raises:
        ImportError: If scipy is not installed.
        RuntimeError: For points on another device than the CPU.
    """
    require_cpu("kdtree", points.device)
    require("scipy")
    trees = trees or SearchTree(points)
    index = torch.empty(*query.shape[:2], k, dtype=torch.int64)
    workers = 1 if len(points) > 1 else torch.get_num_threads()  # or else a thread searches a cloud

    def search(cloud: int) -> None:
        asked, searched = query[cloud], points[cloud]
        unsure = _search(trees.tree(cloud), asked, searched, index[cloud], workers)
        if len(unsure):
            index[cloud, unsure] = settle(asked[None, unsure], searched[None], k)[0]

    for_each_cloud(search, len(points))
    return index


def _search(tree: Any, query: Tensor, points: Tensor, index: Tensor, workers: int) -> Tensor:
    """Fill in the neighbours (S, k) of one cloud, nearest first; return the rows for the reference."""
    (num_query, k), count, dtype = index.shape, len(points), points.dtype
    rows = np.arange(num_query)
    if tree is None:
        return torch.from_numpy(rows)
    asked = query.double().numpy()
    width = min(k + 1, count)
    try:
        distance, found = tree.query(asked, range(1, width + 1), workers=workers)
    except ValueError:  # queries with NaN or infinity
        return torch.from_numpy(rows)
    apart = distance[:, 1:] > distance[:, :-1] * (1 + ROUNDING[dtype]) + SMALLEST[dtype]
    moderate = distance[:, -1] < LARGEST[dtype]
    index.copy_(torch.from_numpy(found[:, :k]))
    rows = np.flatnonzero(~(apart.all(1) & moderate))
    unsure = [rows[~moderate[rows]]]
    rows = rows[moderate[rows]]
    distance, found = distance[rows], found[rows]
    while len(rows):
        last = distance[:, k - 1] * (1 + ROUNDING[dtype]) + SMALLEST[dtype]
        whole = (distance[:, -1] > last) | (width == count)  # no other point may be as near as the last
        there = torch.from_numpy(rows[whole])
        candidates = torch.from_numpy(found[whole])
        index[there] = sort_neighbors(query[None, there], points[None], candidates[None])[0, :, :k]
        rows, width = rows[~whole], 2 * width + 8
        if width > count // 4:
            break
        distance, found = tree.query(asked[rows], range(1, width + 1), workers=workers)
    return torch.from_numpy(np.concatenate([*unsure, rows]))
