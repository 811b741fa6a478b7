"""ShapeNetPart (Yi et al. 2016), with normals or without, and any other part data in its text layout.

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

import numpy as np
import torch
from numpy.typing import NDArray

from bixt3d.datasets.cache import Arrays, cached, named
from bixt3d.datasets.features import (
    FeatureError,
    channel_count,
    columns_of,
    log_notes,
    mend_features,
    name_of,
    parse_features,
)
from bixt3d.datasets.files import find_folder
from bixt3d.datasets.holdout import check_request
from bixt3d.datasets.part_table import (
    MOST_PARTS,
    TABLE,
    Shape,
    list_path,
    name_parts,
    official_starts,
    read_categories,
    read_list,
    read_part_table,
)
from bixt3d.datasets.readers.limits import FREE, RATIO
from bixt3d.datasets.readers.text import read_rows
from bixt3d.datasets.spheres import MOST, check_extent, keep_shape, unit_spheres
from bixt3d.datasets.split import Split

FOLDER = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
LISTS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}
FEATURES = ("normal",)  # of the official release: x y z nx ny nz part
logger = logging.getLogger(__name__)


def read_shapenetpart(
    root: str | os.PathLike[str],
    split: str,
    num_points: int | None = None,
    features: Sequence[str] | None = None,
) -> Split:
    """Reads the ShapeNetPart layout: xyz moved into the unit sphere, features and part labels as they are.

    `synsetoffset2category.txt` names the categories and their folders, and
    `train_test_split/shuffled_<split>_file_list.json` the shapes of a split, `shape_data/<folder>/<id>`,
    each in `<folder>/<id>.txt` as lines of x y z, features, and part; or, as in the release without normals,
    x y z in `<folder>/points/<id>.pts` and the part, from 1, in `<folder>/points_label/<id>.seg`. Which
    parts a category has is said by `parts.json`, `{category: {part name: part id}}`; without it by the table
    of the official release where all categories are of it, else by the labels of the training shapes.

    Shapes with fewer points than the largest, or than `num_points`, repeat their own: `count` says how many
    those are. Arguments, result and errors are those of `open_dataset`; errors name file and line. Up to one
    in a hundred files that are listed may be missing: they are left out, as are shapes without labels, and
    counted in the log.

    Args:
        root: The data folder, or the data set's own folder under any name.
        split: train, val, test, or trainval, which is both.
        num_points: The first so many stored points of each shape; None keeps all.
        features: What stands between xyz and the part; None: the normals of the official release, where the
            files have columns for them. [] leaves those out.
    """
    check_request(split, num_points)
    folder = find_folder(root, FOLDER, marker=TABLE)
    table = read_categories(folder / TABLE)
    categories = tuple(table)
    asked = None if features is None else parse_features(features)
    stored = _find_features(folder, table, asked)
    taken = stored if asked is None else asked
    shapes, arrays = _read_clouds(folder, LISTS[split], table, stored)
    parts = read_part_table(folder, categories)
    if parts is None:
        parts = _parts_in(*_read_clouds(folder, LISTS["trainval"], table, stored), categories)
    elif not (folder / "parts.json").is_file():
        _number_officially(shapes, arrays, categories)
    parts_of_category = tuple(tuple(sorted(ids.values())) for ids in parts.values())
    _check_labels(shapes, arrays, categories, parts_of_category)
    if taken:
        _check_features(shapes, arrays, stored)
    else:
        arrays["points"] = arrays["points"][:, :3]
    points, labels, count = _pad(shapes, arrays, num_points)
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
        taken,
        normalized=True,
    )
    sizes = " to ".join(map(str, sorted({int(count.min()), int(count.max())})))
    held = f"{len(categories)} categories with {sum(map(len, parts_of_category))} parts"
    logger.info("read %d %s shapes of %s points, %s", len(result), split, sizes, held)
    return result


def _find_features(folder: Path, table: dict[str, str], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns what stands between xyz and the part, by the first file: what is wanted, normals or nothing.

    Raises:
        FeatureError: The file has another number of columns for it.
    """
    kinds = ((kind, folder / synset) for kind in ("*.txt", "points/*.pts") for synset in table.values())
    path = next((path for kind, place in kinds for path in sorted(place.glob(kind))[:1]), None)
    if path is None:
        return wanted or FEATURES
    with path.open(encoding="utf-8", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    beside = max(len(first.split()) - (3 if path.suffix == ".pts" else 4), 0)
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


def _parts_in(shapes: list[Shape], arrays: Arrays, categories: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Takes the parts of each category from the labels of training shapes."""
    parts = arrays["parts"]
    bad = np.flatnonzero((parts < 0) | (parts >= MOST_PARTS) | (parts != np.round(parts)))
    if bad.size:
        raise ValueError(
            f"{_place(shapes, arrays, int(bad[0]))}: expected a part, a whole number from 0 to "
            f"{MOST_PARTS - 1}, got {parts[bad[0]]:g}"
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
        listed = read_list(folder, name, table)
        shapes += listed
        files = [path for shape in listed for path in (shape.path, shape.labels) if path is not None]
        sources = [folder / TABLE, list_path(folder, name), *files]
        key = f"shapenetpart-{name}{'' if features == FEATURES else named(features or ('xyz',))}"
        build = partial(_parse, listed, channel_count(features) + 1)
        read.append(cached(sources, key, build, folder=folder))
    return shapes, {key: np.concatenate([arrays[key] for arrays in read]) for key in read[0]}


def _parse(shapes: list[Shape], columns: int) -> Arrays:
    from tqdm import tqdm

    clouds = [
        _read_rows(shape, columns)
        for shape in tqdm(shapes, desc="parsing text files once", unit="file", disable=None)
    ]
    rows = np.concatenate(clouds)  # (R, 3 + F + 1)
    return {
        "points": np.ascontiguousarray(rows[:, :-1]),
        "parts": rows[:, -1].copy(),
        "rows": np.array([len(cloud) for cloud in clouds], dtype=np.int64),
        "category": np.array([shape.category for shape in shapes], dtype=np.int64),
    }


def _read_rows(shape: Shape, columns: int) -> NDArray[np.float32]:
    """Reads a shape: xyz in the unit sphere, features, and part, (N, columns)."""
    if shape.labels is None:
        rows = read_rows(shape.path, columns, None, None, np.float64, MOST)
    else:
        xyz = read_rows(shape.path, columns - 1, None, None, np.float64, MOST)
        labels = read_rows(shape.labels, 1, None, None, np.float64, MOST)
        if len(labels) != len(xyz):
            raise ValueError(
                f"{shape.labels}: expected {len(xyz)} labels, one for each point of {shape.path.name}, got "
                f"{len(labels)}"
            )
        rows = np.concatenate([xyz, labels], axis=1)
    check_extent(torch.from_numpy(rows[:, :3]), shape.path)
    return unit_spheres(keep_shape(torch.from_numpy(rows)[None]))[0].numpy()


def _number_officially(shapes: list[Shape], arrays: Arrays, categories: tuple[str, ...]) -> None:
    """Turns parts counted from 1 in every category, as .seg files hold them, into the official ids."""
    starts = official_starts()
    shift = [0 if shape.labels is None else starts[categories[shape.category]] - 1 for shape in shapes]
    arrays["parts"] = arrays["parts"] + np.repeat(np.array(shift, np.float32), arrays["rows"])
    arrays["shift"] = np.array(shift)


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
    shift = np.repeat(arrays["shift"], arrays["rows"])[row] if "shift" in arrays else 0
    raise ValueError(
        f"{_place(shapes, arrays, row)}: expected a part of {categories[category]} "
        f"({', '.join(str(part - shift) for part in table[category])}), got {parts[row] - shift:g}"
    )


def _check_features(shapes: list[Shape], arrays: Arrays, features: tuple[str, ...]) -> None:
    """Brings features into their usual range: raises FeatureError for a file whose numbers cannot be them."""
    begin, notes = 0, list[str]()
    columns = columns_of(features)
    for shape, rows in zip(shapes, arrays["rows"].tolist(), strict=True):
        points = torch.from_numpy(arrays["points"][begin : begin + rows])
        for feature in features:
            place = columns[name_of(feature)]
            where = f"{shape.path}, columns {place.start + 1} to {place.stop}"
            one = torch.cat([points[:, :3], points[:, place]], dim=1)
            points[:, place] = mend_features(one, (feature,), where, notes)[:, 3:]
        begin += rows
    log_notes(notes)


def _place(shapes: list[Shape], arrays: Arrays, row: int) -> str:
    """Names the file and line of a row of all shapes; empty lines hold none, and are counted."""
    ends = np.cumsum(arrays["rows"])
    index = int(np.searchsorted(ends, row, side="right"))
    inside = row - int(ends[index] - arrays["rows"][index])
    path = shapes[index].labels or shapes[index].path
    with path.open(encoding="utf-8", errors="replace") as lines:
        filled = [number for number, line in enumerate(lines, start=1) if line.strip()]
    return f"{path}, line {filled[inside]}"


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
    points = torch.from_numpy(arrays["points"][index])  # (S, N, C)
    parts = torch.from_numpy(arrays["parts"][index].astype(np.int64))  # (S, N)
    return points, parts, torch.from_numpy(kept)
