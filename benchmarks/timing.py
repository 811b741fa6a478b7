"""Clocks: one run, two runs in turn, and the matrix product that models are held against."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

# Sides of the square matrices: large enough for the full rate, and no longer than needed.
SIDE = {"cpu": 2048, "cuda": 8192}
COPIED = {"cpu": 1 << 27, "cuda": 1 << 30}  # bytes, more than any cache holds
LEAST_REPEATS = 3


@dataclass(frozen=True)
class Comparison:
    """Two ways of the same thing: median milliseconds, the median ratio of pairs, and its middle half."""

    first: float
    second: float
    ratio: float
    low: float
    high: float
    repeats: int


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Time one run, the device's work included."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    begun = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return 1e3 * (time.perf_counter() - begun)


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the middle half of the values."""
    ordered = sorted(values)
    return ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


def alternate(
    first: Callable[[], object],
    second: Callable[[], object],
    device: torch.device,
    repeats: int,
    warmup: int = 1,
    seconds: float = math.inf,
) -> Comparison:
    """Time two ways of the same thing in turn; each goes first in every other pair.

    Args:
        first: One way.
        second: The other.
        device: Where they compute.
        repeats: Pairs, at most.
        warmup: Runs of each before.
        seconds: No further pair begins after that long, but `LEAST_REPEATS` are timed.
    """
    for _ in range(warmup):
        first()
        second()
    pairs: list[tuple[float, float]] = []
    begun = time.perf_counter()
    for repeat in range(repeats):
        if repeat >= LEAST_REPEATS and time.perf_counter() - begun > seconds:
            break
        if repeat % 2:
            after, before = milliseconds(second, device), milliseconds(first, device)
        else:
            before, after = milliseconds(first, device), milliseconds(second, device)
        pairs.append((before, after))
    ratios = [a / b for a, b in pairs]
    before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Comparison(before, after, statistics.median(ratios), *middle_half(ratios), len(pairs))


class MatrixProduct:
    """Product of two square matrices, kept ready to be timed again and again between other things."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Fill the matrices and multiply them once, which loads what a first product loads."""
        self.side = SIDE.get(device.type, SIDE["cpu"])
        self.device = device
        random = torch.Generator().manual_seed(0)
        self.left, self.right = (
            torch.randn(self.side, self.side, generator=random).to(device, dtype) for _ in range(2)
        )
        self.out = torch.empty_like(self.left)
        self.rate()

    def rate(self) -> float:
        """Return the FLOP/s of one product, two operations for every multiplication and addition."""
        passed = milliseconds(lambda: torch.mm(self.left, self.right, out=self.out), self.device)
        return 2 * self.side**3 / (1e-3 * passed)


def copying_rate(device: torch.device) -> float:
    """Return the bytes a second of copying a large tensor, each read once and written once."""
    source = torch.zeros(COPIED.get(device.type, COPIED["cpu"]), dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * len(source) / (1e-3 * milliseconds(lambda: target.copy_(source), device))
