"""Clouds that a user gives, arrays, tensors and files, read into points."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.features import (
    FeatureError,
    channel_count,
    columns_of,
    is_count,
    mend_features,
    width_of,
)
from bixt3d.datasets.normals import estimate_normals
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.readers import read_cloud
from bixt3d.datasets.readers.misfits import MOST_LEFT, too_wide
from bixt3d.datasets.spheres import LARGEST, check_extent
from bixt3d.ops.precision import place_of_float64
from bixt3d.ops.validate import check_points, describe

logger = logging.getLogger(__name__)


def name_of(cloud: Any) -> str:
    """Return what errors call a cloud: its path, if it has one."""
    return str(cloud) if isinstance(cloud, (str, Path)) else "cloud"


def read_points(cloud: Any, preprocess: Preprocess) -> Tensor:
    """Return the points of an array, a tensor or a file (N, 3 + F), float64, in their own coordinates.

    Args:
        cloud: The cloud; an array's columns are xyz and the features, further ones are left out.
        preprocess: Names the features, says how many points are drawn from a mesh, and whether normals are
            estimated, or which features are zero, where there are none: in a file without, or an array that
            has no columns for any of them.

    Raises:
        ValueError: For a wrong shape or dtype, no points, NaN, coordinates above 1e100, a feature that is
            missing or cannot be it, or points that all coincide, a single one included: such a cloud has no
            shape to look at.
        FileNotFoundError: If the file is missing.
    """
    features, name = preprocess.features, name_of(cloud)
    derived = ("normal",) if preprocess.estimate_normals else ()
    if isinstance(cloud, (str, Path)):
        points, present = _read_file(cloud, preprocess, derived)
    elif isinstance(cloud, (np.ndarray, Tensor)):
        points, present = cloud.detach() if isinstance(cloud, Tensor) else _from_numpy(cloud), features
        least = tuple(one for one in features if one not in (*derived, *preprocess.optional))
        if points.ndim == 2 and points.shape[1] == channel_count(least):
            present = least
    else:
        raise ValueError(f"expected an array, a tensor or a path, got {describe(cloud)}")
    points = _checked(points, present, name)
    points = mend_features(points, present, name) if present else points
    if present == features:
        return points
    columns, parts = dict(zip(present, columns_of(present).values(), strict=True)), [points[:, :3]]
    for feature in features:
        if feature in present:
            parts.append(points[:, columns[feature]])
        elif feature in derived:
            parts.append(estimate_normals(points[:, :3]))
        else:
            logger.warning("%s: it has no feature %s; zeros take its place, as in training", name, feature)
            parts.append(points.new_zeros(len(points), width_of(feature)))
    return torch.cat(parts, -1)


def _read_file(
    path: str | Path, preprocess: Preprocess, derived: Sequence[str]
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the points of a file and the features they have: all but those that it lacks and may lack."""
    features = preprocess.features
    while True:
        try:
            return torch.from_numpy(read_cloud(path, features, preprocess.stored_points)), features
        except FeatureError as error:
            # what cannot be normals is none either, where they are estimated
            lost = error.missing or (derived[0] if derived else None)
            if lost not in features or lost not in (*derived, *preprocess.optional):
                raise
            features = tuple(one for one in features if one != lost)


def _checked(points: Tensor, features: Sequence[str], name: str) -> Tensor:
    """Return points (N, 3 + F) as float64, checked."""
    channels = channel_count(features)
    numbers = points.dtype != torch.bool and not points.is_complex() and not points.is_quantized
    numbers = numbers and points.layout == torch.strided and not points.is_meta
    if points.ndim == 2 and points.shape[0] in (3, channels) and points.shape[1] > max(16, channels):
        raise ValueError(f"{name}: expected points (N, {channels}), got {tuple(points.shape)}: transpose it")
    if points.ndim == 2 and not len(points):
        raise ValueError(f"{name}: expected points (N, {channels}), got none: it is empty")
    if points.ndim != 2 or points.shape[-1] < channels or not numbers:
        beside = f", xyz and {', '.join(features)}," if features else ""
        raise ValueError(f"{name}: expected points (N, {channels}){beside or ','} got {describe(points)}")
    if points.shape[-1] - channels > MOST_LEFT:
        raise ValueError(f"{name}: {too_wide(points.shape[-1] - channels)}")
    if points.shape[1] > channels and is_count(points[:, 0]):
        raise ValueError(
            f"{name}: expected x, y and z first, got a column that counts the points: give [:, 1:]"
        )
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
