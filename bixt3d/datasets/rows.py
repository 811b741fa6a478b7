"""Clouds that lie in files, read by their numbers: what `bixt3d.datasets.mapped.Mapped` reads from."""

from __future__ import annotations

import hashlib
import mmap
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RELEASE = 1 << 25  # bytes that are read before their pages are let go
AROUND = 1 << 16  # bytes that Linux maps at once, of which one is read


class Source(Protocol):
    """What rows are read from."""

    @property
    def folder(self) -> Path:
        """The data set's."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Where the numbers lie."""

    def __len__(self) -> int: ...

    def read(self, rows: Tensor) -> Tensor:
        """Return the clouds at ``rows`` (B,) on the CPU: (B, N, ...)."""

    def tag(self) -> str:
        """Return text that differs for other numbers."""


class Flat:
    """A file that holds one cloud after another: rows (R, ...), of each cloud the first `width` ones.

    A cloud with fewer repeats its own. Its checksum is compared when it is first read.
    """

    def __init__(
        self, array: np.memmap[Any, Any], rows: NDArray[Any], sums: NDArray[Any], folder: Path
    ) -> None:
        self.array, self.rows, self.folder, self.width = array, rows, folder, int(rows.max())
        self.plain = array.view(np.ndarray)  # of which slices are made sooner
        self.files = (Path(str(array.filename)),)
        self.start = np.cumsum(rows) - rows
        self.sums, self.seen, self._read = sums, np.zeros(len(rows), dtype=bool), 0

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, width: int) -> Flat:
        """Return the same file, of each cloud the first ``width`` rows."""
        other = object.__new__(Flat)
        vars(other).update(vars(self), width=width)
        return other

    def read(self, rows: Tensor) -> Tensor:
        """Return the clouds at ``rows`` (B,): (B, N, ...), read in the order in which they lie there."""
        index = rows.numpy()
        out = np.empty((len(index), self.width, *self.array.shape[1:]), self.array.dtype)
        places = np.argsort(index, kind="stable")
        unseen = ~self.seen[index]
        begin = self.start[index]
        count = np.minimum(self.rows[index], self.width)
        self._advise("MADV_WILLNEED", begin, np.where(unseen, self.rows[index], count), places)
        for place in places.tolist():
            first, own = int(begin[place]), int(count[place])
            if unseen[place]:
                self._check(int(index[place]))
            out[place, :own] = self.plain[first : first + own]
            for filled in range(own, self.width, own):
                out[place, filled : filled + own] = out[place, : min(own, self.width - filled)]
        self._read += out.nbytes + len(index) * AROUND
        if self._read > RELEASE and sys.platform == "linux":
            # The pages stay in the system's cache; this process does not keep a table of all it has read.
            self.array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
            self._read = 0
        return torch.from_numpy(out)

    def tag(self) -> str:
        """Return text that differs for other numbers: the file's name has a token of its own."""
        return f"{self.files[0].name} {self.width}"

    def _check(self, row: int) -> None:
        begin = int(self.start[row])
        cloud = self.plain[begin : begin + int(self.rows[row])]
        if zlib.crc32(cloud.data) != self.sums[row]:
            raise OSError(
                f"{self.files[0]}: cloud {row} is damaged, its checksum is another: remove the file, and it "
                "is made again"
            )
        self.seen[row] = True
        self._read += cloud.nbytes

    def _advise(self, what: str, begin: NDArray[Any], count: NDArray[Any], places: NDArray[Any]) -> None:
        """Tell the system which rows are needed next, so that it fetches them all at once."""
        if sys.platform != "linux":
            return
        size = self.array.itemsize * int(np.prod(self.array.shape[1:], dtype=np.int64))
        skipped = self.array.offset % mmap.ALLOCATIONGRANULARITY  # np.memmap maps from a page's begin
        for place in places.tolist():
            first = skipped + int(begin[place]) * size
            start = first - first % mmap.PAGESIZE
            self.array._mmap.madvise(  # type: ignore[attr-defined]
                getattr(mmap, what), start, first + int(count[place]) * size - start
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file itself."""
        return _open_flat, (self.files[0], self.rows, self.sums, self.folder, self.width)


def _open_flat(file: Path, rows: Any, sums: Any, folder: Path, width: int) -> Flat:
    try:
        array = np.load(file, mmap_mode="r")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{file} is gone: its cache was made again, or could not be kept: load the data set again"
        ) from None
    return Flat(array, rows, sums, folder).first(width)


class Changed:
    """Clouds of a source to each of which the same is done: ``change(points, value) -> points``.

    ``change`` may be a `functools.partial` with arguments that print alike if they are alike; ``values``
    (S, ...) are of each cloud, such as how many points are its own.
    """

    def __init__(self, source: Source, change: Callable[..., Tensor], values: Tensor | None) -> None:
        self.source, self.change, self.values = source, change, None if values is None else values.cpu()
        self.folder, self.files = source.folder, source.files

    def __len__(self) -> int:
        return len(self.source)

    def read(self, rows: Tensor) -> Tensor:
        """Return the clouds at ``rows`` (B,)."""
        clouds = self.source.read(rows)
        return self.change(clouds, None if self.values is None else self.values[rows].to(clouds.device))

    def tag(self) -> str:
        """Return text that differs for other numbers."""
        done = self.change if isinstance(self.change, partial) else partial(self.change)
        said = f"{done.func.__module__}.{done.func.__qualname__} {done.args} {done.keywords}"
        return f"{self.source.tag()} > {said} {digest(self.values)}"


class Ordered:
    """Clouds of a source whose points are picked by an index of each cloud (S, n), which is a source too."""

    def __init__(self, source: Source, index: Source) -> None:
        self.source, self.index = source, index
        self.folder, self.files = source.folder, source.files

    def __len__(self) -> int:
        return len(self.source)

    def read(self, rows: Tensor) -> Tensor:
        """Return the clouds at ``rows`` (B,)."""
        clouds = self.source.read(rows)
        return take_rows(clouds, self.index.read(rows).to(clouds.device).long())

    def tag(self) -> str:
        """Return text that differs for other numbers."""
        return f"{self.source.tag()} [{self.index.tag()}]"


class Held:
    """Clouds in memory, beside others that are in files."""

    def __init__(self, clouds: Tensor, beside: Source) -> None:
        self.clouds, self.folder, self.files = clouds, beside.folder, beside.files

    def __len__(self) -> int:
        return len(self.clouds)

    def read(self, rows: Tensor) -> Tensor:
        """Return the clouds at ``rows`` (B,)."""
        return self.clouds[rows]

    def tag(self) -> str:
        """Return text that differs for other numbers."""
        return digest(self.clouds)


class Joined:
    """Clouds of several sources, one after the other."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts, self.folder = tuple(parts), parts[0].folder
        self.files = tuple(dict.fromkeys(file for part in parts for file in part.files))
        self.ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, rows: Tensor) -> Tensor:
        """Return the clouds at ``rows`` (B,)."""
        of = torch.searchsorted(self.ends, rows, right=True)
        places = [(of == number).nonzero()[:, 0] for number in range(len(self.parts))]
        first = self.ends - torch.tensor([len(part) for part in self.parts])
        read = [
            part.read(rows[place] - begin)
            for part, place, begin in zip(self.parts, places, first, strict=True)
            if len(place)
        ]
        return torch.cat(read)[torch.cat(places).argsort()]

    def tag(self) -> str:
        """Return text that differs for other numbers."""
        return " + ".join(part.tag() for part in self.parts)


def take_rows(clouds: Tensor, index: Tensor) -> Tensor:
    """Return the rows of clouds (B, N, ...) at ``index`` (B, n): (B, n, ...)."""
    if clouds.ndim == 2:
        return clouds.gather(1, index)
    return clouds.gather(1, index[..., None].expand(-1, -1, clouds.shape[2]))


def digest(values: Tensor | None) -> str:
    """Return text that differs for other numbers."""
    if values is None:
        return "-"
    return hashlib.sha256(np.ascontiguousarray(values.cpu().numpy()).data).hexdigest()
