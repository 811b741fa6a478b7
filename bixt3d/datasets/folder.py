"""Your own meshes and clouds, one shape a file: `<root>/<split>/<class>/<file>`.

Splits are the folders `train`, `test` and, where there is one, `val`; classes are the folders inside them. A
mesh is sampled on its surface, a cloud gives a draw of its points, and both end up in the unit sphere. All of
it is done once and kept in a cache, one a split, that is made anew when a file comes, goes or changes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bixt3d.datasets.cache import Arrays, cached, named
from bixt3d.datasets.features import FeatureError, channel_count, log_notes, parse_features
from bixt3d.datasets.holdout import check_request, cut_train
from bixt3d.datasets.preprocess import STORED_POINTS
from bixt3d.datasets.readers import SUFFIXES, read_cloud
from bixt3d.datasets.spheres import LARGEST, check_extent, unit_sphere
from bixt3d.datasets.split import Split
from bixt3d.suggest import nearest

FOLDERS = ("train", "val", "test")
UNREADABLE = 0.1  # the share of a split's files that may be damaged
SHOWN = 10  # damaged files that are named one by one
LAYOUT = "data/README.md shows the layout under 'folder'"

logger = logging.getLogger(__name__)


class Listing(NamedTuple):
    """What a split's folder holds: its shapes, `<class>/<file>`, sorted, and everything else in it."""

    folder: Path
    names: list[str]
    others: list[str]


class Shapes(NamedTuple):
    """A split as parsed: of each shape its points (S, P, 3 + F), how many are its own (S,), and its name.

    `bare` are the shapes without normals, `damaged` the files that could not be read, each with the reason.
    """

    points: NDArray[np.float32]
    own: NDArray[np.int64]
    names: list[str]
    bare: list[str]
    damaged: list[str]


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
        root: The folder that holds `train`, `test` and perhaps `val`.
        split: train, val, test, or trainval. Without a folder `val` it is cut from train, see `hold_out`.
        num_points: The first so many stored points of each shape; None takes 2,048.
        features: Features that every file has, in order; see `bixt3d.datasets.readers.read_cloud`. None: the
            normals, where all files of all splits have them.

    Returns:
        points (S, num_points, 3 + F); label (S,);
        classes, those of all splits sorted by name; names `<class>/<file>`; count (S,) where shapes repeat
        points.

    Raises:
        FileNotFoundError: The folder, `train` in it, or the split asked for is missing.
        ValueError: A class of val or test is not in train, a class has no file that can be read, or more than
            one in ten files of a split cannot. Fewer are left out, and named in the log every time. A file
            lacks one of ``features``.
        PermissionError: A file may not be read.
    """
    check_request(split, num_points)
    base = Path(root).expanduser().absolute()
    listings = _list_splits(base)
    if split == "test" and "test" not in listings:
        raise FileNotFoundError(
            f"no folder {base / 'test'}: move files of each class there from {base / 'train'}, a fifth say"
        )
    classes = _classes(listings)
    stored = max(num_points or 0, STORED_POINTS)
    if "val" in listings:
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
    points = np.concatenate([read[part].points[:, :num_points, :channels] for part in parts])  # (S, N, C)
    count = np.concatenate([read[part].own for part in parts]).clip(max=points.shape[1])  # (S,)
    whole = Split(
        torch.from_numpy(points),
        torch.tensor([classes.index(name.partition("/")[0]) for name in names]),
        classes,
        names=tuple(names),
        count=torch.from_numpy(count) if count.min() < points.shape[1] else None,
        features=wanted,
        normalized=True,
    )
    result = whole if split == "test" or "val" in listings else cut_train(whole, split)
    for part in parts:
        _report(part, listings[part], read[part])
    _report_result(
        split, result, bare if features is None else [], sum(len(one.names) for one in read.values())
    )
    return result


def _list_splits(base: Path) -> dict[str, Listing]:
    listings = {name: _list_split(base / name) for name in FOLDERS if (base / name).is_dir()}
    if "train" not in listings:
        held = sorted(path.name for path in base.iterdir())[:5] if base.is_dir() else []
        came = f"{base} holds {', '.join(held) or 'nothing'}" if base.is_dir() else f"{base} is not a folder"
        raise FileNotFoundError(
            f"no folder {base / 'train'}: expected {base / 'train'}/<class>/<file>, and test beside train; "
            f"{came}. {LAYOUT}."
        )
    return listings


def _list_split(folder: Path) -> Listing:
    names: list[str] = []
    others: list[str] = []
    for entry in sorted(folder.iterdir(), key=lambda path: path.name):
        if entry.name.startswith(".") or not entry.is_dir():
            others.append(entry.name)
            continue
        before = len(names)
        for path in sorted(entry.iterdir(), key=lambda path: path.name):
            (names if _is_shape(path) else others).append(f"{entry.name}/{path.name}")
        if len(names) == before and folder.name == "train":
            raise ValueError(
                f"{entry}: expected files of this class ({', '.join(SUFFIXES)}), came none; add some, or "
                f"remove the folder. {LAYOUT}."
            )
    if not names:
        raise ValueError(f"{folder}: expected <class>/<file> ({', '.join(SUFFIXES)}), came none. {LAYOUT}.")
    return Listing(folder, names, others)


def _is_shape(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _classes(listings: dict[str, Listing]) -> tuple[str, ...]:
    """Names the classes, which all have training shapes: raises ValueError for one that has none."""
    known = sorted({name.partition("/")[0] for name in listings["train"].names})
    for listing in listings.values():
        for name in listing.names:
            one_class = name.partition("/")[0]
            if one_class not in known:
                raise ValueError(
                    f"{listing.folder / one_class}: expected a class that train has too "
                    f"({', '.join(known[:10])}{', ...' if len(known) > 10 else ''}), came {one_class!r}"
                    f"{nearest(one_class, known)}"
                )
    return tuple(known)


def _read_split(
    base: Path, split: str, listing: Listing, stored: int, features: tuple[str, ...] | None
) -> Shapes:
    """Parses a split's files or takes them from the cache, and checks that enough could be read."""
    sources = [listing.folder / name for name in listing.names]
    key = f"folder-{split}-{stored}{'-xyz' if features == () else named(features or ())}"
    arrays = cached(sources, key, lambda: _parse(sources, listing.names, stored, features), folder=base)
    reasons = {int(at): str(why) for at, why in zip(arrays["damaged"], arrays["reasons"], strict=True)}
    damaged = [f"{listing.names[at]}: {why}" for at, why in reasons.items()]
    names = [name for at, name in enumerate(listing.names) if at not in reasons]
    if len(damaged) > UNREADABLE * len(sources):
        raise ValueError(
            f"{listing.folder}: {len(damaged)} of {len(sources)} files cannot be read, more than one in ten; "
            f"mend or remove them:{_lines(damaged)}"
        )
    readable = {name.partition("/")[0] for name in names}
    for one_class in sorted({name.partition("/")[0] for name in listing.names} - readable):
        of_class = [line for line in damaged if line.startswith(f"{one_class}/")]
        raise ValueError(f"{listing.folder / one_class}: none of its files can be read:{_lines(of_class)}")
    bare = [name for name, has in zip(names, arrays["normals"], strict=True) if not has]
    return Shapes(arrays["points"], arrays["own"], names, bare, damaged)


def _parse(
    paths: Sequence[Path], names: Sequence[str], stored: int, features: tuple[str, ...] | None
) -> Arrays:
    from tqdm import tqdm

    channels = 6 if features is None else channel_count(features)
    points = np.zeros((len(paths), stored, channels), dtype=np.float32)
    own: list[int] = []
    normals: list[bool] = []
    reasons: dict[int, str] = {}
    notes: list[str] = []
    bar = tqdm(paths, desc="parsing meshes and clouds once", unit="file", disable=None)
    for at, path in enumerate(bar):
        try:
            cloud = _read_shape(path, names[at], stored, features, notes)  # (n, 3 + F)
        except FeatureError:
            raise
        except ValueError as error:
            reasons[at] = shorten(str(error).removeprefix(str(path)).lstrip(":, "), 120)
            continue
        points[len(own), :, : cloud.shape[1]] = cloud[np.arange(stored) % len(cloud)]
        own.append(len(cloud))
        normals.append(features is None and cloud.shape[1] == 6)
    log_notes(notes)
    kept = channels if features is not None or all(normals) else 3
    return {
        "points": np.ascontiguousarray(points[: len(own), :, :kept]),
        "own": np.array(own, dtype=np.int64),
        "normals": np.array(normals, dtype=bool),
        "damaged": np.array(list(reasons), dtype=np.int64),
        "reasons": np.array(list(reasons.values()), dtype=np.str_),
    }


def _read_shape(
    path: Path, name: str, stored: int, features: tuple[str, ...] | None, notes: list[str]
) -> NDArray[np.float32]:
    """Reads up to `stored` points of one shape, (n, 3 + F), normalised and in a drawn order."""
    seed = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "little")
    cloud = torch.from_numpy(read_cloud(path, features, stored, seed, notes))  # (n, C) float64
    if float(cloud[:, :3].abs().max()) > LARGEST:
        raise ValueError(f"{path}: expected coordinates up to {LARGEST:g}, came larger ones")
    try:
        check_extent(cloud[:, :3])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    beside = F.normalize(cloud[:, 3:], dim=-1) if features is None else cloud[:, 3:]  # (n, F)
    # in double precision: coordinates of a map lose their shape in single precision
    points = torch.cat([unit_sphere(cloud[:, :3]), beside], dim=-1).float().numpy()
    # a stream of its own, apart from the one that samples a mesh
    return points[np.random.default_rng([seed, 1]).permutation(len(points))[:stored]]


def _report(split: str, listing: Listing, shapes: Shapes) -> None:
    """Says what of a split's folder is not used, every time."""
    if listing.others:
        few = ", ".join(listing.others[:3]) + (", ..." if len(listing.others) > 3 else "")
        logger.info("%s: passed over, no shapes: %s (%d in all)", split, few, len(listing.others))
    if shapes.damaged:
        total = len(shapes.names) + len(shapes.damaged)
        logger.warning(
            "%s: left out, cannot be read: %d of %d files%s",
            split,
            len(shapes.damaged),
            total,
            _lines(shapes.damaged),
        )


def _report_result(split: str, result: Split, bare: list[str], total: int) -> None:
    """Says what a split holds, and how much of it is made up by repeating points."""
    what = " and ".join(["xyz", *result.features])
    if total and len(bare) == total:
        what = "xyz: no file has normals"
    elif bare:
        what = f"xyz: {len(bare)} of {total} files have no normals,\n  as {', '.join(bare[:3])}"
    logger.info(
        "%s: %d shapes of %d classes, %d points each, %s",
        split,
        len(result),
        len(result.classes),
        result.num_points,
        what,
    )
    short = 0 if result.count is None else int((result.count < result.num_points).sum())
    if result.count is not None and short:
        fewest = int(result.count.argmin())
        logger.info(
            "%s: %d shapes have fewer than %d points and repeat theirs; the fewest,\n  %d, has %s",
            split,
            short,
            result.num_points,
            int(result.count[fewest]),
            result.names[fewest],
        )


def _lines(entries: Sequence[str]) -> str:
    more = f"\n  and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return "".join(f"\n  {entry}" for entry in entries[:SHOWN]) + more
