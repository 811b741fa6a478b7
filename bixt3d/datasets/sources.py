"""Where published data sets can be had, and what they must hold.

No mirror below could be reached when this table was written: addresses and checksums are those that public
projects state, and all are marked "not verified" in data/README.md. What arrives is therefore always checked
by its content as well.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bixt3d.datasets import Split, open_dataset
from bixt3d.datasets.cache import cache_places
from bixt3d.datasets.files import find_folder, read_lines, require_files
from bixt3d.datasets.modelnet40 import CACHED_ROWS, HDF5_FOLDER, NORMAL_FOLDER
from bixt3d.datasets.shapenetpart import FOLDER, TABLE

STANFORD = "https://shapenet.cs.stanford.edu/media"
HUGGING_FACE = "https://huggingface.co/datasets"
NOT_WHOLE = 0.05  # counts that are off by a larger share are another data set, or a part of this one
PART_SHA256 = "sha256:0e26411700bae2da38ee8ecc719ba4db2e6e0133486e258665952ad5dfced0fe"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mirror:
    """One address of a data set's archive.

    Attributes:
        url: http or https.
        checksum: `md5:...` or `sha256:...` of the file there; None where nobody states one.
    """

    url: str
    checksum: str | None = None


@dataclass(frozen=True)
class Source:
    """A published data set: where its archive can be had, and what it must hold.

    Attributes:
        name: As `open_dataset` calls it.
        folder: Its folder in the data folder.
        marker: A file by which that folder is known inside an archive.
        mirrors: Addresses, tried in this order.
        archive_bytes: Size of the archive, about.
        unpacked_bytes: Size of what is in it, about; an archive of more than three times that is refused.
        shapes: For each split the official number of shapes, then others that are known to be in use.
        classes: Number of classes, or of categories.
        points: Fewest points stored for each shape; 0 where that varies.
        parts: Number of part ids; 0 without parts.
        lacking: Share of the shapes that the official archive itself may lack.
        by_hand: Places that only a browser gets the archive from.
    """

    name: str
    folder: str
    marker: str
    mirrors: tuple[Mirror, ...]
    archive_bytes: int
    unpacked_bytes: int
    shapes: Mapping[str, tuple[int, ...]]
    classes: int
    points: int = 0
    parts: int = 0
    lacking: float = 0.0
    by_hand: tuple[str, ...] = ()


@dataclass
class Report:
    """What a data set holds, and how it differs from the official release.

    Attributes:
        folder: Where it is.
        facts: What was counted, a line for each split.
        warnings: Differences with which the data can be used.
    """

    folder: Path
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        state = "usable, but not quite the official release" if self.warnings else "whole"
        warnings = [f"warning: {warning}" for warning in self.warnings]
        return "\n".join([f"{self.folder}: {state}", *(f"  {line}" for line in self.facts), *warnings])


SOURCES = {
    source.name: source
    for source in (
        Source(
            "modelnet40",
            HDF5_FOLDER,
            "shape_names.txt",
            (
                Mirror(f"{STANFORD}/{HDF5_FOLDER}.zip", "md5:c9ab8e6dfb16f67afdab25e155c79e59"),
                Mirror(
                    f"{HUGGING_FACE}/Msun/modelnet40/resolve/main/{HDF5_FOLDER}.zip",
                    "md5:5ae9e37d1527ff1500e41a7e9e2d50e4",  # packed anew, so not the original's
                ),
                Mirror(
                    "https://github.com/ma-xu/pointMLP-pytorch/releases/download/Modenet40_dataset/"
                    f"{HDF5_FOLDER}.zip"
                ),
            ),
            archive_bytes=435_200_000,
            unpacked_bytes=710_000_000,
            shapes={"train": (9840, 9843), "test": (2468,)},
            classes=40,
            points=2048,
        ),
        Source(
            "modelnet40_normal",
            NORMAL_FOLDER,
            "modelnet40_shape_names.txt",
            (
                Mirror(f"{STANFORD}/{NORMAL_FOLDER}.zip"),
                Mirror(
                    f"{HUGGING_FACE}/Pointcept/{NORMAL_FOLDER}-compressed/resolve/main/{NORMAL_FOLDER}.tar.gz",
                    "md5:46ed374f8ef5f7504ec4870298772ac2",
                ),
                Mirror(f"{HUGGING_FACE}/cminst/ModelNet40/resolve/main/{NORMAL_FOLDER}.zip"),
            ),
            archive_bytes=1_710_000_000,
            unpacked_bytes=7_000_000_000,
            shapes={"train": (9843,), "test": (2468,)},
            classes=40,
            points=10_000,
        ),
        Source(
            "shapenetpart",
            FOLDER,
            TABLE,
            (
                Mirror(f"{STANFORD}/{FOLDER}.zip", PART_SHA256),
                Mirror(f"{HUGGING_FACE}/cminst/ShapeNet/resolve/main/{FOLDER}.zip", PART_SHA256),
                Mirror(f"{HUGGING_FACE}/wangps/shapenet_segmentation/resolve/main/{FOLDER}.zip"),
            ),
            archive_bytes=700_000_000,
            unpacked_bytes=2_800_000_000,
            shapes={"train": (12_137,), "val": (1870,), "test": (2874,)},
            classes=16,
            parts=50,
            lacking=0.01,
            by_hand=(
                "https://drive.google.com/file/d/1W3SEE-dY1sxvlECcOwWSDYemwHEUbJIS/view",
                "https://www.kaggle.com/datasets/mitkir/shapenet",
            ),
        ),
    )
}


def verify(source: Source, root: str | Path) -> Report:
    """Reads a data set that is there with the project's own readers, and counts.

    The caches of its parsed files are removed first, so that the files themselves are read.

    Args:
        source: What the data set must hold.
        root: The data folder, or the data set's own folder.

    Returns:
        What it holds. Numbers that vary between copies in use, of points and slightly of shapes, are
        warnings.

    Raises:
        FileNotFoundError: The data set, or a file that it names, is missing.
        ValueError: A file is damaged, or this is another data set or only a part of it.
    """
    folder = find_folder(root, source.folder, source.marker)
    for place in cache_places(folder, "any"):  # also the cache elsewhere of a folder that is read-only
        shutil.rmtree(place.parent, ignore_errors=True)
        if place.parent.exists():
            logger.warning("%s cannot be removed, so what it holds is not read anew", place.parent)
    return check(source, folder)


def check(source: Source, folder: Path) -> Report:
    """Does what `verify` does, from the cache where there is one.

    Raises:
        FileNotFoundError: A file that the data set names is missing.
        ValueError: A file is damaged, or this is another data set or only a part of it.
    """
    report = Report(folder)
    for split, known in source.shapes.items():
        limit, stored = _points_to_read(source, folder, split)
        # a data set without a val split is read whole
        part = "trainval" if split == "train" and "val" not in source.shapes else split
        whole = open_dataset(source.name, folder, part, limit)
        _check_kind(source, whole)
        fewest = stored or (whole.num_points if whole.count is None else int(whole.count.min()))
        most = stored or whole.num_points
        points = f"{fewest:,} points" if fewest == most else f"{fewest:,} to {most:,} points"
        labels = whole.label if whole.parts is None else whole.parts
        channels = "xyz" if whole.channels == 3 else "xyz + normal"
        report.facts.append(
            f"{split:5} {len(whole):6,} shapes, {points}, {channels}, "
            f"labels {int(labels.min())} to {int(labels.max())}"
        )
        differences = _differences(source, split, whole, known, fewest)
        report.warnings += [each for each in differences if each not in report.warnings]
    parts = f"categories, {source.parts} parts" if source.parts else "classes"
    report.facts.append(f"{source.classes} {parts}")
    return report


def _points_to_read(source: Source, folder: Path, split: str) -> tuple[int | None, int]:
    """How many points of each shape to read, None for all, and how many are stored where that is known.

    Text files of 10,000 lines are read as far as training reads them, and their lines counted: parsing all
    would take gigabytes of memory and of cache.
    """
    if source.name != "modelnet40_normal":
        return None, 0
    from tqdm import tqdm

    listing = folder / f"modelnet40_{split}.txt"
    files = [folder / name.rpartition("_")[0] / f"{name}.txt" for name in read_lines(listing)]
    require_files(files, listing)
    bar = tqdm(files, desc=f"counting lines of {split}", unit="file", ncols=78, disable=None)
    fewest = min(_count_lines(path) for path in bar)
    return min(max(fewest, 1), CACHED_ROWS), fewest


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines, last = lines + block.count(b"\n"), block[-1:]
    return lines + (last != b"\n")


def _check_kind(source: Source, whole: Split) -> None:
    """Raises ValueError where this is another data set, or its points are no shapes."""
    of = "classes" if whole.parts is None else "categories"
    if len(whole.classes) != source.classes:
        raise ValueError(
            f"this is not {source.name}: expected {source.classes} {of}, came {len(whole.classes)} "
            f"({', '.join(whole.classes[:3])} ...)"
        )
    parts = sum(map(len, whole.parts_of_category))
    if parts != source.parts:
        raise ValueError(f"this is not {source.name}: expected {source.parts} parts, came {parts}")
    xyz = whole.points[..., :3]
    flat = (xyz.amax(dim=1) == xyz.amin(dim=1)).all(dim=1).nonzero().squeeze(1)  # (flat,)
    if len(flat):
        name = f" ({whole.names[int(flat[0])]})" if whole.names else ""
        raise ValueError(
            f"{source.name} is damaged: all points of {len(flat)} shapes coincide, first {flat[0]}{name}"
        )


def _differences(source: Source, split: str, whole: Split, known: tuple[int, ...], fewest: int) -> list[str]:
    """What differs from the official release, as far as the data can be used.

    Raises:
        ValueError: The number of shapes is far from every known one.
    """
    found, official = len(whole), known[0]
    if all(abs(found - count) > NOT_WHOLE * count for count in known):
        raise ValueError(
            f"this is not the whole of {source.name}: expected {official:,} {split} shapes, came {found:,}"
        )
    differences = []
    if not official * (1 - source.lacking) <= found <= official:
        also = ", as in other copies in use" if found in known else ""
        differences.append(f"{found:,} {split} shapes, officially {official:,}{also}")
    if fewest < source.points:
        differences.append(f"{fewest:,} points a shape, officially {source.points:,}")
    present, total = len(torch.unique(whole.label)), len(whole.classes)
    if present < total:
        differences.append(f"only {present} of {total} classes occur in {split}")
    return differences
