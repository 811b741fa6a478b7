"""Farthest point sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from bixt3d.ops import backends
from bixt3d.ops.autotune import TUNER, bucket
from bixt3d.ops.tracing import is_exporting
from bixt3d.ops.triton_search import MAX_POINTS, fps_triton
from bixt3d.ops.validate import check_count, check_points

# "auto" is buckets on CPUs, where numba is installed, and the quicker of torch and triton on GPUs.
BACKENDS = ("auto", "torch", "bucket", "triton", "torch_cluster", "pytorch3d")
FEWEST = 256  # points of a cloud that buckets are worth loading numba for


@torch.no_grad()
def farthest_point_sample(
    xyz: Tensor, num_samples: int, start: int | str = 0, backend: str = "auto", validate: bool = True
) -> Tensor:
    """Choose points one after another, each the farthest from all chosen before (PointNet++, section 3.2).

    The choice is greedy, so the first ``n`` of ``S`` samples are the samples of ``num_samples=n``.
    Distances are computed in float32 at least, also under autocast; ties go to the lowest index.

    Args:
        xyz: Points (B, N, 3).
        num_samples: S, at most N.
        start: Index of the first sample in every cloud, or ``"random"`` for one drawn from torch's
            generator.
        backend: ``"torch"`` (reference), ``"bucket"`` (CPUs, by numba), ``"triton"``, ``"torch_cluster"``,
            ``"pytorch3d"``, or ``"auto"``. An exported program holds the reference, whatever the backend.
        validate: Look for NaN and infinity as well; on a GPU this waits for the device.

    Returns:
        Indices (B, S), int64, on the device of ``xyz``.

    Raises:
        ValueError: For wrong shape, dtype or values, too few points, an unknown start or backend, or float64
            points for Triton or pytorch3d.
        ImportError: When the backend asked for is not installed.
        RuntimeError: When it cannot run on the device of ``xyz``.
    """
    check_points(xyz, "xyz", (3,), finite=validate)
    backends.check_backend(backend, BACKENDS)
    batch, count, _ = xyz.shape
    check_count(num_samples, "num_samples", count, f"each cloud has {count} points")
    if start == "random":
        first = torch.randint(count, (batch,), device=xyz.device)
    elif isinstance(start, int) and not isinstance(start, bool) and 0 <= start < count:
        first = torch.full((batch,), start, dtype=torch.int64, device=xyz.device)
    else:
        raise ValueError(f'start: expected 0 to {count - 1} or "random", got {start!r}')
    xyz = xyz.detach()
    if xyz.dtype in (torch.float16, torch.bfloat16):
        xyz = xyz.float()
    if is_exporting():
        return _fps_scan(xyz, num_samples, first)
    if backend == "auto" and TUNER.covers(xyz) and xyz.dtype == torch.float32 and count <= MAX_POINTS:
        sizes = {"clouds": bucket(batch), "points": bucket(count), "samples": bucket(num_samples)}
        chosen: Tensor = TUNER.run(
            *("farthest points", sizes),
            lambda xyz, first: _fps_torch(xyz, num_samples, first),
            lambda xyz, first: fps_triton(xyz, num_samples, first),
            *(xyz, first),
        )
        return chosen
    if backend == "auto":
        buckets = xyz.device.type == "cpu" and count >= FEWEST and backends.installed("numba")
        backend = "bucket" if buckets else "torch"
    if torch.compiler.is_compiling():
        index: Tensor = _fps_operation(xyz, num_samples, first, backend)
        return index
    return _sample(xyz, num_samples, first, backend)


def random_sample(xyz: Tensor, num_samples: int) -> Tensor:
    """Draw points of each cloud without repetition, from torch's generator: (B, N, 3) -> (B, S), int64."""
    batch, count, _ = xyz.shape
    check_count(num_samples, "num_samples", count, f"each cloud has {count} points")
    return torch.rand(batch, count, device=xyz.device).argsort(1)[:, :num_samples]


def _sample(xyz: Tensor, num_samples: int, first: Tensor, backend: str) -> Tensor:
    if backend == "bucket":
        backends.require_cpu("bucket", xyz.device)
        backends.require("numba")
        from bixt3d.ops.bucket import fps_bucket

        return (fps_bucket if bool(xyz.isfinite().all()) else _fps_torch)(xyz, num_samples, first)
    others = {
        "triton": fps_triton,
        "torch_cluster": backends.fps_torch_cluster,
        "pytorch3d": backends.fps_pytorch3d,
    }
    return others.get(backend, _fps_torch)(xyz, num_samples, first)


# For torch.compile, which would unroll the loop. A plain call goes without: the first call of any operation
# that is made like this imports torch's compiler, which takes seconds.
@torch.library.custom_op("bixt3d::fps", mutates_args=())
def _fps_operation(xyz: Tensor, num_samples: int, first: Tensor, backend: str) -> Tensor:
    return _sample(xyz, num_samples, first, backend)


@_fps_operation.register_fake
def _(xyz: Tensor, num_samples: int, first: Tensor, backend: str) -> Tensor:
    return first.new_empty(xyz.shape[0], num_samples)


def _fps_torch(xyz: Tensor, num_samples: int, first: Tensor) -> Tensor:
    # Three contiguous rows and buffers written in place: the loop is bound by the number of passes
    # over (B, N), and a (B, N, 3) layout would stride through memory on each of them.
    x, y, z = (axis.contiguous() for axis in xyz.unbind(-1))  # 3 x (B, N)
    nearest = torch.full_like(x, torch.inf)
    squared, delta = torch.empty_like(x), torch.empty_like(x)
    index = torch.empty(xyz.shape[0], num_samples, dtype=torch.int64, device=xyz.device)
    current = first[:, None]  # (B, 1)
    for sample in range(num_samples):
        index[:, sample : sample + 1] = current
        torch.sub(x, x.gather(1, current), out=squared)
        squared.mul_(squared)
        for axis in (y, z):
            torch.sub(axis, axis.gather(1, current), out=delta)
            squared.add_(delta.mul_(delta))  # addcmul would round once or twice, as the device likes
        torch.minimum(nearest, squared, out=nearest)
        current = nearest.argmax(1, keepdim=True)  # the first of equal ones
    return index


def _fps_scan(xyz: Tensor, num_samples: int, first: Tensor) -> Tensor:
    """`_fps_torch` as one operation with a body, which exports for any number of points."""
    from torch._higher_order_ops.scan import scan  # a prototype in torch, so only where it is needed

    def step(state: tuple[Tensor, Tensor], _: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        nearest, current = state
        chosen = xyz.gather(1, current[..., None].expand(-1, -1, 3))  # (B, 1, 3)
        squared = (xyz - chosen).square()  # (B, N, 3)
        nearest = torch.minimum(nearest, squared[..., 0] + squared[..., 1] + squared[..., 2])
        return (nearest, nearest.argmax(1, keepdim=True)), current.clone()

    start = torch.full_like(xyz[..., 0], torch.inf), first[:, None].clone()  # (B, N), (B, 1)
    steps = torch.arange(num_samples, device=xyz.device)
    index: Tensor = scan(step, start, steps)[1]  # (S, B, 1)
    return index.squeeze(-1).transpose(0, 1)  # (B, S)
