"""The decoder: mapping before interpolating, shapes, widths that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bixt3d.models.decoder import PropagationDecoder, PropagationStage
from tests.models.randomize import randomize


class TestDecoder:
    def levels(self) -> list[tuple[Tensor, Tensor]]:
        xyz = torch.randn(2, 32, 3)
        return [(xyz[:, :n], torch.randn(2, n, c)) for n, c in ((32, 6), (8, 10), (2, 12))]

    def test_mapping_before_interpolating_is_the_plain_way(self) -> None:
        fine, coarse = self.levels()[:2]
        stages = [PropagationStage(6, 10, 9, 1, fused=fused) for fused in (True, False)]
        randomize(stages[0])
        stages[1].load_state_dict(stages[0].state_dict())
        results = []
        for stage in stages:
            leaves = [fine[1].clone().requires_grad_(), coarse[1].clone().requires_grad_()]
            _, tokens = stage((fine[0], leaves[0]), (coarse[0], leaves[1]))
            tokens.square().sum().backward()
            weights = [value.grad for value in stage.parameters()]
            results.append([tokens.detach(), *(leaf.grad for leaf in leaves), *weights])
        for first, second in zip(*results, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("fused", [True, False])
    def test_tokens_of_the_same_points_are_taken_as_they_are(self, fused: bool) -> None:
        fine, _ = self.levels()[0], torch.manual_seed(1)
        tokens = torch.randn(2, 32, 10)
        stage = PropagationStage(6, 10, 9, 1, fused=fused)
        randomize(stage)
        same, found = stage(fine, (fine[0], tokens)), stage(fine, (fine[0].clone(), tokens))
        torch.testing.assert_close(same[1], found[1], rtol=1e-4, atol=1e-4)

    def test_shapes(self) -> None:
        decoder = PropagationDecoder((6, 10, 12), 24, (11, 9), 1, 5)
        tokens, context = decoder(self.levels(), torch.randn(2, 4, 24))
        assert tokens.shape == (2, 32, 9) and context.shape == (2, 5)

    @pytest.mark.parametrize("widths", [(9,), (9, 9, 9), (9, 0)])
    def test_widths_that_do_not_fit(self, widths: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="decoder: expected 2 widths of at least 1"):
            PropagationDecoder((6, 10, 12), 24, widths)
