"""Official checkpoints: published numbers, names and their order, starting a model from one, misfits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bixt3d import BiXT, create_model, official
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.heads import ClassificationHead
from tests.markers import fixtures_dir, needs_fixtures
from tests.models.randomize import randomize

# our name of a block's part: the official name, in the layer's self-attention ...
AMONG = {"norm": "norm1", "qkv": "attn.qkv", "out": "attn.proj", "ffn.norm": "norm2", "ffn.mlp": "mlp"}
# ... in its two-sided cross-attention ("patches", "pat" are the tokens) ...
TWO_SIDED = {
    "norm_latents": "norm1_lat",
    "norm_tokens": "norm1_pat",
    "rv_latents": "attn.rv_latents",
    "rv_tokens": "attn.rv_patches",
    "out_latents": "attn.proj_lat",
    "out_tokens": "attn.proj_pat",
    "ffn_latents.norm": "norm2_lat",
    "ffn_latents.mlp": "mlp_lat",
    "ffn_tokens.norm": "norm2_pat",
    "ffn_tokens.mlp": "mlp_pat",
}
# ... and in a one-sided one.
ONE_SIDED = {
    "norm_query": "norm1_lat",
    "norm_context": "norm1_pat",
    "query": "attn.r_latents",
    "key_value": "attn.rv_patches",
    "out": "attn.proj_lat",
    "ffn.norm": "norm2_lat",
    "ffn.mlp": "mlp_lat",
}


def official_name(name: str) -> str:
    """The official name of a tensor of our trunk."""
    if name == "latents":
        return name
    match = re.fullmatch(r"layers\.(\d+)\.(cross|among)\.(.+?)((?:\.fc[12])?\.(?:weight|bias))", name)
    assert match, name
    layer, block, part, tensor = match.groups()
    if block == "among":
        return f"blocks.{layer}.self_attention_latents.{AMONG[part]}{tensor}"
    return f"blocks.{layer}.cross_attention_latents_token.{(TWO_SIDED | ONE_SIDED)[part]}{tensor}"


def made_up(
    depth: int = 3, last_layer: str = "one_sided"
) -> tuple[BiXT, ClassificationHead, dict[str, Tensor]]:
    """A trunk and head with random weights, and the official state dict of the same model."""
    trunk = BiXT(12, depth, 3, 5, last_layer=last_layer, mlp_ratio=2.0)
    head = ClassificationHead(12, 4)
    randomize(trunk)
    randomize(head)
    state = {official_name(name): value for name, value in trunk.state_dict().items()}
    state |= {"fc_norm.weight": head.norm.weight.detach(), "fc_norm.bias": head.norm.bias.detach()}
    state |= {"head.weight": head.linear.weight.detach(), "head.bias": head.linear.bias.detach()}
    state |= {"patch_embed.proj.weight": torch.rand(12, 3, 4, 4), "patch_embed.proj.bias": torch.rand(12)}
    state |= {"fourier_pos_encode.pos": torch.rand(64, 4, 4)}
    return trunk, head, state


def small_model(**changed: Any) -> PointClassifier:
    args = {"num_classes": 6, "dim": 12, "depth": 3, "num_heads": 3, "num_latents": 5, **changed}
    model = create_model("bixt_ti_cls", **args)
    assert isinstance(model, PointClassifier)
    return model


@needs_fixtures
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-5)])
def test_published_numbers(dtype: torch.dtype, tolerance: float) -> None:
    with np.load(fixtures_dir() / "official_bixt_trunk.npz") as numbers:
        given = {name: torch.from_numpy(numbers[name]) for name in numbers.files}
    state = {name.removeprefix("sd/"): value for name, value in given.items() if name.startswith("sd/")}
    dim, depth, heads, num_latents, classes = given["config"].tolist()
    trunk, head = official.from_state_dict(state, heads)
    trunk, head = trunk.to(dtype), head.to(dtype)
    assert (trunk.dim, trunk.depth, trunk.latents.shape) == (dim, depth, (1, num_latents, dim))
    latents, tokens = trunk(given["tokens"].to(dtype))
    logits = head(latents)
    assert logits.shape == (2, classes)
    found = {"latents_out": latents, "tokens_penultimate": tokens, "logits": logits}
    before, seen = trunk.start(2), given["tokens"].to(dtype)
    for index in range(depth - 1):
        before, seen = trunk.step(index, before, seen)
    found["latents_penultimate"] = before
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, given[name].to(dtype), rtol=tolerance, atol=tolerance)


class TestFromStateDict:
    @pytest.mark.parametrize("last_layer", ["one_sided", "full"])
    @pytest.mark.parametrize("depth", [1, 3])
    def test_rebuilds_the_model(self, last_layer: str, depth: int) -> None:
        trunk, head, state = made_up(depth, last_layer)
        new_trunk, new_head = official.from_state_dict(state, num_heads=3)
        assert list(new_trunk.state_dict()) == list(trunk.state_dict())
        tokens = torch.randn(2, 7, 12)
        latents, after = trunk(tokens)
        new_latents, new_after = new_trunk(tokens)
        assert new_latents.equal(latents)
        assert new_after.equal(after)
        assert new_head(new_latents).equal(head(latents))

    def test_two_digit_layers_are_in_order(self) -> None:
        trunk, _, state = made_up(depth=11)
        shuffled = {name: state[name] for name in sorted(state)}
        new, _ = official.from_state_dict(shuffled, num_heads=3)
        for name, value in trunk.state_dict().items():
            assert new.state_dict()[name].equal(value)

    @pytest.mark.parametrize("ratio", [1.5, 8 / 3, 0.75, 41 / 12])
    def test_width_of_the_feed_forward_blocks(self, ratio: float) -> None:
        trunk = BiXT(12, 2, 3, 5, mlp_ratio=ratio)
        _, _, state = made_up()
        rest = {name: value for name, value in state.items() if name.startswith(("fc_norm", "head"))}
        named = {official_name(name): value for name, value in trunk.state_dict().items()}
        new, _ = official.from_state_dict(named | rest, num_heads=3)
        assert new(torch.ones(1, 2, 12))[0].equal(trunk(torch.ones(1, 2, 12))[0])

    def test_any_width_of_the_feed_forward_blocks(self) -> None:
        # hidden / dim * dim is less than hidden in floating point for this pair
        dim, hidden = next((d, h) for d in range(8, 200) for h in range(d, 4 * d) if int(d * (h / d)) != h)
        trunk = BiXT(dim, 1, 1, 2, mlp_ratio=(hidden + 0.25) / dim)
        head = ClassificationHead(dim, 2)
        state = {official_name(name): value for name, value in trunk.state_dict().items()}
        state |= {"fc_norm.weight": head.norm.weight, "fc_norm.bias": head.norm.bias}
        state |= {"head.weight": head.linear.weight, "head.bias": head.linear.bias}
        new, _ = official.from_state_dict(state, num_heads=1)
        assert new.state_dict()["layers.0.among.ffn.mlp.fc1.bias"].shape == (hidden,)

    @pytest.mark.parametrize(
        "extra",
        ["norm.weight", "blocks.0.attn.qkv.weight", "module.latents", "model", "blocks.x.mlp.fc1.bias"],
    )
    def test_unknown_names(self, extra: str) -> None:
        _, _, state = made_up()
        with pytest.raises(ValueError, match=rf"unknown names.*{re.escape(extra)}"):
            official.from_state_dict({**state, extra: torch.rand(3)}, num_heads=3)

    def test_unknown_part_of_a_known_block(self) -> None:
        _, _, state = made_up()
        extra = "blocks.1.self_attention_latents.gamma"
        with pytest.raises(ValueError, match=rf"unknown names.*{extra}"):
            official.from_state_dict({**state, extra: torch.rand(3)}, num_heads=3)

    def test_every_missing_name(self) -> None:
        _, _, state = made_up()
        needed = [name for name in state if not name.startswith(("patch_embed", "fourier"))]
        assert len(needed) > 80
        accepted = []
        for name in needed:
            rest = {other: value for other, value in state.items() if other != name}
            try:
                official.from_state_dict(rest, num_heads=3)
            except ValueError:
                continue
            accepted.append(name)
        assert accepted == []

    def test_a_missing_layer(self) -> None:
        _, _, state = made_up()
        rest = {name: value for name, value in state.items() if not name.startswith("blocks.1.")}
        with pytest.raises(ValueError, match=r"(?s)does not fit.*layers\.1\."):
            official.from_state_dict(rest, num_heads=3)

    @pytest.mark.parametrize(
        "state", [{}, {"latents": torch.rand(1, 5, 12)}, {"head.weight": torch.rand(4, 12)}]
    )
    def test_something_else(self, state: dict[str, Tensor]) -> None:
        with pytest.raises(ValueError, match="not an official BiXT state dict: expected latents, blocks.0"):
            official.from_state_dict(state, num_heads=3)

    @pytest.mark.parametrize(
        "name", ["blocks.1.self_attention_latents.attn.qkv.weight", "fc_norm.weight", "latents"]
    )
    def test_shapes_of_another_model(self, name: str) -> None:
        _, _, state = made_up()
        with pytest.raises(ValueError, match="does not fit"):
            official.from_state_dict({**state, name: torch.rand(1, 5, 15)}, num_heads=3)

    def test_latents_without_a_batch(self) -> None:
        _, _, state = made_up()
        with pytest.raises(ValueError, match="latents"):
            official.from_state_dict({**state, "latents": state["latents"][0]}, num_heads=3)

    def test_heads_that_do_not_divide_the_width(self) -> None:
        with pytest.raises(ValueError, match="width divisible by the heads, got dim=12.*num_heads=5"):
            official.from_state_dict(made_up()[2], num_heads=5)


class TestInitializeFrom:
    # The models' feed-forward blocks are 4 times as wide as the tokens; made_up's are 2 times.
    def checkpoint(self, depth: int, last_layer: str = "one_sided") -> dict[str, Tensor]:
        trunk = BiXT(12, depth, 3, 5, last_layer=last_layer)
        randomize(trunk)
        named = {official_name(name): value for name, value in trunk.state_dict().items()}
        rest = made_up()[2]
        return named | {n: v for n, v in rest.items() if not n.startswith("blocks") and n != "latents"}

    def test_copies_the_trunk_and_nothing_else(self) -> None:
        model, state = small_model(), self.checkpoint(3)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        official.initialize_from(model, state)
        trunk, _ = official.from_state_dict(state, num_heads=3)
        for name, value in model.state_dict().items():
            if name.startswith("encoder.trunk."):
                assert value.equal(trunk.state_dict()[name.removeprefix("encoder.trunk.")])
                assert not value.equal(before[name])
            else:
                assert value.equal(before[name])

    def test_keeps_the_parameters_and_their_gradients(self) -> None:
        model = small_model()
        parameters = list(model.parameters())
        official.initialize_from(model, self.checkpoint(3))
        assert all(new is old for new, old in zip(model.parameters(), parameters, strict=True))
        assert all(value.requires_grad for value in model.parameters())

    def test_a_deeper_checkpoint_fills_a_full_trunk(self) -> None:
        state = self.checkpoint(4)
        model = small_model()
        model.encoder.trunk = BiXT(12, 3, 3, 5, last_layer="full")
        official.initialize_from(model, state)
        assert len(model.encoder.trunk.state_dict()) > 80
        for name, value in model.encoder.trunk.state_dict().items():
            assert value.equal(state[official_name(name)])

    def test_official_names_that_were_left_out(self) -> None:
        model = small_model()
        model.encoder.trunk = BiXT(12, 3, 3, 5, last_layer="full")
        state = self.checkpoint(4)
        used = {official_name(name) for name in model.encoder.trunk.state_dict()}
        assert official.initialize_from(model, state) == sorted(set(state) - used)

    @pytest.mark.parametrize(
        ("changed", "depth", "last_layer"),
        [
            ({}, 2, "one_sided"),  # too few layers
            ({}, 4, "one_sided"),  # the model's last layer is one-sided, the checkpoint's third is not
            ({}, 3, "full"),
            ({"dim": 15}, 3, "one_sided"),
            ({"num_latents": 6}, 3, "one_sided"),
            ({"attention": "sequential"}, 3, "one_sided"),
        ],
    )
    def test_misfits(self, changed: dict[str, Any], depth: int, last_layer: str) -> None:
        model = small_model(**changed)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match="the checkpoint does not fit this trunk in .* tensors, first"):
            official.initialize_from(model, self.checkpoint(depth, last_layer))
        for name, value in model.state_dict().items():
            assert value.equal(before[name])

    def test_a_checkpoint_of_the_last_layer_full_needs_one_layer_more(self) -> None:
        model = small_model()
        model.encoder.trunk = BiXT(12, 3, 3, 5, last_layer="full")
        with pytest.raises(ValueError, match=r"layers\.2\.cross.*missing.*layers of the same kinds"):
            official.initialize_from(model, self.checkpoint(3))

    def test_unknown_names(self) -> None:
        with pytest.raises(ValueError, match="unknown names"):
            official.initialize_from(small_model(), {**self.checkpoint(3), "cls_token": torch.rand(1)})


def image_state(conv: bool = False) -> tuple[Any, dict[str, Tensor]]:
    """A small classifier of images with random weights, and the official state dict of the same model."""
    name = "bixt_ti_image_cls_conv" if conv else "bixt_ti_image_cls"
    sizes = {"dim": 24, "depth": 3, "num_heads": 3, "num_latents": 5, "mlp_ratio": 2.0, "drop_path": 0.0}
    model: Any = create_model(name, num_classes=4, stride=8, **sizes)
    randomize(model)
    model.eval()
    state = {official_name(name): value for name, value in model.encoder.trunk.state_dict().items()}
    head = {"fc_norm": model.head.norm, "head": model.head.linear}
    state |= {
        f"{name}.{kind}": getattr(part, kind) for name, part in head.items() for kind in ("weight", "bias")
    }
    tokenizer = model.encoder.tokenizer
    for name, value in tokenizer.embed.state_dict().items():
        at, _, rest = name.rpartition(".")
        place = f"{int(at) // 3 * 2}.{int(at) % 3}." if conv else ""
        state[f"patch_embed.proj.{place}{rest}"] = value
    project = tokenizer.positions.project
    state["fourier_pos_encode.token_projection.weight"] = project.weight[:, :, None, None]
    state["fourier_pos_encode.token_projection.bias"] = project.bias
    state["fourier_pos_encode.pos"] = torch.zeros(64, 28, 28)
    return model, {name: value.detach().clone() for name, value in state.items()}


class TestWholeModels:
    @needs_fixtures
    @torch.no_grad()
    def test_published_numbers(self, tmp_path: Path) -> None:
        """Its positions are the published ones, and behind its tokenizer come the published logits."""
        with np.load(fixtures_dir() / "official_bixt_trunk.npz") as file:
            seen = {name: torch.from_numpy(file[name]) for name in file.files}
        state = {name.removeprefix("sd/"): value for name, value in seen.items() if name.startswith("sd/")}
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "official.pth.tar")
        model: Any = official.load_image_model(tmp_path / "official.pth.tar", num_heads=3)
        assert model.image_size == 16 and model.stride == 4 and not model.training
        latents, _ = model.encoder.trunk(seen["tokens"])
        torch.testing.assert_close(latents, seen["latents_out"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.head(latents), seen["logits"], rtol=1e-4, atol=1e-4)
        # Of black images the tokenizer gives positions and bias alone.
        tokens = model.encoder.tokenizer(torch.zeros(1, 16, 16, 3)).flatten(1, 2)[0]  # (16, 48)
        project = "fourier_pos_encode.token_projection"
        expected = state["fourier_pos_encode.pos"].flatten(1).T @ state[f"{project}.weight"].flatten(1).T
        expected = expected + state[f"{project}.bias"] + state["patch_embed.proj.bias"]
        torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
        images = torch.randn(2, 16, 16, 3)
        patches = torch.nn.functional.conv2d(
            images.permute(0, 3, 1, 2), state["patch_embed.proj.weight"], stride=4
        )  # (2, 48, 4, 4)
        tokens = patches.flatten(2).transpose(1, 2) + expected
        whole = model.head(model.encoder.trunk(tokens)[0])
        torch.testing.assert_close(model(images), whole, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("conv", [False, True])
    @torch.no_grad()
    def test_every_tensor_comes_back(self, conv: bool, tmp_path: Path) -> None:
        """Whatever their order in the file; the grid of 28 tells a stride of 8 at 224 pixels."""
        model, state = image_state(conv)
        shuffled = {name: state[name] for name in sorted(state)}
        torch.save(shuffled, tmp_path / "a.pth")
        loaded: Any = official.load_image_model(tmp_path / "a.pth", num_heads=3)
        assert (loaded.stride, loaded.image_size) == (8, 224)
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(value.equal(model.state_dict()[name]) for name, value in loaded.state_dict().items())

    @torch.no_grad()
    def test_scales_of_branches(self, tmp_path: Path) -> None:
        """A model whose branches are scaled is one with other maps before the scales."""
        model, state = image_state()
        images = torch.randn(2, 32, 32, 3)
        plain = model(images)
        scale = {name: torch.full((24,), 0.5) for name in scales_of(state)}
        for name, gamma in scale.items():
            block, _, kind = name.removesuffix(".gamma").rpartition(".")
            last = {"ls1": "attn.proj", "ls2": "mlp.fc2"}.get(kind)
            last = last or {"ls1": f"attn.proj{kind[3:]}", "ls2": f"mlp{kind[3:]}.fc2"}[kind[:3]]
            for of in ("weight", "bias"):
                state[f"{block}.{last}.{of}"] = state[f"{block}.{last}.{of}"] / gamma[0]
        torch.save({**state, **scale}, tmp_path / "a.pth")
        assert len(scale) == 2 * 3 + 4 * 2 + 2
        loaded = official.load_image_model(tmp_path / "a.pth", num_heads=3)
        torch.testing.assert_close(loaded(images), plain, rtol=1e-4, atol=1e-5)

    def test_what_is_no_whole_checkpoint(self, tmp_path: Path) -> None:
        _, state = image_state()
        with pytest.raises(FileNotFoundError, match=r"no file .*gone.pth"):
            official.load_image_model(tmp_path / "gone.pth")
        (tmp_path / "a.pth").write_bytes(b"no file of torch")
        with pytest.raises(ValueError, match=r"a.pth cannot be read"):
            official.load_image_model(tmp_path / "a.pth")
        left = {name: value for name, value in state.items() if not name.startswith("patch_embed.")}
        torch.save(left, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"expected patch_embed. \.\.\. and"):
            official.load_image_model(tmp_path / "a.pth")
        state["patch_embed.proj.bias"] = torch.zeros(5)
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(ValueError, match="does not fit a classifier of images"):
            official.load_image_model(tmp_path / "a.pth", num_heads=3)

    @pytest.mark.parametrize("name", ["latents", "head.weight", "fourier_pos_encode.token_projection.weight"])
    @pytest.mark.parametrize("value", [None, torch.zeros(())])
    def test_a_damaged_tensor_is_said(self, name: str, value: Tensor | None, tmp_path: Path) -> None:
        _, state = image_state()
        left = {key: one for key, one in state.items() if key != name}
        torch.save(left if value is None else {**left, name: value}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match="expected|does not fit a classifier of images"):
            official.load_image_model(tmp_path / "a.pth", num_heads=3)


def scales_of(state: dict[str, Tensor]) -> list[str]:
    """The names of the scales that such a model has: two a self-attention, two a stream that is updated."""
    blocks = sorted({".".join(name.split(".")[:3]) for name in state if name.startswith("blocks.")})
    names = []
    for block in blocks:
        one_sided = f"{block}.attn.r_latents.weight" in state
        streams = ("",) if "self" in block else ("_lat",) if one_sided else ("_lat", "_pat")
        names += [f"{block}.ls{number}{stream}.gamma" for stream in streams for number in (1, 2)]
    return names
