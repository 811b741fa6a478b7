"""Nearest neighbours in small clouds on CPUs: every point is looked at, by a loop that numba compiles.

Imported by `bixt3d.ops.neighbors` alone, when it runs; needs numba.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bixt3d.ops.backends import in_shares
from bixt3d.ops.bucket import compiled

BLOCK = 32  # points that are passed over at once
WORTH_BOUNDING = 8  # neighbours
SPARE = 8  # neighbours that are looked at beyond those asked for


def knn_scan(query: Tensor, points: Tensor, k: int) -> Tensor:
    """Find neighbours among finite float32 points as the reference: (B, S, 3), (B, N, 3) -> (B, S, k)."""
    batch, num_query, _ = query.shape
    index = torch.empty(batch, num_query, k, dtype=torch.int64)
    rows = points.transpose(1, 2).contiguous().numpy()  # (B, 3, N)
    asked, found = query.contiguous().view(-1, 3).numpy(), index.view(-1, k).numpy()

    def scan(begin: int, end: int) -> None:
        squared = np.empty(points.shape[1], np.float32)
        # The bits of floats from 0 up, read as integers, rise with the value; several compare at a time.
        _scan(asked, rows, num_query, squared, squared.view(np.int32), found, begin, end)

    in_shares(scan, batch * num_query, 8 * batch * num_query * points.shape[1])
    return index


@compiled
def _bound(bits, k):
    """Return a number that at least k of the numbers do not exceed, and few more where they differ."""
    low, high = bits[0], bits[0]
    for place in range(len(bits)):
        low, high = min(low, bits[place]), max(high, bits[place])
    while low < high:
        middle = low + (high - low) // np.int32(2)
        below = np.int32(0)
        for place in range(len(bits)):
            below += np.int32(bits[place] <= middle)
        if below < k:
            low = np.int32(middle + 1)
        else:
            high = np.int32(middle)
            if below <= k + SPARE:
                break
    return high


@compiled
def _scan(query, points, num_query, squared, bits, index, begin, end):
    count, k = points.shape[2], index.shape[1]
    for row in range(begin, end):
        cloud = row // num_query
        x, y, z = points[cloud, 0], points[cloud, 1], points[cloud, 2]
        to_x, to_y, to_z = query[row, 0], query[row, 1], query[row, 2]
        for point in range(count):
            dx, dy, dz = to_x - x[point], to_y - y[point], to_z - z[point]
            squared[point] = dx * dx + dy * dy + dz * dz
        # A key is a distance's bits and, below them, the point's number: no two are equal.
        near = index[row]
        near[:] = np.iinfo(np.int64).max
        farthest = _bound(bits, k) if k >= WORTH_BOUNDING else np.int32(np.iinfo(np.int32).max)
        for first in range(0, count, BLOCK):
            block = bits[first : first + BLOCK]
            least = block[0]
            for place in range(len(block)):
                least = min(least, block[place])
            if least > farthest:
                continue
            for point in range(len(block)):
                if block[point] <= farthest:
                    key = (np.int64(block[point]) << 32) | (first + point)
                    place = k - 1
                    if near[place] < key:
                        continue
                    while place > 0 and near[place - 1] > key:
                        near[place] = near[place - 1]
                        place -= 1
                    near[place] = key
                    farthest = min(farthest, np.int32(near[k - 1] >> 32))
        for place in range(k):
            near[place] &= 0xFFFFFFFF
