"""The cache of parsed files: arrays in one `.npz` file that is checked against the files it was read from.

The cache lies in `.bixt3d_cache/` inside the data set's folder, or, where that folder is read-only, under
`${XDG_CACHE_HOME:-~/.cache}/bixt3d/`. It is used only while the name, size and modification time of every
source, and the format version, are what they were. Losing it costs time, never correctness: it may be
deleted at any time when no training reads it.

Clouds that a reader adds to a `Store` lie beside it in files of their own where they are many,
`<key>.<token>.points.npy` and `<key>.<token>.parts.npy`, which are mapped into memory where they do not fit
into it. Of every cloud a checksum is kept, which is compared when the cloud is first read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.files import megabytes
from bixt3d.datasets.room import room
from bixt3d.datasets.store import Store, writable

Arrays = dict[str, NDArray[Any]]
Build = Callable[[Store], Arrays]

FORMAT = 3  # raise it when a reader's arrays change their meaning
FOLDER = ".bixt3d_cache"
SUM = "crc32 of "  # before the name of an array: the checksums of its clouds
_FINGERPRINT = "_fingerprint"
_TOKEN = "_token"  # of the files beside the cache
# What NumPy and zipfile raise on damage; the last two: some other kind of file under this name.
_UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error),
    *(TypeError, AttributeError),
)

logger = logging.getLogger(__name__)


def cached(sources: Sequence[Path], key: str, build: Build, *, folder: Path) -> Arrays:
    """Returns the arrays that `build` makes from `sources`, from the cache where that is still valid.

    A cache that is absent, stale or damaged is built again; one that cannot be written is a logged warning.
    Of several processes that want it one builds it, and the others wait.

    Args:
        sources: Every file that `build` reads.
        key: Name of this cache inside `folder`: letters, digits, `_`, `-` and `.`; what `build` depends on
            beside its sources (a limit, say) belongs in it.
        build: Parses the sources into named arrays without object dtype, whose names do not begin with `_`;
            clouds it may add to the store that it is given.
        folder: The data set's folder.

    Returns:
        The arrays of `build` and those of its store: one cloud after another, and `rows`, the points of each.
        Those that are too large for memory are `numpy.memmap`, and `crc32 of <name>` has their checksums.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: The key is no plain file name, or `build` returns what a cache cannot hold.
    """
    if not re.fullmatch(r"\w[\w.-]*", key, re.ASCII):
        raise ValueError(f"key: expected letters, digits, '_', '-' and '.', got {key!r}")
    fingerprint = _fingerprint(sources, folder)  # before build: a source that changes then makes it stale
    places = cache_places(folder, key)
    if (found := _find(places, fingerprint)) is not None:
        return found
    with _turn(places) as (locked, waited):
        if waited and (found := _find(places, fingerprint)) is not None:
            return found
        store = Store(places)
        try:
            arrays = build(store)
            for name, value in arrays.items():
                if name.startswith("_") or value.dtype.hasobject:
                    raise ValueError(
                        f"cannot cache {name!r} ({value.dtype}): expected a name without leading '_' and no "
                        "objects"
                    )
            return _write(places, fingerprint, arrays | store.arrays(), store, locked)
        finally:
            store.discard()


def parse(build: Build) -> Arrays:
    """Returns the arrays that `build` makes, without a cache."""
    store = Store()
    return build(store) | store.arrays()


def named(features: Sequence[str]) -> str:
    """Names features in the key of a cache; names beyond ASCII are told apart by a digest."""
    text = "".join(f"-{feature.replace(':', '.')}" for feature in features)
    return text if text.isascii() else f"-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _fingerprint(sources: Sequence[Path], folder: Path) -> str:
    digest = hashlib.sha256(f"bixt3d cache {FORMAT}\n".encode())
    for source in sources:
        try:
            status = source.stat()
        except FileNotFoundError:
            raise FileNotFoundError(f"{source} is missing") from None
        name = Path(os.path.relpath(source, folder)).as_posix()
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def cache_places(folder: Path, key: str) -> list[Path]:
    """Lists where a cache may lie: beside the data, else in the user's cache, one place per data folder."""
    places = [folder / FOLDER / f"{key}.npz"]
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        user = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:  # no home folder
        return places
    apart = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return [*places, user / "bixt3d" / apart / f"{key}.npz"]


@contextmanager
def _turn(places: Sequence[Path]) -> Iterator[tuple[bool, bool]]:
    """Hold the lock of a cache; yields whether there is one, and whether another process had it.

    Where there are no locks every process builds the cache, and the last one's stays.
    """
    place = next((place for place in places if writable(place.parent)), None)
    lock, waited = None, False
    if place is not None:
        with suppress(OSError, ImportError):
            lock, waited = _lock(place.with_name(f".{place.stem}.lock"))
    try:
        yield lock is not None, waited
    finally:
        if lock is not None and place is not None:
            place.with_name(f".{place.stem}.lock").unlink(missing_ok=True)
            os.close(lock)
            with suppress(OSError):  # nothing was written
                place.parent.rmdir()


def _lock(path: Path) -> tuple[int, bool]:
    import fcntl  # Windows has none

    path.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another process that parses %s", path.parent.parent)
                waited = True
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file, waited
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # of another file: this one was removed meanwhile
        path.parent.mkdir(parents=True, exist_ok=True)


def _find(places: Sequence[Path], fingerprint: str) -> Arrays | None:
    for place in places:
        arrays = _read(place, fingerprint)
        if arrays is not None:
            logger.debug("read the cache %s", place)
            return arrays
    return None


def _read(path: Path, fingerprint: str) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored[_FINGERPRINT]) != fingerprint:
                logger.info("the cache %s is not of its sources or this version: building it again", path)
                return None
            arrays = {name: stored[name] for name in stored.files}
        del arrays[_FINGERPRINT]
        token = arrays.pop(_TOKEN, None)
        return arrays if token is None else _with_files(path, str(token), arrays)
    except (FileNotFoundError, NotADirectoryError) as error:
        if str(error.filename) == str(path) or not path.exists():
            return None
        logger.warning("the cache %s lacks a file (%s): building it again", path, error)
        return None
    except _UNREADABLE as error:
        logger.warning("the cache %s cannot be read (%s): building it again", path, error)
        return None


def _with_files(path: Path, token: str, arrays: Arrays) -> Arrays:
    """Adds what lies beside a cache: in memory and compared with its checksums, or mapped."""
    names = [name.removeprefix(SUM) for name in arrays if name.startswith(SUM)]
    files = {name: path.with_name(f"{path.stem}.{token}.{name}.npy") for name in names}
    mapped = sum(file.stat().st_size for file in files.values()) > room()
    rows = int(arrays["rows"].sum())
    for name, file in files.items():
        value = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
        if len(value) != rows:
            raise ValueError(f"{file.name}: expected {rows} rows, got {len(value)}")
        if not mapped:
            ends = np.cumsum(arrays["rows"])
            for begin, end, known in zip(ends - arrays["rows"], ends, arrays.pop(SUM + name), strict=True):
                if zlib.crc32(value[begin:end]) != known:
                    raise ValueError(f"{file.name}: its checksum is another")
        arrays[name] = value
    return arrays


def _write(places: Sequence[Path], fingerprint: str, arrays: Arrays, store: Store, locked: bool) -> Arrays:
    """Writes a cache, and returns its arrays: those that lie in files as they are read from them."""
    failures, kept = store.failures, arrays
    if store.place is not None:
        sums = {SUM + name: np.array(one.sums, np.uint32) for name, one in store.columns.items()}
        arrays, kept = arrays | sums, arrays | sums | {_TOKEN: np.array(store.token)}
    for path in places if store.place is None else [store.place]:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            if not writable(path.parent):
                failures.append(f"{path.parent} is read-only")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                np.savez(file, **{_FINGERPRINT: np.array(fingerprint)}, **kept)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            store.finish(path.stem)
            os.replace(temporary, path)
            size = path.stat().st_size + store.size
        except OSError as error:
            failures.append(f"{path}: {error}")
        else:
            logger.info("wrote the cache %s (%s)", path, megabytes(size))
            if locked:
                _clear(path, store.token)
            return arrays if store.place is None else _with_files(path, store.token, arrays)
        finally:
            with suppress(OSError):  # its folder could not be made, or the disk is gone
                temporary.unlink(missing_ok=True)
    logger.warning("parsed files are not cached, and parsed again next time: %s", "; ".join(failures))
    return arrays | store.maps()


def _clear(path: Path, token: str) -> None:
    """Removes files of this cache that one before it, or a process that was killed, has left."""
    old = re.compile(
        rf"\.?{re.escape(path.stem)}\.(?!{token})[0-9a-f]{{8}}\..*|\.{re.escape(path.name)}\.\d+\..*\.tmp"
    )
    for file in path.parent.iterdir():
        if old.fullmatch(file.name):
            with suppress(OSError):
                file.unlink()
