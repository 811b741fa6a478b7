"""Clouds of a user's files as they are, without a model: points, their own colours, their own labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bixt3d.datasets.orientation import check_up, guess_up
from bixt3d.datasets.readers import SUFFIXES, clouds_in, load_cloud
from bixt3d.visualize.gallery import Clouds
from bixt3d.visualize.scene import LabelledCloud

SAMPLED = 10_000  # points that show a mesh
MOST_LABELS = 64  # different numbers in a column without a name: with more they are no labels


class FileClouds(Clouds):
    """Clouds of files as they are, without a model: with their own colours and labels where they have them.

    Args:
        paths: Files, and folders with files at any depth, whose folders' names are then the categories; what
            is hidden is passed over.
        up: The axis that points up; y if None, the likely one of each cloud if ``"auto"``.
        num_points: Points that meshes are sampled to.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there is no file that can be read, or ``up`` is no axis.
    """

    def __init__(self, paths: Sequence[str | Path], up: str | None = None, num_points: int = SAMPLED) -> None:
        """Find the files; nothing is read yet."""
        self.files: list[Path] = []
        categories: list[str] = []
        for given in paths:
            path = Path(os.path.expanduser(given))
            if not path.exists():
                raise FileNotFoundError(f"no file or folder {path}")
            found = clouds_in(path) if path.is_dir() else [path]
            self.files += found
            categories += [one.parent.name if one.parent != path and one != path else "" for one in found]
        if not self.files:
            named = ", ".join(map(str, paths))
            raise ValueError(f"no clouds to look at in {named or 'nothing'}: expected {', '.join(SUFFIXES)}")
        super().__init__([file.name for file in self.files], categories)
        self.up, self.num_points = check_up(up, "auto"), num_points

    def _label(self, index: int) -> LabelledCloud:
        path = self.files[index]
        file = load_cloud(path, self.num_points)
        xyz, columns = np.asarray(file.xyz, dtype=np.float64), file.columns
        color, labels = file.feature("color"), file.labels
        if columns is not None and columns.shape[1]:
            if labels is None and columns.shape[1] in (1, 4, 7):  # after xyz, and a normal, a colour or both
                labels = _whole(columns[:, -1])
            if columns.shape[1] >= 3 and color is None and not file.has_normals():
                color = columns[:, :3]
        about: dict[str, Any] = {"color": None if color is None else _shares(color)}
        if labels is not None and labels.any():  # a scan that nobody classified is 0 everywhere
            values, truth = np.unique(labels, return_inverse=True)
            names = [f"label {value}" for value in values]
            about |= {"truth": truth.ravel(), "ids": range(len(names)), "names": names}
        up = guess_up([torch.from_numpy(xyz)]) if self.up == "auto" else self.up
        cloud = LabelledCloud(self.titles[index], xyz, self.categories[index], up=up, **about)
        return replace(cloud, verdict=f"{len(cloud.points):,} points")


def _whole(values: Any) -> Any:
    """Return values (N,) as labels, None if they are no whole numbers, or too many different ones."""
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all() or (values != np.rint(values)).any():
        return None
    return values.astype(np.int64) if len(np.unique(values)) <= MOST_LABELS else None


def _shares(color: Any) -> Any:
    """Return colours (N, 3) as shares of one, None if they are no colours."""
    color = np.asarray(color, dtype=np.float64)
    most = float(color.max(initial=0.0))
    if not np.isfinite(color).all() or float(color.min(initial=0.0)) < 0 or most > 65535:
        return None
    return color / (1 if most <= 1 else 255 if most <= 255 else 65535)
