"""Models of images: the tokens of a grid through the same trunk as points, a classifier and a segmenter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d.models.bixt import BiXT
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.encoder import PointEncoder, PointModel, output_names
from bixt3d.models.heads import ClassificationHead, PartHead, at_least_one
from bixt3d.models.local import Grid, LocalRefinement
from bixt3d.models.tokenizers import ConvTokenizer, PatchTokenizer
from bixt3d.models.variants import TI
from bixt3d.ops.validate import describe

TOKENIZERS = ("patch", "conv")
DECODERS = ("linear", "pyramid")


class ImageEncoder(PointEncoder):
    """`PointEncoder` whose tokenizer takes images, and whose stages find neighbours on the grid."""

    def tokenize(self, points: Tensor) -> tuple[Tensor, Tensor, Grid]:
        """Return xyz (B, N, 3) and tokens (B, N, C) of images (B, H, W, C), row by row, and their grid."""
        tokens = self.tokenizer(points)  # (B, h, w, D)
        grid = Grid.of(tokens)
        return grid.points, tokens.flatten(1, 2), grid


class ImageModel(PointModel):
    """What all models of images share: it takes (B, H, W, C), with sides that are multiples of the stride.

    Attributes:
        image_size: The side in pixels that images are brought to where no settings say another.
    """

    image_size = 224

    @property
    def stride(self) -> int:
        """Pixels from one token to the next."""
        return int(self.encoder.tokenizer.stride)

    @property
    def least_points(self) -> int:
        """The fewest pixels of an image: those of one token."""
        return self.stride**2

    def check_points(self, num_points: int) -> None:
        """Raise ValueError if images of so many pixels, data.num_points, are no square of tokens."""
        side = round(num_points**0.5)
        if side**2 != num_points or side % self.stride:
            raise ValueError(
                f"data.num_points={num_points}: expected the pixels of a square image whose side is a "
                f"multiple of the model's stride, {self.stride}, such as {(14 * self.stride) ** 2}"
            )

    def _check(self, points: Tensor) -> None:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        expected = f"images: expected a floating-point tensor of shape (B, H, W, {self.in_dims})"
        if not isinstance(points, Tensor) or points.ndim != 4 or not points.is_floating_point():
            raise ValueError(f"{expected}, got {describe(points)}")
        if points.shape[3] != self.in_dims or not points.numel():
            turned = ": transpose it" if points.shape[1] == self.in_dims else ""
            raise ValueError(f"{expected}, got {describe(points)}{turned}")
        if points.shape[1] % self.stride or points.shape[2] % self.stride:
            raise ValueError(f"{expected}, H and W multiples of {self.stride}, got {describe(points)}")


class ImageClassifier(ImageModel, PointClassifier):
    """Classify images: (B, H, W, C) -> logits (B, K)."""

    task = "image_classification"


class PyramidDecoder(nn.Module):
    """From tokens of one grid to features of a finer one by a pyramid (SemanticFPN, Kirillov et al., 2019).

    Up-convolutions and pooling make grids of 4, 2, 1 and 1/2 times the tokens' sides (XCiT); each is mapped
    to ``width``, added to the coarser ones, smoothed, and brought to the finest, where all are summed.

    Args:
        dim: Width of the tokens.
        width: Width of the pyramid.
        out_dim: Width of what comes out.
    """

    def __init__(self, dim: int, width: int = 256, out_dim: int = 128) -> None:
        """Build the levels, finest first."""
        super().__init__()
        twice = nn.Sequential(_up(dim), nn.BatchNorm2d(dim), nn.GELU(), _up(dim))
        self.levels = nn.ModuleList((twice, _up(dim), nn.Identity(), nn.MaxPool2d(2, ceil_mode=True)))
        self.lateral = nn.ModuleList(nn.Conv2d(dim, width, 1) for _ in range(4))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        # a convolution each time that a level's sides are doubled, and one at the finest
        self.finer = nn.ModuleList(
            nn.ModuleList(_conv(out_dim if at else width, out_dim) for at in range(max(1, level)))
            for level in range(4)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, h, w, D) to features (B, 4 h, 4 w, C)."""
        image = tokens.permute(0, 3, 1, 2)  # (B, D, h, w)
        pyramid = [lateral(level(image)) for lateral, level in zip(self.lateral, self.levels, strict=True)]
        sizes = [tuple(level.shape[2:]) for level in pyramid]
        for at in (2, 1, 0):
            pyramid[at] = pyramid[at] + F.interpolate(pyramid[at + 1], sizes[at])
        total: Tensor | None = None
        for at, steps in enumerate(self.finer):
            features = self.smooth[at](pyramid[at])
            assert isinstance(steps, nn.ModuleList)
            for finer, conv in enumerate(steps, start=1):
                features = _resize(conv(features), sizes[max(0, at - finer)])
            total = features if total is None else total + features
        assert total is not None
        return total.permute(0, 2, 3, 1)  # (B, 4 h, 4 w, C)


class ImageSegmenter(ImageModel):
    """Label every pixel: images (B, H, W, C) -> logits (B, H, W, K), from the tokens (BiXT, section 4.3).

    Args:
        encoder: The encoder.
        head: Logits of each token, or of what the decoder makes of them; bilinear upsampling follows.
        decoder: A `PyramidDecoder`, or None for a linear predictor.
    """

    task = "image_segmentation"

    def __init__(self, encoder: PointEncoder, head: PartHead, decoder: PyramidDecoder | None = None) -> None:
        """Keep the parts."""
        super().__init__(encoder)
        self.head, self.decoder = head, decoder

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, H, W, C) to latents (B, M, D) and what the head reads, (B, h, w, D)."""
        self._check(images)
        latents, tokens, _ = self.encoder(images)
        grid = [side // self.stride for side in images.shape[1:3]]
        tokens = tokens.unflatten(1, grid)  # (B, h, w, D)
        return latents, tokens if self.decoder is None else self.decoder(tokens)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, H, W, C) to logits (B, H, W, K).

        Raises:
            ValueError: For a wrong shape or dtype, or an empty batch.
        """
        logits = self.head(self.forward_features(images)[1]).permute(0, 3, 1, 2)  # (B, K, h, w)
        return _resize(logits, images.shape[1:3]).permute(0, 2, 3, 1)  # (B, H, W, K)

    def reset_classifier(self, num_classes: int, classes: Sequence[str] | None = None) -> None:
        """Put a new last map for ``num_classes`` in place of the old; names as for `PointClassifier`."""
        count = at_least_one("num_classes", num_classes)
        names = output_names("classes", count, classes, "class_{}")
        self.head.reset(count)
        if self.description is not None:
            self.description = self.description.resized({"num_classes": count}, {"classes": names})


def _up(dim: int) -> nn.Module:
    return nn.ConvTranspose2d(dim, dim, 2, 2)


def _conv(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def _resize(image: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(image.shape[2:]) == tuple(size):
        return image
    return F.interpolate(image, tuple(size), mode="bilinear", align_corners=False)  # (B, C, H, W)


def _encoder(
    in_dims: int,
    tokenizer: str,
    patch: int,
    stride: int,
    local_layers: Sequence[int],
    trunk: BiXT,
    rate: float,
) -> ImageEncoder:
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"tokenizer: expected one of {', '.join(TOKENIZERS)}, got {tokenizer!r}")
    conv = tokenizer == "conv"
    made = (
        ConvTokenizer(in_dims, trunk.dim, stride)
        if conv
        else PatchTokenizer(in_dims, trunk.dim, patch, stride)
    )
    last = max(1, trunk.depth - 1)
    stages = {layer: LocalRefinement(trunk.dim, rate * layer / last) for layer in local_layers}
    return ImageEncoder(made, trunk, stages)


def image_classifier(
    num_classes: int = 1000,
    in_dims: int = 3,
    *,
    dim: int,
    depth: int,
    num_heads: int,
    num_latents: int,
    attention: str = "bidirectional",
    mlp_ratio: float = 4.0,
    tokenizer: str = "patch",
    patch: int = 16,
    stride: int = 16,
    local_layers: Sequence[int] = (),
    drop_path: float = 0.1,
    dropout: float = 0.0,
    backend: str = "auto",
) -> ImageClassifier:
    """BiXT over patches (BiXT, section 4.1): strides of 16, 8 and 4, or a convolutional tokenizer.

    ``local_layers`` are those before which tokens are refined by their neighbours on the grid.
    """
    sizes = dim, depth, num_heads, num_latents, attention, "one_sided", None, mlp_ratio, drop_path, backend
    encoder = _encoder(in_dims, tokenizer, patch, stride, local_layers, BiXT(*sizes), drop_path)
    return ImageClassifier(encoder, ClassificationHead(dim, num_classes, dropout=dropout))


def image_segmenter(
    num_classes: int = 150,
    in_dims: int = 3,
    *,
    dim: int,
    depth: int,
    num_heads: int,
    num_latents: int,
    attention: str = "bidirectional",
    last_layer: str = "tokens",
    mlp_ratio: float = 4.0,
    tokenizer: str = "patch",
    patch: int = 16,
    stride: int = 16,
    local_layers: Sequence[int] = (),
    decoder: str = "linear",
    decoder_width: int = 256,
    decoder_dim: int = 128,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    backend: str = "auto",
) -> ImageSegmenter:
    """Labels of pixels from the last layer's tokens: LayerNorm and a linear map, or a pyramid before it.

    The paper's last layer updates both sides (``last_layer="full"``); here nobody reads its latents.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder: expected one of {', '.join(DECODERS)}, got {decoder!r}")
    sizes = dim, depth, num_heads, num_latents, attention, last_layer, None, mlp_ratio, drop_path, backend
    encoder = _encoder(in_dims, tokenizer, patch, stride, local_layers, BiXT(*sizes), drop_path)
    pyramid = PyramidDecoder(dim, decoder_width, decoder_dim) if decoder == "pyramid" else None
    head = PartHead(decoder_dim if pyramid else dim, num_classes, dropout=dropout)
    return ImageSegmenter(encoder, head, pyramid)


# Sizes of every name, by family, as `bixt3d.models.variants` has them for points.
SIZES: dict[Callable[..., ImageModel], dict[str, dict[str, Any]]] = {
    image_classifier: {
        "bixt_ti_image_cls": {**TI, "depth": 12},
        "bixt_ti_image_cls_conv": {**TI, "depth": 12, "tokenizer": "conv"},
    },
    image_segmenter: {
        "bixt_ti_image_seg": {**TI, "depth": 12},
        "bixt_ti_image_seg_fpn": {**TI, "depth": 12, "decoder": "pyramid"},
    },
}
TASKS = {image_classifier: ImageClassifier.task, image_segmenter: ImageSegmenter.task}
VARIANTS = {name: (family, sizes) for family, names in SIZES.items() for name, sizes in names.items()}


def builder_of(name: str) -> Callable[..., nn.Module]:
    """Return what builds a model of images, and what its models are for."""
    family, sizes = VARIANTS[name]
    build = partial(family, **sizes)
    build.task = TASKS[family]  # type: ignore[attr-defined]
    return build
