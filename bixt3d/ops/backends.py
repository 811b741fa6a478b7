"""Optional compiled implementations of farthest point sampling and nearest neighbours, and what they share.

The plain torch versions are the reference; the adapters here give the same indices through ``torch_cluster``
or ``pytorch3d`` where a user has them installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

INSTALL = {
    "torch_cluster": "pip install --no-build-isolation torch-cluster",
    "pytorch3d": "conda install -c conda-forge pytorch3d",
    "triton": 'pip install "bixt3d[triton]"',
    "scipy": "pip install scipy",
    "numba": "pip install numba",
}
WORTH_THREADS = 1 << 26  # simple operations, some 10 ms of them


def check_backend(backend: str, known: tuple[str, ...]) -> None:
    """Raise ValueError for a backend name that the operation does not know."""
    if backend not in known:
        raise ValueError(f"backend: expected one of {', '.join(known)}, got {backend!r}")


def require(package: str, module: str = "") -> ModuleType:
    """Import an optional package, or a module of it.

    Raises:
        ImportError: If it, or its compiled part, is missing, with the line that installs it.
    """
    try:
        return importlib.import_module(module or package)
    except (ImportError, OSError) as error:  # OSError: a library built for another version of torch
        raise ImportError(
            f"backend {package!r} is not installed ({str(error).splitlines()[0]}); install it with "
            f'`{INSTALL[package]}`, or use backend="torch"'
        ) from error


@cache
def installed(package: str) -> bool:
    """Whether an optional package can be imported; a missing one is looked for once."""
    try:
        require(package)
    except ImportError:
        return False
    return True


def require_cpu(backend: str, device: torch.device) -> None:
    """Raise RuntimeError for another device than the CPU."""
    if device.type != "cpu":
        raise RuntimeError(f"backend {backend!r} runs on CPUs, got points on {device}; use the backend torch")


def require_triton(device: torch.device) -> None:
    """Check that Triton's kernels can run on a device.

    Raises:
        ImportError: When Triton is not installed, with the line that installs it.
        RuntimeError: For a device other than CUDA, unless Triton interprets its kernels, and for ROCm.
    """
    triton = require("triton")
    if device.type == "cuda" and torch.version.hip:  # which calls its GPUs cuda, too
        raise RuntimeError("backend 'triton' supports NVIDIA's GPUs alone, not ROCm; use the backend torch")
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise RuntimeError(
            f"backend 'triton' needs a CUDA device, got {device}; move the tensors to one, use the backend "
            "torch, or, for tests, set TRITON_INTERPRET=1 before the program starts: it runs the kernels "
            "on the CPU, slowly"
        )


def require_single(backend: str, points: Tensor) -> None:
    """Raise ValueError for points in double precision, which the backend would round."""
    if points.dtype != torch.float32:
        raise ValueError(
            f"backend {backend!r} computes in float32 and would round {points.dtype} points; "
            'convert them, or use backend="torch"'
        )


def for_each_cloud(function: Callable[[int], None], batch: int) -> None:
    """Call a function that lets other threads run, with the number of each cloud, in torch's threads."""
    threads = min(torch.get_num_threads(), batch)
    if threads == 1:
        for cloud in range(batch):
            function(cloud)
        return
    inference = torch.is_inference_mode_enabled()  # a thread does not inherit it

    def call(cloud: int) -> None:
        with torch.inference_mode(inference):
            function(cloud)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(batch)))


def in_shares(function: Callable[[int, int], None], total: int, operations: int) -> None:
    """Call ``function(begin, end)`` for the numbers below ``total``, in equal shares if there is much to do.

    Little work is done sooner by one thread: after an operation of torch its threads spin for a while on the
    cores that others would run on.
    """
    threads = min(torch.get_num_threads(), total) if operations >= WORTH_THREADS else 1
    for_each_cloud(lambda t: function(t * total // threads, (t + 1) * total // threads), threads)


def sort_neighbors(query: Tensor, points: Tensor, index: Tensor) -> Tensor:
    """Put neighbours (B, S, k) in the reference's order: by rounded distance, then by index."""
    batch, num_query, k = index.shape
    index = index.sort(-1).values
    found = points.gather(1, index.view(batch, -1, 1).expand(-1, -1, 3)).view(batch, num_query, k, 3)
    x, y, z = (query[:, :, None] - found).square().unbind(-1)  # 3 x (B, S, k)
    return index.gather(-1, (x + y + z).sort(dim=-1, stable=True).indices)


@contextmanager
def running(package: str, device: torch.device) -> Iterator[None]:
    """Turn a package's refusal to run on a device into an error that says what to install."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"backend {package!r} cannot run on {device} ({str(error).splitlines()[0]}); install a "
            f"build for that device with `{INSTALL[package]}`, or use the backend torch"
        ) from error


def _flat(points: Tensor) -> tuple[Tensor, Tensor]:
    batch, count, _ = points.shape
    owner = torch.arange(batch, device=points.device).repeat_interleave(count)  # (B * N,)
    return points.reshape(batch * count, 3), owner  # (B * N, 3)


def _from_start(xyz: Tensor, start: Tensor, sample: Callable[[Tensor], Tensor]) -> Tensor:
    """Sample with what begins at each cloud's first point and takes the first of equally far points.

    The start is put first, and the others stay in order, so that what is first is what is lowest. The start
    is chosen again only where every point coincides with a sample; the reference then chooses point 0.
    """
    number = torch.arange(xyz.shape[1], device=xyz.device)
    order = number - (number <= start[:, None]).long()  # (B, N)
    order[:, 0] = start
    local = sample(xyz.gather(1, order[..., None].expand(-1, -1, 3)))  # (B, S)
    index = order.gather(1, local)
    index[:, 1:].masked_fill_(local[:, 1:] == 0, 0)
    return index


def fps_torch_cluster(xyz: Tensor, num_samples: int, start: Tensor) -> Tensor:
    """Sample with ``torch_cluster.fps``: (B, N, 3) -> (B, S)."""
    cluster = require("torch_cluster")
    batch, count, _ = xyz.shape

    def sample(ordered: Tensor) -> Tensor:
        flat, owner = _flat(ordered)
        # The package rounds ratio * N up in single precision; half a sample less lands on num_samples.
        with running("torch_cluster", xyz.device):
            chosen = cluster.fps(flat, owner, ratio=(num_samples - 0.5) / count, random_start=False)
        local: Tensor = chosen.view(batch, num_samples) % count  # (B, S)
        return local

    return _from_start(xyz, start, sample)


def knn_torch_cluster(query: Tensor, points: Tensor, k: int) -> Tensor:
    """Find neighbours with ``torch_cluster.knn``: (B, S, 3), (B, N, 3) -> (B, S, k)."""
    cluster = require("torch_cluster")
    flat, owner = _flat(points)
    flat_query, query_owner = _flat(query)
    with running("torch_cluster", points.device):
        pairs = cluster.knn(flat, flat_query, k, owner, query_owner)
    return sort_neighbors(query, points, pairs[1].view(*query.shape[:2], k) % points.shape[1])


def fps_pytorch3d(xyz: Tensor, num_samples: int, start: Tensor) -> Tensor:
    """Sample with ``pytorch3d.ops.sample_farthest_points``: (B, N, 3) -> (B, S)."""
    ops = require("pytorch3d", "pytorch3d.ops")
    require_single("pytorch3d", xyz)

    def sample(ordered: Tensor) -> Tensor:
        with running("pytorch3d", xyz.device):
            local: Tensor = ops.sample_farthest_points(ordered, K=num_samples, random_start_point=False)[1]
        return local

    return _from_start(xyz, start, sample)


def knn_pytorch3d(query: Tensor, points: Tensor, k: int) -> Tensor:
    """Find neighbours with ``pytorch3d.ops.knn_points``: (B, S, 3), (B, N, 3) -> (B, S, k)."""
    ops = require("pytorch3d", "pytorch3d.ops")
    require_single("pytorch3d", points)
    with running("pytorch3d", points.device):
        found = ops.knn_points(query, points, K=k, return_sorted=False).idx  # ties beyond k = 16 would mix
    return sort_neighbors(query, points, found)
