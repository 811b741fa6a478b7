"""The way not taken, and the table of ways."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks import attention
from benchmarks.attention import LEAST, Limits, attend, inputs, measure, report
from benchmarks.blocked import blocked_attention
from bixt3d.ops import bidirectional_attention

CPU = torch.device("cpu")
WAYS = attention.WAYS
LIMITS = Limits(product=1e9, copying=1e9)


@pytest.mark.parametrize("scale", [None, 0.7])
def test_blocked_attention_is_the_same(scale: float | None) -> None:
    given = [value.double().requires_grad_() for value in inputs(2, 9, torch.float32, CPU)]
    ways = (blocked_attention, partial(bidirectional_attention, backend="torch"))
    found: list[tuple[Tensor, ...]] = []
    for way in ways:
        out = way(*given, scale)
        found.append((*out, *torch.autograd.grad(out, given, [value.detach().cos() for value in out])))
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_inputs_are_views_of_one_tensor_a_side() -> None:
    r_lat, v_lat, r_tok, v_tok = inputs(2, 9, torch.float32, CPU)
    assert r_lat.shape == v_lat.shape == (2, 6, 64, 32) and r_tok.shape == v_tok.shape == (2, 6, 9, 32)
    assert r_tok.data_ptr() + 4 * 6 * 32 == v_tok.data_ptr() and r_tok.stride() == (9 * 384, 32, 384, 1)


def test_rows_hold_what_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first way of 4 ms, one of 2 ms, and one that cannot run."""

    def fail(*given: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("not here\nnor there")

    first, second = WAYS["sdpa"], WAYS["torch"]
    monkeypatch.setitem(attention.WAYS, "blocked", fail)
    monkeypatch.setattr(attention, "milliseconds", lambda run, device: {first: 4.0, second: 2.0}[run.args[0]])
    rows = measure(("sdpa", "torch", "blocked"), 2, 16, torch.float32, CPU, 3, LIMITS)
    assert [row[:4] for row in rows] == [
        ["16", "2", what, way] for what in LEAST for way in ("sdpa", "torch", "blocked")
    ]
    assert rows[0][4:7] == ["4.00", "4.00 to 4.00", "1.00"]
    assert rows[1][4:7] == ["2.00", "2.00 to 2.00", "2.00"]
    assert rows[2][4:] == ["did not run: not here", *["-"] * 7]
    # 3 matrices of each side of 2 clouds, 80 rows, 192 channels, 4 bytes; 3 products; all in 4 ms
    moved, operations = 3 * 2 * 80 * 192 * 4 / 4e-3, 2 * 3 * 2 * 192 * 16 * 64 / 4e-3
    assert float(rows[0][8]) == pytest.approx(moved / 1e9, rel=1e-2)
    assert float(rows[0][9]) == pytest.approx(moved / 1e9, abs=0.01)
    assert float(rows[0][10]) == pytest.approx(operations / 1e12, rel=1e-2)
    assert float(rows[0][11]) == pytest.approx(operations / 1e9, abs=0.01)
    # with the backward pass 5 matrices more: references, values, three gradients
    assert float(rows[3][8]) == pytest.approx(8 / 3 * moved / 1e9, rel=1e-2)
    text = report(rows, "python -m benchmarks.attention", LIMITS, CPU)
    for part in ("| did not run: not here", "`python -m benchmarks.attention`", "Measured on"):
        assert part in text


def test_any_error_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class OfACompiler(Exception):
        pass

    def fail(*given: Tensor) -> tuple[Tensor, Tensor]:
        raise OfACompiler("at 3:4\n  x = y")

    monkeypatch.setitem(attention.WAYS, "triton", fail)
    rows = measure(("triton",), 1, 16, torch.float32, CPU, 1, LIMITS)
    assert [row[4] for row in rows] == ["did not run: OfACompiler: at 3:4"] * 2


@pytest.mark.parametrize("grad", [False, True])
def test_backward_pass_is_done_where_it_is_asked_for(grad: bool) -> None:
    passed: list[str] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, *given: Tensor) -> tuple[Tensor, Tensor]:
            passed.append("forward")
            return given[0] * 2, given[2] * 2

        @staticmethod
        def backward(ctx: object, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
            passed.append("backward")
            return first, first, second, second

    attend(Watched.apply, [value.requires_grad_(grad) for value in inputs(1, 4, torch.float32, CPU)])
    assert passed == (["forward", "backward"] if grad else ["forward"])
