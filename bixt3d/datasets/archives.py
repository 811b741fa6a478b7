"""Unpacks archives of data sets: no member leaves its folder, and none fills the disk."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

MOST_MEMBERS = 200_000
MOST_HEADER = 1 << 22  # bytes that a tar archive may say of one member
BLOCK = 1 << 20

Archive = zipfile.ZipFile | tarfile.TarFile


PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class Member(NamedTuple):
    """One file of an archive: where it goes, below the folder, and its size in bytes."""

    path: PurePosixPath
    size: int
    entry: zipfile.ZipInfo | tarfile.TarInfo


def unpack(archive: Path, into: Path, most_bytes: int) -> None:
    """Unpacks a zip or tar archive, compressed in any usual way, after looking through all of it.

    Only plain files are written, with the rights of new files. Nothing is written if any member is refused.

    Args:
        archive: The file; its kind is known by its content.
        into: An empty folder.
        most_bytes: More than that of unpacked files is refused.

    Raises:
        ValueError: The file is no whole archive, or holds links, devices, members that would land outside
            the folder, encrypted ones, or more than `most_bytes`.
        OSError: The disk has not the space.
    """
    from tqdm import tqdm

    with _damage_told(archive), _opened(archive) as opened:
        members = _members(opened, archive, most_bytes)
    require_space(into, sum(member.size for member in members), f"unpacking {archive.name}")
    with _damage_told(archive), _opened(archive, listing=False) as opened:
        for member in tqdm(members, desc="unpacking", unit="file", ncols=78, disable=None):
            target = into / member.path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with _read(opened, member) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, BLOCK)
            except (FileExistsError, NotADirectoryError):
                raise ValueError(f"{archive.name}: refused: it holds {member.path} twice") from None


def check_archive(path: Path) -> None:
    """Checks by the first bytes and the end of a file that it is a zip or tar archive.

    Raises:
        ValueError: It is not.
        FileNotFoundError: There is no such file.
    """
    with _damage_told(path), _opened(path):
        pass


def find_data(folder: Path, name: str, marker: str) -> Path:
    """Finds a data set's own folder at any depth: the one that holds its marker file.

    Args:
        folder: Where to look.
        name: The data set's folder name, preferred where several hold the marker; then the outermost is.
        marker: A file by which the data set's own folder is known.

    Raises:
        ValueError: None holds it.
    """
    found = [path.parent for path in folder.rglob(marker) if path.is_file()]
    if not found:
        names = sorted(path.name for path in folder.iterdir())
        holds = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "") or "nothing"
        raise ValueError(f"no {marker} in it, so it is not {name}; it holds {holds}")
    return min(found, key=lambda path: (path.name != name, len(path.parts), path))


def require_space(folder: Path, needed: int, what: str) -> None:
    """Checks that the disk of an existing folder has so many bytes free.

    Raises:
        OSError: It has not; the message says how many are missing and what to do.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{what} needs {megabytes(needed)}, and the disk of {folder} has {megabytes(free)} free: free "
            f"{megabytes(needed - free)} more, or choose a folder on another disk with --root"
        )


def megabytes(size: float) -> str:
    """Writes a number of bytes as whole megabytes, upwards."""
    return f"{-int(-size // 1_000_000):,} MB"


@contextmanager
def _damage_told(archive: Path) -> Iterator[None]:
    """Turns what the standard library raises on damaged archives into one ValueError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # the disk's; the archive may name a place before 0
            raise
        raise ValueError(f"{archive.name}: damaged or cut off ({error})") from None
    except (
        *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, struct.error),
        *(NotImplementedError, RuntimeError),  # unknown compression; encrypted
        *(MemoryError, UnicodeError, OverflowError),  # a dictionary of gigabytes; headers of a tar archive
    ) as error:
        raise ValueError(f"{archive.name}: damaged or cut off ({error})") from None


class _Headers:
    """The unpacked stream of a tar archive for looking through its headers, which may not be of any size.

    `tarfile` reads what a header announces at once, and a thousandth of that is enough to pack it.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, MOST_HEADER
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise tarfile.ReadError(f"a header of more than {megabytes(MOST_HEADER)}")
        return self.stream.read(size)

    def next_member(self) -> None:
        self.left = MOST_HEADER


@contextmanager
def _opened(path: Path, listing: bool = True) -> Iterator[Archive]:
    """Opens an archive: `listing` to look through its headers, else to read members."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as opened:
            yield opened
        return
    if head.startswith(b"PK"):
        raise ValueError(f"{path.name}: a zip archive that is cut off or damaged")
    unpacked = next((kind for start, kind in PACKED.items() if head.startswith(start)), open)
    begins = f"it begins with {head[:24]!r}" if head else "it is empty"
    with unpacked(path, "rb") as stream:
        try:
            tar = tarfile.open(fileobj=_Headers(stream) if listing else stream, mode="r:")  # type: ignore[call-overload]
        except tarfile.ReadError:
            raise ValueError(f"{path.name}: not a whole zip or tar archive ({begins})") from None
        with tar:
            yield tar


def _members(opened: Archive, archive: Path, most_bytes: int) -> list[Member]:
    """Looks through an archive; stops at the first member that is refused."""
    members: list[Member] = []
    total = count = 0
    # a tar archive is iterated header by header, so that a huge member is refused before it is decompressed
    for entry in opened.infolist() if isinstance(opened, zipfile.ZipFile) else opened:
        if isinstance(entry, zipfile.ZipInfo):
            name, size = entry.filename, entry.file_size
            is_folder = name.endswith(("/", "\\"))
            mode = entry.external_attr >> 16
            is_file = stat.S_IFMT(mode) in (0, stat.S_IFREG)
            if entry.flag_bits & 1:
                raise ValueError(f"{archive.name}: refused: {name} in it is encrypted")
        else:
            name, size, is_folder = entry.name, entry.size, entry.isdir()
            is_file = entry.isreg() and not entry.issparse()
            assert isinstance(opened, tarfile.TarFile) and isinstance(opened.fileobj, _Headers)
            opened.fileobj.next_member()
        path = PurePosixPath(name.replace("\\", "/"))
        count += 1
        _check_size(archive, total + size, most_bytes, count)
        if "\0" in name:
            raise ValueError(f"{archive.name}: refused: {name!r} in it is no name")
        if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
            raise ValueError(f"{archive.name}: refused: {name!r} in it would land outside its folder")
        if is_folder:
            continue
        if not is_file:
            raise ValueError(f"{archive.name}: refused: {name!r} in it is a link or a device, not a file")
        total += size
        members.append(Member(path, size, entry))
    if isinstance(opened, tarfile.TarFile) and isinstance(opened.fileobj, _Headers):
        if opened.fileobj.stream.tell() <= opened.offset:  # no block of zeros was read behind the last member
            raise ValueError(f"{archive.name}: damaged or cut off (a tar archive without its end)")
        # the checksum of a compressed stream is compared only when its very end is read
        while block := opened.fileobj.stream.read(BLOCK):
            total += len(block)
            _check_size(archive, total, most_bytes, count)
    return members


def _check_size(archive: Path, total: int, most_bytes: int, count: int) -> None:
    if total > most_bytes or count > MOST_MEMBERS:
        raise ValueError(
            f"{archive.name}: refused: unpacked it would be over {megabytes(most_bytes)} or {MOST_MEMBERS:,} "
            "files, several times what the data set has"
        )


def _read(opened: Archive, member: Member) -> IO[bytes]:
    if isinstance(opened, zipfile.ZipFile):
        assert isinstance(member.entry, zipfile.ZipInfo)
        return opened.open(member.entry)
    assert isinstance(member.entry, tarfile.TarInfo)
    file = opened.extractfile(member.entry)
    assert file is not None  # only plain files are members
    return file


def replace_folder(new: Path, target: Path, aside: Path) -> None:
    """Moves a folder into place by renaming; what is there already moves aside first, then is removed."""
    if os.path.lexists(target):
        os.rename(target, aside)
    os.rename(new, target)
    remove(aside)


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
