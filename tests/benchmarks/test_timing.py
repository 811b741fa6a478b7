"""Clocks and memory, against sleeps, made-up times and tensors of known size."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import timing
from benchmarks.memory import PeakMemory
from benchmarks.timing import MatrixProduct, alternate, middle_half, milliseconds

CPU = torch.device("cpu")
MB = 1_000_000


def test_milliseconds_are_those_of_the_run() -> None:
    assert 20 <= milliseconds(lambda: time.sleep(0.02), CPU) < 500


@pytest.mark.parametrize(
    ("values", "expected"),
    [([5.0], (5, 5)), ([3, 1, 2], (1, 3)), ([4, 1, 3, 2], (2, 3)), (list(range(9)), (2, 6))],
)
def test_middle_half(values: list[float], expected: tuple[float, float]) -> None:
    assert middle_half(values) == expected


def made_up(monkeypatch: pytest.MonkeyPatch, times: list[float]) -> list[str]:
    """Let every timed run take the next of these times; returns the order of all runs."""
    order: list[str] = []
    left = iter(times)

    def timed(run: Callable[[], object], device: torch.device) -> float:
        run()
        return next(left)

    monkeypatch.setattr(timing, "milliseconds", timed)
    return order


def test_both_ways_are_timed_in_turn_and_each_goes_first_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    order = made_up(monkeypatch, [10, 5, 4, 12, 30, 10, 1, 1])
    found = alternate(lambda: order.append("a"), lambda: order.append("b"), CPU, repeats=4, warmup=1)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba"
    # pairs (10, 5), (12, 4), (30, 10), (1, 1): ratios 2, 3, 3, 1
    assert (found.first, found.second, found.ratio) == (11, 4.5, 2.5)
    assert (found.low, found.high, found.repeats) == (2, 3, 4)


def test_repeating_ends_when_the_time_is_over_but_not_before_the_third(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = made_up(monkeypatch, [1.0] * 40)
    found = alternate(lambda: order.append("a"), lambda: None, CPU, repeats=20, warmup=2, seconds=0.0)
    assert found.repeats == 3 and len(order) == 5


def test_rate_of_a_product_is_its_operations_over_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timing.SIDE, "cpu", 64)
    product = MatrixProduct(CPU, torch.float32)
    torch.testing.assert_close(product.out, product.left @ product.right)
    monkeypatch.setattr(timing, "milliseconds", lambda run, device: 2.0)
    assert product.rate() == pytest.approx(64 * 64 * (64 + 64) / 2e-3)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is known on Linux alone")
def test_peak_of_a_cpu_is_the_most_that_was_resident_since_the_start() -> None:
    before = torch.ones(60 * MB)  # 240 MB that a peak of the whole process would count
    del before
    memory = PeakMemory(CPU)
    kept = torch.ones(10 * MB)  # 40 MB
    passing = torch.ones(25 * MB)  # 100 MB, gone before the look
    del passing
    grown = memory.grown()
    assert grown is not None
    assert 138 * MB < grown < 170 * MB, kept.shape


def test_peak_is_unknown_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, text: str) -> int:
        raise PermissionError(f"{self} {text}")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert PeakMemory(CPU).grown() is None
