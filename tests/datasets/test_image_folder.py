"""Folders of images: layouts, sizes, the cache, damaged files, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bixt3d import open_dataset
from bixt3d.datasets import image_folder
from bixt3d.datasets.images import ImageSplit, fit_image, read_image

Image: Any = pytest.importorskip("PIL.Image")


def write(path: Path, seed: int, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    seed = 0
    for split, count in (("train", 10), ("test", 3)):
        for one in ("cat", "dog"):
            for number in range(count):
                write(tmp_path / split / one / f"{number}.png", seed)
                seed += 1
    return tmp_path


def test_split_folders(folder: Path) -> None:
    train, val, test = (open_dataset("image_folder", folder, split, 64) for split in ("train", "val", "test"))
    assert isinstance(train, ImageSplit) and train.points.dtype == torch.uint8
    assert train.classes == ("cat", "dog") and train.normalized and train.features == ()
    assert (len(train), len(val), len(test)) == (18, 2, 6)
    assert train.points.shape == (18, 8, 8, 3)
    assert {*train.names, *val.names} == {*open_dataset("image_folder", folder, "trainval", 64).names}
    assert not {*train.names} & {*val.names}
    at = test.names.index("dog/2.png")
    assert test.label[at] == 1
    assert test.points[at].equal(fit_image(read_image(folder / "test" / "dog" / "2.png"), 8))


def test_own_val_and_default_size(folder: Path) -> None:
    write(folder / "val" / "cat" / "x.png", 99)
    val = open_dataset("image_folder", folder, "val")
    assert val.names == ("cat/x.png",) and val.points.shape == (1, 224, 224, 3)
    assert len(open_dataset("image_folder", folder, "trainval", 64)) == 21


def test_classes_alone_are_cut(folder: Path) -> None:
    """As `folder` cuts them: the same names of files go to the same splits."""
    (folder / "train").rename(folder / "all")
    parts = [open_dataset("image_folder", folder / "all", split, 64) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [14, 2, 4]
    assert len({name for part in parts for name in part.names}) == 20


def test_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_dataset("image_folder", folder, "test", 64)

    def refuse(path: Path) -> None:
        raise AssertionError(f"read {path} again")

    monkeypatch.setattr(image_folder, "read_image", refuse)
    again = open_dataset("image_folder", folder, "test", 64)
    assert again.points.equal(first.points) and again.names == first.names
    with pytest.raises(AssertionError, match="again"):
        open_dataset("image_folder", folder, "test", 81)


def test_damaged_files(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "train" / "cat" / "3.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        train = open_dataset("image_folder", folder, "trainval", 64)
    assert len(train) == 19 and "cat/3.png" not in train.names
    assert "left out, cannot be read: 1 of 20 files\n  cat/3.png: not read as an image" in caplog.text
    caplog.clear()
    for split in ("train", "val", "test"):  # as a training opens them: val is cut from train
        open_dataset("image_folder", folder, split, 64)
    assert caplog.text.count("left out") == 1
    for number in (4, 5):
        (folder / "train" / "dog" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="train: 3 of 20 files cannot be read:\n  cat/3.png: "):
        open_dataset("image_folder", folder, "train", 64)


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="such as 64 or 81, got 65"):
        open_dataset("image_folder", folder, "train", 65)
    write(folder / "test" / "bird" / "0.png", 1)
    with pytest.raises(ValueError, match=r"train has too \(cat, dog\), got bird"):
        open_dataset("image_folder", folder, "test", 64)
    with pytest.raises(FileNotFoundError, match="expected"):
        open_dataset("image_folder", folder / "gone", "train", 64)


def test_meshes_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "a.off").write_text("OFF\n")
    with pytest.raises(ValueError, match=r"expected files of this class \(.jpg, .*\), got none"):
        open_dataset("image_folder", tmp_path, "train", 64)
