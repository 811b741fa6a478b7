"""Scenes, such as street scans: clouds of any size with a label a point, which labels.yaml names."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bixt3d.datasets.cache import Arrays, cached, named
from bixt3d.datasets.features import log_notes, parse_features
from bixt3d.datasets.files import find_folder
from bixt3d.datasets.holdout import check_request, cut_train
from bixt3d.datasets.label_table import LABELS, MOST_LABELS, LabelTable, read_table
from bixt3d.datasets.layouts import folders_in, name_unused, split_folders
from bixt3d.datasets.mapped import lay_out
from bixt3d.datasets.readers import clouds_in, files_in, load_cloud, log_unread
from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.names import RENAME
from bixt3d.datasets.split import Split
from bixt3d.datasets.store import Store
from bixt3d.suggest import counted

SCENE = "scene"  # the one category that all scenes are of
SHOWN = 10  # scenes without labels that are named one by one

logger = logging.getLogger(__name__)


class NoLabelsError(ValueError):
    """A scene has no labels, or none of a split has."""


def read_scenes(root: str | os.PathLike[str], split: str, features: Sequence[str] | None = None) -> Split:
    """Reads scenes, each with all of its points in its own unit, moved to the middle of its extent.

    Args:
        root: The folder that holds ``labels.yaml`` and a folder for each split, whose clouds are taken at any
            depth; or SemanticKITTI's, with ``semantic-kitti.yaml`` and ``sequences``.
        split: train, val, test, or trainval. Without a folder ``val`` it is cut from train, see `hold_out`.
        features: Features that every file has, in order; None: none.

    Returns:
        points (S, N, 3 + F); parts (S, N), the labels, -1 where they are ignored; one category, ``scene``, of
        all; part_names; names, the files below the split's folder; count (S,) where scenes repeat points.

    Raises:
        FileNotFoundError: The folder, ``labels.yaml``, or the split asked for is missing.
        ValueError: A file is damaged, lacks a feature, or has a label that is not named; or no file has
            labels. Some without are left out, and named in the log, those of train with train alone.
    """
    check_request(split, None)
    base = find_folder(root, "scenes", LABELS[1] if _has(root, LABELS[1]) else LABELS[0])
    table, wanted = read_table(base), parse_features(features or ())
    own_val = bool(_files(base, "val", table))
    chosen = {"trainval": ("train", "val"), "val": ("val",) if own_val else ("train",)}.get(split, (split,))
    files: dict[Path, str] = {}
    for part in chosen:
        found = _files(base, part, table)
        if not found and part != "val":
            raise FileNotFoundError(f"no clouds in {base / part}: expected files with a label a point there")
        files |= found
    sources = [base / name for name in LABELS if (base / name).is_file()] + list(files)
    labels = {file: _label_file(file) for file in files}
    bare = {file: f"no file {path}" for file, path in labels.items() if path and not path.is_file()}
    labels = {file: path for file, path in labels.items() if file not in bare}
    sources += [path for path in labels.values() if path is not None]
    key = f"scenes-{'-'.join(chosen)}{named(wanted or ('xyz',))}"
    parse = partial(_parse, files=labels, features=wanted, table=table)
    arrays = cached(sources, key, parse, folder=base)
    unlabelled = arrays.get("unlabelled", np.empty(0, np.int64)).tolist()  # old caches have none
    if table.folders is None and (split != "val" or own_val):  # val that is cut is told with train
        _tell_unused(base, split, chosen)
    read, reasons = list(labels), arrays.get("reasons", ())
    bare |= {read[at]: str(why) for at, why in zip(unlabelled, reasons, strict=True)}
    if bare:
        _tell_bare(bare, files, split, split != "val" or own_val)
    rows: NDArray[np.int64] = arrays["rows"]
    width = int(rows.max())
    scenes, names = len(rows), (SCENE,)
    whole = Split(
        lay_out(arrays, "points", width, base),  # (S, N, C)
        torch.zeros(scenes, dtype=torch.int64),
        names,
        lay_out(arrays, "parts", width, base),  # (S, N)
        torch.zeros(scenes, dtype=torch.int64),
        names,
        (table.ids,),
        tuple(name for file, name in files.items() if file not in bare),
        part_names=table.part_names,
        part_codes=table.part_codes,
        count=torch.from_numpy(rows) if int(rows.min()) < width else None,
        features=wanted,
    )
    result = whole if own_val or split in ("test", "trainval") else cut_train(whole, split)
    held = rows if result.count is None else result.count.numpy()
    span = " to ".join(dict.fromkeys((f"{held.min():,}", f"{held.max():,}")))
    logger.info("%s: %s of %s points", split, counted(len(result), "scene"), span)
    return result


def _tell_bare(bare: Mapping[Path, str], files: Mapping[Path, str], split: str, told: bool) -> None:
    """Says, if it is to be told, which scenes have no labels, and are left out.

    Raises:
        NoLabelsError: None has any.
    """
    lines = [f"\n  {files[file]}: {why}" for file, why in bare.items()][:SHOWN]
    lines += ["\n  ..."] if len(bare) > SHOWN else []
    if len(bare) == len(files):
        raise NoLabelsError(
            f"{split}: expected scenes with a label for each point, got none:{''.join(lines)}"
        )
    if told:  # val that is cut from train is told with train
        said = "".join(lines)
        logger.warning("%s: left out, without labels: %d of %d scenes%s", split, len(bare), len(files), said)


def _tell_unused(base: Path, split: str, chosen: Sequence[str]) -> None:
    """Say which folders are no split, with train, and which kinds of files are not read."""
    folders = folders_in(base)
    splits = split_folders(base, folders)
    if "train" in chosen:
        name_unused(base, [one for one in folders if one not in splits.values()])
    log_unread(split, (file for part in chosen if part in splits for file in files_in(splits[part])))


def _has(root: str | os.PathLike[str], name: str) -> bool:
    base = Path(root).expanduser()
    return any((place / name).is_file() for place in (base, base / "scenes"))


def _files(base: Path, split: str, table: LabelTable) -> dict[Path, str]:
    """Return the clouds of a split, sorted, and what each is called: its path below the split's folder."""
    if table.folders and (base / "sequences").is_dir():
        folder = base / "sequences"
        inside = [folder / one for one in table.folders.get(split, ())]
    else:
        folder = split_folders(base, folders_in(base)).get(split, base / split)
        inside = [folder]
    found = [file for one in inside if one.is_dir() for file in clouds_in(one)]
    return {file: file.relative_to(folder).with_suffix("").as_posix() for file in found}


def _label_file(file: Path) -> Path | None:
    """Return where the labels of one of KITTI's scans are: beside it, or in the folder ``labels``."""
    if file.suffix.lower() != ".bin":
        return None
    beside = file.with_suffix(".label")
    return beside if beside.is_file() else file.parent.parent / "labels" / beside.name


def _parse(
    store: Store, files: Mapping[Path, Path | None], features: tuple[str, ...], table: LabelTable
) -> Arrays:
    from tqdm import tqdm

    bare: dict[int, str] = {}
    notes: list[str] = []
    bar = tqdm(files.items(), desc="reading scenes once", unit="file", disable=None)
    for at, (file, label_file) in enumerate(bar):
        cloud = load_cloud(file, notes=notes)
        try:
            values = _labels_of(cloud, file, label_file)
        except NoLabelsError as error:
            bare[at] = str(error)
            continue
        taken = _without_last(cloud, values).take(features, file, notes)  # (N, 3 + F)
        taken[:, :3] -= (taken[:, :3].min(0) + taken[:, :3].max(0)) / 2  # before float32: maps lose digits
        store.add(points=taken.astype(np.float32), parts=table.convert(values, file))
    log_notes(notes)
    return {
        "unlabelled": np.array(list(bare), np.int64),
        "reasons": np.array(list(bare.values()), np.str_),
    }


def _labels_of(cloud: FileCloud, file: Path, label_file: Path | None) -> NDArray[np.int64] | NDArray[np.str_]:
    """Return the numbers, or words, that stand for the labels of a cloud's points (N,)."""
    if label_file is not None:
        stored = np.fromfile(label_file, "<u4").astype(np.int64) & (MOST_LABELS - 1)
        if len(stored) != len(cloud.xyz):
            wanted = f"{len(cloud.xyz)} labels, one a point of {file.name}"
            raise ValueError(f"{label_file}: expected {wanted}, got {len(stored)}")
        return stored
    try:
        values: NDArray[np.int64] | NDArray[np.str_] | None = cloud.labels
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    values, columns = cloud.words if values is None else values, cloud.columns
    if (
        values is None
        and columns is not None
        and columns.shape[1]
        and (columns[:, -1] == np.rint(columns[:, -1])).all()
    ):
        values = columns[:, -1].astype(np.int64)
    if values is None and cloud.unfit_labels:
        raise NoLabelsError(f"label: {cloud.unfit_labels}")
    if values is None:
        last = "" if cloud.named else ", or a last column of whole numbers"
        advice = RENAME if cloud.named else ""
        held = ", ".join(("xyz", *cloud.named))
        raise NoLabelsError(f"expected a property such as label or classification{last}, got {held}{advice}")
    return values


def _without_last(cloud: FileCloud, labels: NDArray[Any]) -> FileCloud:
    """Return a cloud without the column of its labels, where a column without a name holds them."""
    columns = cloud.columns
    named = cloud.labels is not None or cloud.words is not None
    if named or columns is None or not columns.shape[1] or not np.array_equal(columns[:, -1], labels):
        return cloud
    return FileCloud(cloud.xyz, cloud.named, columns[:, :-1])
