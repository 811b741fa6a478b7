"""Linear maps in one pass against their plain twins."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bixt3d.models.layers import apply
from bixt3d.ops import linear
from bixt3d.ops.linear import is_fusable, linear_map

ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("contiguous", [True, False])
def test_agrees_with_its_twin(activation: str, bias: bool, contiguous: bool) -> None:
    x, weight, shift = torch.randn(3, 40, 24), torch.randn(17, 48)[:, ::2], torch.randn(17)
    if contiguous:
        weight = weight.contiguous()
    else:
        x = x.transpose(0, 1)
    shift = shift if bias else None
    assert is_fusable(x, weight)
    expected = ACTIVATIONS[activation](F.linear(x, weight, shift))
    torch.testing.assert_close(linear_map(x, weight, shift, activation), expected)


def test_under_autocast_it_is_of_its_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = torch.randn(64, 24), torch.randn(16, 24), torch.randn(16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out, expected = linear_map(x, weight, bias, "gelu"), F.gelu(F.linear(x, weight, bias))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)


def test_with_gradients_it_is_torch_that_maps() -> None:
    x, weight = torch.randn(5, 4), torch.randn(3, 4, requires_grad=True)
    assert not is_fusable(x, weight)
    linear_map(x, weight, activation="gelu").sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        assert is_fusable(x, weight)


def test_what_is_followed_or_elsewhere_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(5, 4), torch.randn(3, 4)
    with FlopCounterMode(display=False) as counter:
        linear_map(x, weight)
    assert counter.get_total_flops() == 2 * 5 * 4 * 3
    assert torch.compile(linear_map, backend="eager", fullgraph=True)(x, weight).shape == (5, 3)
    assert linear_map(x.to("meta"), weight.to("meta")).shape == (5, 3)
    assert linear_map(x.double(), weight.double()).dtype == torch.float64
    assert linear_map(x[:0], weight).shape == (0, 3)
    monkeypatch.setattr(linear, "is_fusable", lambda *_: False)
    torch.testing.assert_close(linear_map(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_alone_learns(activation: str) -> None:
    layer = torch.nn.Linear(4, 3)
    layer.weight.requires_grad_(False)
    out = apply(layer, torch.randn(5, 4), activation)
    out.sum().backward()
    assert layer.bias.grad is not None
    assert not is_fusable(torch.randn(5, 4), layer.weight, layer.bias)


def test_tangents_pass() -> None:
    x, weight = torch.randn(5, 4), torch.randn(3, 4)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangent = forward_ad.unpack_dual(linear_map(dual, weight)).tangent
    torch.testing.assert_close(tangent, F.linear(torch.ones_like(x), weight))


def test_autocast_leaves_float64() -> None:
    x, weight = torch.randn(5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear_map(x, weight).dtype == torch.float64


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays(activation: str) -> None:
    out = linear_map(torch.full((5, 4), torch.nan), torch.randn(3, 4), None, activation)
    assert bool(out.isnan().all())


def test_what_does_not_fit_is_said_by_torch() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear_map(torch.randn(5, 4), torch.randn(3, 7))
