"""Puts published data sets into the data folder: downloaded, unpacked, checked, and only then moved there."""

from __future__ import annotations

import glob
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bixt3d.datasets.acquire.archives import unpack
from bixt3d.datasets.acquire.download import fetch
from bixt3d.datasets.acquire.sources import SOURCES, Report, Source, check, verify
from bixt3d.datasets.cache import FOLDER as CACHE
from bixt3d.datasets.files import find_data, megabytes, size_of

__all__ = ["SOURCES", "Report", "Source", "prepare", "verify"]

MOST = 3  # times the size of the official files: more is refused, packed or unpacked

logger = logging.getLogger(__name__)


def prepare(
    source: Source,
    root: str | os.PathLike[str],
    *,
    from_file: str | os.PathLike[str] | None = None,
    mirrors: Sequence[str] = (),
    force: bool = False,
    timeout: float = 30.0,
) -> Report:
    """Gets a data set, checks it, and moves it into the data folder; one that is there is left alone.

    Args:
        source: What to get and what it must hold; `SOURCES` has those known by name.
        root: The data folder, or the data set's own folder.
        from_file: An archive or a folder that is here already; nothing is downloaded then.
        mirrors: Addresses to try before those of the source.
        force: Replace what is there, once the new one is checked.
        timeout: Seconds that a server may take to answer, and may pause.

    Raises:
        ValueError: The data set is there but damaged, or `from_file` or an address is not usable.
        RuntimeError: No mirror gave the data set: the message has the reasons, and what to do by hand. Or
            another run is at work there.
    """
    for url in mirrors:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"mirror: expected an address with http:// or https://, got {url!r}")
    given = None if from_file is None else Path(from_file).expanduser()
    if given and not given.exists():
        raise FileNotFoundError(f"no file or folder {given}")
    base = Path(root).expanduser().absolute()
    own = base.name == source.folder or (base / source.marker).is_file()
    target = base if own and not (base / source.folder).is_dir() else base / source.folder
    work = target.with_name(f".{target.name}.download")  # keeps downloads for later runs
    if os.path.lexists(work / "old") and not os.path.lexists(target):
        os.rename(work / "old", target)  # a run was killed between its two renames
    if target.is_dir() and any(target.iterdir()) and not force:
        try:
            report = check(source, target)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"{target} is there but not usable; --force replaces it. {error}") from None
        logger.info("it is there already, so there is nothing to do; --force gets it anew")
        return report
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        if given:
            return _install(source, given, work, target)
        return _download(source, [*mirrors, *source.mirrors], work, target, timeout)


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Lets one run at a time use a folder, and removes it afterwards if it holds nothing."""
    with (work / "lock").open("w", encoding="utf-8") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another run is at work in {work}: wait for it") from None
        except (ImportError, OSError):  # Windows, and file systems without locks
            pass
        try:
            yield
        finally:
            if not any(map(size_of, work.rglob("*"))):
                shutil.rmtree(work, ignore_errors=True)


def _download(source: Source, urls: list[str], work: Path, target: Path, timeout: float) -> Report:
    """Tries one mirror after the other, first those whose archive is here already."""
    import pooch

    places = {url: work / pooch.utils.unique_file_name(url) for url in urls}
    lines = [f"{source.name} could not be downloaded. Tried, in this order:"]
    for url, archive in sorted(places.items(), key=lambda place: not place[1].is_file()):
        logger.info("trying %s", url)
        try:
            fetch(url, source.mirrors.get(url), archive, MOST * source.unpacked_bytes, timeout)
            return _install(source, archive, work, target)
        except ConnectionError as error:
            lines.append(f"  {url}\n    {error}")
        except ValueError as error:
            lines.append(f"  {url}\n    {str(error).removeprefix(f'{archive.name}: ')}")
            for useless in work.glob(f"{glob.escape(archive.name)}*"):
                useless.unlink()
    if kept := sum(map(size_of, work.glob("*.part"))):
        lines.append(f"{megabytes(kept)} are kept: the same command continues from there.")
    lines += [f"A browser also gets it from {place}" for place in source.by_hand]
    root = target.parent.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target.parent
    command = f"bixt3d data get {source.name} --root {root}"
    lines += ["Get it by hand with a browser, then run", f"  {command} --from-file ARCHIVE"]
    raise RuntimeError("\n".join(lines))


def _install(source: Source, given: Path, work: Path, target: Path) -> Report:
    """Unpacks an archive or copies a folder, checks what it holds, and moves it into place."""
    with TemporaryDirectory(dir=work) as beside:
        new = Path(beside, source.folder)
        if given.is_file():
            logger.info("unpacking %s", given.name)
            unpack(given, new, MOST * source.unpacked_bytes)
        try:
            data = find_data(new if given.is_file() else given, source.folder, source.marker)
            if given.is_dir():
                data = Path(shutil.copytree(data, new, ignore=shutil.ignore_patterns(CACHE)))
            report = check(source, data)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"{given.name}: {str(error).replace(f'{new}{os.sep}', '')}") from None
        if os.path.lexists(target):
            shutil.rmtree(work / "old", ignore_errors=True)  # of a run that was killed
            os.rename(target, work / "old")
        os.rename(data, target)
    shutil.rmtree(work, ignore_errors=True)
    report.folder = target
    return report
