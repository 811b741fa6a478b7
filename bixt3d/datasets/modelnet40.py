"""ModelNet40 (Wu et al. 2015) from the two releases of its point clouds.

| release | official train / test | points per shape | channels |
|---|---|---|---|
| `modelnet40_ply_hdf5_2048` | 9,840 / 2,468 | 2,048 | xyz, in the unit sphere |
| `modelnet40_normal_resampled` | 9,843 / 2,468 | 10,000 | xyz and normal |

Neither has a val split: it is cut from train, see `hold_out`. Counts are logged, not asserted, so that any
data in these layouts can be read. Both readers parse the files once and keep the arrays in a cache.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from bixt3d.datasets.cache import Arrays, cached, named
from bixt3d.datasets.features import FeatureError, log_notes, mend_features, parse_features
from bixt3d.datasets.files import WHERE, find_folder, read_lines, require_files
from bixt3d.datasets.hdf5 import read_hdf5
from bixt3d.datasets.holdout import check_request, cut_train
from bixt3d.datasets.mapped import each_cloud, lay_out
from bixt3d.datasets.readers.text import read_rows
from bixt3d.datasets.spheres import MOST, check_extent, keep_shape, unit_spheres
from bixt3d.datasets.split import Split
from bixt3d.datasets.store import Store

HDF5_FOLDER = "modelnet40_ply_hdf5_2048"
NORMAL_FOLDER = "modelnet40_normal_resampled"
CACHED_ROWS = 2048  # of 10,000: all rows of train would take 2.4 GB, and nobody trains on more than 2,048

logger = logging.getLogger(__name__)


def read_modelnet40(
    root: str | os.PathLike[str],
    split: str,
    num_points: int | None = None,
    features: Sequence[str] | None = None,
) -> Split:
    """Reads the official HDF5 layout: xyz in the unit sphere, any number of points per shape.

    The files named in `train_files.txt` or `test_files.txt` are read in that order (only their base names
    count), else all `ply_data_train*.h5` or `ply_data_test*.h5` sorted by name. Each holds `data`
    (n, P, 3), `label` (n, 1) or (n,), and may hold `name` (n,), the id of each shape, and features by their
    names, (n, P, width). Clouds in the unit sphere are taken as stored, as all of the official release are;
    others are moved there by all of their points, with a line in the log.

    Arguments, result and errors are those of `open_dataset`; h5py has to be installed. None of `features` is
    xyz alone.
    """
    check_request(split, num_points)
    folder = find_folder(root, HDF5_FOLDER, marker="shape_names.txt")
    part = "test" if split == "test" else "train"
    classes_file = folder / "shape_names.txt"
    classes = tuple(read_lines(classes_file))
    files = _hdf5_files(folder, part)
    # reading the official files takes 2.1 s, the cache 0.13 s: gzip inside HDF5 is the difference
    wanted = parse_features(features or ())
    key = f"modelnet40-{part}{named(wanted)}"
    build = partial(_build_hdf5, files, len(classes), wanted)
    arrays = cached([classes_file, *files], key, build, folder=folder)
    if moved := int(arrays["moved"]):
        said = "%d of %d clouds are not centred and scaled as stored: they are moved into the unit sphere"
        logger.info(said, moved, len(arrays["label"]))
    points = _first_points(arrays, num_points, folder)
    return _split("modelnet40", points, arrays, classes, split, wanted)


def read_modelnet40_normal(
    root: str | os.PathLike[str],
    split: str,
    num_points: int | None = None,
    features: Sequence[str] | None = None,
) -> Split:
    """Reads the 10,000-point text layout: xyz moved into the unit sphere, normals as they are.

    `modelnet40_train.txt` and `modelnet40_test.txt` name the shapes, `<class>_NNNN`, each in
    `<class>/<class>_NNNN.txt` as lines of six numbers with commas. The first 2,048 lines of each file are
    parsed and cached, which serves every `num_points` up to 2,048; a larger number, or None for all lines,
    is parsed and cached apart.

    Arguments, result and errors are those of `open_dataset`. The unit sphere is that of the points taken, as
    in the usual PointNet++ loader.
    """
    check_request(split, num_points)
    folder = find_folder(root, NORMAL_FOLDER, marker="modelnet40_shape_names.txt")
    part = "test" if split == "test" else "train"
    classes_file, listing = folder / "modelnet40_shape_names.txt", folder / f"modelnet40_{part}.txt"
    classes = tuple(read_lines(classes_file))
    names = read_lines(listing)
    class_names = [name.rpartition("_")[0] for name in names]
    for name, class_name in zip(names, class_names, strict=True):
        if class_name not in classes:
            raise ValueError(
                f"{listing}: expected <class>_<number> with a class of {classes_file.name}, got {name!r}"
            )
    files = [folder / class_name / f"{name}.txt" for name, class_name in zip(names, class_names, strict=True)]
    require_files(files, listing)
    limit = None if num_points is None else max(num_points, CACHED_ROWS)

    def build(store: Store) -> Arrays:
        label = np.array([classes.index(class_name) for class_name in class_names], dtype=np.int64)
        return {**_build_text(files, limit, store), "label": label, "names": np.array(names)}

    key = f"modelnet40_normal-{part}-{'all' if limit is None else limit}"
    arrays = cached([classes_file, listing, *files], key, build, folder=folder)
    points = each_cloud(_first_points(arrays, num_points, folder), unit_spheres)
    if features is not None and not parse_features(features):
        return _split("modelnet40_normal", points[..., :3].contiguous(), arrays, classes, split, ())
    if str(arrays["unlike"]):
        raise FeatureError(str(arrays["unlike"]))
    result = _split("modelnet40_normal", points, arrays, classes, split, ("normal",))
    return result if features is None else result.with_features(features)


def _split(
    name: str,
    points: torch.Tensor,
    arrays: Arrays,
    classes: tuple[str, ...],
    split: str,
    features: tuple[str, ...],
) -> Split:
    names = tuple(str(name) for name in arrays["names"])
    label = torch.from_numpy(arrays["label"])
    whole = Split(points, label, classes, names=names, features=features, normalized=True)
    part = "test" if split == "test" else "train"
    logger.info("%s: read %d %s shapes of %d points", name, len(whole), part, whole.num_points)
    return whole if part == "test" else cut_train(whole, split)


def _first_points(arrays: Arrays, num_points: int | None, folder: Path) -> torch.Tensor:
    """Takes the first points of each shape, (S, num_points, C); `ends` says with which each file ends."""
    rows = arrays["rows"]
    of_file = np.searchsorted(arrays["ends"], [rows.argmin(), rows.argmax()], side="right")
    files = [folder / str(file) for file in arrays["files"][of_file]]
    fewest, most = int(rows.min()), int(rows.max())
    if num_points is None and fewest < most:
        raise ValueError(
            f"{files[0]} holds {fewest} points per shape, {files[1]} {most}: expected as many in all files; "
            f"ask for num_points={fewest} or fewer"
        )
    if num_points is not None and num_points > fewest:
        raise ValueError(
            f"num_points={num_points}, but {files[0]} holds {fewest} points per shape: ask for that or fewer"
        )
    return lay_out(arrays, "points", num_points or fewest, folder)  # (S, num_points, C)


def _build_text(files: list[Path], limit: int | None, store: Store) -> Arrays:
    from tqdm import tqdm

    notes, unlike = list[str](), ""
    for path in tqdm(files, desc="parsing text files once", unit="file", disable=None):
        cloud = read_rows(path, 6, limit, ",", np.float64, MOST)  # (N, 6)
        check_extent(torch.from_numpy(cloud[:, :3]), path)
        points = keep_shape(torch.from_numpy(cloud)[None])[0]
        try:
            points = mend_features(points, ("normal",), str(path), notes)
        except FeatureError as error:  # xyz alone can be read
            unlike = unlike or str(error)
        store.add(points=points.numpy())
    log_notes(notes)
    return {
        "unlike": np.array(unlike),
        "files": np.array([f"{path.parent.name}/{path.name}" for path in files]),
        "ends": np.arange(1, 1 + len(files)),
    }


def _hdf5_files(folder: Path, part: str) -> list[Path]:
    listing = folder / f"{part}_files.txt"
    if listing.is_file():
        # the official lists name the files by the path they had where they were made
        files = [folder / PurePosixPath(line.replace("\\", "/")).name for line in read_lines(listing)]
        require_files(files, listing)
    else:
        files = sorted(folder.glob(f"ply_data_{part}*.h5"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no ply_data_{part}*.h5; {WHERE}.")
    return files


def _build_hdf5(files: list[Path], num_classes: int, features: tuple[str, ...], store: Store) -> Arrays:
    labels, names, moved = [], [], 0
    for path in files:
        stored = read_hdf5(path, num_classes, features)
        for cloud in mend_features(torch.from_numpy(stored.points), features, str(path)).numpy():
            store.add(points=cloud)
        labels.append(stored.label)
        names += [] if stored.names is None else [stored.names]
        moved += stored.moved
    return {
        "label": np.concatenate(labels),
        "names": np.concatenate(names) if len(names) == len(files) else np.array([], dtype=np.str_),
        "moved": np.array(moved),
        "ends": np.cumsum([len(label) for label in labels]),
        "files": np.array([path.name for path in files]),
    }
