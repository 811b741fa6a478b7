"""Farthest point sampling on CPUs that looks only at the buckets of points that a sample is near to.

After QuickFPS (Han et al., 2023): points in Morton order form buckets, boxes around them a binary tree. A
sample can change nothing in a box that is farther from it than any of the box's points is from its nearest
sample. Numbers are rounded as in the reference, and no point's distance rounds to less than its box's: the
samples are the same, ties included. Imported by `bixt3d.ops.sampling` alone, when it runs; needs numba.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from bixt3d.ops.backends import for_each_cloud
from bixt3d.ops.grid import morton_codes

BUCKET = 32  # points, at least
DEEPEST = 128  # entries of the stack: three a level of the tree


def fps_bucket(xyz: Tensor, num_samples: int, first: Tensor) -> Tensor:
    """Sample finite clouds (B, N, 3), float32 or float64, from the points first (B,) on: (B, num_samples)."""
    points = xyz.numpy()
    batch, count, _ = points.shape
    buckets = 1 << max(0, (count // BUCKET).bit_length() - 1)
    order = _bucket_order(xyz, buckets)  # (B, N)
    rows = np.ascontiguousarray(
        np.take_along_axis(points, order[..., None], 1).transpose(0, 2, 1)
    )  # (B, 3, N)
    place = (order == first.numpy()[:, None]).argmax(1)  # (B,)
    index = np.empty((batch, num_samples), np.int64)
    # The bits of floats from 0 up, read as integers, rise with the value; integers compare several at a time.
    bits = np.int32 if points.dtype == np.float32 else np.int64

    def sample(cloud: int) -> None:
        nearest = np.full(count, np.inf, points.dtype)
        fresh = np.empty(count // buckets + 1, points.dtype)
        _walk(
            *rows[cloud], order[cloud], buckets, place[cloud],
            fresh, fresh.view(bits), nearest, nearest.view(bits), index[cloud],
        )  # fmt: skip

    for_each_cloud(sample, batch)
    return torch.from_numpy(index)


def _bucket_order(xyz: Tensor, buckets: int) -> NDArray[np.int64]:
    """Return the points' order (B, N): buckets along a Morton curve, in each the points as they come."""
    count = xyz.shape[1]
    curve = morton_codes(xyz).sort(dim=1, stable=True).indices.numpy()  # (B, N)
    ends = np.arange(1, buckets + 1) * count // buckets
    bucket = np.searchsorted(ends, np.arange(count), side="right")  # (N,)
    return np.sort((bucket << 32) | curve, axis=1) & 0xFFFFFFFF


def compiled(function):
    """Compile a loop by numba, which lets other threads run, and keep it on disk where there is a place."""
    try:
        made: Any = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep what was compiled
        return njit(nogil=True)(function)
    save = made._cache.save_overload

    def keep(*given):
        with suppress(OSError):  # a full disk, or a quota
            save(*given)

    made._cache.save_overload = keep
    return made


@compiled
def _walk(x, y, z, order, buckets, current, fresh, fresh_bits, nearest, nearest_bits, index):
    """Sample one cloud of coordinates in `order`, from row `current` on; node i has children 2i, 2i + 1."""
    count = len(x)
    low, high = np.empty((2 * buckets, 3), x.dtype), np.empty((2 * buckets, 3), x.dtype)
    largest = np.full(2 * buckets, np.inf, x.dtype)  # distance of a node's points to their nearest samples
    farthest = np.empty(2 * buckets, np.int64)  # row of the point that has it, the lowest in number
    for node in range(2 * buckets - 1, 0, -1):
        left, right = 2 * node, 2 * node + 1
        if node >= buckets:
            begin, end = (node - buckets) * count // buckets, (node - buckets + 1) * count // buckets
            farthest[node] = begin
            for axis, row in enumerate((x, y, z)):
                low[node, axis], high[node, axis] = row[begin:end].min(), row[begin:end].max()
        else:
            first = order[farthest[left]] < order[farthest[right]]
            farthest[node] = farthest[left] if first else farthest[right]
            for axis in range(3):
                low[node, axis] = min(low[left, axis], low[right, axis])
                high[node, axis] = max(high[left, axis], high[right, axis])
    stack = np.empty(DEEPEST, np.int64)
    zero = x.dtype.type(0)
    for sample in range(len(index)):
        index[sample] = order[current]
        to_x, to_y, to_z = x[current], y[current], z[current]
        stack[0], waiting = 1, 1
        while waiting:
            waiting -= 1
            node = stack[waiting]
            if node < 0:  # both children are up to date
                node = -node
                left, right = 2 * node, 2 * node + 1
                tie = largest[left] == largest[right] and order[farthest[left]] < order[farthest[right]]
                child = left if largest[left] > largest[right] or tie else right
                largest[node], farthest[node] = largest[child], farthest[child]
                continue
            dx = max(low[node, 0] - to_x, to_x - high[node, 0], zero)
            dy = max(low[node, 1] - to_y, to_y - high[node, 1], zero)
            dz = max(low[node, 2] - to_z, to_z - high[node, 2], zero)
            if dx * dx + dy * dy + dz * dz >= largest[node]:
                continue
            if node < buckets:
                stack[waiting], stack[waiting + 1], stack[waiting + 2] = -node, 2 * node, 2 * node + 1
                waiting += 3
                continue
            begin, end = (node - buckets) * count // buckets, (node - buckets + 1) * count // buckets
            for row in range(begin, end):
                dx, dy, dz = x[row] - to_x, y[row] - to_y, z[row] - to_z
                fresh[row - begin] = dx * dx + dy * dy + dz * dz
            best = nearest_bits[begin] & 0
            for row in range(begin, end):
                nearest_bits[row] = min(nearest_bits[row], fresh_bits[row - begin])
                best = max(best, nearest_bits[row])
            row = begin
            while nearest_bits[row] != best:
                row += 1
            largest[node], farthest[node] = nearest[row], row
        current = farthest[1]
