"""Blocks: numpy twins of each, stochastic depth, attention maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bixt3d.models.attention import (
    BidirectionalCrossAttention,
    CrossAttention,
    SelfAttention,
    merge_heads,
    split_heads,
)
from bixt3d.models.layers import FeedForward
from tests.models import twins
from tests.models.randomize import randomize


def close(found: torch.Tensor, expected: twins.Array) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


class TestHeads:
    def test_channels_of_a_head_are_neighbours(self) -> None:
        fused = torch.arange(2 * 5 * 12).view(2, 5, 12)  # 2 parts of 3 heads of width 2
        first, second = split_heads(fused, 2, 3)
        assert first.shape == second.shape == (2, 3, 5, 2)
        assert first[1, 2, 4].equal(fused[1, 4, 4:6])
        assert second[1, 0, 4].equal(fused[1, 4, 6:8])

    def test_merging_undoes_splitting(self) -> None:
        fused = torch.randn(2, 5, 12)
        parts = split_heads(fused, 2, 3)
        assert torch.cat([merge_heads(part) for part in parts], -1).equal(fused)


class TestAgainstTwins:
    @pytest.mark.parametrize("heads", [1, 2, 4])
    def test_self_attention(self, heads: int) -> None:
        block = SelfAttention(8, heads, 2.0, 0.0).double()
        randomize(block)
        x = torch.randn(2, 5, 8).double()
        close(block(x), twins.self_attention(twins.weights_of(block), x.numpy(), heads))

    @pytest.mark.parametrize(("dim", "context_dim"), [(8, 8), (8, 5), (6, 10)])
    def test_cross_attention(self, dim: int, context_dim: int) -> None:
        block = CrossAttention(dim, context_dim, 12, 3, 2.0, 0.0).double()
        randomize(block)
        x, context = torch.randn(2, 5, dim).double(), torch.randn(2, 7, context_dim).double()
        expected = twins.cross_attention(twins.weights_of(block), x.numpy(), context.numpy(), 3)
        close(block(x, context), expected)

    @pytest.mark.parametrize("token_dim", [8, 5, 12])
    @pytest.mark.parametrize("backend", ["torch", "sdpa"])
    def test_bidirectional_cross_attention(self, token_dim: int, backend: str) -> None:
        block = BidirectionalCrossAttention(8, token_dim, 2, 2.0, 0.0, backend).double()
        randomize(block)
        latents, tokens = torch.randn(2, 5, 8).double(), torch.randn(2, 7, token_dim).double()
        found = block(latents, tokens)
        expected = twins.bidirectional(twins.weights_of(block), latents.numpy(), tokens.numpy(), 2)
        close(found[0], expected[0])
        close(found[1], expected[1])


class TestAttentionMaps:
    def test_cross_attention_uses_its_map(self) -> None:
        block = CrossAttention(8, 6, 8, 2, 2.0, 0.0)
        randomize(block)
        x, context = torch.randn(2, 5, 8), torch.randn(2, 7, 6)
        weights = block.attention_map(x, context)  # (B, H, M, N)
        assert weights.shape == (2, 2, 5, 7)
        _, value = split_heads(block.key_value(block.norm_context(context)), 2, 2)
        torch.testing.assert_close(block.ffn(x + block.out(merge_heads(weights @ value))), block(x, context))

    def test_bidirectional_cross_attention_uses_its_map(self) -> None:
        block = BidirectionalCrossAttention(8, 6, 2, 2.0, 0.0, "auto")
        randomize(block)
        latents, tokens = torch.randn(2, 5, 8), torch.randn(2, 7, 6)
        weights = block.attention_map(latents, tokens)  # (B, H, M, N)
        assert weights.shape == (2, 2, 5, 7)
        _, value = split_heads(block.rv_tokens(block.norm_tokens(tokens)), 2, 2)
        update = block.out_latents(merge_heads(weights @ value))
        torch.testing.assert_close(block.ffn_latents(latents + update), block(latents, tokens)[0])


class TestDropPath:
    def test_all_four_branches_of_a_bidirectional_block_are_dropped(self) -> None:
        block = BidirectionalCrossAttention(8, 8, 2, 2.0, 1 - 1e-7, "auto").train()
        randomize(block)
        latents, tokens = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
        found = block(latents, tokens)
        assert found[0].equal(latents)
        assert found[1].equal(tokens)

    @pytest.mark.parametrize("block", [SelfAttention(8, 2, 2.0, 1 - 1e-7), FeedForward(8, 2.0, 1 - 1e-7)])
    def test_all_branches_of_one_stream_are_dropped(self, block: nn.Module) -> None:
        randomize(block)
        x = torch.randn(2, 5, 8)
        assert block.train()(x).equal(x)

    def test_streams_are_dropped_independently(self) -> None:
        block = BidirectionalCrossAttention(8, 8, 2, 2.0, 0.5, "auto").train()
        randomize(block)
        block.ffn_latents.drop_path.rate = block.ffn_tokens.drop_path.rate = 1 - 1e-7
        latents, tokens = torch.randn(64, 3, 8), torch.randn(64, 4, 8)
        found = block(latents, tokens)
        moved = [(new != old).flatten(1).any(1) for new, old in zip(found, (latents, tokens), strict=True)]
        assert 0 < (moved[0] & ~moved[1]).sum() < 64
        assert 0 < (moved[0] & moved[1]).sum() < 64
