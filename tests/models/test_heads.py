"""The classification head: the formula, both ways to pool, the zero start, bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bixt3d.models.heads import ClassificationHead
from tests.models import twins
from tests.models.randomize import randomize


def test_norm_and_map_of_the_mean_latent() -> None:
    head = ClassificationHead(8, 5).double()
    randomize(head)
    latents = torch.randn(3, 4, 8).double()
    weights = twins.weights_of(head)
    expected = twins.linear(weights, "linear", twins.layer_norm(weights, "norm", latents.numpy().mean(1)))
    found = head(latents)
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10)
    assert head(latents, torch.randn(3, 9, 8).double()).equal(found)  # the tokens are not read


def test_the_mean_latent_may_come_as_it_is() -> None:
    head, latents = ClassificationHead(8, 5), torch.randn(3, 4, 8)
    randomize(head)
    torch.testing.assert_close(head(latents.mean(1)), head(latents))


@pytest.mark.parametrize("pool", ["tokens", "both"])
def test_the_maximum_of_the_tokens(pool: str) -> None:
    head = ClassificationHead(8, 5, pool=pool, token_dim=6).double()
    randomize(head)
    latents, tokens = torch.randn(3, 4, 8).double(), torch.randn(3, 9, 6).double()
    weights = twins.weights_of(head)
    read = [tokens.numpy().max(1)] if pool == "tokens" else [latents.numpy().mean(1), tokens.numpy().max(1)]
    pooled = np.concatenate(read, -1)
    expected = twins.linear(weights, "linear", twins.layer_norm(weights, "norm", pooled))
    np.testing.assert_allclose(head(latents, tokens).detach().numpy(), expected, rtol=1e-10)


def test_starts_at_zero() -> None:
    head = ClassificationHead(8, 5)
    assert not head.linear.weight.any()
    assert not head(torch.randn(3, 4, 8)).any()


def test_dropout_is_for_training() -> None:
    head, latents = ClassificationHead(64, 5, dropout=0.5), torch.randn(3, 4, 64)
    randomize(head)
    assert head.eval()(latents).equal(head(latents))
    assert not head.train()(latents).equal(head(latents))


@pytest.mark.parametrize("pool", ["tokens", "both"])
def test_without_tokens(pool: str) -> None:
    head = ClassificationHead(8, 5, pool=pool, token_dim=6)
    with pytest.raises(ValueError, match=rf'pool="{pool}" reads the tokens as well: pass head\(latents, tok'):
        head(torch.randn(3, 4, 8))


def test_unknown_pool() -> None:
    with pytest.raises(ValueError, match="pool: expected one of latents, tokens, both, got 'mean'"):
        ClassificationHead(8, 5, pool="mean")


@pytest.mark.parametrize("classes", [0, -1])
def test_number_of_classes(classes: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes: expected at least 1, got {classes}"):
        ClassificationHead(8, classes)
