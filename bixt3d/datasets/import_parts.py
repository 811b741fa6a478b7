"""Labelled clouds of any kind, written in ShapeNetPart's layout with parts.json and lists of splits."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.datasets.features import channel_count, log_notes, parse_features
from bixt3d.datasets.layouts import NAMES
from bixt3d.datasets.part_labels import (
    Source,
    in_numbers,
    is_part,
    label_numbers,
    label_of,
    note_filler,
    number_parts,
)
from bixt3d.datasets.part_table import TABLE, list_path
from bixt3d.datasets.readers import clouds_in, files_in, load_cloud, log_unread
from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.suggest import counted
from bixt3d.yaml import parse_yaml

SHARES = {"val": 0.1, "test": 0.2}
SHOWN = 10  # files that are named one by one
UNREADABLE = 0.1  # the share of files that may be left out
USUAL = ("color", "intensity")  # features that files name
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """What was written.

    Attributes:
        folder: Where it lies: the root of the data set ``shapenetpart``.
        parts: For each category its parts and their ids, as in parts.json.
        counts: Shapes of each split.
        features: What stands between xyz and the part.
        left_out: Files that could not be read or have no labels, each with the reason.
        others: Features that all files hold, and that are not kept.
    """

    folder: Path
    parts: dict[str, dict[str, int]]
    counts: dict[str, int]
    features: tuple[str, ...]
    left_out: tuple[str, ...]
    others: tuple[str, ...] = ()


def import_parts(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    names: Mapping[Any, Any] | str | os.PathLike[str] | None = None,
    features: Sequence[str] | None = None,
    num_points: int | None = None,
    seed: int = 0,
) -> Imported:
    """Writes labelled clouds as a data set of parts, which `open_dataset("shapenetpart", out, ...)` reads.

    A label a point is what a file calls label, part, class, classification or the like, CloudCompare's scalar
    fields included, or the last column of a file whose columns have no names. It is a whole number, or in all
    files a word, which is then the name of the same part in every category. Points with a label below 0, or
    an empty one, are left out.

    Categories are the folders in ``source``; without any, all is one category of its name. Where all lie in
    folders train, val and test, these are kept as splits. What is missing of test and val is drawn from the
    rest, category by category, by the seed: a fifth for test, a tenth for val.

    Args:
        source: The folder of the files.
        out: The folder to write, which is empty or not there yet.
        names: Names of labels that are numbers, or a YAML or JSON file of them: ``{label: name}``, which then
            mean the same part in every category, or ``{category: {label: name}}``. None: numbers, for each
            category its own parts.
        features: What to keep beside xyz; None: normals, where all files have them.
        num_points: The most points of a shape, a draw of them; None keeps all.
        seed: Seed of both draws.

    Raises:
        FileNotFoundError: There is no such folder, or no cloud in it.
        FileExistsError: ``out`` holds files already.
        ValueError: Fewer than three shapes, more than one in ten files that cannot be read, or a label
            without a name; or words for labels in some files alone, or beside ``names``.
    """
    source, out = Path(source).expanduser().resolve(), Path(out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: expected a new or empty folder, got one that holds files")
    wanted = None if features is None else parse_features(features)
    sources = _find(source)
    clouds, left_out = _read(sources, wanted)
    more = [f"and {len(left_out) - SHOWN} more"] if len(left_out) > SHOWN else []
    lines = "".join(f"\n  {line}" for line in [*left_out[:SHOWN], *more])
    if len(left_out) > UNREADABLE * len(sources) and len(clouds) >= 3:
        raise ValueError(
            f"{source}: {len(left_out)} of {len(sources)} files cannot be read, more than one in ten; "
            f"mend or remove them:{lines}"
        )
    if len(clouds) < 3:
        raise ValueError(
            f"{source}: expected three shapes or more, with labels, got {len(clouds)} of "
            f"{counted(len(sources), 'file')}{':' * bool(lines)}{lines}"
        )
    if wanted is None:
        wanted = ("normal",) if all(cloud.has_normals() for cloud in clouds.values()) else ()
    given = {at: label_of(cloud) for at, cloud in clouds.items()}
    labels, stated = in_numbers(given, names_from(names))
    parts, ids = number_parts(clouds, labels, stated)
    if not stated:
        note_filler(labels)
    folders = _folders(list(parts))
    random = np.random.default_rng(seed)
    splits = _split(list(clouds), random)
    tokens: dict[Source, str] = {}
    notes: list[str] = []
    for at, cloud in clouds.items():
        folder = out / folders[at.category]
        folder.mkdir(parents=True, exist_ok=True)
        taken = {token for other, token in tokens.items() if other.category == at.category}
        tokens[at] = token = _token(at, source, taken)
        rows = np.concatenate([cloud.take(wanted, at.path, notes), labels[at][:, None]], axis=1)
        rows = rows[labels[at] >= 0]
        if num_points is not None and len(rows) > num_points:
            rows = rows[np.sort(random.choice(len(rows), num_points, replace=False))]
        rows[:, -1] = [ids[at.category][int(label)] for label in rows[:, -1]]
        form = ["%.10g"] * channel_count(wanted) + ["%d"]
        np.savetxt(folder / f"{token}.txt", rows, form)
    log_notes(notes)
    for name in ("train", "val", "test"):
        entries = [f"shape_data/{folders[at.category]}/{tokens[at]}" for at in clouds if splits[at] == name]
        path = list_path(out, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entries, indent=1), encoding="utf-8")
    tables: dict[str, Any] = {"parts": parts}
    if all(own.dtype.kind != "U" for own in given.values()):  # by which predictions say the parts, too
        tables["labels"] = label_numbers(ids)
    for name, table in tables.items():
        (out / f"{name}.json").write_text(json.dumps(table, indent=1, ensure_ascii=False), encoding="utf-8")
    lines = "".join(f"{category}\t{folder}\n" for category, folder in folders.items())
    (out / TABLE).write_text(lines, encoding="utf-8")
    counts = {name: list(splits.values()).count(name) for name in ("train", "val", "test")}
    held = [one for one in USUAL if all(cloud.feature(one) is not None for cloud in clouds.values())]
    others = tuple(one for one in held if one not in wanted)
    return Imported(out, parts, counts, wanted, tuple(left_out), others)


def names_from(names: Mapping[Any, Any] | str | os.PathLike[str] | None) -> Mapping[Any, Any]:
    """Returns names of labels, which may lie in a YAML or JSON file; none for None.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds anything but a name for each label, or such names for each category.
    """
    if names is None:
        return {}
    if isinstance(names, Mapping):
        return _checked(names, "names")
    path = Path(names).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} of names of labels")
    try:
        stated = parse_yaml(path.read_text(encoding="utf-8"))  # JSON is YAML
    except ValueError as error:
        raise ValueError(f"{path}: expected YAML or JSON, got {error}") from None
    if not isinstance(stated, Mapping) or not stated:
        raise ValueError(f"{path}: expected {{label: name}}, got {stated!r:.60}")
    return _checked(stated, str(path))


def _checked(names: Mapping[Any, Any], where: str) -> Mapping[Any, Any]:
    """Returns names as they are, if all are of labels, or each category has names of labels."""
    by_category = any(isinstance(value, Mapping) for value in names.values())
    for category, own in names.items() if by_category else [("", names)]:
        if not isinstance(own, Mapping):
            raise ValueError(
                f"{where}: expected {{label: name}} for {category}, as others have it, got {own!r:.60}"
            )
        for label, name in own.items():
            if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
                of = f" of {category}" if by_category else ""
                remedy = ": put it in quotes" if isinstance(name, (bool, float)) else ""
                raise ValueError(f"{where}: expected a name for label {label}{of}, got {name!r:.60}{remedy}")
    return names


def _find(source: Path) -> list[Source]:
    """Lists the files with their categories and splits."""
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}")
    log_unread(source.name, files_in(source))
    files = clouds_in(source)
    if not files:
        raise FileNotFoundError(f"{source}: expected meshes or clouds with labels, found none")
    folders = [path.relative_to(source).parts[:-1] for path in files]
    splits = all(inside and inside[0].lower() in NAMES for inside in folders)
    found = []
    for path, inside in zip(files, folders, strict=True):
        split = NAMES[inside[0].lower()] if splits else ""
        inside = inside[1:] if splits else inside
        found.append(Source(path, inside[0] if inside else source.name, split))
    return found


def _read(
    sources: Sequence[Source], features: tuple[str, ...] | None
) -> tuple[dict[Source, FileCloud], list[str]]:
    """Reads the files; those that cannot be read, or lack labels or features, are named with the reason."""
    from tqdm import tqdm

    clouds, left_out, taken = {}, [], []
    for at in tqdm(sources, desc="reading labelled clouds", unit="file", disable=None):
        try:
            cloud = load_cloud(at.path)
            labels = label_of(cloud)
            if not is_part(labels).any():
                raise ValueError(f"{at.path}: expected labels from 0, or words, got none on any point")
            if cloud.labels is None and cloud.words is None and cloud.columns is not None:
                taken += [at.path] if cloud.columns.shape[1] > 1 else []
                cloud.columns = cloud.columns[:, :-1] if cloud.columns.shape[1] > 1 else None
                cloud.named["label"] = labels
            cloud.take(features or (), at.path, [])
        except ValueError as error:
            reason = str(error).removeprefix(str(at.path)).lstrip(":, ")
            left_out.append(f"{at.path}: {reason}")
            continue
        clouds[at] = cloud
    if taken:
        logger.info(
            "labels are the last of the columns without names, in %s, such as %s",
            *(counted(len(taken), "file"), taken[0]),
        )
    return clouds, left_out


def _split(sources: Sequence[Source], random: np.random.Generator) -> dict[Source, str]:
    """Returns the split of each shape: that of its folder, else a draw; test and val are never empty."""
    found = {at: at.split or "train" for at in sources}
    wanted = {name: share for name, share in SHARES.items() if name not in found.values()}
    for category in sorted({at.category for at in sources}):
        own = [at for at in sources if at.category == category and found[at] == "train"]
        order = [own[place] for place in random.permutation(len(own))]
        for name, share in wanted.items():
            count = min(max(1, round(share * len(own))), len(order) - 1) if len(own) >= 3 else 0
            found.update(dict.fromkeys(order[:count], name))
            order = order[count:]
    for name in SHARES:  # of small categories
        if name not in found.values():
            train = [at for at in sources if found[at] == "train"]
            most = max(train, key=lambda at: sum(other.category == at.category for other in train))
            found[most] = name
    if "train" not in found.values():
        raise ValueError("expected shapes in train, got none there")
    return found


def _folders(categories: Sequence[str]) -> dict[str, str]:
    """Names the folder of each category: letters, digits, _ and - alone."""
    found: dict[str, str] = {}
    for number, category in enumerate(categories):
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", category).strip("_")
        found[category] = name if name and name not in found.values() else f"category_{number}"
    return found


def _token(at: Source, source: Path, taken: set[str]) -> str:
    """Names a shape by its file, by more of its path where that is taken."""
    inside = at.path.relative_to(source).with_suffix("")
    name = re.sub(r"[^\w-]+", "_", inside.name)
    if name not in taken:
        return name
    name = re.sub(r"[^\w-]+", "_", "_".join(inside.parts))
    number = 2
    while name in taken:
        name, number = f"{name}_{number}", number + 1
    return name
