"""The share of the matrix-product rate: what is counted, and what a row says."""

from __future__ import annotations

import pytest
import torch

from benchmarks.matmul_share import count, measure


def test_products_of_the_naive_classifier_are_those_of_its_layers() -> None:
    n, m, d = 256, 64, 192
    linear = n * 96 * d + 11 * (n * 11 * d * d + m * (11 + 12) * d * d)  # tokenizer, full layers
    linear += n * 2 * d * d + m * (2 + 8 + 12) * d * d + 40 * d  # the one-sided layer, the head
    attention = 11 * (3 * n * m * d + 2 * m * m * d) + 2 * n * m * d + 2 * m * m * d
    expected = 2.0 * (linear + attention) * 3
    assert count("bixt_ti_cls", torch.randn(3, n, 3)) == pytest.approx(expected, rel=2e-3)


def test_twice_the_clouds_are_twice_the_products() -> None:
    assert count("pointmlp", torch.randn(4, 192, 3)) == 2 * count("pointmlp", torch.randn(2, 192, 3))


def test_rows_are_of_inference_and_training_and_fit_together() -> None:
    rows = measure("bixt_ti_cls_hierarchy", torch.randn(2, 256, 3), repeats=1)
    assert [row[1] for row in rows] == ["inference", "training"]
    for row in rows:
        seconds, clouds, rate, limit, share = (float(value) for value in row[3:])
        assert seconds > 0
        assert clouds == pytest.approx(2 / seconds, rel=0.2)
        assert share == pytest.approx(rate / limit, abs=0.05)
