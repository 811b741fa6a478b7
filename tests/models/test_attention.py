"""Blocks: numpy twins of each, stochastic depth, attention maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bixt3d.models.attention import (
    BidirectionalCrossAttention,
    CrossAttention,
    DropPath,
    FeedForward,
    SelfAttention,
    merge_heads,
    split_heads,
)
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
    def test_feed_forward(self) -> None:
        block = FeedForward(8, 2.5, 0.0).double()
        assert block.mlp.fc1.out_features == 20
        randomize(block)
        x = torch.randn(2, 5, 8).double()
        close(block(x), twins.feed_forward(twins.weights_of(block), x.numpy()))

    @pytest.mark.parametrize("rows", [1, 4, 9, 10, 11])
    def test_feed_forward_in_evaluation_by_rows(self, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bixt3d.models.attention.ROWS", {"cpu": rows, "cuda": rows})
        block = FeedForward(8, 2.0, 0.5).double().eval()
        randomize(block)
        seen: list[int] = []
        block.mlp.register_forward_hook(lambda module, given, out: seen.append(out.numel() // 8))
        x = torch.randn(2, 5, 8).double()
        with torch.no_grad():
            found = block(x)
        assert sum(seen) == 10 and max(seen) <= rows
        close(found, twins.feed_forward(twins.weights_of(block), x.numpy()))
        seen.clear()
        block.train()(x)  # a cloud's branch is dropped as a whole
        block.eval()(x).sum().backward()
        assert seen == [10, 10]

    @pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated:DeprecationWarning")
    def test_feed_forward_traced_with_many_rows_maps_any_number(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bixt3d.models.attention.ROWS", {"cpu": 4, "cuda": 4})
        block = FeedForward(8, 2.0, 0.0).eval()
        with torch.no_grad():
            traced = torch.jit.trace(block, torch.randn(2, 5, 8))
            for rows in (1, 5, 20):
                x = torch.randn(2, rows, 8)
                torch.testing.assert_close(traced(x), block(x))

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
    def test_nothing_is_dropped_in_eval(self) -> None:
        x = torch.randn(64, 3, 2)
        assert DropPath(0.9).eval()(x).equal(x)

    def test_nothing_is_dropped_at_rate_zero(self) -> None:
        x = torch.randn(64, 3, 2)
        assert DropPath(0.0).train()(x).equal(x)

    def test_a_sample_is_dropped_as_a_whole_or_scaled(self) -> None:
        x = torch.rand(64, 3, 2) + 1
        out = DropPath(0.25).train()(x)
        dropped = (out == 0).flatten(1)
        assert dropped.all(1).equal(dropped.any(1))
        kept = ~dropped.any(1)
        assert 0 < kept.sum() < 64
        torch.testing.assert_close(out[kept], x[kept] / 0.75)

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
    def test_the_expectation_is_the_input(self, rate: float) -> None:
        out = DropPath(rate).train()(torch.ones(20_000, 1))
        deviation = (rate / (1 - rate) / 20_000) ** 0.5
        assert abs(out.mean().item() - 1) < 5 * deviation
        assert abs((out == 0).float().mean().item() - rate) < 0.02

    def test_dtype_is_kept(self) -> None:
        assert DropPath(0.5).train()(torch.ones(8, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16

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
