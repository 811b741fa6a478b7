"""Data sets, each split whole in memory, and what is done to it on the way to a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from bixt3d.datasets.folder import read_folder
from bixt3d.datasets.modelnet40 import HDF5_FOLDER, read_modelnet40, read_modelnet40_normal
from bixt3d.datasets.shapenetpart import read_shapenetpart
from bixt3d.datasets.split import Split, check_request, hold_out, unit_sphere
from bixt3d.suggest import nearest

__all__ = ["Split", "hold_out", "open_dataset", "unit_sphere"]

logger = logging.getLogger(__name__)


def open_dataset(name: str, root: str | os.PathLike[str], split: str, num_points: int | None = None) -> Split:
    """Opens one split of a data set.

    Args:
        name: `folder`, `modelnet40`, `modelnet40_normal`, `shapenetpart` or `shapes`. `folder` is your own
            meshes and clouds, `<root>/<split>/<class>/<file>`; `shapes` is made by this project, on first
            use; `shapenetpart` reads any part data in its layout.
        root: The data folder, or the data set's own folder; data/README.md shows the layouts.
        split: train, val, test, or trainval. Where a data set has no val split it is cut from the official
            train set by a fixed seed: the two are disjoint and add up to it; trainval is all of it in file
            order.
        num_points: The first so many stored points of each shape; None keeps all (`folder`: 2,048).

    Returns:
        The split: points (S, N, C) float32, label (S,) int64, classes; part data also parts (S, N), category
        (S,), categories, parts_of_category, part_names; count (S,) where shapes repeat their own points: rows
        from there on do. `shapes` comes without its parts: open `shapenetpart` with the root `data/shapes`.

    Raises:
        FileNotFoundError: The data set, or a file that it names, is missing.
        ValueError: The name or split is unknown, a file is damaged, or it stores too few points.
    """
    if name not in _READERS:
        known = ", ".join(_READERS)
        raise ValueError(f"name: expected a data set out of {known}, came {name!r}{nearest(name, _READERS)}")
    check_request(split, num_points)
    return _READERS[name](root, split, num_points)


def _read_shapes(root: str | os.PathLike[str], split: str, num_points: int | None = None) -> Split:
    base = Path(root).expanduser().absolute()
    own = base if base.name == "shapes" and not (base / "shapes").is_dir() else base / "shapes"
    if not (own / HDF5_FOLDER).is_dir():
        from bixt3d.datasets.shapes import write_shapes

        logger.info("shapes: not there yet, making it in %s", own)
        write_shapes(own.parent)
    return read_modelnet40(own, split, num_points)


_READERS: dict[str, Callable[[str | os.PathLike[str], str, int | None], Split]] = {
    "folder": read_folder,
    "modelnet40": read_modelnet40,
    "modelnet40_normal": read_modelnet40_normal,
    "shapenetpart": read_shapenetpart,
    "shapes": _read_shapes,
}
