"""Clouds that a reader adds one by one, kept in memory while they are few, else written into files."""

from __future__ import annotations

import math
import os
import secrets
import zlib
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.room import VARIABLE, room

SPILL = 1 << 26  # bytes that are kept in memory, if they fit, and then in the cache's own file
HEADER = 128  # bytes before the numbers of a .npy file


class Column:
    """One array of all clouds, one after another: rows (R, ...) of points, or of their labels."""

    def __init__(self, name: str, first: NDArray[Any]) -> None:
        self.name, self.dtype, self.tail = name, first.dtype, first.shape[1:]
        self.held = bytearray()  # not many small arrays, between which large ones leave gaps
        self.sums: list[int] = []
        self.size, self.path = 0, Path()
        self.file: FileIO | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Adds bytes to the file."""
        assert self.file is not None
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):  # an unbuffered file takes what there is room for
            written += self.file.write(view[written:]) or 0
        self.size += len(view)

    def read_back(self) -> None:
        """Takes what is in the file into memory, and removes it."""
        with self.path.open("rb") as file:
            file.seek(HEADER)
            self.held = bytearray(self.size)
            file.readinto(self.held)
        self.remove()

    def remove(self) -> None:
        """Closes the file, and removes it where it has no name yet."""
        if self.file:
            self.file.close()
            self.file = None
            if self.path.suffix == ".tmp":
                with suppress(OSError):
                    self.path.unlink(missing_ok=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and their widths, as the file has them."""
        return self.size // (self.dtype.itemsize * math.prod(self.tail)), *self.tail

    def complete(self) -> FileIO:
        """Writes the file's header, and all of it to the disk."""
        assert self.file is not None
        stated = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape}
        start = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
        self.file.seek(0)
        self.file.write(start + (repr(stated).ljust(HEADER - 11) + "\n").encode())
        os.fsync(self.file.fileno())
        return self.file


class Store:
    """Takes the clouds of a split one by one; past `SPILL` bytes they go into files, one an array.

    Where a file cannot be written, as on a full disk, what it holds goes to the next place, and at last into
    memory.

    Args:
        places: Where the cache's own file may lie; the others lie beside it.

    Attributes:
        rows: Points of each cloud.
        place: Where the files are; None where all is in memory.
        failures: Why places could not be written.
    """

    def __init__(self, places: Sequence[Path] = ()) -> None:
        self.rows: list[int] = []
        self.columns: dict[str, Column] = {}
        self.failures: list[str] = []
        self.place: Path | None = None
        self._places, self._held, self._most = list(places), 0, room()
        self.token = secrets.token_hex(4)

    def add(self, **arrays: NDArray[Any]) -> None:
        """Adds a cloud: points (n, C), and perhaps labels (n,).

        Raises:
            ValueError: It has no points, numbers are not finite, or arrays do not have as many rows as the
                first, or columns as before.
            OSError: No place can be written, and memory does not hold them either.
        """
        blocks = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        count = len(next(iter(blocks.values())))
        if not count:
            raise ValueError(f"cloud {len(self.rows)}: expected at least one point, got none")
        for name, block in blocks.items():  # all of them, before the first may go into files
            self.columns.setdefault(name, Column(name, block))
        for name, block in blocks.items():
            column = self.columns[name]
            if len(block) != count or block.shape[1:] != column.tail or block.dtype != column.dtype:
                expected = f"{(count, *column.tail)} {column.dtype}"
                raise ValueError(f"{name}: expected {expected}, got {block.shape} {block.dtype}")
            if block.dtype.kind == "f" and not np.isfinite(block).all():
                raise ValueError(f"{name} of cloud {len(self.rows)}: expected finite numbers, got others")
            column.sums.append(zlib.crc32(block.data))
            self._put(column, block)
        self.rows.append(count)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what is in memory: the arrays by name, and `rows`; none of those in files."""
        whole = {
            name: np.frombuffer(column.held, column.dtype).reshape(-1, *column.tail)
            for name, column in self.columns.items()
            if not column.file
        }
        return {**whole, **({"rows": np.array(self.rows, dtype=np.int64)} if self.columns else {})}

    @property
    def size(self) -> int:
        """Bytes in files."""
        return sum(column.size for column in self.columns.values() if column.file)

    def finish(self, key: str) -> None:
        """Completes the files, and gives them their names beside the cache: ``<key>.<token>.<array>.npy``."""
        for name, column in self.columns.items():
            if column.file:
                column.complete()
                named = column.path.with_name(f"{key}.{self.token}.{name}.npy")
                os.replace(column.path, named)
                column.path = named

    def maps(self) -> dict[str, NDArray[Any]]:
        """Returns what is in files, mapped; on a POSIX system that outlives their names."""
        return {
            name: np.memmap(column.complete(), column.dtype, "r", HEADER, column.shape)
            for name, column in self.columns.items()
            if column.file
        }

    def discard(self) -> None:
        """Closes the files, and removes those that have no names yet."""
        for column in self.columns.values():
            column.remove()

    def _put(self, column: Column, block: NDArray[Any]) -> None:
        if self.place is None:
            column.held += block.data.cast("B")
            self._held += block.nbytes
            if self._held > min(SPILL, self._most) and self._places:
                self._move()
            elif self._held > SPILL and self._held > 2 * self._most:
                raise self._too_large()
            return
        try:
            column.write(block.data)
        except OSError as error:
            self.failures.append(f"{column.path}: {error}")
            self._move(column, block)

    def _move(self, last: Column | None = None, block: NDArray[Any] | None = None) -> None:
        """Takes all to the next place that can be written, or into memory; then a block that is missing."""
        if self.place is not None:
            self._places.pop(0)
        while self._places:
            place, made = self._places[0], list[tuple[Column, FileIO, Path]]()
            try:
                if not writable(place.parent):
                    raise OSError("read-only")
                for column in self.columns.values():
                    made.append((column, *self._open(column, place)))
            except OSError as error:
                self.failures.append(f"{place.parent}: {error}")
                self._places.pop(0)
                for _, file, path in made:
                    file.close()
                    path.unlink(missing_ok=True)
                continue
            self.discard()
            for column, file, path in made:
                column.size = file.tell() - HEADER
                column.file, column.path, column.held = file, path, bytearray()
            self.place = place
            break
        else:
            if self.place is not None:
                if self.size > 2 * self._most:
                    raise self._too_large()
                for column in self.columns.values():
                    column.read_back()
                    self._held += column.size
                self.place = None
        if last is not None and block is not None:
            self._put(last, block)

    def _open(self, column: Column, place: Path) -> tuple[FileIO, Path]:
        """Opens a file for an array, with what there is of it."""
        place.parent.mkdir(parents=True, exist_ok=True)
        path = place.with_name(f".{place.stem}.{self.token}.{column.name}.tmp")
        file = FileIO(path, "w+")
        try:
            fresh = Column(column.name, np.empty((0, *column.tail), column.dtype))
            fresh.file = file
            fresh.write(bytes(HEADER))
            fresh.write(memoryview(column.held))
            if column.file:
                with column.path.open("rb") as before:
                    before.seek(HEADER)
                    left = column.size
                    while left:
                        piece = before.read(min(left, 1 << 24))
                        fresh.write(piece)
                        left -= len(piece)
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        return file, path

    def _too_large(self) -> OSError:
        return OSError(
            f"parsed clouds are larger than memory, and no folder takes them ({'; '.join(self.failures)}): "
            f"make room there, set XDG_CACHE_HOME to a folder with room, or {VARIABLE} higher"
        )


def writable(folder: Path) -> bool:
    """Tells whether the first existing folder from `folder` upwards takes files.

    Its mode bits count even for root, whom `os.access` lets write into a folder made read-only on purpose.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return bool(existing.stat().st_mode & 0o222) and os.access(existing, os.W_OK)
