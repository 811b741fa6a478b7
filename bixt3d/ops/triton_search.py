"""Farthest point sampling and nearest neighbours in Triton, one launch each: the same indices as torch's.

Triton is imported when a function runs. For `torch.compile` each is one operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bixt3d.ops import backends

# Points that a program holds in registers at a time: here 8 for each of up to 1024 threads, below 16 for 32.
FPS_TILE = 8192
KNN_TILE = 512
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
    index: Tensor = _fps(xyz, num_samples, first)
    return index


def knn_triton(query: Tensor, points: Tensor, k: int) -> Tensor:
    """Find the k nearest points (B, N, 3) of each query (B, S, 3), nearest first: (B, S, k), int64.

    Raises:
        ValueError: For points in double precision or too many, or k above 64.
        ImportError: When Triton is not installed.
        RuntimeError: For a device that it does not run on.
    """
    _check_points(points)
    if k > MAX_NEIGHBORS:
        raise ValueError(
            f"k: backend 'triton' finds at most {MAX_NEIGHBORS} neighbours, got {k}; "
            'use backend="torch" for more'
        )
    index: Tensor = _knn(query, points, k)
    return index


def _check_points(points: Tensor) -> None:
    if points.dtype != torch.float32:
        raise ValueError(
            f"backend 'triton' computes in float32 and would round {points.dtype} points; "
            'convert them, or use backend="torch"'
        )
    if points.shape[1] > MAX_POINTS:
        raise ValueError(
            f"backend 'triton' takes clouds of at most {MAX_POINTS} points, got {points.shape[1]}; "
            'use backend="torch"'
        )


@torch.library.custom_op("bixt3d::fps_triton", mutates_args=())
def _fps(xyz: Tensor, num_samples: int, first: Tensor) -> Tensor:
    backends.require_triton(xyz.device)
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


@_fps.register_fake
def _(xyz: Tensor, num_samples: int, first: Tensor) -> Tensor:
    return first.new_empty(xyz.shape[0], num_samples)


@torch.library.custom_op("bixt3d::knn_triton", mutates_args=())
def _knn(query: Tensor, points: Tensor, k: int) -> Tensor:
    backends.require_triton(points.device)
    from bixt3d.ops import triton_search_kernels as kernels

    batch, num_query, _ = query.shape
    count = points.shape[1]
    rows = points.transpose(1, 2).contiguous()  # (B, 3, N)
    index = torch.empty(batch, num_query, k, dtype=torch.int64, device=points.device)
    programs = batch * -(-num_query // KNN_QUERIES)
    with torch.cuda.device_of(points):  # type: ignore[no-untyped-call]
        kernels.knn_by_tiles[(programs,)](
            query.contiguous(),
            rows,
            index,
            num_query,
            count,
            k,
            QUERIES=KNN_QUERIES,
            TILE=_power_of_two(min(count, KNN_TILE)),
            SLOTS=_power_of_two(k),
            num_warps=1,
            **EXACT,
        )
    return index


@_knn.register_fake
def _(query: Tensor, points: Tensor, k: int) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1], k, dtype=torch.int64)


def fps_warps(points: int) -> int:
    """Warps of 32 threads, with 8 of the points that are on chip for each thread."""
    return min(max(points // 256, 1), 32)


def _power_of_two(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length()
