"""Nearest neighbours, gathering and interpolation between clouds."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from bixt3d.ops import backends
from bixt3d.ops.autotune import TUNER, bucket
from bixt3d.ops.kdtree import SearchTree, knn_kdtree
from bixt3d.ops.tracing import is_exporting
from bixt3d.ops.triton_search import MAX_NEIGHBORS, MAX_POINTS, knn_triton
from bixt3d.ops.validate import check_count, check_points, check_same

# "auto" scans small clouds and builds trees of large ones on CPUs; on GPUs the quicker of torch and triton.
BACKENDS = ("auto", "torch", "scan", "kdtree", "triton", "torch_cluster", "pytorch3d")
LEAST_SCANNED = 1 << 14  # distances that numba is worth loading for
MOST_SCANNED = 2048  # points of a cloud that are scanned no slower than a tree is searched
FEWEST = 512  # points of a cloud that a tree is worth building for
# Distances held at once: small enough for a CPU's cache, large enough to fill a GPU.
CHUNK = {"cpu": 1 << 18, "cuda": 1 << 25}


@torch.no_grad()
def knn(
    query: Tensor | SearchTree,
    points: Tensor | SearchTree,
    k: int,
    backend: str = "auto",
    chunk_size: int | None = None,
    validate: bool = True,
) -> Tensor:
    """Find the ``k`` nearest points of each query, nearest first, the lowest index first among equally near.

    Distances are sums of squared differences in float32 at least (never the expanded form, which
    loses small distances far from the origin), computed for a chunk of queries at a time, so memory
    beyond the result does not grow with B x S x N.

    Args:
        query: Query points (B, S, 3).
        points: Points to search (B, N, 3), or a `SearchTree` of them for more searches than one.
        k: Number of neighbours, at most N.
        backend: ``"torch"`` (reference), ``"scan"`` (float32 on CPUs, by numba), ``"kdtree"`` (CPUs),
            ``"triton"`` (k up to 64), ``"torch_cluster"`` (which may leave out the lowest of equally near
            points), ``"pytorch3d"``, or ``"auto"``. An exported program holds the reference, whatever the
            backend.
        chunk_size: Queries of one cloud that are handled at a time; chosen by device if None.
        validate: Look for NaN and infinity as well; on a GPU this waits for the device.

    Returns:
        Indices (B, S, k) into ``points``, int64.

    Raises:
        ValueError: For wrong shape, dtype or values, fewer than ``k`` points, an unknown backend, float64
            points for scan, Triton or pytorch3d, or too large a ``k`` for Triton.
        ImportError: When the backend asked for is not installed.
        RuntimeError: When it cannot run on the device of ``points``.
    """
    trees = points if isinstance(points, SearchTree) else None
    query, points = (given.points if isinstance(given, SearchTree) else given for given in (query, points))
    check_points(query, "query", (3,), finite=validate)
    check_points(points, "points", (3,), finite=validate and points is not query)
    check_same(query, "query", points, "points", dims=1)
    backends.check_backend(backend, BACKENDS)
    count = points.shape[1]
    check_count(k, "k", count, f"each cloud has {count} points")
    if chunk_size is not None:
        check_count(chunk_size, "chunk_size", query.shape[1], "the number of queries")
    query, points = query.detach(), points.detach()
    dtype = torch.promote_types(torch.promote_types(query.dtype, points.dtype), torch.float32)
    query, points = query.to(dtype), points.to(dtype)
    if is_exporting():
        return _knn_whole(query, points, k)
    kernel = dtype == torch.float32 and k <= MAX_NEIGHBORS and count <= MAX_POINTS and chunk_size is None
    if backend == "auto" and kernel and TUNER.covers(query, points):
        sizes = {
            "clouds": bucket(len(points)),
            "points": bucket(count),
            "queries": bucket(query.shape[1]),
            "k": k,
        }
        calls = (partial(_knn_torch, k=k, chunk_size=None), partial(knn_triton, k=k))
        nearest: Tensor = TUNER.run("neighbours", sizes, *calls, query, points)
        return nearest
    if torch.compiler.is_compiling():
        index: Tensor = _knn_operation(query, points, k, backend, chunk_size)
        return index
    return _search(query, points, k, backend, chunk_size, trees)


def _automatic(query: Tensor, points: Tensor, chunk_size: int | None) -> str:
    batch, count, _ = points.shape
    if chunk_size is not None or points.device.type != "cpu":
        return "torch"
    many = batch * query.shape[1] * count >= LEAST_SCANNED
    if many and count <= MOST_SCANNED and points.dtype == torch.float32 and backends.installed("numba"):
        return "scan"
    return "kdtree" if count >= FEWEST else "torch"


def _search(
    query: Tensor,
    points: Tensor,
    k: int,
    backend: str,
    chunk_size: int | None,
    trees: SearchTree | None = None,
) -> Tensor:
    if backend == "auto":
        backend = _automatic(query, points, chunk_size)
    if backend == "kdtree":
        return knn_kdtree(query, points, k, partial(_knn_torch, chunk_size=None), trees)
    if backend == "scan":
        backends.require_cpu("scan", points.device)
        backends.require_single("scan", points)
        backends.require("numba")
        from bixt3d.ops.scan import knn_scan

        finite = bool(query.isfinite().all()) and bool(points.isfinite().all())
        return knn_scan(query, points, k) if finite else _knn_torch(query, points, k, None)
    others = {
        "triton": knn_triton,
        "torch_cluster": backends.knn_torch_cluster,
        "pytorch3d": backends.knn_pytorch3d,
    }
    return (
        others[backend](query, points, k) if backend in others else _knn_torch(query, points, k, chunk_size)
    )


# For torch.compile, whose fused kernels would round distances otherwise. A plain call goes without: the first
# call of any operation that is made like this imports torch's compiler, which takes seconds.
@torch.library.custom_op("bixt3d::knn", mutates_args=())
def _knn_operation(query: Tensor, points: Tensor, k: int, backend: str, chunk_size: int | None) -> Tensor:
    return _search(query, points, k, backend, chunk_size)


@_knn_operation.register_fake
def _(query: Tensor, points: Tensor, k: int, backend: str, chunk_size: int | None) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1], k, dtype=torch.int64)


def _knn_torch(query: Tensor, points: Tensor, k: int, chunk_size: int | None) -> Tensor:
    batch, num_query, _ = query.shape
    count = points.shape[1]
    rows = points.transpose(1, 2).contiguous()  # (B, 3, N)
    columns = query.transpose(1, 2).unsqueeze(-1).contiguous()  # (B, 3, S, 1)
    budget = CHUNK["cpu" if query.device.type == "cpu" else "cuda"]
    if chunk_size is None:
        # A few clouds at a time first: whole rows of distances are contiguous in the cache.
        clouds = max(1, min(batch, budget // (num_query * count)))
        chunk_size = max(1, min(num_query, budget // count))
    else:
        clouds = batch
    index = torch.empty(batch, num_query, k, dtype=torch.int64, device=query.device)
    for b in range(0, batch, clouds):
        for s in range(0, num_query, chunk_size):
            q, p = columns[b : b + clouds, :, s : s + chunk_size], rows[b : b + clouds, :, None]
            squared = q[:, 0] - p[:, 0]  # (b, s, N)
            squared.mul_(squared)
            delta = torch.empty_like(squared)
            for axis in (1, 2):
                torch.sub(q[:, axis], p[:, axis], out=delta)
                squared.add_(delta.mul_(delta))  # addcmul would round once or twice, as the device likes
            index[b : b + clouds, s : s + chunk_size] = _smallest(squared, k)
    return index


def _smallest(squared: Tensor, k: int) -> Tensor:
    """Indices of each row's k smallest, in order; the lowest first among equals, as topk does not promise."""
    if k == 1:
        return squared.argmin(-1, keepdim=True)  # the first of equal ones
    if squared.device.type != "cpu":  # to look for equals first would wait for the device
        return _smallest_of_keys(squared, k)
    values, index = squared.topk(min(k + 1, squared.shape[-1]), dim=-1, largest=False, sorted=True)
    index = index[..., :k]
    equal = values[..., 1:] == values[..., :-1]
    if bool(equal.any()):
        tied = equal.any(-1)  # (b, s)
        index[tied] = _smallest_of_keys(squared[tied], k)
    return index


def _smallest_of_keys(squared: Tensor, k: int) -> Tensor:
    if squared.dtype == torch.float64:
        return squared.sort(stable=True, dim=-1).indices[..., :k]
    # The bits of floats from 0 up, read as integers, rise with the value, and below them there is room for
    # the index: no two keys are equal.
    number = torch.arange(squared.shape[-1], device=squared.device)
    key = torch.add(number, squared.view(torch.int32), alpha=1 << 32)
    return key.topk(k, dim=-1, largest=False, sorted=True).values.bitwise_and_(0x7FFFFFFF)


def _knn_whole(query: Tensor, points: Tensor, k: int) -> Tensor:
    """`_knn_torch` without chunks and buffers, whose sizes an exported program would be bound to.

    Keys of distance and index are not needed: ONNX's TopK promises the lowest index among equals.
    """
    offsets = (q[:, :, None] - p[:, None] for q, p in zip(query.unbind(-1), points.unbind(-1), strict=True))
    x, y, z = (offset.square() for offset in offsets)  # 3 x (B, S, N)
    return (x + y + z).topk(k, dim=-1, largest=False, sorted=True).indices


def gather_points(features: Tensor, index: Tensor) -> Tensor:
    """Pick rows of each cloud: features (B, N, C), index (B, ...) -> (B, ..., C), differentiable."""
    # One lookup table for the whole batch: its backward sums in parallel, unlike that of gather.
    return F.embedding(*_table(features, index))


def reduce_points(features: Tensor, index: Tensor, mode: str) -> Tensor:
    """Pick rows and reduce each group to its ``"max"`` or ``"mean"``: index (B, S, k) -> (B, S, C)."""
    # No exchange format has bags, and not every device.
    if is_exporting() or index.device.type not in ("cpu", "cuda"):
        neighbors = gather_points(features, index)  # (B, S, k, C)
        return neighbors.amax(2) if mode == "max" else neighbors.mean(2)
    rows, table = _table(features, index)
    batch, groups, k = index.shape
    pooled = F.embedding_bag(rows.view(batch * groups, k), table, mode=mode)  # (B * S, C)
    return pooled.view(batch, groups, -1)  # (B, S, C)


def _table(features: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    batch, count, channels = features.shape
    offset = torch.arange(batch, device=index.device).view(batch, *[1] * (index.ndim - 1)) * count
    return index + offset, features.reshape(batch * count, channels)  # (B, ...), (B * N, C)


def interpolate(
    fine_xyz: Tensor | SearchTree,
    coarse_xyz: Tensor | SearchTree,
    coarse_features: Tensor,
    k: int = 3,
    validate: bool = True,
) -> Tensor:
    """Carry features from a coarse cloud to a fine one (PointNet++, section 3.4, equation 2).

    Each fine point takes the mean of its ``k`` nearest coarse points, weighted by the inverse of the
    squared distance + 1e-8. Fewer than ``k`` coarse points are all used.

    Args:
        fine_xyz: Points to carry to (B, N, 3).
        coarse_xyz: Points to carry from (B, S, 3), or a `SearchTree` of them.
        coarse_features: Their features (B, S, C).
        k: Number of neighbours.
        validate: Look for NaN and infinity as well; on a GPU this waits for the device.

    Returns:
        Features (B, N, C); gradients flow to ``coarse_features`` and to both sets of points.

    Raises:
        ValueError: For wrong shape, dtype or values, or ``k`` below 1.
    """
    searched = coarse_xyz
    fine_xyz = fine_xyz.points if isinstance(fine_xyz, SearchTree) else fine_xyz
    coarse_xyz = coarse_xyz.points if isinstance(coarse_xyz, SearchTree) else coarse_xyz
    check_points(coarse_features, "coarse_features", (), finite=validate)
    check_points(fine_xyz, "fine_xyz", (3,), finite=validate)
    check_points(coarse_xyz, "coarse_xyz", (3,), finite=validate)
    check_same(coarse_xyz, "coarse_xyz", coarse_features, "coarse_features", dims=2)
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k: expected a positive integer, got {k!r}")
    index = knn(fine_xyz, searched, min(k, coarse_xyz.shape[1]), validate=False)  # (B, N, k)
    wide = torch.promote_types(fine_xyz.dtype, torch.float32)  # 1e-8 is nothing in half precision
    coarse_xyz, fine_xyz = coarse_xyz.to(wide), fine_xyz.to(wide)
    squared = (gather_points(coarse_xyz, index) - fine_xyz[:, :, None]).square().sum(-1)  # (B, N, k)
    weight = 1.0 / (squared + 1e-8)
    weight = weight / weight.sum(-1, keepdim=True)
    neighbors = gather_points(coarse_features, index)  # (B, N, k, C)
    return (weight.to(neighbors.dtype)[..., None] * neighbors).sum(2)
