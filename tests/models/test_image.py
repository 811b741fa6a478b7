"""Models of images: the paper's sizes, shapes, gradients, strides, decoders, refinement, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d import create_model
from bixt3d.models.image import VARIANTS, ImageClassifier, ImageModel, ImageSegmenter, PyramidDecoder
from bixt3d.models.local import LocalRefinement
from bixt3d.models.tokenizers import ConvTokenizer, PatchTokenizer
from tests.models.randomize import randomize

TINY: dict[str, Any] = {"dim": 16, "depth": 3, "num_heads": 2, "num_latents": 4, "drop_path": 0.0}
# of every name a small model, of some with what else they can have
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "patch": ("bixt_ti_image_cls", {"patch": 8, "stride": 4}),
    "conv": ("bixt_ti_image_cls_conv", {"stride": 4, "local_layers": (0, 2)}),
    "linear": ("bixt_ti_image_seg", {"patch": 4, "stride": 4}),
    "pyramid": (
        "bixt_ti_image_seg_fpn",
        {"tokenizer": "conv", "stride": 4, "local_layers": (1,), "decoder_width": 12, "decoder_dim": 8},
    ),
}


def small(case: str, **changed: Any) -> Any:
    name, args = SMALL[case]
    model = create_model(name, num_classes=5, **{**TINY, **args, **changed})
    randomize(model)
    return model


@pytest.fixture(params=SMALL)
def case(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_every_name_is_a_case() -> None:
    assert {name for name, _ in SMALL.values()} == set(VARIANTS)


def test_shapes_and_gradients(case: str) -> None:
    """Every parameter has a gradient but, of a segmenter, none that only latents would read."""
    model = small(case).train()
    images = torch.randn(3, 16, 24, 3)
    logits = model(images)
    assert logits.shape == ((3, 5) if isinstance(model, ImageClassifier) else (3, 16, 24, 5))
    logits.square().sum().backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None]
    assert idle == []
    assert all(bool(torch.isfinite(value.grad).all()) for value in model.parameters())
    assert model.no_weight_decay() >= {"encoder.trunk.latents", "head.linear.bias"}


def test_company(case: str) -> None:
    """An image's logits do not depend on the others of its batch."""
    model = small(case).eval()
    images = torch.randn(3, 16, 16, 3)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


def test_new_head(case: str) -> None:
    model = small(case)
    model.reset_classifier(7)
    logits = model(torch.randn(1, 16, 16, 3))
    assert logits.shape[-1] == model.num_outputs == 7 and not logits.any()


def test_the_paper_s_model() -> None:
    """15.12 M parameters, and as many tokens as the stride says."""
    with torch.device("meta"):
        model = create_model("bixt_ti_image_cls")
        assert sum(value.numel() for value in model.parameters()) == 15_121_192
        for stride, tokens in ((16, 196), (8, 784), (4, 3136)):
            fine = create_model("bixt_ti_image_cls", stride=stride)
            latents, seen = fine.forward_features(torch.empty(1, 224, 224, 3))
            assert latents.shape == (1, 64, 192) and seen.shape == (1, tokens, 192)
            assert sum(value.numel() for value in fine.parameters()) == 15_121_192


def test_weights_in_half_precision_take_any_image(case: str) -> None:
    model, images = small(case).eval(), torch.randn(2, 16, 24, 3)
    exact = model(images)
    for given in (images, images.bfloat16(), images.double()):
        rounded = model.bfloat16()(given)
        assert rounded.dtype == torch.bfloat16
        assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


def test_attention_lies_on_the_grid() -> None:
    model = small("patch").eval()
    maps = model.located_attention(torch.randn(2, 16, 24, 3))
    assert len(maps) == 3
    for xyz, attention in maps:
        assert xyz.shape == (2, 24, 3) and attention.shape == (2, 2, 4, 24)
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2, 4))
    assert len(model.attention_symmetry(torch.randn(2, 16, 24, 3))) == 2


def test_refinement_stands_before_its_layers() -> None:
    model = small("conv")
    assert set(model.encoder.stages) == {"0", "2"}
    images = torch.randn(2, 16, 16, 3)
    model.eval()
    tokens = model.encoder.tokenizer(images)
    grid = model.encoder.tokenize(images)[2]
    latents, tokens = model.encoder.trunk.start(2), tokens.flatten(1, 2)
    for layer in range(3):
        if layer != 1:
            stage: LocalRefinement = model.encoder.stages[str(layer)]
            _, tokens, _ = stage(grid.points, tokens, None, grid)
        latents, tokens = model.encoder.trunk.step(layer, latents, tokens)
    torch.testing.assert_close(model(images), model.head(latents, tokens))


def test_linear_predictor() -> None:
    """Logits of tokens, upsampled: halfway between four tokens is their mean."""
    model: ImageSegmenter = small("linear").eval()
    images = torch.randn(1, 8, 8, 3)
    logits, tokens = model(images), model.forward_features(images)[1]
    assert tokens.shape == (1, 2, 2, 16)
    of_tokens = model.head(tokens)
    torch.testing.assert_close(logits[0, :2, :2], of_tokens[0, :1, :1].expand(2, 2, -1))
    torch.testing.assert_close(logits[0, 3:5, 3:5].mean((0, 1)), of_tokens.mean((0, 1, 2)))


def test_pyramid() -> None:
    """Four times as fine as the tokens, for odd grids too; each level says something."""
    decoder = PyramidDecoder(6, 8, 4).eval()
    randomize(decoder)
    for height, width in ((4, 4), (5, 3), (1, 1)):
        tokens = torch.randn(2, height, width, 6)
        before = decoder(tokens)
        assert before.shape == (2, 4 * height, 4 * width, 4)
        for level in range(4):
            weight = decoder.finer[level][-1][0].weight
            kept = weight.detach().clone()
            nn.init.zeros_(weight)
            assert not torch.equal(decoder(tokens), before)
            with torch.no_grad():
                weight.copy_(kept)


def test_tokens_of_a_patch() -> None:
    """A patch's token is a linear map of its pixels, and of those around it where patches overlap."""
    for stride, pad in ((4, 0), (2, 1)):
        tokenizer = PatchTokenizer(3, 8, 4, stride).double()
        randomize(tokenizer)
        image = torch.randn(1, 12, 8, 3, dtype=torch.float64)
        tokens = tokenizer(image)
        assert tokens.shape == (1, 12 // stride, 8 // stride, 8)
        padded = F.pad(image, (0, 0, pad, pad, pad, pad))
        row, column = 1, 1
        patch = padded[0, row * stride : row * stride + 4, column * stride : column * stride + 4]  # (4, 4, 3)
        weight = tokenizer.embed.weight.permute(0, 2, 3, 1).flatten(1)  # (8, 48)
        expected = weight @ patch.flatten() + tokenizer.embed.bias
        expected = expected + place(tokenizer, row, column, 12 // stride, 8 // stride)
        torch.testing.assert_close(tokens[0, row, column], expected, rtol=1e-5, atol=1e-5)


def place(tokenizer: PatchTokenizer, row: int, column: int, rows: int, columns: int) -> Tensor:
    """The encoding of a place, by its formula: row first, sine and cosine in turn."""
    channels = []
    for index, last in ((row + 1, rows), (column + 1, columns)):
        angle = index / (last + 1e-6) * 2 * math.pi
        for channel in range(32):
            scaled = angle * 10000 ** (-2 * (channel // 2) / 32)
            channels.append(math.sin(scaled) if channel % 2 == 0 else math.cos(scaled))
    project = tokenizer.positions.project
    return project.weight @ torch.tensor(channels, dtype=torch.float64) + project.bias


def test_conv_tokenizer() -> None:
    tokenizer = ConvTokenizer(3, 192, 16)
    convs = [module for module in tokenizer.embed if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [24, 48, 96, 192]
    assert isinstance(tokenizer.embed[-1], nn.BatchNorm2d)
    assert tokenizer(torch.randn(2, 32, 64, 3)).shape == (2, 2, 4, 192)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 16, 16), r"expected .* \(B, H, W, 3\), got"),
        (torch.zeros(1, 16, 16, 3, dtype=torch.uint8), "expected a floating-point tensor"),
        (torch.zeros(1, 3, 16, 16), "got .*: transpose it"),
        (torch.zeros(1, 18, 16, 3), "H and W multiples of 4, got"),
        (torch.zeros(0, 16, 16, 3), "got"),
    ],
)
def test_wrong_images(case: str, images: Tensor, message: str) -> None:
    model: ImageModel = small(case)
    with pytest.raises(ValueError, match=message):
        model(images)


def test_pixels_that_settings_may_ask_for() -> None:
    model: ImageModel = small("patch")
    model.check_points(64)
    for pixels in (63, 36):
        with pytest.raises(ValueError, match=f"data.num_points={pixels}: expected the pixels of a square"):
            model.check_points(pixels)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("bixt_ti_image_cls", {"stride": 32}, "stride: expected 1 to patch=16"),
        ("bixt_ti_image_cls", {"stride": 15}, "an even number between them, got 15"),
        ("bixt_ti_image_cls_conv", {"stride": 12}, "stride: expected a power of 2"),
        ("bixt_ti_image_cls", {"tokenizer": "fourier"}, "tokenizer: expected one of patch, conv"),
        ("bixt_ti_image_seg", {"decoder": "unet"}, "decoder: expected one of linear, pyramid"),
        ("bixt_ti_image_cls", {"local_layers": (12,)}, "the trunk has steps 0 to 11"),
    ],
)
def test_wrong_sizes(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        create_model(name, **args)
