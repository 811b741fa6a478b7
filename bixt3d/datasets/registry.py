"""Data sets by name: `open_dataset` reads a split, whole in memory, `register_dataset` adds one."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bixt3d.datasets.features import FeatureError, parse_features
from bixt3d.datasets.folder import NAMES, read_folder
from bixt3d.datasets.holdout import SPLITS, check_request, cut_train
from bixt3d.datasets.image_folder import read_image_folder
from bixt3d.datasets.modelnet40 import HDF5_FOLDER, read_modelnet40, read_modelnet40_normal
from bixt3d.datasets.normals import estimate_split
from bixt3d.datasets.orientation import check_up, turn_split
from bixt3d.datasets.preprocess import STORED_POINTS
from bixt3d.datasets.scenes import read_scenes
from bixt3d.datasets.shapenetpart import read_shapenetpart
from bixt3d.datasets.split import Split
from bixt3d.suggest import check_free, nearest

Reader = Callable[..., Split]

logger = logging.getLogger(__name__)


def open_dataset(
    name: str,
    root: str | os.PathLike[str],
    split: str,
    num_points: int | None = None,
    features: Sequence[str] | None = None,
    make: bool = True,
    up: str | None = None,
    estimate_normals: bool = False,
) -> Split:
    """Opens one split of a data set.

    Args:
        name: `folder`, `modelnet40`, `modelnet40_normal`, `scenes`, `shapenetpart`, `shapes`, or a registered
            name.
            `folder` is your own meshes and clouds, such as `<root>/<split>/<class>/<file>`; `shapes` are
            synthetic, written on first use; `shapenetpart` reads any part data in its layout; `scenes` are
            clouds of any size with a label a point, in their own unit.
        root: The data folder, or the data set's own folder; data/README.md shows the layouts.
        split: train, val, test, or trainval. Where a data set has no val split it is cut from the official
            train set by a fixed seed: the two are disjoint and add up to it; trainval is all of it in file
            order. Of `folder` also all: train, val and test.
        num_points: The first so many stored points of each shape; None keeps all (`folder`: 2,048).
        features: Names of what stands beside xyz, in order; [] is xyz alone. None: the normals, where the
            data set has them.
        make: Let a data set that can make itself, as `shapes` can, do so where it is missing.
        up: The axis of the files that points up, x, y, z, -x, -y or -z: clouds and normals are turned so that
            y does, and ``height`` is measured along it. None: they stay as they are.
        estimate_normals: Where the data have no normals, or some of the shapes have none, estimate them all;
            see `bixt3d.datasets.normals.estimate_normals`. On a CPU that takes minutes for 10,000 shapes.

    Returns:
        The split: points (S, N, 3 + F) float32, label (S,) int64, classes, features; part data also parts
        (S, N), category (S,), categories, parts_of_category, part_names; count (S,) where shapes repeat their
        own points: rows from there on do. `shapes` comes without its parts: open `shapenetpart` with the root
        `data/shapes`.

    Raises:
        FileNotFoundError: The data set, or a file that it names, is missing.
        ValueError: The name or split is unknown, a file is damaged, or it stores too few points, or lacks a
            feature.
    """
    if name not in _READERS:
        known = ", ".join(list_datasets())
        raise ValueError(f"name: expected a data set out of {known}, got {name!r}{nearest(name, _READERS)}")
    check_request(split, num_points, _SPLITS.get(name, SPLITS))
    wanted = None if features is None else parse_features(features)
    check_up(up)
    # Normals are estimated from all stored points, as `Predictor` does it from all that a file has.
    whole = estimate_normals and num_points is not None and num_points <= STORED_POINTS
    asked = {"num_points": None if whole else num_points, "make": make}
    opened = _read_derivable(name, root, split, asked, wanted, estimate_normals)
    opened = prepare_split(opened, wanted, up, estimate_normals)
    return opened if num_points in (None, opened.num_points) else opened.first_points(num_points)


def prepare_split(
    split: Split, features: tuple[str, ...] | None, up: str | None, estimate_normals: bool
) -> Split:
    """Return a split as `open_dataset` hands it out: normals estimated, y up, the features asked for."""
    asked = features is None or "normal" in features
    if estimate_normals and asked and "normal" not in split.features:
        split = estimate_split(split)
    split = turn_split(split, up)
    return split if features is None else split.with_features(features)


def _read_derivable(
    name: str,
    root: str | os.PathLike[str],
    split: str,
    asked: dict[str, Any],
    wanted: tuple[str, ...] | None,
    estimate_normals: bool,
) -> Split:
    """Read the features that are wanted, or those among them that others do not follow from."""
    derived = ("height", "normal") if estimate_normals else ("height",)
    fallbacks = [derived[:1], derived[1:], derived]
    tried = [wanted]
    for absent in fallbacks if wanted is not None else ():
        left = tuple(feature for feature in wanted or () if feature not in absent)
        tried += [left] if left not in tried else []
    for features in tried[:-1]:
        try:
            return _read(name, root, split, {**asked, "features": features})
        except FeatureError:
            continue
    return _read(name, root, split, {**asked, "features": tried[-1]})


def _read(name: str, root: str | os.PathLike[str], split: str, asked: dict[str, Any]) -> Split:
    """Call a data set's reader with what it takes of the options; a registered one may lack val."""
    reader = _READERS[name]
    taken = _options(reader)
    options = {key: value for key, value in asked.items() if taken is None or key in taken}

    def read(part: str) -> Split:
        opened = reader(Path(root).expanduser(), part, **options)
        if not isinstance(opened, Split):
            raise ValueError(
                f"data set {name}: expected its reader to return a Split, got {type(opened).__name__}"
            )
        return opened

    if name in _OWN or split == "test":
        return read(split)
    try:
        val = read("val")
    except (FileNotFoundError, LookupError) as error:
        logger.warning("%s: no val split (%s): a tenth of each class of train is held out", name, error)
        return cut_train(read("train"), split)
    return val if split == "val" else read(split)


def cuts_clouds(name: str) -> bool:
    """Tells whether a data set's reader can read the first points of clouds alone."""
    taken = _options(_READERS[name]) if name in _READERS else set()
    return taken is None or "num_points" in taken


def list_datasets() -> list[str]:
    """Returns the names that `open_dataset` knows, sorted."""
    return sorted(_READERS)


def register_dataset(name: str, reader: Reader) -> None:
    """Makes a data set known by a name, which `open_dataset` and ``data.name`` of a config then take.

    Args:
        name: The name; one that ships with the package is not replaced.
        reader: ``reader(root, split)`` returns a `Split`. With a parameter ``num_points`` or ``features`` it
            is told what is wanted of them; without, the split is cut to it. Where it raises FileNotFoundError
            or KeyError for ``val``, that is cut from train, as `hold_out` does it.

    Raises:
        ValueError: If the name is taken by a data set of the package, or no name.
        TypeError: If the reader cannot be called.
    """
    check_free(name, _OWN, "data set")
    if not callable(reader):
        raise TypeError(f"reader: expected a function (root, split) -> Split, got {type(reader).__name__}")
    _READERS[name] = reader


def _options(reader: Reader) -> set[str] | None:
    """Return the names of a reader's parameters, None for any."""
    parameters = inspect.signature(reader).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return None
    return set(parameters)


def _read_shapes(
    root: str | os.PathLike[str],
    split: str,
    num_points: int | None = None,
    features: Sequence[str] | None = None,
    make: bool = True,
) -> Split:
    base = Path(root).expanduser().absolute()
    own = base if base.name == "shapes" and not (base / "shapes").is_dir() else base / "shapes"
    if make and not (own / HDF5_FOLDER).is_dir():
        from bixt3d.datasets.synthetic.shapes import write_shapes

        logger.warning("shapes: not there yet, writing them to %s", own)
        write_shapes(own.parent)
    return read_modelnet40(own, split, num_points, features)


_READERS: dict[str, Any] = {
    "folder": read_folder,
    "image_folder": read_image_folder,
    "modelnet40": read_modelnet40,
    "modelnet40_normal": read_modelnet40_normal,
    "scenes": read_scenes,
    "shapenetpart": read_shapenetpart,
    "shapes": _read_shapes,
}
_OWN = frozenset(_READERS)
_SPLITS = {"folder": NAMES}  # what can be asked for, where that is more than the usual
