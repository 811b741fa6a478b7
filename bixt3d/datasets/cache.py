"""The cache of parsed files: arrays in one `.npz` file that is checked against the files it was read from.

The cache lies in `.bixt3d_cache/` inside the data set's folder, or, where that folder is read-only, under
`${XDG_CACHE_HOME:-~/.cache}/bixt3d/`. It is used only while the name, size and modification time of every
source, and the format version, are what they were. Losing it costs time, never correctness: it may be
deleted at any time.
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.files import stated_size

Arrays = dict[str, NDArray[Any]]

FORMAT = 2  # raise it when a reader's arrays change their meaning
FOLDER = ".bixt3d_cache"
_FINGERPRINT = "_fingerprint"
# What NumPy and zipfile raise on damage; the last two: some other kind of file under this name.
_UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error),
    *(TypeError, AttributeError),
)

logger = logging.getLogger(__name__)


def cached(sources: Sequence[Path], key: str, build: Callable[[], Arrays], *, folder: Path) -> Arrays:
    """Returns the arrays that `build` makes from `sources`, from the cache where that is still valid.

    A cache that is absent, stale or damaged is built again; one that cannot be written is a logged warning.

    Args:
        sources: Every file that `build` reads.
        key: Name of this cache inside `folder`: letters, digits, `_`, `-` and `.`; what `build` depends on
            beside its sources (a limit, say) belongs in it.
        build: Parses the sources into named arrays without object dtype; names do not begin with `_`.
        folder: The data set's folder.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: The key is no plain file name, or `build` returns what a cache cannot hold.
    """
    if not re.fullmatch(r"\w[\w.-]*", key, re.ASCII):
        raise ValueError(f"key: expected letters, digits, '_', '-' and '.', got {key!r}")
    fingerprint = _fingerprint(sources, folder)  # before build: a source that changes then makes it stale
    places = cache_places(folder, key)
    for place in places:
        arrays = _read(place, fingerprint)
        if arrays is not None:
            logger.debug("read the cache %s", place)
            return arrays
    arrays = build()
    for name, value in arrays.items():
        if name.startswith("_") or value.dtype.hasobject:
            raise ValueError(
                f"cannot cache {name!r} ({value.dtype}): expected a name without leading '_' and no objects"
            )
    _write(places, fingerprint, arrays)
    return arrays


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


def _read(path: Path, fingerprint: str) -> Arrays | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored[_FINGERPRINT]) != fingerprint:
                logger.info("the cache %s is not of its sources or this version: building it again", path)
                return None
            return {name: stored[name] for name in stored.files if name != _FINGERPRINT}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _UNREADABLE as error:
        logger.warning("the cache %s cannot be read (%s): building it again", path, error)
        return None


def _write(places: Sequence[Path], fingerprint: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    failures = []
    for path in places:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            if not _writable(path.parent):
                failures.append(f"{path.parent} is read-only")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                np.savez(file, **{_FINGERPRINT: np.array(fingerprint)}, **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            failures.append(f"{path}: {error}")
        else:
            logger.info("wrote the cache %s (%s)", path, stated_size(path))
            return
        finally:
            with suppress(OSError):  # its folder could not be made, or the disk is gone
                temporary.unlink(missing_ok=True)
    logger.warning("parsed files are not cached, and parsed again next time: %s", "; ".join(failures))


def _writable(folder: Path) -> bool:
    """Tells whether the first existing folder from `folder` upwards takes files.

    Its mode bits count even for root, whom `os.access` lets write into a folder made read-only on purpose.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return bool(existing.stat().st_mode & 0o222) and os.access(existing, os.W_OK)
