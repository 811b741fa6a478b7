from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from bixt3d.datasets import open_dataset
from bixt3d.datasets.acquire import SOURCES, verify
from bixt3d.datasets.modelnet40 import HDF5_FOLDER, NORMAL_FOLDER
from bixt3d.datasets.shapenetpart import FOLDER as PART_FOLDER
from tests.datasets.acquire.sets import MARKER, get, source_of, tarred, write_modelnet, write_normal
from tests.datasets.acquire.site import Server
from tests.datasets.parts import write_parts


def test_differences_that_vary_are_warnings(whole: Path) -> None:
    with pytest.raises(ValueError, match="not modelnet40: expected 10 train shapes, got 9"):
        verify(source_of(shapes={"train": 10, "test": 4}), whole)
    report = verify(source_of(points=32), whole)
    assert report.warnings == [f"16 points a {part} shape, officially 32" for part in ("train", "test")]
    assert "usable, but not quite the official release" in str(report)
    assert verify(source_of(points=8), whole).warnings == []


def test_a_few_shapes_more_or_less(tmp_path: Path) -> None:
    folder = write_modelnet(tmp_path / HDF5_FOLDER, train=99, points=4)
    several = source_of(shapes={"train": 100, "test": 4}, points=4)
    assert verify(several, folder).warnings == ["99 train shapes, officially 100"]
    assert verify(replace(several, lacking=0.01), folder).warnings == []
    assert verify(replace(several, shapes={"train": 98, "test": 4}), folder).warnings == [
        "99 train shapes, officially 98"
    ]


def damage(folder: Path, how: str) -> None:
    path = folder / "ply_data_train0.h5"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "gone":
        path.unlink()
    elif how == "no marker":
        (folder / MARKER).write_bytes(b"\xff\xfe\x00")
    else:
        with h5py.File(path, "r+") as file:
            if how == "label":
                file["label"][4] = 3
            elif how == "nan":
                file["data"][2, 3] = np.nan
            else:
                file["data"][5] = 0.25


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "ply_data_train0.h5: not a whole HDF5 file"),
        ("gone", "ply_data_train0.h5 is missing"),
        ("no marker", "shape_names.txt: expected a text file"),
        ("label", r"expected labels in 0\.\.2.*0\.\.3"),
        ("nan", "train0.h5: shape 2: expected finite points, got NaN"),
        ("flat", "train0.h5: shape 5: expected points at two places at least"),
    ],
)
def test_verify_finds_damage(whole: Path, how: str, message: str) -> None:
    """Also where name, size and time of the file are what they were, and a cache of the whole one exists."""
    assert verify(source_of(), whole).warnings == []
    path = whole / "ply_data_train0.h5"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    damage(whole, how)
    if path.exists():
        os.utime(path, ns=times)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        verify(source_of(), whole)


def test_a_cache_that_stays_is_not_taken_for_the_files(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_dataset("modelnet40", whole, "test")
    monkeypatch.setattr("shutil.rmtree", lambda folder, ignore_errors: None)
    with pytest.raises(PermissionError, match=r"\.bixt3d_cache cannot be removed"):
        verify(source_of(), whole)


def test_verify_without_data(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no data set {HDF5_FOLDER}"):
        verify(source_of(), root)


def test_modelnet40_normal(root: Path, tmp_path: Path) -> None:
    made = write_normal(tmp_path / "made" / NORMAL_FOLDER)
    source = source_of(
        name="modelnet40_normal",
        folder=NORMAL_FOLDER,
        marker="modelnet40_shape_names.txt",
        shapes={"train": 6, "test": 4},
        classes=2,
        points=20,
    )
    given = tmp_path / "a.tar.gz"
    given.write_bytes(tarred(made, "gz", ""))
    report = get(root, source, from_file=given)
    assert report.warnings == []
    assert report.facts[0].split() == "train 6 shapes, 20 points, xyz + normal".split()
    path = root / NORMAL_FOLDER / "chair" / "chair_0002.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:15]).rstrip("\n"))
    assert verify(source, root).warnings == ["15 points a train shape, officially 20"]
    path.write_text("".join([*lines[:3], "1,2,3\n", *lines[3:]]))
    with pytest.raises(ValueError, match=r"chair_0002\.txt, line 4: expected 6 numbers.*, got 3"):
        verify(source, root)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"chair_0002\.txt is missing"):
        verify(source, root)


def test_shapenetpart(server: Server, root: Path, tmp_path: Path) -> None:
    made = write_parts(tmp_path / "made" / PART_FOLDER)
    source = source_of(
        server.add("part.tar", tarred(made, "", f"data/{PART_FOLDER}")),
        name="shapenetpart",
        folder=PART_FOLDER,
        marker="synsetoffset2category.txt",
        shapes={"train": 8, "val": 4, "test": 6},
        unpacked_bytes=10**6,
        classes=2,
        points=0,
        parts=5,
    )
    report = get(root, source)
    assert report.warnings == []
    assert re.fullmatch(r"train +8 shapes, 2\d points or more, xyz \+ normal", report.facts[0])
    assert report.facts[-1] == "2 classes, 5 parts"
    with pytest.raises(ValueError, match="expected 6 parts, got 5"):
        verify(replace(source, parts=6), root)
    path = root / PART_FOLDER / "001" / "test0.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].rsplit(" ", 1)[0] + " 4\n", *lines[3:]]))
    with pytest.raises(ValueError, match=r"test0\.txt, line 3: expected a part of Mug \(0, 1\), .* 4"):
        verify(source, root)


# The table


def test_the_table_names_what_open_dataset_reads() -> None:
    assert list(SOURCES) == ["modelnet40", "modelnet40_normal", "shapenetpart"]
    for name, source in SOURCES.items():
        assert source.name == name and len(source.mirrors) >= 3
        assert next(iter(source.mirrors)).startswith("https://shapenet.cs.stanford.edu/media/")
        for url, checksum in source.mirrors.items():
            assert re.fullmatch(r"https://[\w./-]+\.(zip|tar\.gz)", url)
            assert checksum is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum)
    assert "md5:c9ab8e6dfb16f67afdab25e155c79e59" in SOURCES["modelnet40"].mirrors.values()
    with pytest.raises(FileNotFoundError):
        open_dataset("modelnet40_normal", "gone", "train")


def test_data_readme_names_every_place() -> None:
    page = (Path(__file__).parents[3] / "data" / "README.md").read_text(encoding="utf-8")
    for source in SOURCES.values():
        for url, checksum in source.mirrors.items():
            assert url in page
            assert checksum is None or checksum.partition(":")[2] in page
        for place in source.by_hand:
            assert place in page
