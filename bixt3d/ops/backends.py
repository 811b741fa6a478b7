"""Optional compiled implementations of farthest point sampling and nearest neighbours.

The plain torch versions are the reference and the default; these adapters give the same
indices through ``torch_cluster`` or ``pytorch3d`` where a user has them installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

INSTALL = {
    "torch_cluster": "pip install --no-build-isolation torch-cluster",
    "pytorch3d": "conda install -c conda-forge pytorch3d",
    "triton": 'pip install "bixt3d[triton]"',
    "scipy": "pip install scipy",
}


def check_backend(backend: str, known: tuple[str, ...]) -> None:
    """Raise ValueError for a backend name that the operation does not know."""
    if backend not in known:
        raise ValueError(f"backend: expected one of {', '.join(known)}, got {backend!r}")


def require(package: str) -> ModuleType:
    """Import an optional package, or raise ImportError with the line that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"backend {package!r} is not installed ({error}); install it with `{INSTALL[package]}`, "
            'or use backend="torch"'
        ) from error


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


def fps_torch_cluster(xyz: Tensor, num_samples: int, start: Tensor) -> Tensor:
    """Sample with ``torch_cluster.fps``, which starts at each cloud's first point: (B, N, 3) -> (B, S)."""
    cluster = require("torch_cluster")
    batch, count, _ = xyz.shape
    offset = torch.arange(batch, device=xyz.device)[:, None] * count  # (B, 1)
    # The start is a parameter here but always the first point there: put it first, then map back.
    order = torch.arange(count, device=xyz.device).repeat(batch, 1)  # (B, N)
    order[:, 0] = start
    order.scatter_(1, start[:, None], 0)
    flat, owner = _flat(xyz.gather(1, order[..., None].expand(-1, -1, 3)))
    # The package rounds ratio * N up in single precision; half a sample less lands on num_samples.
    with running("torch_cluster", xyz.device):
        chosen = cluster.fps(flat, owner, ratio=(num_samples - 0.5) / count, random_start=False)
    local = chosen.view(batch, num_samples) - offset  # (B, S)
    return order.gather(1, local)


def knn_torch_cluster(query: Tensor, points: Tensor, k: int) -> Tensor:
    """Find neighbours with ``torch_cluster.knn``: (B, S, 3), (B, N, 3) -> (B, S, k)."""
    cluster = require("torch_cluster")
    batch, num_query, _ = query.shape
    count = points.shape[1]
    flat, owner = _flat(points)
    flat_query, query_owner = _flat(query)
    with running("torch_cluster", points.device):
        pairs = cluster.knn(flat, flat_query, k, owner, query_owner)
    offset = torch.arange(batch, device=points.device)[:, None, None] * count  # (B, 1, 1)
    index: Tensor = pairs[1].view(batch, num_query, k) - offset  # (B, S, k)
    return index


def fps_pytorch3d(xyz: Tensor, num_samples: int, start: Tensor) -> Tensor:
    """Sample with ``pytorch3d.ops.sample_farthest_points``: (B, N, 3) -> (B, S)."""
    require("pytorch3d")
    ops = importlib.import_module("pytorch3d.ops")
    batch, count, _ = xyz.shape
    order = torch.arange(count, device=xyz.device).repeat(batch, 1)  # (B, N)
    order[:, 0] = start
    order.scatter_(1, start[:, None], 0)
    ordered = xyz.gather(1, order[..., None].expand(-1, -1, 3))  # (B, N, 3)
    with running("pytorch3d", xyz.device):
        _, local = ops.sample_farthest_points(ordered, K=num_samples, random_start_point=False)
    return order.gather(1, local)


def knn_pytorch3d(query: Tensor, points: Tensor, k: int) -> Tensor:
    """Find neighbours with ``pytorch3d.ops.knn_points``: (B, S, 3), (B, N, 3) -> (B, S, k)."""
    require("pytorch3d")
    ops = importlib.import_module("pytorch3d.ops")
    with running("pytorch3d", points.device):
        index: Tensor = ops.knn_points(query, points, K=k, return_sorted=True).idx
    return index
