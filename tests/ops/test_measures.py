"""Measures of attention against pairs one by one, and against the rank of the maps' derivative."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bixt3d.ops import attention_diversity, attention_freedom


def test_is_the_mean_over_all_pairs_of_latents() -> None:
    torch.manual_seed(1)
    maps = torch.randn(2, 3, 5, 40).softmax(-1)
    correlation, entropy = attention_diversity(maps)
    assert correlation.shape == entropy.shape == (2, 3)
    for cloud, head in itertools.product(range(2), range(3)):
        rows = maps[cloud, head].double().numpy()
        pairs = [np.corrcoef(rows[i], rows[j])[0, 1] for i, j in itertools.combinations(range(5), 2)]
        assert correlation[cloud, head].item() == pytest.approx(np.mean(pairs), abs=1e-6)
        spread = -(rows * np.log(rows)).sum(1) / np.log(40)
        assert entropy[cloud, head].item() == pytest.approx(spread.mean(), abs=1e-6)


def test_alike_apart_even_and_on_one_token() -> None:
    same = torch.rand(1, 1, 1, 9).expand(1, 1, 4, 9)
    assert attention_diversity(same / same.sum(-1, keepdim=True))[0].item() == pytest.approx(1.0)
    correlation, entropy = attention_diversity(torch.eye(4).reshape(1, 1, 4, 4))
    assert correlation.item() == pytest.approx(-1 / 3)  # four that sum to an even map
    assert entropy.item() == 0.0
    correlation, entropy = attention_diversity(torch.full((1, 1, 3, 8), 1 / 8))
    assert correlation.item() == 0.0 and entropy.item() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 1, 8), (1, 1, 8, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected attention \(B, H, M, N\) of two or more latents"):
        attention_diversity(torch.zeros(shape))


def rank_of_derivative(first: torch.Tensor, second: torch.Tensor) -> int:
    """Rank of both maps' derivative by the similarities that are given: all of them, or the one for both."""
    shape, shared = first.shape, first is second
    flat = [first.flatten()] if shared else [first.flatten(), second.flatten()]

    def maps(values: torch.Tensor) -> torch.Tensor:
        of_latents, of_tokens = values.view(-1, *shape)[0], values.view(-1, *shape)[-1]
        return torch.cat([of_latents.softmax(-1).flatten(), of_tokens.softmax(-2).flatten()])

    derivative = torch.autograd.functional.jacobian(maps, torch.cat(flat).double())
    return int(torch.linalg.matrix_rank(derivative, rtol=1e-12))


@pytest.mark.parametrize("blocks", [1, 2])
def test_freedom_is_the_rank_of_the_derivative(blocks: int) -> None:
    """Of one block all M N - 1; of two that do not see each other, one less."""
    torch.manual_seed(3)
    first, second = (torch.randn(6, 8) for _ in range(2))
    if blocks == 2:
        apart = torch.zeros(6, 8)
        apart[:3, 4:] = apart[3:, :4] = -1e4
        first, second = first + apart, second + apart
    found = attention_freedom(first[None, None], first.T[None, None])
    assert found.shared.item() == rank_of_derivative(first, first) == (47 if blocks == 1 else 24 - 2)
    assert found.most_shared.item() == 6 * 8 - 1 and found.most_separate.item() == 2 * 6 * 8 - 6 - 8
    found = attention_freedom(first[None, None], second.T[None, None])
    assert found.separate.item() == rank_of_derivative(first, second) == (82 if blocks == 1 else 34)


def test_components_of_what_ties_the_directions() -> None:
    torch.manual_seed(4)
    wide = (torch.randn(2, 3, 20, 5) @ torch.randn(2, 3, 5, 30)).double()
    offsets = 100 * torch.randn(20, 1) + 100 * torch.randn(30)  # seen by one softmax alone
    found = attention_freedom(wide + offsets, torch.zeros(2, 3, 30, 20))
    assert found.latent_components.tolist() == attention_freedom(wide, wide.mT).token_components.tolist()
    assert 1 < found.latent_components.min() and found.latent_components.max() <= 5
    assert found.token_components.tolist() == [[0] * 3] * 2


def test_directions_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected similarities \(B, H, M, N\) and \(B, H, N, M\)"):
        attention_freedom(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))
