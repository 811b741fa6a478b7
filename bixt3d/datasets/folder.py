"""Reads a folder of your own meshes and clouds, one shape a file, such as `<root>/<split>/<class>/<file>`.

`layouts` finds the files. A mesh is sampled on its surface, a cloud gives a draw of its points, and both end
up in the unit sphere. All of it is done once and kept in a cache, one a split, that is made anew when a file
comes, goes or changes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bixt3d.datasets.cache import Arrays, cached, named
from bixt3d.datasets.features import FeatureError, channel_count, log_notes, parse_features
from bixt3d.datasets.holdout import SPLITS, check_request, cut_train
from bixt3d.datasets.layouts import Listing, class_of, list_splits
from bixt3d.datasets.mapped import join, lay_out
from bixt3d.datasets.preprocess import STORED_POINTS
from bixt3d.datasets.readers import MESHES, log_unread, read_cloud
from bixt3d.datasets.readers.gltf import companions
from bixt3d.datasets.spheres import check_extent, unit_sphere
from bixt3d.datasets.split import Split
from bixt3d.datasets.store import Store
from bixt3d.datasets.survey import moments_of
from bixt3d.suggest import nearest

NAMES = (*SPLITS, "all")  # of what can be asked for
UNREADABLE = 0.1  # the share of a split's files that may be damaged
SHOWN = 10  # damaged files that are named one by one

logger = logging.getLogger(__name__)


class Shapes(NamedTuple):
    """A split as parsed: its points, as `cached` returns them, of each shape its own; and its names.

    `bare` are the shapes without normals, `damaged` the files that could not be read, each with the reason;
    `digests` are equal for files that are copies, and `moments` nearly so for clouds with the same points.
    """

    arrays: Arrays
    names: list[str]
    bare: list[str]
    damaged: list[str]
    digests: list[str]
    moments: list[list[float]]


def read_folder(
    root: str | os.PathLike[str],
    split: str,
    num_points: int | None = None,
    features: Sequence[str] | None = None,
) -> Split:
    """Reads a folder of meshes and clouds: xyz in the unit sphere, and features.

    Each shape stores 2,048 points, or `num_points` where that is larger, in a drawn order: the first so many
    are a fair sample, whatever their number. A mesh is sampled evenly by area; a cloud gives points of its
    own, none twice, and repeats them where they are too few. Both draws depend on `<class>/<file>` alone. A
    cloud is centred and scaled by all of its points, as `Predictor` does it.

    Args:
        root: The folder that holds `train`, `test` and perhaps `val`, by these or other usual names; or a
            folder for each class, which holds the splits as ModelNet's does, or files, which a fixed seed
            then cuts into 70 % train, 10 % val and 20 % test of each class. A shape is a file, or a folder
            with `model.*` or `models/model_normalized.*` as ShapeNet's.
        split: train, val, test, trainval, or all, which is all of them: to evaluate a model that was trained
            elsewhere. Without a folder `val` it is cut from train, see `hold_out`.
        num_points: The first so many stored points of each shape; None takes 2,048.
        features: Features that every file has, in order; see `bixt3d.datasets.readers.read_cloud`. None: the
            normals, where all files of all splits have them.

    Returns:
        points (S, num_points, 3 + F); label (S,);
        classes, sorted by name; names `<class>/<file>`; count (S,) where shapes repeat points.

    Raises:
        FileNotFoundError: The folder, `train` in it, or the split asked for is missing.
        ValueError: The folders are of no layout, a class of val or test is not in train, a class has no file
            that can be read, or more than one in ten files of a split cannot. Fewer are left out, and named
            in the log every time, those of train with train alone. A file lacks one of ``features``.
        PermissionError: A file may not be read.
    """
    check_request(split, num_points, NAMES)
    base = Path(root).expanduser().absolute()
    listings = list_splits(base, None if split == "all" else split)
    if split == "test" and "test" not in listings:
        raise FileNotFoundError(
            f"no folder {base / 'test'}: move files of each class there from {base / 'train'}, a fifth say"
        )
    classes = _classes(base, listings)
    stored = max(num_points or 0, STORED_POINTS)
    parts: tuple[str, ...]
    if split == "all":
        parts = tuple(listings)
    elif "val" in listings:
        parts = ("train", "val") if split == "trainval" else (split,)
    else:
        parts = ("test",) if split == "test" else ("train",)
    wanted = None if features is None else parse_features(features)
    # every split is read, whichever is asked for, where all must have normals for one to have them
    needed = listings if wanted is None else parts
    read = {name: _read_split(base, name, listings[name], stored, wanted) for name in needed}
    bare = [f"{name}/{file}" for name, shapes in read.items() for file in shapes.bare]
    if wanted is None:
        wanted = () if bare else ("normal",)
    channels = channel_count(wanted)
    names = [file for part in parts for file in read[part].names]
    width = num_points or stored
    points = join([lay_out(read[part].arrays, "points", width, base)[..., :channels] for part in parts])
    count = np.concatenate([read[part].arrays["rows"] for part in parts]).clip(max=width)  # (S,)
    moments = tuple(tuple(row) for part in parts for row in read[part].moments)
    whole = Split(
        points.contiguous(),  # (S, N, C)
        torch.tensor([classes.index(class_of(name)) for name in names]),
        classes,
        names=tuple(names),
        digests=tuple(digest for part in parts for digest in read[part].digests),
        moments=moments if len(moments) == len(names) else (),
        count=torch.from_numpy(count) if count.min() < width else None,
        features=wanted,
        normalized=True,
    )
    result = whole if split in ("test", "all") or "val" in listings else cut_train(whole, split)
    for part in parts:
        if split != "val" or "val" in listings:  # what is cut from train is told with train
            _report(part, listings[part], read[part])
    _report_result(
        split, result, bare if features is None else [], sum(len(one.names) for one in read.values())
    )
    if num_points is not None:
        log_repeats(split, result, num_points)
    return result


def log_repeats(name: str, split: Split, num_points: int) -> None:
    """Says how many shapes of a split repeat points where so many of each are used."""
    if split.count is not None and (short := int((split.count < num_points).sum())):
        at = int(split.count.argmin())
        which = split.names[at] if split.names else f"shape {at}"
        logger.info(
            "%s: %d shapes have fewer than %d points and repeat theirs; the fewest,\n  %d, has %s",
            *(name, short, num_points, int(split.count[at]), which),
        )


def refusals(base: Path, listings: dict[str, Listing], damaged: dict[str, set[str]]) -> list[str]:
    """Returns why a training refuses a folder, of whose splits these files cannot be read; empty if not."""
    reasons = []
    try:
        _classes(base, listings)
    except ValueError as error:
        reasons.append(str(error))
    for split, listing in listings.items():
        bad = damaged.get(split, set())
        if len(bad) > UNREADABLE * len(listing.files):
            reasons.append(_too_many(len(bad), len(listing.files), split))
        else:
            lost = sorted(
                {*listing.classes()} - {class_of(name) for name in listing.files if name not in bad}
            )
            reasons += [f"{split}/{one_class}: none of its files can be read" for one_class in lost]
    return reasons


def _too_many(bad: int, total: int, split: str = "") -> str:
    return f"{bad} of {total} {split}{' ' * bool(split)}files cannot be read, more than one in ten"


def _classes(base: Path, listings: dict[str, Listing]) -> tuple[str, ...]:
    """Names the classes, which all have training shapes: raises ValueError for one that has none."""
    if "train" not in listings:  # test shapes alone
        return tuple(sorted({one_class for listing in listings.values() for one_class in listing.classes()}))
    known = listings["train"].classes()
    for split, listing in listings.items():
        for one_class in listing.classes():
            if one_class not in known:
                raise ValueError(
                    f"{base}, {split}/{one_class}: expected a class that train has too "
                    f"({', '.join(known[:10])}{', ...' if len(known) > 10 else ''}), got {one_class!r}"
                    f"{nearest(one_class, known)}"
                )
    return tuple(known)


def _read_split(
    base: Path, split: str, listing: Listing, stored: int, features: tuple[str, ...] | None
) -> Shapes:
    """Parses a split's files or takes them from the cache, and checks that enough could be read."""
    all_names, files = list(listing.files), list(listing.files.values())
    sources = [source for file in files for source in (file, *companions(file))]
    key = f"folder-{split}-{stored}{'-xyz' if features == () else named(features or ())}"
    build = partial(_parse, files, all_names, stored, features)
    arrays = cached(sources, key, build, folder=base)
    reasons = {int(at): str(why) for at, why in zip(arrays["damaged"], arrays["reasons"], strict=True)}
    damaged = [f"{all_names[at]}: {why}" for at, why in reasons.items()]
    names = [name for at, name in enumerate(all_names) if at not in reasons]
    if len(damaged) > UNREADABLE * len(files):
        raise ValueError(
            f"{base}, {split}: {_too_many(len(damaged), len(files))}; mend or remove them:{_lines(damaged)}"
        )
    for one_class in sorted({*listing.classes()} - set(map(class_of, names))):
        of_class = [line for line in damaged if class_of(line) == one_class]
        raise ValueError(f"{base}, {split}/{one_class}: none of its files can be read:{_lines(of_class)}")
    bare = [name for name, has in zip(names, arrays["normals"], strict=True) if not has]
    moments = arrays.get("moments", np.empty((0, 0))).tolist()  # old caches have none
    return Shapes(arrays, names, bare, damaged, arrays["digests"].tolist(), moments)


def _parse(
    paths: Sequence[Path], names: Sequence[str], stored: int, features: tuple[str, ...] | None, store: Store
) -> Arrays:
    from tqdm import tqdm

    channels = 6 if features is None else channel_count(features)
    normals: list[bool] = []
    digests: list[str] = []
    moments: list[NDArray[np.float64]] = []
    reasons: dict[int, str] = {}
    notes: list[str] = []
    bar = tqdm(paths, desc="parsing meshes and clouds once", unit="file", disable=None)
    for at, path in enumerate(bar):
        try:
            cloud, moment = _read_shape(path, names[at], stored, features, notes)  # (n, 3 + F), (K,)
        except FeatureError:
            raise
        except ValueError as error:
            reasons[at] = shorten(str(error).removeprefix(str(path)).lstrip(":, "), 120)
            continue
        store.add(points=np.pad(cloud, ((0, 0), (0, channels - cloud.shape[1]))))
        digests.append(_digest(path))
        moments.append(moment)
        normals.append(features is None and cloud.shape[1] == 6)
    log_notes(notes)
    return {
        "normals": np.array(normals, dtype=bool),
        "digests": np.array(digests, dtype="U32"),
        "moments": np.array(moments),
        "damaged": np.array(list(reasons), dtype=np.int64),
        "reasons": np.array(list(reasons.values()), dtype=np.str_),
    }


def _digest(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes())
    for file in companions(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _read_shape(
    path: Path, name: str, stored: int, features: tuple[str, ...] | None, notes: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Reads up to `stored` points of one shape, (n, 3 + F), normalised and in a drawn order.

    Also returns the moments (K,) of all points of a cloud; NaN for a mesh, of which others would be drawn.
    """
    seed = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "little")
    cloud = torch.from_numpy(read_cloud(path, features, stored, seed, notes))  # (n, C) float64
    check_extent(cloud[:, :3], path)
    beside = F.normalize(cloud[:, 3:], dim=-1) if features is None else cloud[:, 3:]  # (n, F)
    # in double precision: coordinates of a map lose their shape in single precision
    points = torch.cat([unit_sphere(cloud[:, :3]), beside], dim=-1).float().numpy()
    # a stream of its own, apart from the one that samples a mesh
    kept = points[np.random.default_rng([seed, 1]).permutation(len(points))[:stored]]
    moments = moments_of(cloud[None, :, :3], torch.ones(1, len(cloud), 1))[0]  # (K,)
    return kept, (moments * torch.nan if path.suffix.lower() in MESHES else moments).numpy()


def _report(split: str, listing: Listing, shapes: Shapes) -> None:
    """Says what of a split's folder is not used, every time."""
    if listing.others:
        few = ", ".join(listing.others[:3]) + (", ..." if len(listing.others) > 3 else "")
        loose = len(listing.loose())
        unlabelled = f"; {loose} of them in no class's folder" if loose else ""
        logger.info("%s: passed over: %s (%d in all%s)", split, few, len(listing.others), unlabelled)
    log_unread(split, listing.others)
    if bad := shapes.damaged:
        total = len(shapes.names) + len(bad)
        logger.warning("%s: left out, cannot be read: %d of %d files%s", split, len(bad), total, _lines(bad))


def _report_result(split: str, result: Split, bare: list[str], total: int) -> None:
    """Says what a split holds."""
    what = " and ".join(["xyz", *result.features])
    if total and len(bare) == total:
        what = "xyz: no file has normals"
    elif bare:
        what = f"xyz: {len(bare)} of {total} files have no normals,\n  as {', '.join(bare[:3])}"
    shapes, points = len(result), result.num_points
    logger.info(
        "%s: %d shapes of %d classes, %d points each, %s", split, shapes, len(result.classes), points, what
    )


def _lines(entries: Sequence[str]) -> str:
    more = f"\n  and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return "".join(f"\n  {entry}" for entry in entries[:SHOWN]) + more
