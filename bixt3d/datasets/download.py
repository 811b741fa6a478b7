"""Puts published data sets into the data folder: fetched, unpacked, checked, and only then moved there.

All work is done in `.<folder>.download/` beside the data set's place. What a kill leaves there is gone on
with, or cleared away, by the next run; the data set's own folder is either whole or not there.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bixt3d.datasets.archives import (
    check_archive,
    find_data,
    megabytes,
    remove,
    replace_folder,
    require_space,
    unpack,
)
from bixt3d.datasets.cache import FOLDER as CACHE
from bixt3d.datasets.sources import Mirror, Report, Source, check
from bixt3d.datasets.transfer import download_file, reason_of, size_of

MOST = 3  # times the size of the official archive, or of what is in it: more is refused

logger = logging.getLogger(__name__)


def prepare(
    source: Source,
    root: str | os.PathLike[str],
    *,
    from_file: str | os.PathLike[str] | None = None,
    mirrors: Sequence[str] = (),
    force: bool = False,
    timeout: float = 30.0,
    retries: int = 3,
) -> Report:
    """Gets a data set, checks it, and moves it into the data folder; does nothing where it is there already.

    Args:
        source: What to get and what it must hold; `SOURCES` has those known by name.
        root: The data folder, or the data set's own folder.
        from_file: An archive, or a folder, that is here already; nothing is downloaded then.
        mirrors: Addresses to try before those of the source; their files may have any checksum.
        force: Get it anew; what is there stays until the new one is checked.
        timeout: Seconds that a server may take to answer, and may pause.
        retries: How often a transfer that broke is gone on with although no more came.

    Returns:
        What the data set holds.

    Raises:
        ValueError: The data set is there but damaged, or `from_file` or an address is not usable.
        FileNotFoundError: There is no `from_file`.
        RuntimeError: No mirror gave the data set: the message has each and its reason, and what to do by
            hand. Or another run is at work in the same place.
        OSError: The disk is full or read-only.
    """
    for url in mirrors:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"mirror: expected an address with http:// or https://, came {url!r}")
    given = None if from_file is None else Path(from_file).expanduser().absolute()
    if given is not None and not given.exists():
        raise FileNotFoundError(f"no file or folder {given}")
    target = _place(source, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _workplace(target) as work:
        if target.is_dir() and any(target.iterdir()) and not force:
            return _already_there(source, target)
        if given is not None:
            return _install(source, given, work, target)
        return _download(source, work, target, [Mirror(url) for url in mirrors], timeout, retries)


def _place(source: Source, root: str | os.PathLike[str]) -> Path:
    base = Path(root).expanduser().absolute()
    own = base.name == source.folder or (base / source.marker).is_file()
    return base if own and not (base / source.folder).is_dir() else base / source.folder


def _already_there(source: Source, target: Path) -> Report:
    try:
        report = check(source, target)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{_shown(target)} is there but not usable; --force replaces it. {error}") from None
    logger.info("it is there already, so there is nothing to do; --force gets it anew")
    return report


def _download(
    source: Source, work: Path, target: Path, mirrors: list[Mirror], timeout: float, retries: int
) -> Report:
    """Tries one mirror after the other, first those whose archive is here already."""
    import requests

    have = sum(size_of(path) for path in work.glob("*/*"))
    needed = max(0, source.archive_bytes - have) + source.unpacked_bytes
    require_space(target.parent, needed, f"{source.name}, its archive and what is in it,")
    failures = []
    for mirror in sorted([*mirrors, *source.mirrors], key=lambda each: not _archive(work, each).is_file()):
        logger.info("trying %s", urlsplit(mirror.url).hostname)
        archive = _archive(work, mirror)
        try:
            _fetch(mirror, archive, source, timeout, retries)
            check_archive(archive)
            return _install(source, archive, work, target, verified=mirror.checksum is not None)
        except requests.RequestException as error:
            reason = reason_of(error, timeout)
        except ValueError as error:
            archive.unlink(missing_ok=True)
            reason = str(error)
        failures.append(f"  {mirror.url}\n    {reason}")
    raise RuntimeError(_what_now(source, work, target, failures))


def _what_now(source: Source, work: Path, target: Path, failures: list[str]) -> str:
    kept = sum(size_of(path) for path in work.glob("*/*.part"))
    lines = [f"{source.name} could not be downloaded. Tried, in this order:", *failures]
    if kept:
        lines.append(f"{megabytes(kept)} came and are kept: the same command goes on from there.")
    if source.by_hand:
        lines += ["By hand: get it with a browser, from one of those addresses or from"]
        lines += [f"  {place}" for place in source.by_hand] + ["then"]
    else:
        lines += ["By hand: get it with a browser, from one of those addresses, then"]
    root = _shown(target.parent)
    lines.append(f"  python tools/prepare_data.py {source.name} --root {root} --from-file ARCHIVE")
    return "\n".join(lines)


def _shown(path: Path) -> Path:
    """Shortens a path in messages where it lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _archive(work: Path, mirror: Mirror) -> Path:
    """Where a mirror's archive lies; apart for each address, so that parts of different files do not meet."""
    address = urlsplit(mirror.url)
    apart = hashlib.sha256(mirror.url.encode()).hexdigest()[:8]
    return work / f"{address.hostname}-{apart}" / (Path(unquote(address.path)).name or "archive")


def _fetch(mirror: Mirror, archive: Path, source: Source, timeout: float, retries: int) -> None:
    """Downloads an archive, unless it is here, and compares its checksum where one is known."""
    import pooch

    said = pooch.get_logger()
    level = said.level
    said.setLevel(logging.WARNING)  # it would name its files at length
    try:
        pooch.retrieve(
            mirror.url,
            mirror.checksum,
            fname=archive.name,
            path=archive.parent,
            downloader=partial(
                download_file,
                part=archive.with_name(f"{archive.name}.part"),
                most_bytes=MOST * source.archive_bytes + source.unpacked_bytes,  # may not be compressed
                timeout=timeout,
                retries=retries,
            ),
        )
    except ValueError as error:
        raise ValueError(str(error).partition(". Deleted")[0]) from None
    finally:
        said.setLevel(level)


def _install(source: Source, given: Path, work: Path, target: Path, verified: bool = False) -> Report:
    """Unpacks an archive or copies a folder, checks what it holds, and moves it into place."""
    inner = work / "unpacked"
    remove(inner)
    inner.mkdir()
    if given.is_file():
        if not verified:
            _tell_checksum(source, given)
        logger.info("unpacking %s", given.name)
        unpack(given, inner, MOST * source.unpacked_bytes)
    try:
        data = find_data(inner if given.is_file() else given, source.folder, source.marker)
        if given.is_dir():
            logger.info("copying %s", _shown(data))
            data = _copy(data, inner / source.folder)
        logger.info("checking what it holds")
        report = check(source, data)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{given.name}: {str(error).replace(f'{inner}{os.sep}', '')}") from None
    replace_folder(data, target, work / "old")
    report.folder = target
    return report


def _copy(folder: Path, to: Path) -> Path:
    require_space(to.parent, sum(size_of(path) for path in folder.rglob("*")), f"copying {folder}")
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns(CACHE)))


def _tell_checksum(source: Source, archive: Path) -> None:
    import pooch

    known = {mirror.checksum for mirror in source.mirrors if mirror.checksum is not None}
    kinds = {checksum.partition(":")[0] for checksum in known}
    if known & {f"{kind}:{pooch.file_hash(archive, kind)}" for kind in kinds}:
        logger.info("its checksum is that of a known archive")
    else:
        logger.info("its checksum is not known here, so only its content is checked")


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """Gives the folder to work in, to one process at a time; keeps in it only what a later run can use."""
    work = target.with_name(f".{target.name}.download")
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another run is at work in {_shown(work)}: wait for it") from None
        except (ImportError, OSError):  # Windows, and file systems without locks
            pass
        if os.path.lexists(work / "old") and not os.path.lexists(target):
            os.rename(work / "old", target)  # killed between two renames
        _clear(work)
        try:
            yield work
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OSError(f"the disk of {work} is full: free some space and run again") from None
            raise
        else:
            remove(work)
        finally:
            _clear(work)
            if not any(path.is_file() for path in work.glob("*/*")):
                remove(work)


def _clear(work: Path) -> None:
    """Removes what an interrupted run left and no later one can use."""
    for path in (work / "unpacked", work / "old", *work.glob("*/tmp????????")):  # the last are pooch's
        remove(path)
