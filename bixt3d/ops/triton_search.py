"""Farthest point sampling and nearest neighbours in Triton, one launch each: the same indices as torch's.

Triton is imported when a function runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bixt3d.ops import backends
from bixt3d.ops.grid import morton_codes

# Points that a program holds in registers at a time: here 8 for each of up to 1024 threads, below 16 for 32.
FPS_TILE = 8192
KNN_TILE = 512
# Clouds from this size on are searched by boxes: around tiles of so many points, and groups of so many tiles.
BOXED_FROM = 4096
BOX_TILE, BOX_GROUP = 128, 64
# Queries of one program, which is one warp, so that its threads wait for nobody.
KNN_QUERIES = 1
# Fused multiplications and additions would round otherwise than the torch versions.
EXACT = {"enable_fp_fusion": False}
MAX_NEIGHBORS = 64
MAX_POINTS = 1 << 30  # so that indices and the ends of tiles fit 32 bits


def fps_triton(xyz: Tensor, num_samples: int, first: Tensor) -> Tensor:
    """Sample clouds (B, N, 3) from the points first (B,) on: (B, num_samples), int64.

    Raises:
        ValueError: For points in double precision, or too many.
        ImportError: When Triton is not installed.
        RuntimeError: For a device that it does not run on.
    """
    _check_points(xyz)
    from bixt3d.ops import triton_search_kernels as kernels

    batch, count, _ = xyz.shape
    rows = xyz.transpose(1, 2).contiguous()  # (B, 3, N)
    index = torch.empty(batch, num_samples, dtype=torch.int64, device=xyz.device)
    size = _power_of_two(min(count, FPS_TILE))
    options = {"num_warps": fps_warps(size), **EXACT}
    with torch.cuda.device_of(xyz):  # type: ignore[no-untyped-call]
        if count <= FPS_TILE:
            kernels.fps_on_chip[(batch,)](rows, first, index, count, num_samples, BLOCK=size, **options)
        else:
            distance = torch.full_like(rows[:, 0], torch.inf)  # (B, N)
            kernels.fps_by_tiles[(batch,)](
                rows, first, distance, index, count, num_samples, TILE=size, **options
            )
    return index


def knn_triton(query: Tensor, points: Tensor, k: int) -> Tensor:
    """Find the k nearest points (B, N, 3) of each query (B, S, 3), nearest first: (B, S, k), int64.

    Small clouds are looked at whole. Of large ones, points in Morton order make tiles, tiles make groups, and
    a query passes over those whose boxes are farther from it than the neighbours that it has.

    Raises:
        ValueError: For points in double precision or too many, or k above 64.
        ImportError: When Triton is not installed.
        RuntimeError: For a device that it does not run on.
    """
    if k > MAX_NEIGHBORS:
        raise ValueError(
            f"k: backend 'triton' finds at most {MAX_NEIGHBORS} neighbours, got {k}; "
            'use backend="torch" for more'
        )
    _check_points(points)
    from bixt3d.ops import triton_search_kernels as kernels

    batch, num_query, _ = query.shape
    count = points.shape[1]
    query = query.contiguous()
    index = torch.empty(batch, num_query, k, dtype=torch.int64, device=points.device)
    sizes = num_query, count, k
    options = {"SLOTS": _power_of_two(k), "num_warps": 1, **EXACT}
    with torch.cuda.device_of(points):  # type: ignore[no-untyped-call]
        if count < BOXED_FROM:
            rows = points.transpose(1, 2).contiguous()  # (B, 3, N)
            programs = batch * -(-num_query // KNN_QUERIES)
            tile = _power_of_two(min(count, KNN_TILE))
            kernels.knn_by_tiles[(programs,)](
                query, rows, index, *sizes, QUERIES=KNN_QUERIES, TILE=tile, **options
            )
        else:
            order = morton_codes(points).argsort(dim=1)  # (B, N)
            rows = points.gather(1, order[..., None].expand(-1, -1, 3)).transpose(1, 2)  # (B, 3, N)
            tiles = _boxes(rows, rows, BOX_TILE)
            groups = _boxes(*tiles, BOX_GROUP)
            kernels.knn_by_boxes[(batch * num_query,)](
                query, rows.contiguous(), order.int(), *tiles, *groups, index, *sizes,
                TILE=BOX_TILE, GROUP=BOX_GROUP, **options,
            )  # fmt: skip
    return index


def _boxes(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest corners of boxes around so many boxes (B, 3, T) at a time: 2 x (B, 3, T / size)."""
    batch, _, count = low.shape
    number = -(-count // size)
    inside = torch.arange(number * size, device=low.device).clamp_max(count - 1)  # the last one fills up
    low, high = (corner[..., inside].view(batch, 3, number, size) for corner in (low, high))
    return low.amin(3), high.amax(3)


def _check_points(points: Tensor) -> None:
    backends.require_single("triton", points)
    if points.shape[1] > MAX_POINTS:
        raise ValueError(
            f"backend 'triton' takes clouds of at most {MAX_POINTS} points, got {points.shape[1]}; "
            'use backend="torch"'
        )
    backends.require_triton(points.device)


def fps_warps(points: int) -> int:
    """Warps of 32 threads, with 8 of the points that are on chip for each thread."""
    return min(max(points // 256, 1), 32)


def _power_of_two(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length()
