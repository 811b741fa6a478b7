"""Clouds as they come, arrays, tensors or files, into points that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.folder import LARGEST
from bixt3d.datasets.meshes import read_cloud
from bixt3d.datasets.split import check_extent, unit_sphere
from bixt3d.ops.validate import check_points, describe

Cloud = np.ndarray[Any, Any] | Tensor | str | Path


def as_list(clouds: Any, channels: int) -> tuple[list[Any], bool]:
    """Return one cloud or several as a list, and whether it was one.

    Raises:
        ValueError: If it is neither a cloud (N, C), a batch (B, N, C), nor a sequence.
    """
    if isinstance(clouds, (str, Path)) or getattr(clouds, "ndim", None) == 2:
        return [clouds], True
    if not isinstance(clouds, (np.ndarray, Tensor, Sequence)):
        raise ValueError(f"expected arrays, tensors or paths, got {describe(clouds)}")
    if isinstance(clouds, (np.ndarray, Tensor)) and clouds.ndim != 3:
        raise ValueError(
            f"expected a cloud (N, {channels}) or a batch (B, N, {channels}), got an array of shape "
            f"{tuple(clouds.shape)}"
        )
    return list(clouds), False


def name_of(cloud: Any) -> str:
    """Return what errors call a cloud: its path, if it has one."""
    return str(cloud) if isinstance(cloud, (str, Path)) else "cloud"


def read_points(cloud: Any, channels: int, num_samples: int) -> Tensor:
    """Return the points of an array, a tensor or a file (N, channels), float64.

    Args:
        cloud: The cloud.
        channels: 3 for xyz, 6 for xyz and normal; further columns are left out.
        num_samples: Points drawn from a mesh.

    Raises:
        ValueError: For a wrong shape or dtype, no points, NaN, coordinates above 1e100, or points that all
            coincide, a single one included: such a cloud has no shape to look at.
        FileNotFoundError: If the file is missing.
    """
    if isinstance(cloud, (str, Path)):
        points = torch.from_numpy(read_cloud(cloud, channels, num_samples))
    elif isinstance(cloud, (np.ndarray, Tensor)):
        points = cloud.detach() if isinstance(cloud, Tensor) else _from_numpy(cloud)
    else:
        raise ValueError(f"expected an array, a tensor or a path, got {describe(cloud)}")
    numbers = points.dtype != torch.bool and not points.is_complex() and not points.is_quantized
    numbers = numbers and points.layout == torch.strided and not points.is_meta
    if points.ndim != 2 or points.shape[-1] < channels or not numbers:
        raise ValueError(f"{name_of(cloud)}: expected points (N, {channels}), got {describe(points)}")
    points = points[:, :channels].to(torch.float64)
    check_points(points[None], name_of(cloud), (channels,))
    if float(points[:, :3].abs().max()) > LARGEST:
        raise ValueError(f"{name_of(cloud)}: expected coordinates up to {LARGEST:g}, got larger ones")
    try:
        check_extent(points[:, :3])
    except ValueError as error:
        raise ValueError(f"{name_of(cloud)}: {error}") from None
    return points


def check_output(values: Tensor, cloud: Any) -> None:
    """Raise ValueError for what a model whose weights are too large makes of a cloud."""
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name_of(cloud)}: the model gives NaN or infinity for it; its weights are damaged")


def normalize(points: Tensor) -> Tensor:
    """Return points (N, C) with xyz moved into the unit sphere, float32."""
    # In double precision: coordinates of a map lose their shape in single precision.
    return torch.cat([unit_sphere(points[:, :3]), points[:, 3:]], -1).float()


def _from_numpy(cloud: np.ndarray[Any, Any]) -> Tensor:
    if cloud.dtype.kind not in "fiu":
        raise ValueError(f"cloud: expected numbers, got an array of {cloud.dtype}")
    if np.ma.is_masked(cloud):
        raise ValueError("cloud: expected an array whose values all count, got one with masked values")
    with np.errstate(over="ignore"):  # of longer floats than these, which are then refused as infinite
        return torch.from_numpy(np.array(cloud, dtype=np.float64))
