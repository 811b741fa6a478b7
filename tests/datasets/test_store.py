"""Clouds that are added one by one: in memory while they are few, then in files, wherever there is room."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bixt3d.datasets.cache import FOLDER, SUM, Arrays, cached
from bixt3d.datasets.store import HEADER, Column, Store

SOURCES = ("one.txt", "two.txt")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder; a cache of more than 4,000 bytes goes into files of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("bixt3d.datasets.store.SPILL", 4000)
    (tmp_path / "data").mkdir()
    for name in SOURCES:
        (tmp_path / "data" / name).write_text(name)
    return tmp_path / "data"


def clouds(count: int) -> list[np.ndarray[Any, Any]]:
    draw = np.random.default_rng(1)
    return [draw.normal(size=(3 + at % 4, 3)).astype(np.float32) for at in range(count)]


def get(folder: Path, count: int = 200, key: str = "train", pause: float = 0.0) -> Arrays:
    def build(store: Store) -> Arrays:
        for at, cloud in enumerate(clouds(count)):
            store.add(points=cloud, parts=np.full(len(cloud), at, np.int16))
            time.sleep(pause)
        return {"label": np.arange(count)}

    return cached([folder / name for name in SOURCES], key, build, folder=folder)


def assert_right(arrays: Arrays, count: int = 200) -> None:
    expected = clouds(count)
    assert sorted(name for name in arrays if not name.startswith(SUM)) == ["label", "parts", "points", "rows"]
    assert np.array_equal(arrays["points"], np.concatenate(expected))
    assert np.array_equal(arrays["rows"], [len(cloud) for cloud in expected])
    assert np.array_equal(arrays["parts"], np.repeat(np.arange(count), arrays["rows"]))


def files(folder: Path) -> list[str]:
    """Names of what lies in the cache of a folder, without their tokens."""
    if not (folder / FOLDER).is_dir():
        return []
    names = [path.name.split(".") for path in (folder / FOLDER).iterdir()]
    return sorted(".".join(part for part in name if len(part) != 8) for name in names)


def test_few_clouds_lie_in_the_cache_itself(folder: Path) -> None:
    for _ in range(2):
        assert_right(get(folder, 20), 20)
        assert files(folder) == ["train.npz"]


@pytest.mark.parametrize("memory", ["0", "1G"])
def test_many_clouds_lie_beside_it(folder: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIXT3D_MEMORY", memory)
    for _ in range(2):
        arrays = get(folder)
        assert_right(arrays)
        assert isinstance(arrays["points"], np.memmap) == (memory == "0")
        assert files(folder) == ["train.npz", "train.parts.npy", "train.points.npy"]
        monkeypatch.setattr("bixt3d.datasets.cache._write", None)  # it is read the second time
    (file,) = (folder / FOLDER).glob("*.points.npy")
    assert np.array_equal(np.load(file), arrays["points"])  # as any program can


def test_another_source_makes_other_files(folder: Path) -> None:
    get(folder)
    before = set((folder / FOLDER).iterdir())
    (folder / "one.txt").write_text("changed")
    assert_right(get(folder, 210), 210)
    assert files(folder) == ["train.npz", "train.parts.npy", "train.points.npy"]
    assert len(before & set((folder / FOLDER).iterdir())) == 1  # the .npz, under its old name


def test_a_mapped_cache_outlives_its_replacement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIXT3D_MEMORY", "0")
    first = get(folder)
    (folder / "one.txt").write_text("changed")
    get(folder, 30)
    assert files(folder) == ["train.npz", "train.parts.npy", "train.points.npy"]
    assert_right(first)  # a training that began before goes on


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def lose_rows(file: Path) -> None:
    np.save(file, np.load(file)[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[HEADER + 1000] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [shorten, lose_rows, flip, Path.unlink])
def test_a_damaged_file_is_made_again(folder: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    get(folder)
    (file,) = (folder / FOLDER).glob("*.points.npy")
    damage(file)
    assert_right(get(folder))
    assert "train.npz " in caplog.text and "building it again" in caplog.text
    assert files(folder) == ["train.npz", "train.parts.npy", "train.points.npy"]


def test_an_interrupted_parse_leaves_nothing(folder: Path) -> None:
    def build(store: Store) -> Arrays:
        for cloud in clouds(200):
            store.add(points=cloud)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached([folder / "one.txt"], "train", build, folder=folder)
    assert files(folder) == [] and not (folder / FOLDER).exists()


def killed(folder: Path) -> None:
    def build(store: Store) -> Arrays:
        for cloud in clouds(200):
            store.add(points=cloud, parts=np.zeros(len(cloud), np.int16))
        os._exit(9)

    cached([folder / name for name in SOURCES], "train", build, folder=folder)


def test_what_a_kill_left_is_removed(folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=killed, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert files(folder) == [".train.lock", ".train.parts.tmp", ".train.points.tmp"]
    assert_right(get(folder))
    assert files(folder) == ["train.npz", "train.parts.npy", "train.points.npy"]


def fill_up(monkeypatch: pytest.MonkeyPatch, *full: Path, after: int = 5000) -> None:
    """Let files in these folders, and below, take so many bytes and no more."""
    truly = Column.write

    def write(self: Column, data: Any) -> None:
        assert self.file is not None
        where = Path(str(self.file.name))
        if any(where.is_relative_to(place) for place in full):
            room = after - self.file.tell()
            if memoryview(data).nbytes > room:
                self.file.write(memoryview(data).cast("B")[: max(0, room)])  # a half
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        truly(self, data)

    monkeypatch.setattr(Column, "write", write)


def test_a_disk_that_fills_up_hands_over_to_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is parsed twice: what was written moves."""
    fill_up(monkeypatch, folder)
    for _ in range(2):
        assert_right(get(folder))
    assert files(folder) == []
    places = sorted(path.name for path in folder.parent.glob("xdg/bixt3d/*/*"))
    assert len(places) == 3 and places[0].endswith("parts.npy") and places[2] == "train.npz"


def test_full_disks_everywhere_leave_it_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill_up(monkeypatch, folder, folder.parent / "xdg")
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        assert_right(get(folder))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "parsed files are not cached" in caplog.text and "No space left" in caplog.text
    assert files(folder) == [] and not [path for path in folder.parent.glob("xdg/**/*") if path.is_file()]


def full(file: Any, **arrays: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_at_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are there, and the cache that names them is not: they serve this process."""
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        arrays = get(folder)
        assert_right(arrays)
        assert isinstance(arrays["points"], np.memmap) and files(folder) == []
    assert_right(get(folder))


def test_neither_disk_nor_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIXT3D_MEMORY", "2000")
    fill_up(monkeypatch, folder, folder.parent / "xdg")
    with pytest.raises(OSError, match=r"larger than memory.*No space left.*set XDG_CACHE_HOME") as caught:
        get(folder)
    assert "\n" not in str(caught.value)
    assert files(folder) == [] and not [path for path in folder.parent.glob("xdg/**/*") if path.is_file()]


def test_a_read_only_folder_uses_the_users_cache(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        assert_right(get(folder))
    finally:
        folder.chmod(0o755)
    assert files(folder) == [] and len(list(folder.parent.glob("xdg/bixt3d/*/train.*.npy"))) == 2


def in_process(folder: Path, said: Any) -> None:
    caught: list[str] = []
    logging.getLogger("bixt3d").setLevel(logging.INFO)
    handler = logging.Handler()
    handler.emit = lambda record: caught.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("bixt3d").addHandler(handler)
    assert_right(get(folder, pause=0.002))
    said.put(" ".join(caught))


def test_one_of_several_processes_parses(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    processes = [context.Process(target=in_process, args=(folder, said)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    told = [said.get() for _ in processes]
    assert sum("wrote the cache" in line for line in told) == 1
    assert sum("waiting for another process that parses" in line for line in told) == 2
    assert files(folder) == ["train.npz", "train.parts.npy", "train.points.npy"]


def test_refusals() -> None:
    store = Store()
    store.add(points=np.zeros((2, 3), np.float32))
    for wrong in (np.zeros((2, 4), np.float32), np.zeros((2, 3))):
        with pytest.raises(ValueError, match=r"points: expected \(2, 3\) float32, got"):
            store.add(points=wrong)
    with pytest.raises(ValueError, match="cloud 1: expected at least one point, got none"):
        store.add(points=np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match="points of cloud 1: expected finite numbers"):
        store.add(points=np.full((2, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"parts: expected \(2,\) int64, got \(3,\)"):
        store.add(points=np.zeros((2, 3), np.float32), parts=np.zeros(3, np.int64))
