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
from typing import NamedTuple

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
from bixt3d.datasets.mapped import each_cloud, join, lay_out
from bixt3d.datasets.part_table import (
    MOST_PARTS,
    TABLE,
    Shape,
    list_path,
    name_parts,
    official_starts,
    read_categories,
    read_list,
    read_part_codes,
    read_part_table,
)
from bixt3d.datasets.readers.limits import FREE, RATIO
from bixt3d.datasets.readers.text import read_rows
from bixt3d.datasets.spheres import MOST, check_extent, keep_shape, unit_spheres
from bixt3d.datasets.split import Split
from bixt3d.datasets.store import Store

FOLDER = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
LISTS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}
FEATURES = ("normal",)  # of the official release: x y z nx ny nz part
logger = logging.getLogger(__name__)


class Listed(NamedTuple):
    """The shapes of a list, and their arrays."""

    shapes: list[Shape]
    arrays: Arrays


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
    read = [_read_list(folder, name, table, stored) for name in LISTS[split]]
    parts = read_part_table(folder, categories)
    if parts is None:
        parts = _parts_in([_read_list(folder, name, table, stored) for name in LISTS["trainval"]], categories)
        starts = None
    else:
        starts = None if (folder / "parts.json").is_file() else official_starts()
    parts_of_category = tuple(tuple(sorted(ids.values())) for ids in parts.values())
    for one in read:
        _check_labels(one, _shifts(one.shapes, categories, starts), categories, parts_of_category)
    shapes = [shape for one in read for shape in one.shapes]
    rows = np.concatenate([one.arrays["rows"] for one in read])
    width = int(rows.max()) if num_points is None else num_points
    _check_width(shapes, rows, width)
    points = join([lay_out(one.arrays, "points", width, folder) for one in read])  # (S, N, C)
    labels = join([lay_out(one.arrays, "parts", width, folder) for one in read])  # (S, N)
    shift = _shifts(shapes, categories, starts)
    labels = each_cloud(labels, _whole_parts, torch.from_numpy(shift), torch.int64)
    if not taken:
        points = points[..., :3].contiguous()
    count = torch.from_numpy(np.minimum(rows, width))
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
        part_codes=read_part_codes(folder, 1 + max(map(max, parts_of_category))),
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
        such = ("intensity",) if beside == 1 else ("color", "intensity")
        got = f"got {beside} columns"
        raise FeatureError(f"{path}: expected {expected} between xyz and the part, {got}", such)
    return wanted


def _parts_in(read: list[Listed], categories: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Takes the parts of each category from the labels of training shapes."""
    for shapes, arrays in read:
        kinds = arrays["kinds"]
        bad = np.flatnonzero((kinds < 0) | (kinds >= MOST_PARTS) | (kinds != np.round(kinds)))
        if bad.size:
            raise ValueError(
                f"{_place(shapes, arrays, int(bad[0]))}: expected a part, a whole number from 0 to "
                f"{MOST_PARTS - 1}, got {kinds[bad[0]]:g}"
            )
    of_kind = np.concatenate([np.repeat(arrays["category"], arrays["kinds_of"]) for _, arrays in read])
    kinds = np.concatenate([arrays["kinds"] for _, arrays in read])
    table = {}
    for index, category in enumerate(categories):
        ids = np.unique(kinds[of_kind == index]).tolist()
        if not ids:
            raise ValueError(f"parts of {category}: no training shape to know them from; write parts.json")
        table[category] = {f"{category} {i}": int(part) for i, part in enumerate(ids)}
    return table


def _read_list(folder: Path, name: str, table: dict[str, str], features: tuple[str, ...]) -> Listed:
    """Reads the shapes of a list: points (R, 3 + F) and parts (R,) of all of them one after another."""
    shapes = read_list(folder, name, table)
    files = [path for shape in shapes for path in (shape.path, shape.labels) if path is not None]
    sources = [folder / TABLE, list_path(folder, name), *files]
    key = f"shapenetpart-{name}{'' if features == FEATURES else named(features or ('xyz',))}"
    return Listed(shapes, cached(sources, key, partial(_parse, shapes, features), folder=folder))


def _parse(shapes: list[Shape], features: tuple[str, ...], store: Store) -> Arrays:
    from tqdm import tqdm

    kinds, notes = [], list[str]()
    for shape in tqdm(shapes, desc="parsing text files once", unit="file", disable=None):
        rows = _read_rows(shape, channel_count(features) + 1)  # (N, 3 + F + 1)
        points = _mend(shape, rows[:, :-1], features, notes)
        store.add(points=points, parts=rows[:, -1])
        kinds.append(np.unique(rows[:, -1]))
    log_notes(notes)
    return {
        "kinds": np.concatenate(kinds),  # the labels of each shape, each once
        "kinds_of": np.array([len(own) for own in kinds], dtype=np.int64),
        "category": np.array([shape.category for shape in shapes], dtype=np.int64),
    }


def _mend(
    shape: Shape, points: NDArray[np.float32], features: tuple[str, ...], notes: list[str]
) -> NDArray[np.float32]:
    """Brings features into their usual range: raises FeatureError for numbers that cannot be them."""
    mended, columns = torch.from_numpy(points.copy()), columns_of(features)
    for feature in features:
        place = columns[name_of(feature)]
        where = f"{shape.path}, columns {place.start + 1} to {place.stop}"
        one = torch.cat([mended[:, :3], mended[:, place]], dim=1)
        mended[:, place] = mend_features(one, (feature,), where, notes)[:, 3:]
    return mended.numpy()


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


def _shifts(
    shapes: list[Shape], categories: tuple[str, ...], starts: dict[str, int] | None
) -> NDArray[np.int64]:
    """Says what makes official ids (S,) of parts that count from 1 in each category, as .seg files do."""
    firsts = [starts[categories[one.category]] - 1 if starts and one.labels else 0 for one in shapes]
    return np.array(firsts, dtype=np.int64)


def _check_labels(
    listed: Listed, shift: NDArray[np.int64], categories: tuple[str, ...], table: tuple[tuple[int, ...], ...]
) -> None:
    """Raises ValueError for the first label that its shape's category does not have, with its line."""
    shapes, arrays = listed
    of_kind = np.repeat(arrays["category"], arrays["kinds_of"])
    moved = np.repeat(shift, arrays["kinds_of"])
    parts = arrays["kinds"] + moved
    allowed = np.zeros((len(table), 1 + max(map(max, table))), dtype=bool)
    for index, ids in enumerate(table):
        allowed[index, list(ids)] = True
    inside = (parts >= 0) & (parts < allowed.shape[1]) & (parts == np.round(parts))
    known = inside & allowed[of_kind, np.where(inside, parts, 0).astype(np.int64)]
    if known.all():
        return
    kind = int(np.flatnonzero(~known)[0])
    category = int(of_kind[kind])
    expected = ", ".join(str(part - moved[kind]) for part in table[category])
    raise ValueError(
        f"{_place(shapes, arrays, kind)}: expected a part of {categories[category]} ({expected}), got "
        f"{arrays['kinds'][kind]:g}"
    )


def _place(shapes: list[Shape], arrays: Arrays, kind: int) -> str:
    """Names the file and line that has a label first; empty lines hold none, and are counted."""
    index = int(np.searchsorted(np.cumsum(arrays["kinds_of"]), kind, side="right"))
    begin, rows = int(arrays["rows"][:index].sum()), int(arrays["rows"][index])
    inside = int(np.argmax(arrays["parts"][begin : begin + rows] == arrays["kinds"][kind]))
    path = shapes[index].labels or shapes[index].path
    with path.open(encoding="utf-8", errors="replace") as lines:
        filled = [number for number, line in enumerate(lines, start=1) if line.strip()]
    return f"{path}, line {filled[inside]}"


def _check_width(shapes: list[Shape], rows: NDArray[np.int64], width: int) -> None:
    """Raises ValueError where shapes side by side take far more than their files, because of one."""
    if len(rows) * width > max(FREE // 28, RATIO * int(rows.sum())):  # 28 bytes a row
        largest = shapes[int(rows.argmax())].path
        raise ValueError(
            f"{largest} holds {rows.max()} points: {width} for each of {len(rows)} shapes are over {RATIO} "
            "times what the files hold; ask for fewer by num_points"
        )


def _whole_parts(parts: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Returns parts (S, N) by their official ids."""
    return (parts + shift[:, None]).long()
