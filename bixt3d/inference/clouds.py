"""Clouds as they come, arrays, tensors or files, into points that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.features import channel_count, mend_features
from bixt3d.datasets.readers import read_cloud
from bixt3d.datasets.spheres import LARGEST, check_extent
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


def read_points(cloud: Any, features: Sequence[str], num_samples: int) -> Tensor:
    """Return the points of an array, a tensor or a file (N, 3 + F), float64.

    Args:
        cloud: The cloud; an array's columns are xyz and the features, further ones are left out.
        features: Names of the features, in order.
        num_samples: Points drawn from a mesh.

    Raises:
        ValueError: For a wrong shape or dtype, no points, NaN, coordinates above 1e100, a feature that is
            missing or cannot be it, or points that all coincide, a single one included: such a cloud has no
            shape to look at.
        FileNotFoundError: If the file is missing.
    """
    channels = channel_count(features)
    if isinstance(cloud, (str, Path)):
        points = torch.from_numpy(read_cloud(cloud, features, num_samples))
    elif isinstance(cloud, (np.ndarray, Tensor)):
        points = cloud.detach() if isinstance(cloud, Tensor) else _from_numpy(cloud)
    else:
        raise ValueError(f"expected an array, a tensor or a path, got {describe(cloud)}")
    numbers = points.dtype != torch.bool and not points.is_complex() and not points.is_quantized
    numbers = numbers and points.layout == torch.strided and not points.is_meta
    if points.ndim == 2 and points.shape[0] in (3, channels) and points.shape[1] > max(16, channels):
        raise ValueError(
            f"{name_of(cloud)}: expected points (N, {channels}), got {tuple(points.shape)}: transpose it"
        )
    if points.ndim != 2 or points.shape[-1] < channels or not numbers:
        beside = f", xyz and {', '.join(features)}," if features else ""
        raise ValueError(
            f"{name_of(cloud)}: expected points (N, {channels}){beside or ','} got {describe(points)}"
        )
    points = points[:, :channels].to(torch.float64)
    check_points(points[None], name_of(cloud), (channels,))
    if float(points[:, :3].abs().max()) > LARGEST:
        raise ValueError(f"{name_of(cloud)}: expected coordinates up to {LARGEST:g}, got larger ones")
    try:
        check_extent(points[:, :3])
    except ValueError as error:
        raise ValueError(f"{name_of(cloud)}: {error}") from None
    return mend_features(points, features, name_of(cloud)) if features else points


def _from_numpy(cloud: np.ndarray[Any, Any]) -> Tensor:
    if cloud.dtype.kind not in "fiu":
        raise ValueError(f"cloud: expected numbers, got an array of {cloud.dtype}")
    if np.ma.is_masked(cloud):
        raise ValueError("cloud: expected an array whose values all count, got one with masked values")
    with np.errstate(over="ignore"):  # of longer floats than these, which are then refused as infinite
        return torch.from_numpy(np.array(cloud, dtype=np.float64))
