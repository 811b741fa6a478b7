"""Unpacks archives: nothing outside the folder, no links or devices, no more than allowed; all or nothing."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import platform
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from bixt3d.datasets.files import megabytes

MOST_MEMBERS = 200_000
MOST_HEADER = 1 << 20  # bytes that a tar archive may say of one member
PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, struct.error)
HEADERS = (RuntimeError, MemoryError, OverflowError, ValueError)  # of damaged numbers in headers
NAMES = (None, errno.EINVAL, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def unpack(archive: Path, into: Path, most: int) -> None:
    """Unpacks at most so many bytes of a zip or tar archive; `into`, absent or empty, stays so if it fails.

    Raises:
        ValueError: The file is no whole archive, or is refused.
        OSError: The disk is full or read-only.
        RuntimeError: This Python's tarfile has no data filter.
    """
    if not hasattr(tarfile, "data_filter"):
        raise RuntimeError(f"expected Python 3.10.12, 3.11.4 or later, got {platform.python_version()}")
    with archive.open("rb") as file:
        head = file.read(24)
    with TemporaryDirectory(dir=into.parent) as beside:
        whole = Path(beside, "whole")
        whole.mkdir()
        try:
            (_unzip if head.startswith(b"PK") else _untar)(archive, whole, most, head)
        except (*DAMAGE, *HEADERS, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NAMES:  # the disk's
                raise
            why = f"not a whole zip or tar archive ({error}; it begins with {head!r})"
            refused = isinstance(error, tarfile.FilterError)
            raise ValueError(f"{archive.name}: " + (f"refused: {error}" if refused else why)) from None
        os.rename(whole, into)


def _unzip(archive: Path, into: Path, most: int, head: bytes) -> None:
    with zipfile.ZipFile(archive) as opened:
        total = 0
        for count, entry in enumerate(opened.infolist(), start=1):
            total += entry.file_size  # no more than that is read of it
            kind = 0 if entry.flag_bits & 1 else stat.S_IFMT(entry.external_attr >> 16) or stat.S_IFREG
            _check(entry.filename, kind in (stat.S_IFREG, stat.S_IFDIR), count, total, most)
            entry.filename = entry.filename.replace("\\", "/")
            opened.extract(entry, into)


def _untar(archive: Path, into: Path, most: int, head: bytes) -> None:
    opener = next((opener for start, opener in PACKED.items() if head.startswith(start)), open)
    with opener(archive, "rb") as stream:
        left, total = MOST_HEADER, 0

        def read(size: int) -> Any:  # tarfile reads at once whatever a header announces
            nonlocal left
            left -= size
            if left < 0:
                raise tarfile.FilterError(f"a header in it is over {megabytes(MOST_HEADER)}")
            return stream.read(size)

        bounded: Any = SimpleNamespace(read=read, seek=stream.seek, tell=stream.tell)
        opened = tarfile.open(fileobj=bounded, mode="r:")
        for count, entry in enumerate(opened, start=1):
            total += abs(entry.size)
            _check(entry.name, entry.isreg() or entry.isdir(), count, total, most)
            left = entry.size + MOST_HEADER
            opened.extract(entry, into, set_attrs=False, filter="data")
        if stream.tell() <= opened.offset:
            raise EOFError("its end is missing")
        while read(1 << 16):  # the checksum of a compressed file stands at its end
            pass


def _check(name: str, is_plain: bool, count: int, total: int, most: int) -> None:
    if total > most or count > MOST_MEMBERS:
        raise tarfile.FilterError(f"unpacked it would be over {megabytes(most)} or {MOST_MEMBERS:,} files")
    if re.match(r"[A-Za-z]:|[/\\]", name) or ".." in re.split(r"[/\\]", name):
        raise tarfile.FilterError(f"{name!r} in it would land outside its folder")
    if not is_plain:
        raise tarfile.FilterError(f"{name!r} in it is a link, a device or encrypted, not a plain file")
