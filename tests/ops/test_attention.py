"""Bi-directional attention: a numpy twin, gradients, both backends, limits, clear errors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bixt3d.ops import bidirectional_attention
from bixt3d.ops.attention import attention, attention_map, attention_symmetry
from tests.markers import needs_cuda

BACKENDS = ("torch", "sdpa")
# (B, H, M, N, d): one of everything, more latents than tokens, more tokens than latents
SIZES = [(1, 1, 1, 1, 1), (2, 3, 5, 4, 2), (2, 2, 3, 11, 4)]


def softmax(x: NDArray[Any]) -> NDArray[Any]:
    """Of one row of numbers, spelled out."""
    raised = np.exp(x - x.max())
    return raised / raised.sum()


def twin(
    r_lat: NDArray[Any], v_lat: NDArray[Any], r_tok: NDArray[Any], v_tok: NDArray[Any], scale: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """One cloud, one head, one latent or token after another."""
    latents, tokens = np.zeros_like(r_lat), np.zeros_like(r_tok)
    batch, heads, num_latents, _ = r_lat.shape
    for b in range(batch):
        for h in range(heads):
            for m in range(num_latents):
                weights = softmax(np.array([scale * r_lat[b, h, m] @ token for token in r_tok[b, h]]))
                latents[b, h, m] = weights @ v_tok[b, h]
            for n in range(r_tok.shape[2]):
                weights = softmax(np.array([scale * r_tok[b, h, n] @ latent for latent in r_lat[b, h]]))
                tokens[b, h, n] = weights @ v_lat[b, h]
    return latents, tokens


def random_inputs(batch: int, heads: int, latents: int, tokens: int, width: int, **kind: Any) -> list[Tensor]:
    return [torch.randn(batch, heads, count, width, **kind) for count in (latents, latents, tokens, tokens)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_computed_by_hand(backend: str) -> None:
    # Similarities of the one latent, reference 1, with the tokens' 0 and ln 3: weights 1/4 and 3/4.
    columns = [1.0], [7.0], [0.0, np.log(3)], [4.0, 8.0]
    inputs = [torch.tensor(column).double().view(1, 1, -1, 1) for column in columns]
    latents, tokens = bidirectional_attention(*inputs, backend=backend)
    torch.testing.assert_close(latents.flatten(), torch.tensor([7.0]).double())  # 4 / 4 + 8 * 3 / 4
    torch.testing.assert_close(tokens.flatten(), torch.tensor([7.0, 7.0]).double())  # one latent to read


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [None, 0.3, 2.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_agrees_with_the_twin(sizes: tuple[int, ...], scale: float | None, backend: str) -> None:
    batch, heads, num_latents, num_tokens, width = sizes
    inputs = random_inputs(*sizes, dtype=torch.float64)
    expected = twin(*(t.numpy() for t in inputs), width**-0.5 if scale is None else scale)
    found = bidirectional_attention(*inputs, scale=scale, backend=backend)
    assert found[0].shape == (batch, heads, num_latents, width)
    assert found[1].shape == (batch, heads, num_tokens, width)
    for tensor, wanted in zip(found, expected, strict=True):
        assert tensor.dtype == torch.float64
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients(backend: str) -> None:
    inputs = random_inputs(2, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)

    def attend(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return bidirectional_attention(*tensors, scale=0.7, backend=backend)

    assert torch.autograd.gradcheck(attend, inputs)


def test_backends_agree_in_gradients() -> None:
    gradients = []
    inputs = random_inputs(2, 3, 8, 50, 16)
    pull = random_inputs(2, 3, 8, 50, 16)[1:3]
    for backend in BACKENDS:
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = bidirectional_attention(*leaves, backend=backend)
        gradients.append(torch.autograd.grad(out, leaves, pull))
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


# On a CPU the automatic choice depends on the size, the dtype and on whether gradients are wanted.
CHOICES = [
    (tokens, dtype, grad)
    for tokens in (50, 1100)
    for dtype in (torch.float32, torch.float64)
    for grad in (False, True)
]


@pytest.mark.parametrize(("num_tokens", "dtype", "grad"), CHOICES)
def test_the_automatic_choice_does_not_change_the_result(
    num_tokens: int, dtype: torch.dtype, grad: bool
) -> None:
    inputs = random_inputs(2, 3, 8, num_tokens, 16, dtype=dtype)
    auto = bidirectional_attention(*(t.clone().requires_grad_(grad) for t in inputs))
    for found, wanted in zip(auto, bidirectional_attention(*inputs, backend="torch"), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_similarities_stay_finite(backend: str) -> None:
    inputs = [t * 1e4 for t in random_inputs(1, 1, 4, 6, 8)]
    for tensor in bidirectional_attention(*inputs, backend=backend):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(backend: str, dtype: torch.dtype) -> None:
    inputs = random_inputs(2, 2, 4, 30, 8)
    wanted = bidirectional_attention(*inputs, backend="torch")
    found = bidirectional_attention(*(t.to(dtype) for t in inputs), backend=backend)
    for tensor, exact in zip(found, wanted, strict=True):
        assert tensor.dtype == dtype
        torch.testing.assert_close(tensor.float(), exact, rtol=0.05, atol=0.05)


@needs_cuda
@pytest.mark.parametrize("backend", BACKENDS)
def test_cuda_agrees_with_the_cpu(backend: str) -> None:
    inputs = random_inputs(2, 3, 8, 50, 16)
    found = bidirectional_attention(*(t.cuda() for t in inputs), backend=backend)
    for tensor, wanted in zip(found, bidirectional_attention(*inputs, backend="torch"), strict=True):
        torch.testing.assert_close(tensor.cpu(), wanted, rtol=2e-3, atol=2e-3)


class TestAttention:
    """The one-sided half: queries read keys and values."""

    @pytest.mark.parametrize(("num_tokens", "dtype", "grad"), CHOICES)
    def test_is_the_latents_half(self, num_tokens: int, dtype: torch.dtype, grad: bool) -> None:
        r_lat, v_lat, r_tok, v_tok = random_inputs(2, 3, 8, num_tokens, 16, dtype=dtype)
        wanted = bidirectional_attention(r_lat, v_lat, r_tok, v_tok, backend="torch")[0]
        found = attention(*(t.clone().requires_grad_(grad) for t in (r_lat, r_tok, v_tok)))
        torch.testing.assert_close(found, wanted)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_backends_agree(self, backend: str) -> None:
        r_lat, v_lat, r_tok, v_tok = random_inputs(2, 3, 5, 11, 4)
        wanted = bidirectional_attention(r_lat, v_lat, r_tok, v_tok, backend="torch")[0]
        torch.testing.assert_close(attention(r_lat, r_tok, v_tok, backend=backend), wanted)

    def test_unknown_backend(self) -> None:
        with pytest.raises(ValueError, match="backend: expected one of auto, .*got 'flash'"):
            attention(*torch.rand(3, 1, 1, 4, 4).unbind(0), backend="flash")

    @pytest.mark.parametrize("which", ["query", "key", "value"])
    @pytest.mark.parametrize("shape", [(3, 5, 4), (1, 3, 7, 4), (2, 3, 7, 5), (2, 3, 0, 4)])
    def test_wrong_shape(self, which: str, shape: tuple[int, ...]) -> None:
        keys = torch.rand(2, 3, 7, 4)
        given = {"query": torch.rand(2, 3, 5, 4), "key": keys, "value": keys}
        came = rf"{which}: .*{re.escape(str(shape))}"
        with pytest.raises(ValueError, match=rf"key and value \(B, H, N, d\).*{came}"):
            attention(**{**given, which: torch.rand(shape)})

    @pytest.mark.parametrize("num_tokens", [50, 1100])
    def test_gradients_do_not_depend_on_the_choice(self, num_tokens: int) -> None:
        r_lat, v_lat, r_tok, v_tok = random_inputs(2, 3, 8, num_tokens, 16)
        pull = torch.randn_like(r_lat)
        leaves = [t.clone().requires_grad_() for t in (r_lat, r_tok, v_tok)]
        found = torch.autograd.grad(attention(*leaves), leaves, pull)
        explicit = bidirectional_attention(leaves[0], v_lat, leaves[1], leaves[2], backend="torch")[0]
        for tensor, wanted in zip(found, torch.autograd.grad(explicit, leaves, pull), strict=True):
            torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-5)


class TestAttentionMap:
    @pytest.mark.parametrize("scale", [None, 1.7])
    def test_agrees_with_the_twin(self, scale: float | None) -> None:
        r_lat, _, r_tok, _ = random_inputs(2, 2, 3, 7, 4)
        found = attention_map(r_lat, r_tok, scale)
        assert found.shape == (2, 2, 3, 7)
        factor = 0.5 if scale is None else scale
        for place in np.ndindex(2, 2, 3):
            row = factor * r_lat[place].double().numpy() @ r_tok[place[:2]].double().numpy().T
            np.testing.assert_allclose(found[place].numpy(), softmax(row), rtol=1e-5)

    def test_is_what_the_latents_use(self) -> None:
        r_lat, v_lat, r_tok, v_tok = random_inputs(2, 3, 5, 9, 4)
        latents, _ = bidirectional_attention(r_lat, v_lat, r_tok, v_tok, scale=0.3)
        torch.testing.assert_close(attention_map(r_lat, r_tok, scale=0.3) @ v_tok, latents)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_rows_sum_to_one(self, dtype: torch.dtype) -> None:
        r_lat, _, r_tok, _ = random_inputs(2, 3, 5, 300, 4, dtype=dtype)
        found = attention_map(r_lat, r_tok)
        assert (found >= 0).all()
        torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, 5), rtol=0, atol=1e-5)


class TestErrors:
    def call(self, **changed: Any) -> None:
        lat, tok = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 7, 4)
        given: dict[str, Any] = {"r_lat": lat, "v_lat": lat, "r_tok": tok, "v_tok": tok}
        bidirectional_attention(**{**given, **changed})

    def test_the_unchanged_call_is_fine(self) -> None:
        self.call()

    @pytest.mark.parametrize("which", ["r_lat", "v_lat", "r_tok", "v_tok"])
    @pytest.mark.parametrize(
        "shape",
        [
            (3, 5, 4),  # no batch
            (1, 2, 3, 7, 4),  # a size too many
            (1, 3, 7, 4),  # another batch, even if it would broadcast
            (2, 1, 7, 4),  # other heads
            (2, 3, 7, 5),  # another width
            (2, 3, 6, 4),  # another number of latents or tokens than the values or references
            (2, 3, 0, 4),
        ],
    )
    def test_wrong_shape(self, which: str, shape: tuple[int, ...]) -> None:
        came = rf"{which}: torch.float32 tensor of shape {re.escape(str(shape))}"
        with pytest.raises(ValueError, match=rf"expected r_lat and v_lat \(B, H, M, d\).*{came}"):
            self.call(**{which: torch.rand(shape)})

    @pytest.mark.parametrize("stream", ["lat", "tok"])
    @pytest.mark.parametrize("shape", [(1, 3, 6, 4), (2, 1, 6, 4), (2, 3, 6, 5)])
    def test_streams_that_do_not_fit(self, stream: str, shape: tuple[int, ...]) -> None:
        other = torch.rand(shape)
        with pytest.raises(ValueError, match=re.escape(str(shape))):
            self.call(**{f"r_{stream}": other, f"v_{stream}": other})

    @pytest.mark.parametrize("stream", ["lat", "tok"])
    def test_nothing_to_attend_to(self, stream: str) -> None:
        empty = torch.rand(2, 3, 0, 4)
        with pytest.raises(ValueError, match="none empty"):
            self.call(**{f"r_{stream}": empty, f"v_{stream}": empty})

    @pytest.mark.parametrize("which", ["r_lat", "v_lat", "r_tok", "v_tok"])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
    def test_wrong_dtype(self, which: str, dtype: torch.dtype) -> None:
        shape = (2, 3, 5, 4) if "lat" in which else (2, 3, 7, 4)
        with pytest.raises(ValueError, match=f"one floating-point dtype.*{which}: {dtype}"):
            self.call(**{which: torch.ones(shape, dtype=dtype)})

    def test_integers_throughout(self) -> None:
        lat, tok = torch.ones(2, 3, 5, 4, dtype=torch.int64), torch.ones(2, 3, 7, 4, dtype=torch.int64)
        with pytest.raises(ValueError, match="floating-point"):
            self.call(r_lat=lat, v_lat=lat, r_tok=tok, v_tok=tok)

    def test_other_device(self) -> None:
        with pytest.raises(ValueError, match="one device"):
            self.call(v_tok=torch.empty(2, 3, 7, 4, device="meta"))

    @pytest.mark.parametrize("bad", [None, [[1.0]], np.ones((2, 3, 5, 4), np.float32)])
    def test_no_tensor(self, bad: Any) -> None:
        with pytest.raises(ValueError, match=f"r_lat: {type(bad).__name__}"):
            self.call(r_lat=bad)

    def test_unknown_backend(self) -> None:
        with pytest.raises(ValueError, match="backend: expected one of auto, .*got 'flash'"):
            self.call(backend="flash")


class TestSymmetry:
    def test_agrees_with_numpy(self) -> None:
        first, second = torch.randn(2, 3, 5, 40), torch.randn(2, 3, 40, 5)
        second = second + first.transpose(-1, -2)
        found = attention_symmetry(first, second)  # (B, H)
        for cloud in range(2):
            for head in range(3):
                pair = [first[cloud, head].double().numpy(), second[cloud, head].double().numpy().T]
                left, right = (x - x.mean(1, keepdims=True) - x.mean(0) + x.mean() for x in pair)
                expected = np.corrcoef(left.ravel(), right.ravel())[0, 1]
                assert found[cloud, head].item() == pytest.approx(expected, abs=1e-9)

    def test_what_a_softmax_does_not_see_does_not_count(self) -> None:
        shared = torch.randn(1, 2, 6, 30)
        first = shared + torch.randn(1, 2, 6, 1)
        second = (shared + torch.randn(1, 2, 1, 30)).transpose(-1, -2)
        torch.testing.assert_close(first.softmax(-1), shared.softmax(-1))
        torch.testing.assert_close(second.softmax(-1), shared.transpose(-1, -2).softmax(-1))
        torch.testing.assert_close(attention_symmetry(first, second), torch.ones(1, 2).double())
        torch.testing.assert_close(attention_symmetry(first, -second), -torch.ones(1, 2).double())

    def test_nothing_in_common_and_nothing_at_all(self) -> None:
        first, second = torch.randn(1, 1, 64, 1000), torch.randn(1, 1, 1000, 64)
        assert abs(attention_symmetry(first, second).item()) < 0.02
        assert attention_symmetry(torch.ones(1, 1, 4, 9), torch.randn(1, 1, 9, 4)).item() == 0

    def test_shapes(self) -> None:
        with pytest.raises(ValueError, match="expected similarities"):
            attention_symmetry(torch.randn(1, 1, 4, 9), torch.randn(1, 1, 4, 9))
