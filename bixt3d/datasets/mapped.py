"""Clouds that stay in files: tensors (S, N, ...) of which rows are read when they are asked for.

A `Mapped` stands where a split has a tensor. To slice it, to choose clouds of it, or to change each of them
alike (`each_cloud`) reads nothing; ``mapped[index]`` reads these clouds. Any other operation of PyTorch gets
all of them, as a tensor that may not fit into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from bixt3d.datasets.cache import SUM, Arrays, cached, parse
from bixt3d.datasets.rows import Changed, Flat, Held, Joined, Ordered, Source, digest, take_rows
from bixt3d.datasets.store import Store
from bixt3d.progress import progress

CHUNK = 64  # clouds that are read at a time where all are needed
ON_DEVICE = 2  # a split is kept on a GPU with so many times its bytes free
READ_ONLY = "expected a tensor in memory to write to, got clouds in files, which stay so: change a .clone()"

aten: Any = torch.ops.aten


class Mapped(Tensor):
    """A tensor (S, N, ...) whose clouds are read from a source when they are asked for.

    Args:
        source: Where they are.
        rows: Which of the source's clouds, (S,); None for all.
        shape: Of the whole.
        dtype: Of what is read.
        device: Where that goes.
    """

    source: Source
    rows: Tensor

    @property
    def folder(self) -> Path:
        """The data set's."""
        return self.source.folder

    @property
    def files(self) -> tuple[Path, ...]:
        """Where the numbers lie."""
        return self.source.files

    @staticmethod
    def __new__(
        cls, source: Source, rows: Tensor, shape: Sequence[int], dtype: torch.dtype, device: Any = "cpu"
    ) -> Mapped:
        """Make a tensor without storage."""
        make: Any = Tensor._make_wrapper_subclass
        made: Mapped = make(cls, (len(rows), *shape[1:]), dtype=dtype, device=device)
        made.source, made.rows = source, rows
        return made

    def read(self, rows: Tensor | None = None) -> Tensor:
        """Return the clouds at ``rows`` (B,), all if None, as a tensor on the device."""
        places = torch.arange(len(self)) if rows is None else rows.cpu()
        if len(places) <= CHUNK:
            return self.source.read(self.rows[places]).to(self.device, self.dtype)
        out = torch.empty((len(places), *self.shape[1:]), dtype=self.dtype, device=self.device)
        for begin in range(0, len(places), CHUNK):
            chosen = self.rows[places[begin : begin + CHUNK]]
            out[begin : begin + CHUNK] = self.source.read(chosen).to(self.device, self.dtype)
        return out

    def with_source(self, source: Source, shape: Sequence[int] = (), **kinds: Any) -> Mapped:
        """Return the same clouds of another source."""
        dtype, device = kinds.get("dtype", self.dtype), kinds.get("device", self.device)
        return Mapped(source, self.rows, shape or self.shape, dtype, device)

    def select_rows(self, index: Tensor) -> Mapped:
        """Return the clouds at ``index`` (K,), without reading them."""
        return Mapped(self.source, self.rows[index.cpu()], self.shape, self.dtype, self.device)

    def tag(self) -> str:
        """Return text that differs for other numbers."""
        return f"{self.source.tag()} {digest(self.rows)}"

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Read nothing."""
        return f"Mapped({tuple(self.shape)}, {self.dtype}, {self.device}, {self.files[0].name})"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Another process opens the files itself."""
        return Mapped, (self.source, self.rows, tuple(self.shape), self.dtype, self.device)

    def __deepcopy__(self, memo: Any) -> Mapped:
        """Clouds in files are never changed: a copy may read the same ones."""
        return self.with_source(self.source)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Refuse: what an index reads is a copy."""
        raise RuntimeError(READ_ONLY)

    def share_memory_(self) -> Mapped:
        """Other processes read the files as well."""
        return self

    def numpy(self, *, force: bool = False) -> Any:
        """Return the whole as an array."""
        return self.read().numpy(force=force)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Read nothing for slices, the rows that an index names, and all for the rest; write to none."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            given = dict(zip((one.name for one in func._schema.arguments), args, strict=False)) | kwargs
            for one in func._schema.arguments:
                if one.is_write and isinstance(given.get(one.name), Mapped):
                    raise RuntimeError(READ_ONLY)
        if isinstance(args[0], Mapped) and func in _LAZY:
            done = _LAZY[func](*args, **kwargs)
            if done is not NotImplemented:
                return done
        args, kwargs = tree_map_only(Mapped, lambda one: one.read(), (args, kwargs))
        return func(*args, **kwargs)


def _slice(
    whole: Mapped, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    dim %= whole.ndim
    chosen = range(whole.shape[dim])[slice(start, end, step)]
    if len(chosen) == whole.shape[dim] and step == 1:
        return whole.with_source(whole.source)
    if dim == 0:
        return whole.select_rows(torch.arange(chosen.start, chosen.stop, step))
    shape = [*whole.shape]
    shape[dim] = len(chosen)
    if dim == 1 and isinstance(whole.source, Flat) and chosen.start == 0 and step == 1 and chosen:
        return whole.with_source(whole.source.first(len(chosen)), shape)
    cut = partial(_cut, dim=dim, begin=chosen.start, end=chosen.stop, step=step)
    return whole.with_source(Changed(whole.source, cut, None), shape)


def _cut(clouds: Tensor, _: None, dim: int, begin: int, end: int, step: int) -> Tensor:
    places = [slice(None)] * clouds.ndim
    places[dim] = slice(begin, end, step)
    return clouds[tuple(places)].contiguous()


def _select(whole: Mapped, dim: int, index: int) -> Any:
    return NotImplemented if dim else whole.read(torch.tensor([range(len(whole))[index]]))[0]


def _index(whole: Mapped, indices: Sequence[Tensor | None]) -> Any:
    first, *others = indices
    if first is None or first.ndim != 1 or any(other is not None for other in others):
        return NotImplemented
    rows = first
    if first.dtype in (torch.bool, torch.uint8):
        if len(first) != len(whole):
            raise IndexError(f"expected a mask of {len(whole)} clouds, got one of {len(first)}")
        rows = first.nonzero()[:, 0]
    return whole.read(torch.where(rows < 0, rows + len(whole), rows))


def _parts(whole: Mapped, size: int, dim: int = 0) -> Any:
    if dim:
        return NotImplemented
    return [_slice(whole, 0, begin, begin + size) for begin in range(0, len(whole), size)]


_LAZY: dict[Any, Callable[..., Any]] = {
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.index.Tensor: _index,
    aten.split.Tensor: _parts,
    aten.alias.default: lambda whole: whole.with_source(whole.source),
    aten.detach.default: lambda whole: whole.with_source(whole.source),
}


def lay_out(arrays: Arrays, name: str, width: int, folder: Path) -> Tensor:
    """Lay clouds that a cache holds one after another side by side: (S, width, ...).

    A cloud with fewer rows repeats its own.

    Args:
        arrays: As `cached` returns them: the clouds, and `rows`.
        name: Which array.
        width: Rows of a cloud.
        folder: The data set's.

    Returns:
        A tensor, or a `Mapped` where the array lies in a file.
    """
    flat, rows = arrays[name], arrays["rows"]
    if isinstance(flat, np.memmap):
        source = Flat(flat, rows, arrays[SUM + name], folder).first(width)
        dtype = torch.from_numpy(np.empty(0, flat.dtype)).dtype
        return Mapped(source, torch.arange(len(rows)), (len(rows), width, *flat.shape[1:]), dtype)
    if (rows == rows[0]).all() and width <= rows[0]:
        even = torch.from_numpy(flat).reshape(len(rows), rows[0], *flat.shape[1:])
        return even[:, :width].contiguous()
    start = np.cumsum(rows) - rows
    index = start[:, None] + np.arange(width) % np.minimum(rows, width)[:, None]  # (S, width)
    return torch.from_numpy(flat[index])


def join(clouds: Sequence[Tensor]) -> Tensor:
    """Return clouds (S_i, N, ...) as one tensor (S, N, ...), or a `Mapped` where one of them is."""
    mapped = next((one for one in clouds if isinstance(one, Mapped)), None)
    if len(clouds) == 1 or mapped is None:
        return clouds[0] if len(clouds) == 1 else torch.cat(tuple(clouds))
    source = Joined([one if isinstance(one, Mapped) else Held(one, mapped) for one in clouds])
    return Mapped(source, torch.arange(len(source)), mapped.shape, mapped.dtype, mapped.device)


def select_rows(clouds: Tensor, index: Tensor) -> Tensor:
    """Return the clouds at ``index`` (K,); those in a file are not read."""
    return clouds.select_rows(index) if isinstance(clouds, Mapped) else clouds[index]


def to_device(clouds: Tensor, device: torch.device | str) -> Tensor:
    """Return clouds on a device, read as a whole where it has room for them, else read row by row onto it."""
    if not isinstance(clouds, Mapped):
        return clouds.to(device)
    where = torch.device(device)
    if where.type == "cuda":
        there = clouds.with_source(clouds.source, device=where)
        free = torch.cuda.mem_get_info(where)[0]
        return there.read() if ON_DEVICE * clouds.numel() * clouds.itemsize < free else there
    return clouds.with_source(clouds.source, device=where)


def reorder(clouds: Tensor, index: Tensor) -> Tensor:
    """Return the rows of clouds (S, N, ...) at ``index`` (S, n): (S, n, ...); those in files stay there."""
    if not isinstance(clouds, Mapped):
        return take_rows(clouds, index)
    source = Ordered(clouds, index if isinstance(index, Mapped) else Held(index.cpu(), clouds))
    shape = (len(clouds), index.shape[1], *clouds.shape[2:])
    return Mapped(source, torch.arange(len(clouds)), shape, clouds.dtype, clouds.device)


def each_cloud(
    clouds: Tensor,
    change: Callable[..., Tensor],
    values: Tensor | None = None,
    dtype: torch.dtype | None = None,
    channels: int | None = None,
) -> Tensor:
    """Return ``change(clouds, values)``, which treats each cloud by itself; in a file, when it is read.

    Args:
        clouds: (S, N, ...).
        change: A function, or a `functools.partial` of one; keywords that print alike mean the same.
        values: A number for each cloud (S,), such as how many points are its own, or None.
        dtype: Of the result, if another.
        channels: Of the result, if others.
    """
    if not isinstance(clouds, Mapped):
        return change(clouds, values)
    whole = clouds
    if values is not None:  # one for each of these clouds, not of the source's
        whole = Mapped(clouds, torch.arange(len(clouds)), clouds.shape, clouds.dtype, clouds.device)
    shape = (*clouds.shape[:2], *([channels] if channels else clouds.shape[2:]))
    return whole.with_source(Changed(whole.source, change, values), shape, dtype=dtype or clouds.dtype)


def derive(clouds: Mapped, what: str, make: Callable[[int, Tensor], Tensor], doing: str) -> Tensor:
    """Return what is computed of every cloud once, kept beside the cache that the clouds are read from.

    Args:
        clouds: (S, N, C).
        what: Names the computation, with all that it depends on beside the clouds.
        make: ``make(first, chunk)`` of some clouds (s, N, C), the first of which is number ``first``: a
            result of each, (s, n, ...).
        doing: What the progress is called.

    Returns:
        (S, n, ...), a `Mapped` where that is large.
    """
    stem = clouds.files[0].name.removeprefix(".").rsplit(".", 2)[0]  # <key>.<token>
    key = f"{stem}.{what}-{hashlib.sha256(clouds.tag().encode()).hexdigest()[:12]}"

    def build(store: Store) -> Arrays:
        with progress(doing, len(clouds)) as done:
            for begin in range(0, len(clouds), CHUNK):
                made = make(begin, clouds[begin : begin + CHUNK]).cpu().numpy()
                for one in made:
                    store.add(made=one)
                done(len(made))
        return {}

    if all(file.exists() for file in clouds.files):
        arrays = cached(clouds.files, key, build, folder=clouds.folder)
    else:  # files that could not be kept, and end with this process
        arrays = parse(build)
    return lay_out(arrays, "made", int(arrays["rows"][0]), clouds.folder).to(clouds.device)


def of_each(
    clouds: Tensor, what: str, make: Callable[[int, Tensor], Tensor], doing: str = "looking at the clouds"
) -> Tensor:
    """Return some numbers of every cloud (S, K); for clouds in files they are found once, as by `derive`."""
    if isinstance(clouds, Mapped):
        return derive(clouds, what, make, doing).clone()
    begins = range(0, len(clouds), CHUNK)
    return torch.cat([make(begin, clouds[begin : begin + CHUNK]) for begin in begins])
