"""Data described in words before a training: classes, sizes, unit, up axis, and what is odd about them."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from bixt3d.datasets.features import FeatureError, parse_features
from bixt3d.datasets.files import find_folder
from bixt3d.datasets.folder import refusals
from bixt3d.datasets.holdout import NoValError, hold_out
from bixt3d.datasets.images import ImageSplit
from bixt3d.datasets.label_table import LABELS
from bixt3d.datasets.layouts import class_of, list_splits
from bixt3d.datasets.orientation import guess_up
from bixt3d.datasets.readers import clouds_in, hold_labels
from bixt3d.datasets.scenes import NoLabelsError
from bixt3d.datasets.split import Split
from bixt3d.datasets.survey import Survey, find_notes, survey_files, survey_split
from bixt3d.suggest import counted

WIDTH = 80
# The usual folder of data sets, and files of which only they have one.
MARKERS: dict[str, tuple[str, ...]] = {
    "modelnet40": ("modelnet40_ply_hdf5_2048", "shape_names.txt"),
    "modelnet40_normal": ("modelnet40_normal_resampled", "modelnet40_shape_names.txt"),
    "shapenetpart": ("shapenetcore_partanno_segmentation_benchmark_v0_normal", "synsetoffset2category.txt"),
    "scenes": ("scenes", *LABELS),
}
LOOKED_AT = 200  # shapes by which the up axis is guessed, and files whose own extents are read
APART = 10  # times the median size, where shapes are not in one unit
SHOWN = 10  # files that are named one by one


def info(root: str | os.PathLike[str], name: str | None = None, features: Sequence[str] | None = None) -> str:
    """Describe a data set in lines of up to 80 columns: what to know before training on it.

    Shapes and points a class, and a part; extent and likely unit; likely up axis; features; shapes that two
    splits share; classes that one lacks; imbalance above 10 to 1. Unit and up axis are guesses from the
    numbers, and are called so.

    Args:
        root: The data set's folder, or a data folder; of several data sets in it each is described.
        name: A name of `list_datasets`; what the folder holds if None.
        features: What stands beside xyz, see `open_dataset`; None: as files say. Files of a folder that lack
            one are named.

    Raises:
        FileNotFoundError: There is no such folder, or no shapes in it.
        ValueError: The data are damaged, or of no layout that is known.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise FileNotFoundError(
            f"{base}: expected a folder, got a file" if base.is_file() else f"no folder {base}"
        )
    places = {name: base} if name else recognize(base)
    return "\n\n".join(_describe(*place, features) for place in places.items())


def _describe(name: str, base: Path, wanted: Sequence[str] | None) -> str:
    bad: list[str] = []
    refused: list[str] = []
    if name == "folder":
        surveys, bad, refused = _survey_folder(base, None if wanted is None else parse_features(wanted))
        parts: Mapping[str, Split] = {}
        extents = torch.cat([survey.extent for survey in surveys.values()])
    else:
        splits, refused = _open(name, base, wanted)
        if isinstance(splits["train"], ImageSplit):
            raise ValueError(f"{base}: expected clouds, got images: bixt3d train --dry-run describes them")
        surveys = {split: survey_split(opened) for split, opened in splits.items()}
        parts = {split: opened for split, opened in splits.items() if opened.parts is not None}
        extents = surveys["train"].extent
        files = [] if name == "modelnet40" else _some_files(_own_folder(name, base))
        raw = survey_files({str(path): path for path in files}, ("any",), [0] * len(files))[0]
        extents = extents if raw is None else raw.extent
    train = next(iter(surveys.values()))
    up = guess_up([train.cloud(number) for number in _spread(len(train))])
    lines = [f"{name}: {base}", *_counts(surveys), ""]
    lines += [f"features: {', '.join(('xyz', *train.features))}", *_extent(extents)]
    guess = (
        f"likely {up}, by the clouds' shape; it may be wrong" if up else "no guess: the clouds give no hint"
    )
    lines += [f"up axis: {guess}", "", *_table(surveys)]
    for opened in list(parts.values())[:1]:
        lines += ["", *_parts(opened)]
    notes = [f"note: {note}" for note in find_notes(surveys)]
    for opened in list(parts.values())[:1]:
        if absent := _absent_parts(opened):
            line = f"note: no training shape has these parts: {absent}"
            notes.append(textwrap.fill(line, WIDTH, subsequent_indent="  "))
    if "train" not in surveys:
        notes.append("note: there is no train: a model can be evaluated on these shapes, not trained on them")
    elif "val" not in surveys and not any(reason.startswith("val: ") for reason in refused):
        notes.append(
            "note: no class has two training shapes, of which one could be held out for\n  validation: "
            "train with data.train_split=trainval, or add a folder val"
        )
    if name == "folder" and hold_labels(clouds_in(base)):
        notes.append(
            "note: the files hold a label a point, which classification leaves out; for parts:\n"
            f"  bixt3d data import-parts {base} NEW_FOLDER"
        )
    what = "a training" if "train" in surveys else "an evaluation"
    notes += [f"note: {what} refuses this:\n  {reason}" for reason in refused]
    if bad:
        what = "cannot be read" if refused else "cannot be read, left out"
        notes.append(f"note: {counted(len(bad), 'file')} {what}:")
        notes += [f"  {line}" for line in bad[:SHOWN]] + (["  ..."] if len(bad) > SHOWN else [])
    return "\n".join([*lines, "", *(notes or ["nothing odd found"])])


def brief(splits: Mapping[str, Split]) -> list[str]:
    """Return what a training says of its data before it begins: what a shape is, and what is odd."""
    surveys = {name: survey_split(split) for name, split in splits.items()}
    train, survey = next(iter(splits.values())), next(iter(surveys.values()))
    features = ", ".join(("xyz", *survey.features))
    classes, shape = counted(len(train.classes), "class", "classes"), "shape"
    if len(train.parts_of_category) == 1:  # as of scenes, whose labels are all that is learned
        classes, shape = counted(len(train.parts_of_category[0]), "label"), "cloud"
    what = f"  {classes}; {_points(survey)} a {shape}; {features}"
    return [what, *(f"note: {note}" for note in find_notes(surveys))]


def recognize(base: Path) -> dict[str, Path]:
    """Return the data sets in a folder with their places, by files that only they have; else ``folder``."""
    from bixt3d.datasets import list_datasets

    found = {
        name: place
        for name, (folder, *markers) in MARKERS.items()
        for place in (base / folder, base)
        if name in list_datasets() and any((place / marker).is_file() for marker in markers)
    }
    return found or {"folder": base}


def _open(name: str, base: Path, features: Sequence[str] | None) -> tuple[dict[str, Split], list[str]]:
    """Return the splits that there are, and why those are none whose scenes have no labels."""
    from bixt3d.datasets import open_dataset

    refused, read = [], partial(open_dataset, name, base, features=features, make=False)
    try:
        splits = {"train": read("train")}
    except NoValError:
        splits = {"train": read("trainval")}
    for split in ("val", "test"):
        try:
            splits[split] = read(split)
        except (FileNotFoundError, NoValError):
            continue
        except NoLabelsError as reason:
            refused.append(str(reason))
    return splits, refused


def _own_folder(name: str, base: Path) -> Path:
    if name not in MARKERS:
        return base
    folder, *markers = MARKERS[name]
    return find_folder(base, folder, next((one for one in markers if (base / one).is_file()), markers[0]))


def _some_files(folder: Path) -> list[Path]:
    files = [path for path in clouds_in(folder) if path.parent != folder]
    return [files[number] for number in _spread(len(files))]


def _spread(count: int) -> list[int]:
    """Return up to `LOOKED_AT` of so many numbers, evenly spread."""
    most = min(LOOKED_AT, count)
    return [number * count // most for number in range(most)]


def _survey_folder(
    base: Path, wanted: Sequence[str] | None
) -> tuple[dict[str, Survey], list[str], list[str]]:
    """Look at every file of a folder of shapes; val is cut from train as a training does it.

    Also return what cannot be read, and why a training with the wanted features refuses the folder, or an
    evaluation does where there is no train.
    """
    listed = list_splits(base.absolute(), None)
    listings = {split: dict(listing.files) for split, listing in listed.items()}
    classes = sorted({class_of(name) for files in listings.values() for name in files})
    found, unread = {}, {}
    bad: list[str] = []
    lacking: list[FeatureError] = []
    for split, files in listings.items():
        label = [classes.index(class_of(name)) for name in files]
        survey, damaged = survey_files(files, classes, label, wanted)
        bad += map(str, damaged.values())
        lacking += (error for error in damaged.values() if isinstance(error, FeatureError))
        unread[split] = {name for name, error in damaged.items() if not isinstance(error, FeatureError)}
        if survey is not None:
            found[split] = survey
    names = ", ".join(wanted or ())
    first = next(iter(listings))  # train, if it is there
    needed = "training files" if first == "train" else f"{first} files"
    if first not in found and lacking:
        raise lacking[0].within(f"{base}: expected {needed} with {names}, got none: ")
    if first not in found:
        raise ValueError(f"{base}: none of its {needed} can be read:" + "".join(f"\n  {b}" for b in bad[:3]))
    if "train" in found and "val" not in found:
        train, val = hold_out(found["train"].label)
        if len(val):
            found = {
                "train": found["train"].select(train.tolist()),
                "val": found["train"].select(val.tolist()),
                **{split: survey for split, survey in found.items() if split != "train"},
            }
    refused = refusals(base, listed, unread)
    if lacking:
        total = sum(map(len, listings.values()))
        refused.append(f"every file must hold {names}, {len(lacking)} of {total} do not")
    return found, bad, refused


def _counts(surveys: Mapping[str, Survey]) -> list[str]:
    return [
        f"  {name:5} {len(one):>7,} {'shape' if len(one) == 1 else 'shapes'} of {_points(one)}"
        for name, one in surveys.items()
    ]


def _points(survey: Survey) -> str:
    low, high = int(survey.count.min()), int(survey.count.max())
    return counted(high, "point") if low == high else f"{low:,} to {high:,} points"


def _extent(extents: torch.Tensor) -> list[str]:
    longest = extents.amax(1)
    low, middle, high = (float(value) for value in (longest.min(), longest.median(), longest.max()))
    sides = " x ".join(f"{value:.4g}" for value in extents.median(0).values.tolist())
    if 0.5 <= low and high <= 2.01:
        unit = "all fit the unit sphere, so likely no unit"
    elif middle < 0.01 or middle > 2000:
        unit = "likely not metres"
    elif middle < 30:
        unit = "likely metres"
    elif middle < 300:
        unit = "likely centimetres, or scenes in metres"
    else:
        unit = "likely millimetres, or scenes in metres"
    span = " to ".join(dict.fromkeys((f"{low:.4g}", f"{high:.4g}")))
    lines = [f"size: {sides} along x, y, z (median)", f"  longest side {span}: {unit}"]
    apart = int(((longest > APART * middle) | (longest < middle / APART)).sum())
    if apart:
        which = "one is" if apart == 1 else f"{apart} are"
        lines.append(f"  {which} more than {APART} times larger or smaller: are all in one unit?")
    return lines


def _table(surveys: Mapping[str, Survey]) -> list[str]:
    """Return a line a class: its shapes in each split, and the points of a shape."""
    some = next(iter(surveys.values()))
    rows = [["class", *surveys, "points a shape"]]
    for number, name in enumerate(some.classes):
        counts = [str(int((survey.label == number).sum())) for survey in surveys.values()]
        points = torch.cat([survey.count[survey.label == number] for survey in surveys.values()])
        span = f"{int(points.min()):,} to {int(points.max()):,}" if len(points) else "-"
        if len(points) and int(points.min()) == int(points.max()):
            span = f"{int(points[0]):,}"
        rows.append([name, *counts, span])
    return columns(rows)


def _parts(split: Split) -> list[str]:
    """Return a line a part: the shapes that have it, and its share of their category's points."""
    assert split.parts is not None and split.category is not None
    rows = [["category", "part", "shapes", "points"]]
    own = torch.full((len(split),), split.num_points) if split.count is None else split.count
    inside = torch.arange(split.num_points) < own[:, None]  # (S, N)
    for number, category in enumerate(split.categories):
        shapes = split.category == number
        parts, mask = split.parts[shapes], inside[shapes]
        for part in split.parts_of_category[number]:
            here = (parts == part) & mask
            share = float(here.sum()) / max(1, int(mask.sum()))
            names = split.part_names or tuple(map(str, range(split.num_parts)))
            rows.append([category, names[part], f"{int(here.any(1).sum()):,}", f"{share:.1%}"])
    return ["parts of the training shapes:", *columns(rows, left=2)]


def _absent_parts(split: Split) -> str:
    """Name the parts of each category that no shape has; of which category, where there are several."""
    assert split.parts is not None and split.category is not None
    names = split.part_names or tuple(map(str, range(split.num_parts)))
    absent = []
    for number, (category, ids) in enumerate(zip(split.categories, split.parts_of_category, strict=True)):
        seen = set(torch.unique(split.parts[split.category == number]).tolist())
        of = f" of {category}" if len(split.categories) > 1 else ""
        absent += [f"{names[part]}{of}" for part in ids if part not in seen]
    return ", ".join(absent)


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return rows as columns, the first ``left`` of them text and the rest numbers, 80 wide at most."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    spare = WIDTH - sum(widths[left:]) - 2 * (len(widths) - 1)
    widths[:left] = [min(width, spare // left) for width in widths[:left]]
    lines = []
    for row in rows:
        cells = [
            (cell if len(cell) <= width else cell[: width - 3] + "...").ljust(width)
            if at < left
            else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
