"""Compiled maximum and spread of neighbourhoods against their plain twins, in values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from bixt3d.ops import grouping
from bixt3d.ops.grouping import group_spread, largest_offset

SIZES = ((3, 70, 20, 9, 64), (1, 300, 150, 24, 33))  # B, N, S, k, C


@pytest.fixture(autouse=True)
def _however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "LEAST_COMPILED", 0)


def clouds(sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    batch, count, groups, k, channels = sizes
    features = torch.randn(batch, count, channels, dtype=dtype)
    features = features - features.mean(1, keepdim=True)
    order = torch.rand(batch, count).argsort(1)
    index = torch.rand(batch, groups, count).argsort(2)[..., :k]
    return features, order[:, :groups], index


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [largest_offset, group_spread])
def test_agrees_with_its_twin(
    function: Callable[..., Tensor], sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    features, anchors, index = clouds(sizes, dtype)
    values, gradients = [], []
    for fused in (False, True):
        given = features.clone().requires_grad_()
        out = function(given, anchors, index, fused=fused)
        assert ("LargestOffset" in out.grad_fn.name() or "Spread" in out.grad_fn.name()) == fused
        torch.manual_seed(1)
        out.backward(torch.randn_like(out))
        values.append(out.detach())
        gradients.append(given.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [largest_offset, group_spread])
def test_gradients_are_those_of_differences(function: Callable[..., Tensor]) -> None:
    features, anchors, index = clouds((2, 12, 5, 4, 3), torch.float64)
    assert torch.autograd.gradcheck(lambda x: function(x, anchors, index), features.requires_grad_())


@pytest.mark.parametrize("function", [largest_offset, group_spread])
def test_threads_change_nothing(function: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    features, anchors, index = clouds(SIZES[0])
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("bixt3d.ops.backends.WORTH_THREADS", 0)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        given = features.clone().requires_grad_()
        out = function(given, anchors, index)
        out.sum().backward()
        found.append((out.detach(), given.grad))
    assert all(one.equal(other) for one, other in zip(*found, strict=True))


def test_the_first_of_equal_ones_has_the_gradient() -> None:
    features = torch.ones(1, 5, 2, requires_grad=True)
    index, anchors = torch.tensor([[[3, 1, 2]]]), torch.tensor([[0]])
    largest_offset(features, anchors, index).sum().backward()
    assert features.grad[0, :, 0].tolist() == [-1, 0, 0, 1, 0]


def test_a_cloud_of_one_place_has_the_smallest_spread() -> None:
    index, anchors = torch.tensor([[[1, 2, 3]]]), torch.tensor([[0]])
    spread = group_spread(torch.zeros(1, 5, 2), anchors, index)
    assert 0 < float(spread) < 1e-15


def test_half_precision_is_compared_in_float32() -> None:
    features, anchors, index = clouds(SIZES[0])
    half = features.bfloat16()
    out = largest_offset(half, anchors, index)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, largest_offset(half.float(), anchors, index, fused=False))


def test_what_is_followed_goes_the_plain_way() -> None:
    features, anchors, index = clouds(SIZES[0])
    compiled = torch.compile(largest_offset, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(features, anchors, index), largest_offset(features, anchors, index))
    with FlopCounterMode(display=False):  # counts, and changes nothing
        assert largest_offset(features, anchors, index).equal(largest_offset(features, anchors, index))
    assert group_spread(features.to("meta"), anchors.to("meta"), index.to("meta")).shape == (3,)


@pytest.mark.parametrize("function", [largest_offset, group_spread])
def test_rows_outside_are_refused(function: Callable[..., Tensor]) -> None:
    features, anchors, index = clouds(SIZES[0])
    for bad in (-1, features.shape[1]):
        index[0, 0, 0] = bad
        with pytest.raises(ValueError, match="index: expected rows 0 to 69, got"):
            function(features, anchors, index)
    with pytest.raises(ValueError, match=r"expected features \(B, N, C\)"):
        function(features, anchors[:, :-1], index)


def test_spread_differentiates_twice() -> None:
    features, anchors, index = clouds(SIZES[0], torch.float64)
    found = []
    for fused in (False, True):
        given = features.clone().requires_grad_()
        spread = group_spread(given, anchors, index, fused=fused)
        (first,) = torch.autograd.grad(spread.square().sum(), given, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), given)[0])
    torch.testing.assert_close(*found)


def test_tangents_pass() -> None:
    features, anchors, index = clouds(SIZES[0])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(features, torch.randn_like(features))
        assert forward_ad.unpack_dual(group_spread(dual, anchors, index)).tangent is not None
