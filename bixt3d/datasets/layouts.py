"""Where a folder of shapes keeps them: split folders, class folders, or both, found by their names."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bixt3d.datasets.readers import SUFFIXES, hold_labels, is_cloud_file
from bixt3d.suggest import counted, nearest

# What people call the folders of a split.
NAMES = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "testset"), "test"),
}
MODELS = ("model", "models/model_normalized", "model_normalized")  # in a shape's own folder, as ShapeNet's
SHARES = {"test": 0.2, "val": 0.1}  # of a class where no folder says what is val and test
SCENES = "; scenes, with a label a point, need a labels.yaml beside train (docs/tutorials/scenes.md)"
LAYOUT = "data/README.md shows the layouts under 'folder'"

logger = logging.getLogger(__name__)


class Listing(NamedTuple):
    """What a split holds: the files of its shapes by `<class>/<name>`, and all else that lies there."""

    files: dict[str, Path]
    others: list[str]

    def classes(self) -> list[str]:
        """Return the classes of its shapes, sorted."""
        return sorted({class_of(name) for name in self.files})

    def loose(self) -> list[str]:
        """Return what may be shapes, but lies in no class's folder."""
        return [name for name in self.others if "/" not in name and Path(name).suffix.lower() in SUFFIXES]


def class_of(name: str) -> str:
    """Return the class of a shape `<class>/<name>`."""
    return name.partition("/")[0]


def list_splits(
    base: Path, wanted: str | None = "train", suffixes: Sequence[str] = SUFFIXES
) -> dict[str, Listing]:
    """Finds the shapes of each split of a folder, whichever of the layouts it has, and logs which.

    ``wanted`` is the split that is asked for, None for any: a folder of test shapes alone has that one.
    Shapes are files with one of the ``suffixes``.

    Raises:
        FileNotFoundError: The folder, or training shapes in it, are missing.
        ValueError: Two folders mean the same split, or the folders are of no layout, or of two.
    """
    folders = folders_in(base)
    splits = split_folders(base, folders)
    if splits:
        if "train" not in splits and wanted is not None and wanted not in splits:
            raise FileNotFoundError(f"no folder {base / 'train'}: expected {_expected(base)}")
        used = (name if one.name == name else f"{one.name} as {name}" for name, one in splits.items())
        layout = f"<split>/<class>, with {', '.join(used)}"
        listings = {name: _list_classes(folder, name, suffixes) for name, folder in splits.items()}
        name_unused(base, [folder for folder in folders if folder not in splits.values()])
    else:
        inside = {folder: split_folders(folder, folders_in(folder)) for folder in folders}
        if any(inside.values()):
            layout, listings = "<class>/<split>", _list_by_class(base, inside, suffixes)
        else:
            layout, listings = _cut_classes(base, suffixes)
    for name, listing in listings.items():
        if not listing.files:
            loose, where = listing.loose(), splits.get(name, base)
            got = f"{counted(len(loose), 'shape')} in no class's folder" if loose else "none"
            got += SCENES if hold_labels([where / one for one in loose if (where / one).is_file()]) else ""
            raise ValueError(
                f"{where}: expected <class>/<file> ({', '.join(suffixes)}), got {got}{_hint(base)}. {LAYOUT}."
            )
    logger.info("%s: found %s", base, layout)
    return listings


def _expected(base: Path) -> str:
    """Says what was expected of a folder, and what it holds."""
    held = sorted(path.name for path in base.iterdir())[:5] if base.is_dir() else []
    got = f"{base} holds {', '.join(held) or 'nothing'}" if base.is_dir() else f"{base} is not a folder"
    return f"{base}/<split>/<class>/<file>, or <class>/<file> to be cut; {got}{_hint(base)}. {LAYOUT}."


def _hint(base: Path) -> str:
    """Names a folder inside that has the splits, if there is one."""
    inside = ((path, split_folders(path, folders_in(path))) for path in folders_in(base))
    inner = next((path for path, splits in inside if "train" in splits), None)
    return f"; {inner} may be the folder to name" if inner else ""


def folders_in(base: Path) -> list[Path]:
    """Lists the folders in a folder, sorted, without hidden ones."""
    entries = sorted(base.iterdir(), key=lambda path: path.name) if base.is_dir() else []
    return [path for path in entries if path.is_dir() and not path.name.startswith(".")]


def split_folders(base: Path, folders: Iterable[Path]) -> dict[str, Path]:
    """Finds the folders that are splits, by whatever name; raises ValueError for two that mean the same."""
    found: dict[str, Path] = {}
    for folder in folders:
        meant = NAMES.get(folder.name.lower())
        if meant is None:
            continue
        if meant in found:
            raise ValueError(
                f"{base}: expected one folder for {meant}, got {found[meant].name} and {folder.name}"
            )
        found[meant] = folder
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def name_unused(base: Path, unused: list[Path]) -> None:
    """Logs folders beside train that are no split, each with the split that may be meant."""
    if unused:
        named = ", ".join(f"{folder.name}{nearest(folder.name.lower(), NAMES)}" for folder in unused[:5])
        logger.warning("%s: %d folders are not used: %s", base, len(unused), named)


def _list_classes(base: Path, split: str, suffixes: Sequence[str]) -> Listing:
    """Lists `<class>/<file>` and `<class>/<id>/model.*` in a folder."""
    files: dict[str, Path] = {}
    others: list[str] = []
    for entry in sorted(base.iterdir(), key=lambda path: path.name):
        if entry.name.startswith(".") or not entry.is_dir():
            others.append(entry.name)
            continue
        found, left = _list_class(entry, entry.name, suffixes)
        if not found and split == "train":
            raise ValueError(
                f"{entry}: expected files of this class ({', '.join(suffixes)}), got none; add some, or "
                f"remove the folder. {LAYOUT}."
            )
        files |= found
        others += left
    return Listing(files, others)


def _list_class(folder: Path, one_class: str, suffixes: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Lists the shapes of a class's folder by name, and the names of what else lies there."""
    files, others = {}, []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        shape = _shape(path, suffixes)
        if shape is None:
            others.append(f"{one_class}/{path.name}")
        else:
            files[f"{one_class}/{path.name}"] = shape
    return files, others


def _shape(path: Path, suffixes: Sequence[str]) -> Path | None:
    """Returns the file of a shape: the path itself, or a model in that folder."""
    if path.name.startswith(".") or not path.is_dir():
        return path if is_cloud_file(path, suffixes) else None
    inside = (path / f"{model}{suffix}" for model in MODELS for suffix in suffixes)
    return next((file for file in inside if file.is_file()), None)


def _list_by_class(
    base: Path, inside: dict[Path, dict[str, Path]], suffixes: Sequence[str]
) -> dict[str, Listing]:
    """Lists `<class>/<split>/<file>`; raises ValueError where some class has no such folders."""
    listings = {name: Listing({}, []) for name in ("train", "val", "test")}
    listings["train"].others.extend(_loose_files(base))
    for folder, splits in inside.items():
        loose, _ = _list_class(folder, folder.name, suffixes)
        if not loose and not splits:
            listings["train"].others.append(folder.name)
            continue
        if loose or "train" not in splits:
            got = counted(len(loose), "shape") if loose else "no train"
            beside = f" beside {', '.join(one.name for one in splits.values())}" if splits and loose else ""
            raise ValueError(
                f"{folder}: expected the splits as folders, as other classes have, got {got}{beside}. "
                f"{LAYOUT}."
            )
        name_unused(folder, [path for path in folders_in(folder) if path not in splits.values()])
        for name, path in splits.items():
            files, others = _list_class(path, folder.name, suffixes)
            listings[name].files.update(files)
            listings[name].others.extend(others)
    return {name: one for name, one in listings.items() if any(name in splits for splits in inside.values())}


def _loose_files(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir() if not path.is_dir())


def _cut_classes(base: Path, suffixes: Sequence[str]) -> tuple[str, dict[str, Listing]]:
    """Cuts `<class>/<file>` into splits, class by class, in an order that a shape's own name decides.

    Files of other classes change nothing, and a new file moves two others of its class at most.
    """
    parent = split_folders(base.parent, folders_in(base.parent)) if base.name.lower() in NAMES else {}
    if len(parent) > 1 and base in parent.values():
        raise ValueError(f"{base} is one split of {base.parent}: name that folder")
    listings = {name: Listing({}, []) for name in ("train", "val", "test")}
    listings["train"].others.extend(_loose_files(base) if base.is_dir() else [])
    for folder in folders_in(base):
        files, others = _list_class(folder, folder.name, suffixes)
        if not files:
            listings["train"].others.append(folder.name)
            continue
        drawn = sorted(files, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
        test = min(max(round(SHARES["test"] * len(drawn)), 1), len(drawn) - 1)
        val = min(max(round(SHARES["val"] * len(drawn)), 1), len(drawn) - 1 - test)
        part = {name: "test" if at < test else "val" for at, name in enumerate(drawn[: test + val])}
        for name, path in files.items():
            listings[part.get(name, "train")].files[name] = path
        listings["train"].others.extend(others)
    if not listings["train"].files:
        raise FileNotFoundError(f"no folder {base / 'train'}: expected {_expected(base)}")
    counts = ", ".join(f"{len(listing.files)} {name}" for name, listing in listings.items())
    layout = f"<class>/<file> without splits: cut by a fixed seed, class by class, into {counts}"
    return layout, {name: listing for name, listing in listings.items() if listing.files}
