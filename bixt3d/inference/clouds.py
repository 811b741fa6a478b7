"""Clouds of a user, arrays, tensors, files and folders, read into the points that a model is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.features import FeatureError, channel_count, columns_of, mend_features
from bixt3d.datasets.normals import estimate_normals
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.readers import SUFFIXES, clouds_in, read_cloud
from bixt3d.datasets.spheres import LARGEST, check_extent
from bixt3d.ops.precision import place_of_float64
from bixt3d.ops.validate import check_points, describe

Cloud = np.ndarray[Any, Any] | Tensor | str | Path


def find_clouds(paths: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Return the clouds among files and in folders at any depth, and the files of folders that are none.

    A file that is named is taken whatever it is. In folders, files of a known suffix are taken, sorted, and
    what is hidden is passed over, as a training does it.

    Raises:
        FileNotFoundError: If a folder holds no cloud.
    """
    found: list[Path] = []
    others: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        clouds = clouds_in(path)
        if not clouds:
            raise FileNotFoundError(
                f"{path}: expected meshes or clouds ({', '.join(SUFFIXES)}), found none in this folder"
            )
        found += clouds
        known = set(clouds)
        inside = [one for one in sorted(path.rglob("*")) if one.is_file() and one not in known]
        others += [one for one in inside if not any(p.startswith(".") for p in one.relative_to(path).parts)]
    return found, others


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


def each_category(category: Any, count: int) -> list[Any]:
    """Return the category of each cloud: the one that is given for all, or those of a list.

    Raises:
        ValueError: For a list of another length.
    """
    told = list(category) if isinstance(category, (list, tuple)) else [category] * count
    if len(told) != count:
        raise ValueError(f"category: expected one, or {count}, one for each cloud, got {len(told)}")
    return told


def check_count(value: Any, name: str) -> int | None:
    """Return a whole number that a user gave, or None.

    Raises:
        ValueError: For one below 1, or no whole number.
    """
    value = int(value) if isinstance(value, np.integer) else value
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
    return None if value is None else int(value)


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
