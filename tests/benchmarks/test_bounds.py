"""The least times that are predicted for a GPU."""

from __future__ import annotations

import pytest

from benchmarks import bounds
from benchmarks.bounds import FUSED, KERNEL, attention_seconds, fps_seconds, knn_seconds


def test_attention_by_bytes() -> None:
    """Three matrices of 2 clouds, 6 heads, 1000 points (and 64 latents) and 32 channels, two bytes each."""
    seconds, what = attention_seconds(KERNEL["forward"], 2, 1000, "bf16")
    assert what == "bytes" and seconds == pytest.approx(3 * 2 * 6 * 1064 * 32 * 2 / 4.8e12)


def test_attention_by_products() -> None:
    """Exact float32 has no tensor cores: ten products of two operations for each pair and channel."""
    seconds, what = attention_seconds(FUSED["backward"], 1, 4096, "fp32")
    assert what == "products" and seconds == pytest.approx(10 * 2 * 6 * 64 * 4096 * 32 / 67e12)


def test_one_pass_needs_less_than_two_calls() -> None:
    for name in KERNEL:
        assert KERNEL[name].matrices < FUSED[name].matrices and KERNEL[name].products < FUSED[name].products


def test_searches() -> None:
    one = fps_seconds(1, 1024, 512)
    assert one == fps_seconds(132, 1024, 512) == fps_seconds(133, 1024, 512) / 2
    assert one == pytest.approx(512 * 1024 * 9 * 132 / 33.5e12)
    assert knn_seconds(2, 100, 50) == pytest.approx((10_000 * 8 / 33.5e12, 10_000 * 80 / 4.8e12))


def test_numbers_are_short() -> None:
    assert [bounds.shown(seconds) for seconds in (1.234e-6, 123.4e-6, 1.2345e-3)] == ["1.23", "123", "1,234"]
    assert bounds.bounds().count("\n|") == 2 + 30 + 2 + 7
