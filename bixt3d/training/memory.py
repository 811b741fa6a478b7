"""Where memory does not suffice: what would fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

from bixt3d.datasets.loader import Batch

T = TypeVar("T")


class OutOfMemory(RuntimeError):
    """Memory did not suffice; the message names a setting that fits, if there is one."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on the CPU or on a GPU."""
    # On the CPU, and from some libraries, it is a plain RuntimeError.
    said = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in said)


def guarded(work: Callable[[Batch], T], batch: Batch, what_fits: Callable[[Batch, str], str]) -> T:
    """Return ``work(batch)``.

    Args:
        work: What may need too much memory.
        batch: What it is done for.
        what_fits: ``what_fits(batch, failure) -> message`` for the error.

    Raises:
        OutOfMemory: If memory did not suffice.
    """
    try:
        return work(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = str(error).strip().partition("\n")[0]
    # Outside the handler, whose error holds on to whatever the work had computed.
    raise OutOfMemory(what_fits(batch, failure))


def largest_fit(work: Callable[[Batch], object], batch: Batch) -> int:
    """Return how many clouds ``work`` can take, among the numbers that divide the batch into equal parts.

    Returns:
        The number of clouds, 0 if it runs for none.
    """
    whole = len(batch.label)
    for size in (part for part in range(whole // 2, 0, -1) if whole % part == 0):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            work(_first(batch, size))
        except Exception as error:  # whatever else is wrong with a small batch, it is no answer
            if not is_out_of_memory(error):
                return 0
        else:
            return size
    return 0


def describe(batch: Batch) -> str:
    """Return the size of a batch in words."""
    return f"{len(batch.label)} clouds of {batch.points.shape[1]:,} points"


def _first(batch: Batch, size: int) -> Batch:
    values: dict[str, Tensor | None] = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return Batch(**{name: None if v is None else v[:size] for name, v in values.items()})  # type: ignore[arg-type]
