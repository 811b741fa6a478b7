"""Clouds that a user gives, arrays, tensors and files, read into points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.features import FeatureError, channel_count, columns_of, mend_features
from bixt3d.datasets.normals import estimate_normals
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.readers import read_cloud
from bixt3d.datasets.spheres import LARGEST, check_extent
from bixt3d.ops.precision import place_of_float64
from bixt3d.ops.validate import check_points, describe


def name_of(cloud: Any) -> str:
    """Return what errors call a cloud: its path, if it has one."""
    return str(cloud) if isinstance(cloud, (str, Path)) else "cloud"


def read_points(cloud: Any, preprocess: Preprocess) -> Tensor:
    """Return the points of an array, a tensor or a file (N, 3 + F), float64, in their own coordinates.

    Args:
        cloud: The cloud; an array's columns are xyz and the features, further ones are left out.
        preprocess: Names the features, says how many points are drawn from a mesh, and whether normals are
            estimated where there are none: in a file without, or an array that has no columns for them.

    Raises:
        ValueError: For a wrong shape or dtype, no points, NaN, coordinates above 1e100, a feature that is
            missing or cannot be it, or points that all coincide, a single one included: such a cloud has no
            shape to look at.
        FileNotFoundError: If the file is missing.
    """
    features, name = preprocess.features, name_of(cloud)
    given = tuple(feature for feature in features if feature != "normal")
    derivable = preprocess.estimate_normals and given != features
    if isinstance(cloud, (str, Path)):
        try:
            points = torch.from_numpy(read_cloud(cloud, features, preprocess.stored_points))
            derivable = False
        except FeatureError:
            if not derivable:
                raise
            points = torch.from_numpy(read_cloud(cloud, given, preprocess.stored_points))
    elif isinstance(cloud, (np.ndarray, Tensor)):
        points = cloud.detach() if isinstance(cloud, Tensor) else _from_numpy(cloud)
        derivable = derivable and points.ndim == 2 and points.shape[1] == channel_count(given)
    else:
        raise ValueError(f"expected an array, a tensor or a path, got {describe(cloud)}")
    present = given if derivable else features
    points = _checked(points, present, name)
    points = mend_features(points, present, name) if present else points
    if derivable:
        place = columns_of(features)["normal"].start
        points = torch.cat([points[:, :place], estimate_normals(points[:, :3]), points[:, place:]], -1)
    return points


def _checked(points: Tensor, features: Sequence[str], name: str) -> Tensor:
    """Return points (N, 3 + F) as float64, checked."""
    channels = channel_count(features)
    numbers = points.dtype != torch.bool and not points.is_complex() and not points.is_quantized
    numbers = numbers and points.layout == torch.strided and not points.is_meta
    if points.ndim == 2 and points.shape[0] in (3, channels) and points.shape[1] > max(16, channels):
        raise ValueError(f"{name}: expected points (N, {channels}), got {tuple(points.shape)}: transpose it")
    if points.ndim != 2 or points.shape[-1] < channels or not numbers:
        beside = f", xyz and {', '.join(features)}," if features else ""
        raise ValueError(f"{name}: expected points (N, {channels}){beside or ','} got {describe(points)}")
    points = points[:, :channels].to(place_of_float64(points.device)).to(torch.float64)
    check_points(points[None], name, (channels,))
    if float(points[:, :3].abs().max()) > LARGEST:
        raise ValueError(f"{name}: expected coordinates up to {LARGEST:g}, got larger ones")
    try:
        check_extent(points[:, :3])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return points


def _from_numpy(cloud: np.ndarray[Any, Any]) -> Tensor:
    if cloud.dtype.kind not in "fiu":
        raise ValueError(f"cloud: expected numbers, got an array of {cloud.dtype}")
    if np.ma.is_masked(cloud):
        raise ValueError("cloud: expected an array whose values all count, got one with masked values")
    with np.errstate(over="ignore"):  # of longer floats than these, which are then refused as infinite
        return torch.from_numpy(np.array(cloud, dtype=np.float64))
