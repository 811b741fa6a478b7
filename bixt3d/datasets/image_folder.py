"""Reads a folder of images, one class a folder, in the layouts that `folder` has for shapes."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bixt3d.datasets.cache import Arrays, cached
from bixt3d.datasets.holdout import check_request, cut_train
from bixt3d.datasets.images import SUFFIXES, ImageSplit, fit_image, read_image
from bixt3d.datasets.layouts import class_of, list_splits
from bixt3d.datasets.split import Split

SIDE = 224  # of an image where nobody says how many pixels
SHOWN = 10  # files that are named one by one
UNREADABLE = 0.1  # the share of a split's files that may be damaged

logger = logging.getLogger(__name__)


def read_image_folder(root: str | os.PathLike[str], split: str, num_points: int | None = None) -> Split:
    """Reads a folder of images: each scaled by its shorter side, cut to a square, and kept in a cache.

    Args:
        root: The folder, in any layout of `folder`.
        split: train, val, test, or trainval. Without a folder `val` it is cut from train, see `hold_out`.
        num_points: Pixels of an image, a square number; None: 224 x 224.

    Returns:
        An `ImageSplit`: points (S, H, W, 3) uint8; label (S,); classes, sorted; names `<class>/<file>`.

    Raises:
        FileNotFoundError: The folder, `train` in it, or the split asked for is missing.
        ValueError: The folders are of no layout, or more than one in ten files of a split cannot be read;
            fewer are left out, and named in the log, those of train with train alone.
        ImportError: Pillow is not installed.
    """
    check_request(split, num_points)
    side = SIDE if num_points is None else math.isqrt(num_points)
    if num_points not in (None, side**2):
        raise ValueError(
            f"num_points: expected the pixels of a square image, such as {side**2} or {(side + 1) ** 2}, got "
            f"{num_points}"
        )
    base = Path(root).expanduser().absolute()
    listings = list_splits(base, split, SUFFIXES)
    if split == "test" and "test" not in listings:
        raise FileNotFoundError(f"no folder {base / 'test'}: move images of each class there from train")
    known = listings.get("train", next(iter(listings.values())))
    parts = ("train", "val") if split == "trainval" and "val" in listings else (split,)
    stored = [part if part in listings else "train" for part in parts]
    told = split != "val" or "val" in listings  # what is cut from train is told with train
    read = [_read_split(base, part, listings[part].files, side, told) for part in stored]
    names = [name for arrays in read for name in arrays["names"].tolist()]
    classes = known.classes()
    unknown = sorted({class_of(name) for name in names} - set(classes))
    if unknown:
        raise ValueError(
            f"{base}: expected classes that train has too ({', '.join(classes[:10])}), got {unknown[0]}"
        )
    whole = ImageSplit(
        torch.from_numpy(np.concatenate([arrays["images"] for arrays in read])),
        torch.tensor([classes.index(class_of(name)) for name in names]),
        tuple(classes),
        names=tuple(names),
    )
    result = whole if split == "test" or "val" in listings else cut_train(whole, split)
    logger.info("%s: %d images of %d x %d pixels", split, len(result), side, side)
    return result


def _read_split(base: Path, split: str, files: dict[str, Path], side: int, told: bool) -> Arrays:
    """Reads a split's images, or takes them from the cache, and checks that enough could be read."""
    names, sources = list(files), list(files.values())
    arrays = cached(sources, f"images-{split}-{side}", lambda _: _parse(names, sources, side), folder=base)
    damaged = arrays["damaged"].tolist()
    more = [f"and {len(damaged) - SHOWN} more"] if len(damaged) > SHOWN else []
    shown = "".join(f"\n  {line}" for line in [*damaged[:SHOWN], *more])
    if len(damaged) > UNREADABLE * len(names):
        raise ValueError(f"{base}, {split}: {len(damaged)} of {len(names)} files cannot be read:{shown}")
    if damaged and told:
        logger.warning(
            "%s: left out, cannot be read: %d of %d files%s", split, len(damaged), len(names), shown
        )
    return arrays


def _parse(names: Sequence[str], paths: Sequence[Path], side: int) -> Arrays:
    from tqdm import tqdm

    images, kept, damaged = [], [], []
    for name, path in zip(
        names, tqdm(paths, desc="reading images once", unit="file", disable=None), strict=True
    ):
        try:
            images.append(fit_image(read_image(path), side).numpy())
        except ValueError as error:
            damaged.append(f"{name}: {str(error).removeprefix(f'{path}: ')}")
            continue
        kept.append(name)
    shape = (0, side, side, 3)
    return {
        "images": np.stack(images) if images else np.zeros(shape, np.uint8),
        "names": np.array(kept, dtype=np.str_),
        "damaged": np.array(damaged, dtype=np.str_),
    }
