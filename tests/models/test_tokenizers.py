"""Sinusoidal tokens: the formula spelled out, scale, axes, dtypes, bad arguments."""

from __future__ import annotations

import math

import pytest
import torch

from bixt3d.models.tokenizers import COORD_SCALE, SinusoidalTokenizer


class TestEncoding:
    @pytest.mark.parametrize("axes", [1, 3, 6])
    @pytest.mark.parametrize("scale", [1.0, 2 * math.pi, 40.0])
    def test_formula(self, axes: int, scale: float) -> None:
        points = torch.rand(2, 4, axes) * 2 - 1
        found = SinusoidalTokenizer(axes, 8, coord_scale=scale).encode(points)
        assert found.shape == (2, 4, 32 * axes)
        for b in range(2):
            for n in range(4):
                for axis in range(axes):
                    for i in range(16):
                        angle = scale * points[b, n, axis].item() * 10000 ** (-i / 16)
                        pair = found[b, n, 32 * axis + 2 * i : 32 * axis + 2 * i + 2].tolist()
                        assert pair == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-5)

    def test_highest_frequency_is_the_scale(self) -> None:
        quarter = SinusoidalTokenizer(1, 8, coord_scale=5.0).encode(torch.tensor([[[math.pi / 2 / 5]]]))
        assert quarter[0, 0, :2].tolist() == pytest.approx([1, 0], abs=1e-6)

    def test_default_scale(self) -> None:
        points = torch.rand(1, 5, 3)
        named = SinusoidalTokenizer(3, 8, coord_scale=COORD_SCALE).encode(points)
        assert SinusoidalTokenizer(3, 8).encode(points).equal(named)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
    def test_other_dtypes_are_encoded_in_single_precision(self, dtype: torch.dtype) -> None:
        points = (torch.randint(-8, 9, (2, 4, 3)) / 8).to(dtype)
        tokenizer = SinusoidalTokenizer(3, 8)
        found = tokenizer.encode(points)
        assert found.dtype == torch.float32
        assert found.equal(tokenizer.encode(points.float()))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_weights_of_another_dtype_leave_positions_exact(self, dtype: torch.dtype) -> None:
        points = 8 * torch.randn(2, 5, 3)
        tokenizer = SinusoidalTokenizer(3, 8, coord_scale=100.0)
        exact = tokenizer.encode(points)
        torch.testing.assert_close(tokenizer.to(dtype).encode(points).float(), exact, rtol=0, atol=1e-3)
        assert tokenizer(points).dtype == dtype
        assert tokenizer.float().encode(points).equal(exact)  # and back


class TestTokens:
    @pytest.mark.parametrize("axes", [3, 6])
    def test_a_linear_map_of_the_encoding(self, axes: int) -> None:
        tokenizer = SinusoidalTokenizer(axes, 10)
        torch.nn.init.normal_(tokenizer.project.bias)
        points = torch.rand(2, 7, axes)
        tokens = tokenizer(points)
        assert tokens.shape == (2, 7, 10)
        expected = tokenizer.encode(points) @ tokenizer.project.weight.T + tokenizer.project.bias
        torch.testing.assert_close(tokens, expected)

    @pytest.mark.parametrize("axes", [3, 6])
    def test_parameters(self, axes: int) -> None:
        tokenizer = SinusoidalTokenizer(axes, 192)
        assert {name: tuple(value.shape) for name, value in tokenizer.state_dict().items()} == {
            "project.weight": (192, 32 * axes),
            "project.bias": (192,),
        }

    def test_initialisation(self) -> None:
        tokenizer = SinusoidalTokenizer(3, 192)
        assert abs(tokenizer.project.weight.std().item() - 96**-0.5) < 0.005
        assert not tokenizer.project.bias.any()

    def test_order_of_points(self) -> None:
        tokenizer, points, order = SinusoidalTokenizer(3, 8), torch.rand(2, 7, 3), torch.randperm(7)
        torch.testing.assert_close(tokenizer(points[:, order]), tokenizer(points)[:, order])

    def test_follows_the_dtype_of_the_weights(self) -> None:
        assert SinusoidalTokenizer(3, 8).double()(torch.rand(1, 2, 3)).dtype == torch.float64

    def test_gradients_reach_the_points(self) -> None:
        points = torch.rand(1, 4, 3, requires_grad=True)
        SinusoidalTokenizer(3, 8)(points).sum().backward()
        assert points.grad is not None
        assert points.grad.all()


@pytest.mark.parametrize("axes", [0, -3])
def test_axes(axes: int) -> None:
    with pytest.raises(ValueError, match=f"in_dims: expected a positive number of axes, got {axes}"):
        SinusoidalTokenizer(axes)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_scale(scale: float) -> None:
    with pytest.raises(ValueError, match=f"coord_scale: expected a positive number, got {scale}"):
        SinusoidalTokenizer(3, coord_scale=scale)
