from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bixt3d.datasets import open_dataset
from bixt3d.datasets.acquire import verify
from bixt3d.datasets.modelnet40 import HDF5_FOLDER
from tests.datasets.acquire.sets import (
    MARKER,
    WORK,
    get,
    same_files,
    source_of,
    tarred,
    zip_of,
    zipped,
)
from tests.datasets.acquire.site import Server

# Downloads that go well


def test_download_unpack_check_and_place(server: Server, root: Path, whole: Path, archive: bytes) -> None:
    checksum = f"md5:{hashlib.md5(archive).hexdigest()}"
    report = get(root, source_of((server.add("a.zip", archive), checksum)))
    assert report.folder == root / HDF5_FOLDER and report.warnings == []
    assert same_files(root / HDF5_FOLDER, whole)
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]
    assert "whole" in str(report) and "9 shapes, 16 points, xyz" in str(report)
    assert len(open_dataset("modelnet40", root, "trainval")) == 9


def test_data_that_is_there_is_left_alone(
    server: Server, root: Path, archive: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.add("a.zip", archive)
    get(root, source_of(url))
    stamp = (root / HDF5_FOLDER / MARKER).stat().st_mtime_ns
    caplog.set_level(logging.INFO)
    report = get(root, source_of(url))
    assert len(server.files["/a.zip"].seen) == 1
    assert (root / HDF5_FOLDER / MARKER).stat().st_mtime_ns == stamp
    assert "it is there already" in caplog.text and len(report.facts) == 3


def test_root_may_be_the_data_sets_own_folder(server: Server, root: Path, archive: bytes) -> None:
    get(root / HDF5_FOLDER, source_of(server.add("a.zip", archive)))
    assert (root / HDF5_FOLDER / MARKER).is_file()
    assert verify(source_of(), root / HDF5_FOLDER).warnings == []


def test_a_mirror_given_is_tried_first(server: Server, root: Path, archive: bytes) -> None:
    wrong = (server.add("a.zip", archive), "md5:" + "0" * 32)
    get(root, source_of(wrong), mirrors=[server.add("mine.zip", archive)])
    assert len(server.files["/mine.zip"].seen) == 1 and server.files["/a.zip"].seen == []


def test_an_archive_that_is_here_is_not_fetched_again(
    server: Server, root: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(server.add("gone.zip", b"", status=404), server.add("a.zip", archive))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", interrupt_after(2))
        get(root, source)
    server.add("gone.zip", archive)
    get(root, source)
    assert len(server.files["/a.zip"].seen) == 1 and server.files["/gone.zip"].seen == []


# Files that are here already


@pytest.mark.parametrize("inside", [HDF5_FOLDER, "", "a/b/data", "another_name"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_from_file(root: Path, tmp_path: Path, whole: Path, kind: str, inside: str) -> None:
    given = tmp_path / "download"  # its name does not matter
    mode = kind.removeprefix("tar").removeprefix(".")
    given.write_bytes(zipped(whole, inside) if kind == "zip" else tarred(whole, mode, inside))
    report = get(root, source_of(), from_file=given)
    assert report.warnings == [] and same_files(root / HDF5_FOLDER, whole)
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER] and given.is_file()
    assert not os.access(root / HDF5_FOLDER / MARKER, os.X_OK)
    assert (root / HDF5_FOLDER).stat().st_mode & 0o777 == root.stat().st_mode & 0o777


def test_from_folder(root: Path, whole: Path) -> None:
    open_dataset("modelnet40", whole, "test")  # leaves a cache, which is not copied
    (whole / ".bixt3d_cache" / "other.npz").touch()
    get(root, source_of(), from_file=whole.parent)
    assert same_files(root / HDF5_FOLDER, whole) and whole.is_dir()
    assert not (root / HDF5_FOLDER / ".bixt3d_cache" / "other.npz").exists()
    with pytest.raises(ValueError, match=rf"{MARKER}, got .*with modelnet40-test\.npz, other\.npz"):
        get(root / "x", source_of(), from_file=whole / ".bixt3d_cache")


def test_no_such_file(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*gone\.zip"):
        get(root, source_of(), from_file=tmp_path / "gone.zip")
    assert not root.exists()


# Full disks, kills, force, and two at once


def interrupt_after(files: int) -> Any:
    copy, count = shutil.copyfileobj, 0

    def interrupted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count > files:
            raise KeyboardInterrupt
        copy(*arguments)

    return interrupted


def test_disk_that_fills_up_midway(
    server: Server, root: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = source_of(server.add("a.zip", archive), server.add("b.zip", archive))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(shutil, "copyfileobj", full)
        get(root, source)
    assert server.files["/b.zip"].seen == []  # another mirror would not help
    assert [path.name for path in root.iterdir()] == [WORK]
    get(root, source)
    assert len(server.files["/a.zip"].seen) == 1


def test_interrupted_unpacking_leaves_nothing(
    root: Path, tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "a.zip"
    given.write_bytes(archive)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", interrupt_after(2))
        get(root, source_of(), from_file=given)
    assert list(root.iterdir()) == []


def test_a_kill_while_unpacking(root: Path, tmp_path: Path, archive: bytes, whole: Path) -> None:
    given = tmp_path / "a.zip"
    given.write_bytes(archive)
    program = f"""
import os, shutil, signal
from tests.datasets.acquire.sets import source_of
from bixt3d.datasets.acquire import prepare
copy, count = shutil.copyfileobj, []
def kill(*arguments):
    copy(*arguments)
    count.append(1)
    if len(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfileobj = kill
prepare(source_of(), {str(root)!r}, from_file={str(given)!r})
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], timeout=120)
    assert ended.returncode == -9
    assert [path.name for path in root.iterdir()] == [WORK]
    get(root, source_of(), from_file=given)
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]
    assert same_files(root / HDF5_FOLDER, whole)


def test_a_kill_between_the_two_renames_is_mended(root: Path, whole: Path) -> None:
    (root / WORK).mkdir(parents=True)
    shutil.copytree(whole, root / WORK / "old")
    get(root, source_of())  # no mirror and no file: the old data set is found and put back
    assert same_files(root / HDF5_FOLDER, whole)


def test_a_kill_after_the_two_renames_is_in_no_later_runs_way(
    root: Path, whole: Path, tmp_path: Path, archive: bytes
) -> None:
    shutil.copytree(whole, root / HDF5_FOLDER)
    shutil.copytree(whole, root / WORK / "old")
    (tmp_path / "a.zip").write_bytes(archive)
    get(root, source_of(), from_file=tmp_path / "a.zip", force=True)
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]


def test_a_rename_that_fails_loses_nothing(
    root: Path, whole: Path, tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, root / HDF5_FOLDER)
    (root / HDF5_FOLDER / "notes.txt").write_text("mine")
    (tmp_path / "a.zip").write_bytes(archive)
    rename = os.rename

    def fails(old: Path, new: Path) -> None:
        if new == root / HDF5_FOLDER and WORK in str(old) and old.name != "old":
            raise PermissionError(errno.EACCES, "another program holds it")
        rename(old, new)

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(os, "rename", fails)
        get(root, source_of(), from_file=tmp_path / "a.zip", force=True)
    get(root, source_of())
    assert (root / HDF5_FOLDER / "notes.txt").read_text() == "mine"


def test_force_replaces_only_by_what_was_checked(
    server: Server, root: Path, tmp_path: Path, archive: bytes
) -> None:
    get(root, source_of(server.add("a.zip", archive)))
    (root / HDF5_FOLDER / "notes.txt").write_text("mine")
    before = sorted(path.name for path in (root / HDF5_FOLDER).iterdir())
    bad = tmp_path / "bad.zip"
    bad.write_bytes(zip_of((f"x/{MARKER}", b"class_0\nclass_1\nclass_2\n")))
    with pytest.raises(ValueError, match=r"bad\.zip: x holds no ply_data_train\*\.h5"):
        get(root, source_of(), from_file=bad, force=True)
    with pytest.raises(RuntimeError, match="404"):
        get(root, source_of(server.add("b.zip", b"", status=404)), force=True)
    assert sorted(path.name for path in (root / HDF5_FOLDER).iterdir()) == before
    get(root, source_of(server.add("a.zip", archive)), force=True)
    assert not (root / HDF5_FOLDER / "notes.txt").exists()
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]


def test_force_replaces_a_link_and_not_what_it_points_to(
    root: Path, tmp_path: Path, whole: Path, archive: bytes
) -> None:
    root.mkdir()
    (root / HDF5_FOLDER).symlink_to(whole)
    (tmp_path / "a.zip").write_bytes(archive)
    get(root, source_of(), from_file=tmp_path / "a.zip", force=True)
    assert not (root / HDF5_FOLDER).is_symlink() and same_files(root / HDF5_FOLDER, whole)
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]


def test_damaged_data_is_not_replaced_without_force(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive)
    get(root, source_of(url))
    (root / HDF5_FOLDER / "ply_data_test0.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match="is there but not usable; --force replaces it.*not a whole HDF5"):
        get(root, source_of(url))
    assert get(root, source_of(url), force=True).warnings == []


def test_an_empty_folder_is_in_nobodys_way(root: Path, tmp_path: Path, archive: bytes) -> None:
    (root / HDF5_FOLDER).mkdir(parents=True)
    (tmp_path / "a.zip").write_bytes(archive)
    get(root, source_of(), from_file=tmp_path / "a.zip")
    assert (root / HDF5_FOLDER / MARKER).is_file()


def test_two_at_once(root: Path, tmp_path: Path, archive: bytes) -> None:
    fcntl = pytest.importorskip("fcntl")
    (root / WORK).mkdir(parents=True)
    (tmp_path / "a.zip").write_bytes(archive)
    with (root / WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(RuntimeError, match="another run is at work in"):
            get(root, source_of(), from_file=tmp_path / "a.zip")
    get(root, source_of(), from_file=tmp_path / "a.zip")
