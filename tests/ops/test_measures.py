"""How alike the latents' attention maps are, against pairs one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bixt3d.ops import attention_diversity


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
