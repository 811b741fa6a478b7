"""ShapeNetPart (Yi et al. 2016) with normals, and any other part data in its text layout.

| split | shapes of the official release |
|---|---|
| train / val / test | 12,137 / 1,870 / 2,874 by its lists, of which a few are not in the archive |

16 categories, 50 parts, 2,000 to 3,000 points a shape. Counts are logged, not asserted. The text files are
parsed once and kept in a cache.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bixt3d.datasets.cache import Arrays, cached, named
from bixt3d.datasets.features import FeatureError, channel_count, log_notes, mend_features, parse_features
from bixt3d.datasets.files import WHERE, find_folder, read_lines
from bixt3d.datasets.holdout import check_request
from bixt3d.datasets.part_table import MOST_PARTS, name_parts, read_json, read_part_table
from bixt3d.datasets.readers.limits import FREE, RATIO
from bixt3d.datasets.readers.text import read_rows
from bixt3d.datasets.spheres import keep_shape
from bixt3d.datasets.split import Split
from bixt3d.suggest import nearest

FOLDER = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
TABLE = "synsetoffset2category.txt"
LISTS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}
# The share of listed files that may be absent: the official archive lacks about one in a thousand.
MISSING = 0.01
MOST = float(np.finfo(np.float32).max)  # of the numbers of a file
FEATURES = ("normal",)  # of the official release: x y z nx ny nz part
logger = logging.getLogger(__name__)


class Shape(NamedTuple):
    """One file: its category's number, its id, and where it lies."""

    category: int
    name: str
    path: Path


def read_shapenetpart(
    root: str | os.PathLike[str],
    split: str,
    num_points: int | None = None,
    features: Sequence[str] | None = None,
) -> Split:
    """Reads the ShapeNetPart layout: xyz moved into the unit sphere, features and part labels as they are.

    `synsetoffset2category.txt` names the categories and their folders, and
    `train_test_split/shuffled_<split>_file_list.json` the shapes of a split, `shape_data/<folder>/<id>`,
    each in `<folder>/<id>.txt` as lines of x y z, features, and part. Which parts a category has is said by
    `parts.json`, `{category: {part name: part id}}`; without it by the table of the official release where
    all categories are of it, else by the labels of the training shapes.

    Args:
        root: The data folder, or the data set's own folder under any name.
        split: train, val, test, or trainval, which is both.
        num_points: The first so many stored points of each shape; None keeps all. A shape with fewer than
            that, or than the largest, repeats its own; `count` says how many those are.
        features: What stands between xyz and the part; None: the normals of the official release, where the
            files have columns for them. [] leaves those out.

    Returns:
        points (S, N, 3 + F), parts (S, N), category (S,), count (S,) and the tables; label is the category.

    Raises:
        FileNotFoundError: The data set or one of its tables is missing, or more than one in a hundred of the
            listed files. Fewer are passed over and counted in the log.
        ValueError: A file is damaged or of another layout; the message names file and line.
    """
    check_request(split, num_points)
    folder = find_folder(root, FOLDER, marker=TABLE)
    table = _read_table(folder / TABLE)
    categories = tuple(table)
    stored = _find_features(folder, table, None if features is None else parse_features(features))
    wanted = stored if features is None else parse_features(features)
    shapes, arrays = _read_clouds(folder, LISTS[split], table, stored)
    parts = read_part_table(folder, categories)
    if parts is None:
        parts = _parts_in(*_read_clouds(folder, LISTS["trainval"], table, stored), categories)
    parts_of_category = tuple(tuple(sorted(ids.values())) for ids in parts.values())
    _check_labels(shapes, arrays, categories, parts_of_category)
    if wanted:
        _check_features(shapes, arrays, stored)
    points, labels, count = _pad(shapes, arrays, num_points)
    if not wanted:
        points = points[..., :3].contiguous()
    category = torch.tensor([shape.category for shape in shapes])
    result = Split(
        points,
        category,
        categories,
        labels,
        category.clone(),
        categories,
        parts_of_category,
        tuple(shape.name for shape in shapes),
        name_parts(parts),
        count,
        wanted,
        normalized=True,
    )
    fewest, most = int(count.min()), int(count.max())
    logger.info(
        "read %d %s shapes of %s points, %d categories with %d parts",
        len(result),
        split,
        fewest if fewest == most else f"{fewest} to {most}",
        len(categories),
        sum(map(len, parts_of_category)),
    )
    return result


def _find_features(folder: Path, table: dict[str, str], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns what stands between xyz and the part, by the first file: what is wanted, normals or nothing.

    Raises:
        FeatureError: The file has another number of columns for it.
    """
    paths = (path for synset in table.values() for path in sorted((folder / synset).glob("*.txt"))[:1])
    path = next(paths, None)
    if path is None:
        return wanted or FEATURES
    with path.open(encoding="utf-8", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    beside = max(len(first.split()) - 4, 0)
    if not wanted and beside in (0, 3):
        return FEATURES if beside else ()
    if wanted == ():
        return (f"columns:{beside}",)
    if wanted is None or channel_count(wanted) - 3 != beside:
        width = 3 if wanted is None else channel_count(wanted) - 3
        expected = f"{', '.join(wanted or FEATURES)} ({width}){'' if wanted else ' or nothing'}"
        raise FeatureError(
            f"{path}: expected {expected} between xyz and the part, got {beside} columns: name what "
            "they are, such as data.features=[color,intensity], or take [] for xyz alone"
        )
    return wanted


def _read_table(path: Path) -> dict[str, str]:
    """Reads the folder of each category, in the table's order."""
    read_lines(path)  # is there, is text, has lines
    table: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        words = line.strip().rsplit(None, 1)
        if len(words) != 2 or words[1] in ("", ".", "..") or "/" in words[1]:
            raise ValueError(f"{path}, line {number}: expected a category and its folder, came {line!r}")
        if words[0] in table or words[1] in table.values():
            raise ValueError(f"{path}, line {number}: expected each category and folder once, came {line!r}")
        table[words[0]] = words[1]
    return table


def _read_list(folder: Path, split: str, table: dict[str, str]) -> list[Shape]:
    """Reads a split's list; files that are not there are passed over, up to `MISSING` of them."""
    path = _list_path(folder, split)
    entries = read_json(path)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
        raise ValueError(f"{path}: expected a list of strings shape_data/<folder>/<id>")
    numbers = {synset: index for index, synset in enumerate(table.values())}
    shapes: list[Shape] = []
    missing: list[Shape] = []
    seen: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        words = entry.split("/")
        if len(words) < 2 or words[-2] not in numbers or words[-1] in ("", ".", ".."):
            known = nearest(words[-2], numbers) if len(words) > 1 else ""
            raise ValueError(
                f"{path}, entry {number}: expected shape_data/<folder>/<id> with a folder of {TABLE}, came "
                f"{entry!r}{known}"
            )
        synset, token = words[-2:]
        if f"{synset}/{token}" in seen:
            raise ValueError(f"{path}, entry {number}: expected each shape once, came {entry!r} again")
        seen.add(f"{synset}/{token}")
        shape = Shape(numbers[synset], f"{synset}/{token}", folder / synset / f"{token}.txt")
        (shapes if shape.path.is_file() else missing).append(shape)
    if len(missing) > MISSING * len(entries):
        raise FileNotFoundError(
            f"{missing[0].path} is missing, one of {len(missing)} of {len(entries)} that {path} names and "
            f"that are not there. Unpack the data set again; {WHERE}."
        )
    if missing:
        logger.warning(
            "%s names %d files that are not there; they are passed over: %s",
            path,
            len(missing),
            ", ".join(shape.name for shape in missing[:3]),
        )
    return shapes


def _parts_in(shapes: list[Shape], arrays: Arrays, categories: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Takes the parts of each category from the labels of training shapes."""
    parts = arrays["parts"]
    bad = np.flatnonzero((parts < 0) | (parts >= MOST_PARTS) | (parts != np.round(parts)))
    if bad.size:
        raise ValueError(
            f"{_place(shapes, arrays, int(bad[0]))}: expected a part, a whole number from 0 to "
            f"{MOST_PARTS - 1}, came {parts[bad[0]]:g}"
        )
    of_row = np.repeat(arrays["category"], arrays["rows"])
    table = {}
    for index, category in enumerate(categories):
        ids = np.unique(parts[of_row == index]).tolist()
        if not ids:
            raise ValueError(f"parts of {category}: no training shape to know them from; write parts.json")
        table[category] = {f"{category} {i}": int(part) for i, part in enumerate(ids)}
    return table


def _read_clouds(
    folder: Path, lists: tuple[str, ...], table: dict[str, str], features: tuple[str, ...]
) -> tuple[list[Shape], Arrays]:
    """Reads the shapes of these lists: points (R, 3 + F) and parts (R,) of all of them one after another."""
    shapes, read = [], []
    for name in lists:
        listed = _read_list(folder, name, table)
        shapes += listed
        sources = [folder / TABLE, _list_path(folder, name), *(shape.path for shape in listed)]
        key = f"shapenetpart-{name}{'' if features == FEATURES else named(features or ('xyz',))}"
        build = partial(_parse, listed, channel_count(features) + 1)
        read.append(cached(sources, key, build, folder=folder))
    return shapes, {key: np.concatenate([arrays[key] for arrays in read]) for key in read[0]}


def _parse(shapes: list[Shape], columns: int) -> Arrays:
    from tqdm import tqdm

    bar = tqdm(shapes, desc="parsing text files once", unit="file", disable=None)
    clouds = [
        keep_shape(read_rows(shape.path, columns, None, None, np.float64, MOST)[None])[0] for shape in bar
    ]
    rows = np.concatenate(clouds).astype(np.float32)  # (R, 3 + F + 1)
    return {
        "points": np.ascontiguousarray(rows[:, :-1]),
        "parts": rows[:, -1].copy(),
        "rows": np.array([len(cloud) for cloud in clouds], dtype=np.int64),
        "category": np.array([shape.category for shape in shapes], dtype=np.int64),
    }


def _list_path(folder: Path, split: str) -> Path:
    return folder / "train_test_split" / f"shuffled_{split}_file_list.json"


def _check_labels(
    shapes: list[Shape], arrays: Arrays, categories: tuple[str, ...], table: tuple[tuple[int, ...], ...]
) -> None:
    """Raises ValueError for the first label that its shape's category does not have, with its line."""
    parts = arrays["parts"]
    of_row = np.repeat(arrays["category"], arrays["rows"])
    allowed = np.zeros((len(table), 1 + max(map(max, table))), dtype=bool)
    for index, ids in enumerate(table):
        allowed[index, list(ids)] = True
    inside = (parts >= 0) & (parts < allowed.shape[1]) & (parts == np.round(parts))
    known = inside & allowed[of_row, np.where(inside, parts, 0).astype(np.int64)]
    if known.all():
        return
    row = int(np.flatnonzero(~known)[0])
    category = int(of_row[row])
    raise ValueError(
        f"{_place(shapes, arrays, row)}: expected a part of {categories[category]} "
        f"({', '.join(map(str, table[category]))}), came {parts[row]:g}"
    )


def _check_features(shapes: list[Shape], arrays: Arrays, features: tuple[str, ...]) -> None:
    """Brings features into their usual range: raises FeatureError for a file whose numbers cannot be them."""
    begin, notes = 0, list[str]()
    for shape, rows in zip(shapes, arrays["rows"].tolist(), strict=True):
        points = torch.from_numpy(arrays["points"][begin : begin + rows])
        arrays["points"][begin : begin + rows] = mend_features(
            points, features, str(shape.path), notes
        ).numpy()
        begin += rows
    log_notes(notes)


def _place(shapes: list[Shape], arrays: Arrays, row: int) -> str:
    """Names the file and line of a row of all shapes; empty lines hold none, and are counted."""
    ends = np.cumsum(arrays["rows"])
    index = int(np.searchsorted(ends, row, side="right"))
    inside = row - int(ends[index] - arrays["rows"][index])
    with shapes[index].path.open(encoding="utf-8", errors="replace") as lines:
        filled = [number for number, line in enumerate(lines, start=1) if line.strip()]
    return f"{shapes[index].path}, line {filled[inside]}"


def _unit_spheres(xyz: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Moves each shape into the unit sphere, as `unit_sphere` does: xyz (R, 3), rows of each shape (S,)."""
    starts = np.cumsum(rows) - rows
    means = np.add.reduceat(xyz, starts, dtype=np.float64) / rows[:, None]  # (S, 3)
    centred = xyz - np.repeat(means, rows, axis=0)
    radius = np.sqrt(np.maximum.reduceat(np.square(centred).sum(1), starts))  # (S,)
    radius[radius == 0] = 1.0
    centred /= np.repeat(radius, rows)[:, None]
    return centred.astype(np.float32)


def _pad(
    shapes: list[Shape], arrays: Arrays, num_points: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lays the shapes side by side, each filled up with its own points: (S, N, C), (S, N), count (S,)."""
    rows: NDArray[np.int64] = arrays["rows"]
    width = int(rows.max()) if num_points is None else num_points
    if len(rows) * width > max(FREE // 28, RATIO * int(rows.sum())):  # 28 bytes a row
        largest = shapes[int(rows.argmax())].path
        raise ValueError(
            f"{largest} holds {rows.max()} points: {width} for each of {len(rows)} shapes are over {RATIO} "
            "times what the files hold; ask for fewer by num_points"
        )
    starts = np.cumsum(rows) - rows
    kept = np.minimum(rows, width)
    index = starts[:, None] + np.arange(width) % kept[:, None]  # (S, N)
    stored = np.concatenate([_unit_spheres(arrays["points"][:, :3], rows), arrays["points"][:, 3:]], axis=1)
    points = torch.from_numpy(stored[index])  # (S, N, C)
    parts = torch.from_numpy(arrays["parts"][index].astype(np.int64))  # (S, N)
    return points, parts, torch.from_numpy(kept)
