"""Trunks: published parameter counts, numpy twins, symmetries, initialisation, bad arguments."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bixt3d import BiXT, Perceiver, create_model
from bixt3d.models.attention import BidirectionalCrossAttention, CrossAttention
from bixt3d.models.bixt import BidirectionalLayer, OneSidedLayer, Trunk
from bixt3d.models.layers import DropPath, Mlp
from bixt3d.ops import attention_diversity
from tests.models import twins
from tests.models.randomize import randomize

SMALL: dict[str, Any] = {"dim": 12, "num_heads": 3, "num_latents": 5, "mlp_ratio": 2.0}
# Patch embedding 147,648, positional projection 12,480, norm and head 193,384, and 64 x 192 latents.
REST_OF_THE_IMAGENET_MODEL = 365_800


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def small_trunks() -> dict[str, Trunk]:
    trunks: dict[str, Trunk] = {
        f"{attention}-{last_layer}": BiXT(depth=3, attention=attention, last_layer=last_layer, **SMALL)
        for attention in ("bidirectional", "sequential")
        for last_layer in ("one_sided", "full")
    }
    for share in ("all", "all_but_first"):
        trunks[f"perceiver-{share}"] = Perceiver(num_blocks=3, self_attends_per_block=2, share=share, **SMALL)
    for trunk in trunks.values():
        randomize(trunk)
    return trunks


NAMES = sorted(small_trunks())


@pytest.fixture(params=NAMES)
def trunk(request: pytest.FixtureRequest) -> Trunk:
    return small_trunks()[request.param]


class TestParameterCounts:
    @pytest.mark.parametrize(
        ("trunk", "published"),
        [
            (BiXT(depth=12), 15_121_192),
            (BiXT(depth=13), 16_381_672),
            (BiXT(depth=12, attention="sequential"), 15_944_872),
            (Perceiver(num_blocks=8, self_attends_per_block=6), 22_164_520),
        ],
        ids=["bixt-d12", "bixt-d13", "sequential-d12", "perceiver-sa6-d8"],
    )
    def test_imagenet_models(self, trunk: Trunk, published: int) -> None:
        assert count(trunk) - trunk.latents.numel() + REST_OF_THE_IMAGENET_MODEL == published

    def test_layers(self) -> None:
        assert count(BidirectionalLayer(192, 192, 6, 4.0, 0.0, "auto")) == 1_260_480
        assert count(OneSidedLayer(192, 192, 6, 4.0, 0.0)) == 890_112

    def test_a_full_last_layer(self) -> None:
        assert count(BiXT(depth=4, last_layer="full")) == 64 * 192 + 4 * 1_260_480
        assert count(BiXT(depth=4, last_layer="one_sided")) == 64 * 192 + 3 * 1_260_480 + 890_112

    def test_an_unshared_first_cross_attention_adds_one(self) -> None:
        shared, first = (
            Perceiver(dim=12, num_heads=3, num_blocks=3, self_attends_per_block=1, share=share)
            for share in ("all", "all_but_first")
        )
        assert count(first) - count(shared) == count(shared.cross[0])


def twin_of_bixt(trunk: BiXT, tokens: twins.Array, heads: int) -> tuple[twins.Array, twins.Array]:
    weights = twins.weights_of(trunk)
    latents = np.repeat(weights["latents"], len(tokens), 0)
    for index, layer in enumerate(trunk.layers):
        own = twins.below(weights, f"layers.{index}")
        cross, among = twins.below(own, "cross"), twins.below(own, "among")
        if isinstance(layer, BidirectionalLayer):
            latents, tokens = twins.bidirectional(cross, latents, tokens, heads)
        else:
            latents = twins.cross_attention(cross, latents, tokens, heads)
            if not isinstance(layer, OneSidedLayer):
                tokens = twins.cross_attention(twins.below(own, "back"), tokens, latents, heads)
        latents = twins.self_attention(among, latents, heads)
    return latents, tokens


class TestForward:
    def test_shapes(self, trunk: Trunk) -> None:
        latents, tokens = trunk(torch.randn(4, 7, 12))
        assert latents.shape == (4, 5, 12)
        assert tokens.shape == (4, 7, 12)

    @pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("perceiver")])
    def test_bixt_agrees_with_its_twin(self, name: str) -> None:
        trunk = small_trunks()[name].double()
        assert isinstance(trunk, BiXT)
        tokens = torch.randn(2, 7, 12).double()
        expected = twin_of_bixt(trunk, tokens.numpy(), 3)
        for found, wanted in zip(trunk(tokens), expected, strict=True):
            np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("share", ["all", "all_but_first"])
    def test_perceiver_agrees_with_its_twin(self, share: str) -> None:
        trunk = small_trunks()[f"perceiver-{share}"].double()
        tokens = torch.randn(2, 7, 12).double()
        weights = twins.weights_of(trunk)
        latents = np.repeat(weights["latents"], 2, 0)
        for block, cross in enumerate((0, 0, 0) if share == "all" else (0, 1, 1)):
            own = twins.below(weights, f"cross.{cross}")
            latents = twins.cross_attention(own, latents, tokens.numpy(), 3)
            for repeat in range(2):
                own = twins.below(weights, f"among.{block}.{repeat}")
                latents = twins.self_attention(own, latents, 3)
        found, unchanged = trunk(tokens)
        np.testing.assert_allclose(found.detach().numpy(), latents, rtol=1e-8, atol=1e-8)
        assert unchanged.equal(tokens)

    def test_one_sided_last_layer_leaves_the_tokens(self) -> None:
        trunk = small_trunks()["bidirectional-one_sided"]
        tokens = torch.randn(2, 7, 12)
        latents = trunk.start(2)
        for index in range(trunk.depth):
            before = tokens
            latents, tokens = trunk.step(index, latents, tokens)
            assert tokens.equal(before) == (index == trunk.depth - 1)
        assert trunk(torch.ones(2, 7, 12))[1].requires_grad  # the layers before do change them

    def test_full_last_layer_changes_the_tokens(self) -> None:
        trunk = small_trunks()["bidirectional-full"]
        latents, tokens = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
        assert not trunk.step(trunk.depth - 1, latents, tokens)[1].isclose(tokens).any()

    def test_latents_are_the_same_for_every_cloud_at_the_start(self, trunk: Trunk) -> None:
        assert trunk.start(3).equal(trunk.latents.repeat(3, 1, 1))

    def test_latents_that_start_apart_look_at_different_tokens(self) -> None:
        """The official 0.02 is little beside what the first layer adds to all latents alike."""
        tokens, alike = torch.randn(4, 60, 48) + 2 * torch.randn(48), {}
        for std in (0.02, 1.0):
            torch.manual_seed(3)
            trunk = BiXT(48, 3, 3, 8, latent_std=std).eval()
            assert trunk.latents.std().item() == pytest.approx(std, rel=0.1)
            latents, moved = trunk.step(0, trunk.start(4), tokens)
            alike[std] = attention_diversity(trunk.attention_map(1, latents, moved))[0].mean().item()
        assert alike[0.02] > 0.95 and alike[1.0] < 0.7, alike

    def test_order_of_tokens(self, trunk: Trunk) -> None:
        tokens, order = torch.randn(2, 7, 12), torch.randperm(7)
        latents, after = trunk(tokens)
        same, permuted = trunk(tokens[:, order])
        torch.testing.assert_close(same, latents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(permuted, after[:, order], rtol=1e-4, atol=1e-5)
        assert not latents[0].isclose(latents[1]).all()  # they do depend on the tokens

    def test_clouds_do_not_see_each_other(self, trunk: Trunk) -> None:
        tokens = torch.randn(3, 7, 12)
        together = trunk(tokens)
        alone = trunk(tokens[1:2])
        for many, one in zip(together, alone, strict=True):
            torch.testing.assert_close(many[1:2], one, rtol=1e-4, atol=1e-5)

    def test_every_parameter_gets_a_gradient(self, trunk: Trunk) -> None:
        latents, tokens = trunk(torch.randn(2, 7, 12))
        (latents * torch.randn_like(latents)).sum().add((tokens * torch.randn_like(tokens)).sum()).backward()
        dead = [n for n, p in trunk.named_parameters() if p.grad is None or not p.grad.any()]
        assert dead == []

    @pytest.mark.parametrize("attention", ["bidirectional", "sequential"])
    @pytest.mark.parametrize("last_layer", ["one_sided", "full"])
    def test_tokens_of_their_own_width(self, attention: str, last_layer: str) -> None:
        trunk = BiXT(depth=2, attention=attention, last_layer=last_layer, token_dim=[7, 9], **SMALL)
        assert trunk.token_dims == (7, 9)
        latents = trunk.start(2)
        for index, width in enumerate(trunk.token_dims):
            latents, tokens = trunk.step(index, latents, torch.randn(2, 6, width))
            assert latents.shape == (2, 5, 12)
            assert tokens.shape == (2, 6, width)

    def test_backends_agree(self) -> None:
        torch_backend, fused = (BiXT(depth=2, backend=backend, **SMALL) for backend in ("torch", "sdpa"))
        randomize(torch_backend)
        fused.load_state_dict(torch_backend.state_dict())
        tokens = torch.randn(2, 7, 12)
        for found, wanted in zip(fused(tokens), torch_backend(tokens), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


class TestAttentionMaps:
    def test_of_each_step(self, trunk: Trunk) -> None:
        latents, tokens = trunk.start(2), torch.randn(2, 7, 12)
        for index in range(trunk.depth):
            weights = trunk.attention_map(index, latents, tokens)
            assert weights.shape == (2, 3, 5, 7)
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
            latents, tokens = trunk.step(index, latents, tokens)

    def test_an_unshared_first_cross_attention_has_a_map_of_its_own(self) -> None:
        trunk = small_trunks()["perceiver-all_but_first"]
        latents, tokens = trunk.start(2), torch.randn(2, 7, 12)
        first, second, third = (trunk.attention_map(index, latents, tokens) for index in range(3))
        assert second.equal(third)
        assert not first.isclose(second).all()


@pytest.fixture(params=["bidirectional", "sequential", "perceiver"])
def fresh(request: pytest.FixtureRequest) -> Trunk:
    if request.param == "perceiver":
        return Perceiver(dim=96, num_blocks=2, self_attends_per_block=2)
    return BiXT(dim=96, depth=3, attention=request.param)


class TestInitialisation:
    def test_latents(self, fresh: Trunk) -> None:
        assert fresh.latents.shape == (1, 64, 96)
        assert abs(fresh.latents.std().item() - 0.02) < 0.001
        assert abs(fresh.latents.mean().item()) < 0.001

    def test_weights_are_xavier_uniform_over_the_fused_matrix(self, fresh: Trunk) -> None:
        layers = [module for module in fresh.modules() if isinstance(module, nn.Linear)]
        assert len(layers) > 10
        for layer in layers:
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            largest = layer.weight.abs().max().item()
            assert 0.99 * bound < largest <= bound
            assert abs(layer.weight.std().item() - bound / 3**0.5) < 0.05 * bound

    def test_biases(self, fresh: Trunk) -> None:
        mlps = [module for module in fresh.modules() if isinstance(module, Mlp)]
        noisy = {id(layer) for mlp in mlps for layer in (mlp.fc1, mlp.fc2)}
        assert len(noisy) > 6
        for layer in (module for module in fresh.modules() if isinstance(module, nn.Linear)):
            if id(layer) in noisy:
                assert 0.5e-6 < layer.bias.std().item() < 1.5e-6
            else:
                assert not layer.bias.any()

    def test_norms_start_as_the_identity(self, fresh: Trunk) -> None:
        norms = [module for module in fresh.modules() if isinstance(module, nn.LayerNorm)]
        assert len(norms) > 6
        for norm in norms:
            assert norm.eps == 1e-6
            assert norm.weight.eq(1).all()
            assert not norm.bias.any()


class TestDropPath:
    def rates(self, module: nn.Module) -> set[float]:
        return {round(part.rate, 6) for part in module.modules() if isinstance(part, DropPath)}

    @pytest.mark.parametrize("attention", ["bidirectional", "sequential"])
    def test_grows_linearly_over_the_layers(self, attention: str) -> None:
        trunk = BiXT(depth=5, attention=attention, drop_path=0.4, **SMALL)
        assert [self.rates(layer) for layer in trunk.layers] == [{0.0}, {0.1}, {0.2}, {0.3}, {0.4}]

    def test_grows_linearly_over_the_blocks(self) -> None:
        trunk = Perceiver(num_blocks=5, self_attends_per_block=2, drop_path=0.4, **SMALL)
        assert [self.rates(block) for block in trunk.among] == [{0.0}, {0.1}, {0.2}, {0.3}, {0.4}]
        assert self.rates(trunk.cross) == {0.2}

    def test_only_in_training(self) -> None:
        trunk = BiXT(depth=3, drop_path=0.5, **SMALL)
        randomize(trunk)
        tokens = torch.randn(8, 7, 12)

        def run() -> Tensor:
            latents: Tensor = trunk(tokens)[0]
            return latents

        trunk.eval()
        assert run().equal(run())
        trunk.train()
        assert not run().isclose(run()).all()

    def test_one_layer_drops_nothing(self) -> None:
        assert self.rates(BiXT(depth=1, drop_path=0.4, **SMALL)) == {0.0}


class TestErrors:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"attention": "both"}, "attention: expected one of bidirectional, sequential, got 'both'"),
            ({"last_layer": "none"}, "last_layer: expected one of one_sided, full, tokens, got 'none'"),
            ({"dim": 13}, "width divisible by the heads, got dim=13"),
            ({"dim": 0}, "positive sizes.*dim=0"),
            ({"depth": 0}, "positive sizes.*depth=0"),
            ({"num_heads": 0}, "positive sizes.*num_heads=0"),
            ({"num_latents": 0}, "positive sizes.*num_latents=0"),
            (
                {"token_dim": [12, 12, 12]},
                r"token_dim: expected one width or 2, one a layer, .* got \[12, 12, 12\]",
            ),
            ({"latent_std": 0.0}, "latent_std: expected a positive number, got 0.0"),
            ({"latent_std": float("inf")}, "latent_std: expected a positive number, got inf"),
            ({"drop_path": 1.0}, "drop_path: expected 0 <= drop_path < 1, got 1.0"),
            ({"drop_path": -0.1}, "drop_path: expected 0 <= drop_path < 1, got -0.1"),
            ({"drop_path": float("nan")}, "drop_path: expected 0 <= drop_path < 1, got nan"),
        ],
    )
    def test_bixt(self, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            BiXT(**{**SMALL, "depth": 2, **changed})

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"share": "none"}, "share: expected one of all, all_but_first, got 'none'"),
            ({"share": "all_but_first", "num_blocks": 1}, "needs at least 2 blocks, got num_blocks=1"),
            ({"num_blocks": 0}, "positive sizes"),
            ({"dim": 13}, "width divisible by the heads, got dim=13"),
            ({"drop_path": 1.0}, "drop_path: expected 0 <= drop_path < 1, got 1.0"),
        ],
    )
    def test_perceiver(self, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Perceiver(**{**SMALL, "num_blocks": 2, **changed})

    def test_unknown_backend(self) -> None:
        with pytest.raises(ValueError, match="backend: expected one of"):
            BiXT(depth=2, backend="flash", **SMALL)(torch.randn(1, 7, 12))

    def test_negative_self_attends(self) -> None:
        with pytest.raises(ValueError, match="self_attends_per_block"):
            Perceiver(num_blocks=2, self_attends_per_block=-1, **SMALL)

    @pytest.mark.parametrize("token_dim", [0, -4, [12, 0]])
    def test_token_width(self, token_dim: Any) -> None:
        with pytest.raises(ValueError, match="token_dim"):
            BiXT(depth=2, token_dim=token_dim, **SMALL)

    def test_unknown_backend_is_refused_at_once(self) -> None:
        for build in (partial(BiXT, depth=2), partial(Perceiver, num_blocks=2)):
            with pytest.raises(
                ValueError, match="backend: expected one of auto, torch, sdpa, triton, got 'fl"
            ):
                build(backend="flash", **SMALL)

    @pytest.mark.parametrize("block", [CrossAttention, "Scaled", None])
    def test_block_of_another_kind(self, block: Any) -> None:
        with pytest.raises(ValueError, match="block: expected a subclass of BidirectionalCrossAttention"):
            BiXT(depth=2, block=block, **SMALL)

    def test_block_without_a_bidirectional_layer(self) -> None:
        with pytest.raises(ValueError, match='block: attention="sequential" has no Scaled'):
            BiXT(depth=2, attention="sequential", block=Scaled, **SMALL)


class ScaledOneSided(CrossAttention):
    def project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super().project(x, context)
        return 0 * query, key, value


class Scaled(BidirectionalCrossAttention):
    """All similarities are 0, so that every attention is the mean."""

    one_sided = ScaledOneSided

    def project(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r_lat, v_lat, r_tok, v_tok = super().project(latents, tokens)
        return 0 * r_lat, v_lat, r_tok, v_tok


@pytest.mark.parametrize("last_layer", ["one_sided", "full", "tokens"])
def test_an_attention_of_ones_own_is_in_all_layers_and_their_maps(last_layer: str) -> None:
    trunk = BiXT(depth=3, last_layer=last_layer, block=Scaled, **SMALL)
    randomize(trunk)
    latents, tokens = trunk.start(2), torch.randn(2, 7, 12)
    for index in range(3):
        weights = trunk.attention_map(index, latents, tokens)  # (B, H, M, N)
        torch.testing.assert_close(weights, torch.full((2, 3, 5, 7), 1 / 7))
        latents, tokens = trunk.step(index, latents, tokens)


def test_an_attention_of_ones_own_in_a_model_by_name() -> None:
    model = create_model(
        "bixt_ti_cls", depth=2, block=Scaled, **{k: v for k, v in SMALL.items() if k != "mlp_ratio"}
    )
    for weights in model.attention_maps(torch.randn(2, 9, 3)):  # type: ignore[operator]
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / 9))


def test_sizes_of_numpy() -> None:
    sizes = {key: np.int32(value) for key, value in SMALL.items() if key != "mlp_ratio"}
    trunk = BiXT(depth=np.int64(2), token_dim=np.array([7, 9]), mlp_ratio=np.float32(2.0), **sizes)
    assert trunk.token_dims == (7, 9) and all(type(width) is int for width in trunk.token_dims)
    assert str(trunk) == str(BiXT(depth=2, token_dim=[7, 9], **SMALL))
    assert BiXT(depth=2, token_dim=np.int64(7), **SMALL).token_dims == (7, 7)
    Perceiver(num_blocks=np.int64(2), self_attends_per_block=np.int64(1), **sizes)(torch.randn(1, 7, 12))
