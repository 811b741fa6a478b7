"""Scenes, such as street scans: clouds of any size with a label a point, which labels.yaml names."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from bixt3d.datasets.mapped import lay_out
from bixt3d.datasets.readers import clouds_in, load_cloud
from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.names import LABELS as COLUMNS
from bixt3d.datasets.readers.names import RENAME
from bixt3d.datasets.split import Split
from bixt3d.datasets.store import Store
from bixt3d.suggest import counted
from bixt3d.yaml import parse_yaml

LABELS = ("labels.yaml", "semantic-kitti.yaml")
SCENE = "scene"  # the one category that all scenes are of
MOST_LABELS = 1 << 16  # SemanticKITTI's have 16 bits, above which stands the number of an object
EXAMPLE = "names: {1: road, 2: building}, and perhaps ignore: [0]"

SHOWN = 10  # scenes without labels that are named one by one

logger = logging.getLogger(__name__)


class NoLabelsError(ValueError):
    """A scene has no labels, or none of a split has."""


@dataclass(frozen=True)
class LabelTable:
    """What a ``labels.yaml`` says.

    Attributes:
        names: Name of each label, those that are ignored included.
        ignore: Labels that do not count.
        numbers: Which label a number of the files stands for; None: the numbers are the labels.
        folders: Of each split, the folders in ``sequences``; none where each split is a folder.
        written: By which number files say a label, of several that stand for it; the first of ``numbers`` if
            None.
    """

    names: Mapping[int, str]
    ignore: frozenset[int]
    numbers: Mapping[int, int] | None = None
    folders: Mapping[str, Sequence[str]] | None = None
    written: Mapping[int, int] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The labels that count, sorted."""
        return tuple(sorted(set(self.names) - self.ignore))

    @property
    def part_names(self) -> tuple[str, ...]:
        """Name of each number from 0 to the last label that counts."""
        return tuple(self.names.get(number, f"label {number}") for number in range(self.ids[-1] + 1))

    @property
    def part_codes(self) -> tuple[int, ...]:
        """The number by which files say each number from 0 to the last label that counts; none: the same."""
        written = dict(self.written or {})
        for number, label in (self.numbers or {}).items():
            written.setdefault(label, number)
        codes = tuple(written.get(label, label) for label in range(self.ids[-1] + 1))
        whole = all(label in written for label in self.ids)
        return codes if whole and codes != tuple(range(len(codes))) else ()

    def convert(self, values: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
        """Return the labels of a file's numbers (N,), -1 where they are ignored.

        Raises:
            ValueError: For a number that is not named, with how many points have it.
        """
        found, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        numbers = self.numbers or {number: number for number in self.names}
        labels = np.empty(len(found), np.int64)
        for at, value in enumerate(found.tolist()):
            label = -1 if value == -1 else numbers.get(value)
            if label is None or (label != -1 and label not in self.names):
                known = ", ".join(map(str, sorted(numbers)[:8])) + (" ..." if len(numbers) > 8 else "")
                where = f"{LABELS[0]} names" if self.numbers is None else "the map of the labels has"
                raise ValueError(
                    f"{path}: expected labels that {where} ({known}), got {value} for "
                    f"{counted(int(counts[at]), 'point')}: add it there, with ignore if it does not count"
                )
            labels[at] = -1 if label in self.ignore else label
        return labels[place.reshape(-1)]


def read_table(folder: Path) -> LabelTable:
    """Read ``labels.yaml``: ``names`` by label, and perhaps ``ignore`` and ``map``, from numbers to labels.

    SemanticKITTI's own ``semantic-kitti.yaml`` is read as well.

    Raises:
        FileNotFoundError: There is neither.
        ValueError: It says something else; the message names the file and the key.
    """
    path = next((folder / name for name in LABELS if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"no file {folder / LABELS[0]}: expected the names of the labels, {EXAMPLE}")
    try:
        stated = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(stated, dict):
        raise ValueError(f"{path}: expected {EXAMPLE}, got {stated!r:.40}")
    numbers, folders, written = None, None, None
    if "learning_map" in stated:
        numbers = _whole(path, stated, "learning_map")
        written = _whole(path, stated, "learning_map_inv")
        names: Any = {label: stated.get("labels", {}).get(number) for label, number in written.items()}
        ignore: Any = [label for label, out in _mapping(path, stated, "learning_ignore").items() if out]
        parts = {"train": "train", "val": "valid", "test": "test"}
        split = _mapping(path, stated, "split") if "split" in stated else {}
        folders = {part: [f"{one:02d}" for one in split.get(key, [])] for part, key in parts.items()}
    else:
        names, ignore = stated.get("names"), stated.get("ignore", [])
        numbers = _whole(path, stated, "map") if "map" in stated else None
        names = dict(enumerate(names)) if isinstance(names, list) else names
    if (
        not isinstance(names, dict)
        or not all(map(_is_label, names))
        or not all(map(_is_name, names.values()))
    ):
        raise ValueError(f"{path}: names: expected a name for each label, {EXAMPLE}, got {names!r:.60}")
    if not isinstance(ignore, list) or not all(map(_is_label, ignore)):
        raise ValueError(f"{path}: ignore: expected a list of labels, got {ignore!r:.60}")
    table = LabelTable(
        *({label: str(name) for label, name in names.items()}, frozenset(ignore), numbers, folders, written)
    )
    if len(table.ids) < 2:
        raise ValueError(f"{path}: expected two labels or more that are not ignored, got {len(table.ids)}")
    return table


def _is_label(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_LABELS


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and bool(str(value).strip())


def _mapping(path: Path, stated: Mapping[str, Any], key: str) -> dict[Any, Any]:
    value = stated.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {key}: expected keys and values, got {value!r:.60}")
    return value


def _whole(path: Path, stated: Mapping[str, Any], key: str) -> dict[int, int]:
    value = _mapping(path, stated, key)
    if not all(type(number) is int for pair in value.items() for number in pair):
        raise ValueError(f"{path}: {key}: expected whole numbers, got {value!r:.60}")
    return value


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


def _has(root: str | os.PathLike[str], name: str) -> bool:
    base = Path(root).expanduser()
    return any((place / name).is_file() for place in (base, base / "scenes"))


def _files(base: Path, split: str, table: LabelTable) -> dict[Path, str]:
    """Return the clouds of a split, sorted, and what each is called: its path below the split's folder."""
    if table.folders and (base / "sequences").is_dir():
        folder, inside = (
            base / "sequences",
            [base / "sequences" / one for one in table.folders.get(split, ())],
        )
    else:
        folder, inside = base / split, [base / split]
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


def _labels_of(cloud: FileCloud, file: Path, label_file: Path | None) -> NDArray[np.int64]:
    """Return the numbers that stand for the labels of a cloud's points (N,)."""
    if label_file is not None:
        stored = np.fromfile(label_file, "<u4").astype(np.int64) & (MOST_LABELS - 1)
        if len(stored) != len(cloud.xyz):
            wanted = f"{len(cloud.xyz)} labels, one a point of {file.name}"
            raise ValueError(f"{label_file}: expected {wanted}, got {len(stored)}")
        return stored
    try:
        values = cloud.labels
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    columns = cloud.columns
    if (
        values is None
        and columns is not None
        and columns.shape[1]
        and (columns[:, -1] == np.rint(columns[:, -1])).all()
    ):
        values = columns[:, -1].astype(np.int64)
    unfit = next((said for name in COLUMNS if (said := cloud.remark(name))), None)
    if values is None and unfit:
        raise NoLabelsError(f"label: {unfit}")
    if values is None:
        last = "" if cloud.named else ", or a last column of whole numbers"
        advice = RENAME if cloud.named else ""
        held = ", ".join(("xyz", *cloud.named))
        raise NoLabelsError(f"expected a property such as label or classification{last}, got {held}{advice}")
    return values


def _without_last(cloud: FileCloud, labels: NDArray[np.int64]) -> FileCloud:
    """Return a cloud without the column of its labels, where a column without a name holds them."""
    columns = cloud.columns
    if columns is None or not columns.shape[1] or not np.array_equal(columns[:, -1], labels):
        return cloud
    return FileCloud(cloud.xyz, cloud.named, columns[:, :-1])
