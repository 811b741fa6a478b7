"""The table of published data sets, with mirrors, checksums and what they must hold, and the check of that.

No address could be reached when it was written: all are as public projects state them, and data/README.md
marks them as not verified. So the content is always checked too.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bixt3d.datasets import open_dataset
from bixt3d.datasets.cache import cache_places
from bixt3d.datasets.files import find_folder, read_lines, require_files
from bixt3d.datasets.modelnet40 import CACHED_ROWS, HDF5_FOLDER, NORMAL_FOLDER
from bixt3d.datasets.part_table import TABLE
from bixt3d.datasets.shapenetpart import FOLDER

STANFORD = "https://shapenet.cs.stanford.edu/media"
HF = "https://huggingface.co/datasets"
POINTMLP = "https://github.com/ma-xu/pointMLP-pytorch/releases/download/Modenet40_dataset"
PART_SHA256 = "sha256:0e26411700bae2da38ee8ecc719ba4db2e6e0133486e258665952ad5dfced0fe"
NOT_WHOLE = 0.05  # counts that are off by a larger share are another data set, or a part of this one


@dataclass(frozen=True)
class Source:
    """A published data set: where its archive can be had, and what it must hold."""

    name: str  # as `open_dataset` calls it
    folder: str  # its folder in the data folder
    marker: str  # a file by which that folder is known inside an archive
    mirrors: Mapping[str, str | None]  # addresses in order; `md5:...` or `sha256:...` where anybody states it
    unpacked_bytes: int  # about
    shapes: Mapping[str, int]  # of each split
    classes: int  # or categories
    points: int = 0  # fewest of a shape; 0 where that varies
    parts: int = 0  # part ids
    lacking: float = 0.0  # share of the shapes that the official archive itself may lack
    by_hand: tuple[str, ...] = ()  # places that only a browser gets the archive from


MODELNET40 = Source(
    "modelnet40",
    HDF5_FOLDER,
    "shape_names.txt",
    {
        f"{STANFORD}/{HDF5_FOLDER}.zip": "md5:c9ab8e6dfb16f67afdab25e155c79e59",
        # packed anew, so its checksum is another
        f"{HF}/Msun/modelnet40/resolve/main/{HDF5_FOLDER}.zip": "md5:5ae9e37d1527ff1500e41a7e9e2d50e4",
        f"{POINTMLP}/{HDF5_FOLDER}.zip": None,
    },
    unpacked_bytes=710_000_000,
    shapes={"train": 9840, "test": 2468},
    classes=40,
    points=2048,
)
MODELNET40_NORMAL = Source(
    "modelnet40_normal",
    NORMAL_FOLDER,
    "modelnet40_shape_names.txt",
    {
        f"{STANFORD}/{NORMAL_FOLDER}.zip": None,
        f"{HF}/Pointcept/{NORMAL_FOLDER}-compressed/resolve/main/{NORMAL_FOLDER}.tar.gz": (
            "md5:46ed374f8ef5f7504ec4870298772ac2"
        ),
        f"{HF}/cminst/ModelNet40/resolve/main/{NORMAL_FOLDER}.zip": None,
    },
    unpacked_bytes=7_000_000_000,
    shapes={"train": 9843, "test": 2468},
    classes=40,
    points=10_000,
)
SHAPENETPART = Source(
    "shapenetpart",
    FOLDER,
    TABLE,
    {
        f"{STANFORD}/{FOLDER}.zip": PART_SHA256,
        f"{HF}/cminst/ShapeNet/resolve/main/{FOLDER}.zip": PART_SHA256,
        f"{HF}/wangps/shapenet_segmentation/resolve/main/{FOLDER}.zip": None,
    },
    unpacked_bytes=2_800_000_000,
    shapes={"train": 12_137, "val": 1870, "test": 2874},
    classes=16,
    parts=50,
    lacking=0.01,
    by_hand=(
        "https://drive.google.com/file/d/1W3SEE-dY1sxvlECcOwWSDYemwHEUbJIS/view",
        "https://www.kaggle.com/datasets/mitkir/shapenet",
    ),
)
SOURCES = {source.name: source for source in (MODELNET40, MODELNET40_NORMAL, SHAPENETPART)}


@dataclass
class Report:
    """What a data set holds, and differences from the official release with which it can be used."""

    folder: Path
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        state = "usable, but not quite the official release" if self.warnings else "whole"
        lines = [*(f"  {fact}" for fact in self.facts), *(f"warning: {each}" for each in self.warnings)]
        return "\n".join([f"{self.folder}: {state}", *lines])


def verify(source: Source, root: str | Path) -> Report:
    """Reads a data set in the data folder `root`, or in its own, and counts; removes its caches first.

    Raises:
        FileNotFoundError: The data set, or a file that it names, is missing.
        ValueError: A file is damaged, or this is another data set or only a part of it.
    """
    folder = find_folder(root, source.folder, source.marker)
    for place in cache_places(folder, "any"):
        shutil.rmtree(place.parent, ignore_errors=True)
        if place.parent.exists():
            raise PermissionError(
                f"{place.parent} cannot be removed, and would be read in place of the files"
            )
    return check(source, folder)


def check(source: Source, folder: Path) -> Report:
    """Does what `verify` does, from the cache where there is one."""
    report = Report(folder)
    for split, official in source.shapes.items():
        part = "trainval" if split == "train" and "val" not in source.shapes else split
        lines = _fewest_lines(folder, split) if source.name == "modelnet40_normal" else None
        whole = open_dataset(source.name, folder, part, lines and min(lines, CACHED_ROWS))
        count = len(whole)
        for what, expected, got, tolerance in (
            ("classes", source.classes, len(whole.classes), 0.0),
            ("parts", source.parts, sum(map(len, whole.parts_of_category)), 0.0),
            (f"{split} shapes", official, count, NOT_WHOLE),
        ):
            if abs(got - expected) > tolerance * expected:
                raise ValueError(f"this is not {source.name}: expected {expected:,} {what}, got {got:,}")
        points = lines or (whole.num_points if whole.count is None else int(whole.count.min()))
        more = "" if whole.count is None else " or more"
        channels = " + ".join(["xyz", *whole.features])
        report.facts.append(f"{split:5} {count:6,} shapes, {points:,} points{more}, {channels}")
        if not official * (1 - source.lacking) <= count <= official:
            report.warnings.append(f"{count:,} {split} shapes, officially {official:,}")
        if points < source.points:
            report.warnings.append(f"{points:,} points a {split} shape, officially {source.points:,}")
    report.facts.append(f"{source.classes} classes" + f", {source.parts} parts" * bool(source.parts))
    return report


def _fewest_lines(folder: Path, split: str) -> int:
    """Counts the lines of ModelNet40's text files, of which training reads the first."""
    listing = folder / f"modelnet40_{split}.txt"
    files = [folder / name.rpartition("_")[0] / f"{name}.txt" for name in read_lines(listing)]
    require_files(files, listing)
    return min(len(path.read_bytes().splitlines()) for path in files) or 1
