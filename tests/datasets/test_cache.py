from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bixt3d.datasets.cache import FOLDER, cached
from bixt3d.datasets.store import Store


class Builder:
    """Parses the sources, and counts how often it had to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = [folder / "a.txt", folder / "b.txt"]
        self.count = 0
        for number, path in enumerate(self.sources):
            path.write_text(str(number + 1))

    def build(self, store: Store) -> dict[str, np.ndarray[Any, Any]]:
        self.count += 1
        numbers = np.array([float(path.read_text()) for path in self.sources], dtype=np.float32)
        return {"numbers": numbers, "names": np.array([path.name for path in self.sources])}

    def get(self, key: str = "train") -> list[float]:
        arrays = cached(self.sources, key, self.build, folder=self.folder)
        assert sorted(arrays) == ["names", "numbers"] and arrays["numbers"].dtype == np.float32
        assert arrays["names"].tolist() == [path.name for path in self.sources]
        return arrays["numbers"].tolist()


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "data").mkdir()
    return Builder(tmp_path / "data")


def cache_files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".txt"
    )


def test_parses_once(builder: Builder) -> None:
    assert builder.get() == [1.0, 2.0]
    assert builder.get() == [1.0, 2.0]
    assert builder.count == 1
    assert cache_files(builder.folder.parent) == [f"data/{FOLDER}/train.npz"]


def test_keys_are_apart(builder: Builder) -> None:
    builder.get("train")
    builder.get("test")
    assert builder.count == 2


def test_moving_the_folder_keeps_the_cache(builder: Builder) -> None:
    builder.get()
    moved = builder.folder.rename(builder.folder.with_name("moved"))
    builder.folder, builder.sources = moved, [moved / path.name for path in builder.sources]
    builder.get()
    assert builder.count == 1


def change_size(builder: Builder) -> None:
    builder.sources[0].write_text("1.0")


def change_time(builder: Builder) -> None:
    path = builder.sources[1]
    stat = path.stat()
    path.write_text("7")  # as long as before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def change_name(builder: Builder) -> None:
    builder.sources[1] = builder.sources[1].rename(builder.folder / "c.txt")


def change_count(builder: Builder) -> None:
    builder.sources.pop()


def change_order(builder: Builder) -> None:
    builder.sources.reverse()


@pytest.mark.parametrize("change", [change_size, change_time, change_name, change_count, change_order])
def test_another_source_builds_again(builder: Builder, change: Any) -> None:
    builder.get()
    change(builder)
    expected = [float(path.read_text()) for path in builder.sources]
    assert builder.get() == expected
    assert builder.get() == expected
    assert builder.count == 2


def test_another_format_builds_again(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    builder.get()
    monkeypatch.setattr("bixt3d.datasets.cache.FORMAT", 2**31)
    builder.get()
    assert builder.count == 2


def test_a_source_that_changes_while_it_is_parsed(builder: Builder) -> None:
    def build(store: Store) -> dict[str, np.ndarray[Any, Any]]:
        arrays = Builder.build(builder, store)
        builder.sources[0].write_text("100")
        return arrays

    cached(builder.sources, "train", build, folder=builder.folder)
    assert builder.get() == [100.0, 2.0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def keep_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(np.array([1, 2], dtype=np.float32).tobytes())
    content[place] ^= 255
    path.write_bytes(bytes(content))


def other_kind(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def no_fingerprint(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, numbers=np.zeros(2))


@pytest.mark.parametrize("damage", [truncate, keep_half, empty, flip, other_kind, no_fingerprint])
def test_a_damaged_cache_builds_again(
    builder: Builder, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    builder.get()
    path = builder.folder / FOLDER / "train.npz"
    damage(path)
    assert builder.get() == [1.0, 2.0]
    assert f"{path} cannot be read" in caplog.text
    assert builder.get() == [1.0, 2.0]
    assert builder.count == 2


def test_a_read_only_folder_uses_the_users_cache(builder: Builder) -> None:
    builder.folder.chmod(0o555)
    try:
        builder.get()
        builder.get()
    finally:
        builder.folder.chmod(0o755)
    assert builder.count == 1
    (name,) = cache_files(builder.folder.parent)
    assert name.startswith("xdg/bixt3d/") and name.endswith("/train.npz")


def test_two_read_only_folders_do_not_share(builder: Builder) -> None:
    twin_folder = builder.folder.with_name("twin")
    twin_folder.mkdir()
    twin = Builder(twin_folder)
    twin.sources[0].write_text("5")
    for one, other in zip(builder.sources, twin.sources, strict=True):
        os.utime(other, ns=(one.stat().st_atime_ns, one.stat().st_mtime_ns))
    for folder in (builder.folder, twin_folder):
        folder.chmod(0o555)
    try:
        assert (builder.get(), twin.get(), builder.get()) == ([1.0, 2.0], [5.0, 2.0], [1.0, 2.0])
    finally:
        for folder in (builder.folder, twin_folder):
            folder.chmod(0o755)
    assert (builder.count, twin.count) == (1, 1)


def test_a_cache_beside_the_data_is_read_even_where_it_cannot_be_written(builder: Builder) -> None:
    builder.get()
    builder.folder.chmod(0o555)
    try:
        builder.get()
    finally:
        builder.folder.chmod(0o755)
    assert builder.count == 1


def test_without_a_home_folder(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setattr(Path, "home", no_home)
    builder.get()
    builder.get()
    assert builder.count == 1


def test_a_full_disk_is_a_warning(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    assert builder.get() == [1.0, 2.0]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.text.count("No space left") == 2  # beside the data, then in the user's cache
    assert cache_files(builder.folder.parent) == []


def test_a_killed_write_leaves_the_old_cache(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    builder.get()
    path = builder.folder / FOLDER / "train.npz"
    before = path.read_bytes()
    builder.sources[0].write_text("30")

    def interrupt(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupt)
        with pytest.raises(KeyboardInterrupt):
            builder.get()
    assert path.read_bytes() == before
    assert cache_files(builder.folder.parent) == [f"data/{FOLDER}/train.npz"]
    assert builder.get() == [30.0, 2.0]


def test_a_file_in_the_way_is_no_failure(builder: Builder) -> None:
    (builder.folder / FOLDER).write_text("in the way")
    assert builder.get() == [1.0, 2.0]
    assert builder.get() == [1.0, 2.0]
    assert builder.count == 1  # the user's cache took it


def test_refusals(builder: Builder) -> None:
    for key in ("", "../up", "a/b", ".hidden", "ä"):
        with pytest.raises(ValueError, match="key: expected"):
            cached(builder.sources, key, builder.build, folder=builder.folder)
    with pytest.raises(ValueError, match="no objects"):
        cached(builder.sources, "o", lambda store: {"o": np.array([{}])}, folder=builder.folder)
    with pytest.raises(ValueError, match="leading '_'"):
        cached(builder.sources, "o", lambda store: {"_fingerprint": np.zeros(1)}, folder=builder.folder)
    builder.sources[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.txt is missing"):
        builder.get()
