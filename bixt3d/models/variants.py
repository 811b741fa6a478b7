"""Models by name: one builder for each family, and the sizes of every variant.

The sizes of a name never change: checkpoints are rebuilt by it. ``ti`` is the paper's tiny model; ``nano``
and ``pico`` are for CPUs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from bixt3d.models.aggregation import aggregation_classifier, aggregation_part_segmenter
from bixt3d.models.attention import BidirectionalCrossAttention
from bixt3d.models.bixt import LATENT_STD, BiXT, Block, Perceiver, Trunk
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.decoder import PropagationDecoder
from bixt3d.models.encoder import PointEncoder, at_least_xyz
from bixt3d.models.grouping import GroupingStage
from bixt3d.models.heads import ClassificationHead, PartHead
from bixt3d.models.segmenter import PointSegmenter, SceneSegmenter
from bixt3d.models.tokenizers import COORD_SCALE, GROUPED_COORD_SCALE, SinusoidalTokenizer

Family = Callable[..., nn.Module]


def classifier(
    num_classes: int = 40,
    in_dims: int = 3,
    *,
    dim: int,
    depth: int,
    num_heads: int,
    num_latents: int,
    attention: str = "bidirectional",
    group_layers: Sequence[int] = (),
    neighbors: int = 24,
    group_blocks: int = 1,
    group_hidden: int | None = None,
    group_expansion: float = 1.0,
    center: str = "anchor",
    use_xyz: bool = False,
    coord_scale: float = COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    pool: str = "latents",
    backend: str = "auto",
    block: Block = BidirectionalCrossAttention,
    latent_std: float = LATENT_STD,
) -> PointClassifier:
    """BiXT over all points, with affine grouping of the tokens before some layers (BiXT, section 4.4).

    The last layer is one-sided, and the head reads the mean latent, unless ``pool`` says otherwise.
    """
    sizes = dim, depth, num_heads, num_latents, attention, _last(pool)
    trunk = BiXT(*sizes, drop_path=drop_path, backend=backend, block=block, latent_std=latent_std)
    options = _options(neighbors, group_blocks, group_expansion, center, use_xyz, hidden=group_hidden)
    stages = {layer: GroupingStage(dim, dim, **options) for layer in group_layers}
    head = ClassificationHead(dim, num_classes, pool, dim, dropout)
    return PointClassifier(_encoder(in_dims, dim, coord_scale, trunk, stages), head)


def hierarchy_classifier(
    num_classes: int = 40,
    in_dims: int = 3,
    *,
    dim: int,
    num_heads: int,
    num_latents: int,
    embed_dim: int,
    widths: Sequence[int],
    reductions: Sequence[int],
    neighbors: int,
    group_blocks: int = 1,
    group_expansion: float = 1.0,
    center: str = "anchor",
    use_xyz: bool = False,
    sampling: str = "fps",
    mlp_ratio: float = 4.0,
    coord_scale: float = GROUPED_COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    pool: str = "latents",
    backend: str = "auto",
    block: Block = BidirectionalCrossAttention,
    latent_std: float = LATENT_STD,
) -> PointClassifier:
    """BiXT whose points are sampled and grouped before each layer; one width and reduction a layer."""
    options = _options(neighbors, group_blocks, group_expansion, center, use_xyz, sampling=sampling)
    stages = _hierarchy(embed_dim, widths, reductions, options)
    sizes = dim, len(widths), num_heads, num_latents, "bidirectional", _last(pool), widths, mlp_ratio
    trunk = BiXT(*sizes, drop_path, backend, block, latent_std)
    head = ClassificationHead(dim, num_classes, pool, widths[-1], dropout)
    return PointClassifier(_encoder(in_dims, embed_dim, coord_scale, trunk, stages), head)


def perceiver_classifier(
    num_classes: int = 40,
    in_dims: int = 3,
    *,
    dim: int,
    num_blocks: int,
    self_attends_per_block: int,
    share: str = "all",
    num_heads: int,
    num_latents: int,
    coord_scale: float = COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    backend: str = "auto",
) -> PointClassifier:
    """Iterative attention, the baseline: cross-attentions, each with self-attentions after it."""
    sizes = dim, num_blocks, self_attends_per_block, share, num_heads, num_latents
    trunk = Perceiver(*sizes, drop_path=drop_path, backend=backend)
    head = ClassificationHead(dim, num_classes, dropout=dropout)
    return PointClassifier(_encoder(in_dims, dim, coord_scale, trunk, {}), head)


def part_segmenter(
    num_parts: int = 50,
    in_dims: int = 3,
    *,
    num_categories: int = 16,
    dim: int,
    depth: int,
    num_heads: int,
    num_latents: int,
    attention: str = "bidirectional",
    coord_scale: float = COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    backend: str = "auto",
    block: Block = BidirectionalCrossAttention,
    latent_std: float = LATENT_STD,
) -> PointSegmenter:
    """Naive part segmentation: LayerNorm and a linear map on the tokens (BiXT, section 4.4).

    The last layer's latents would be read by nobody and are not updated. ``num_categories=0`` builds a model
    that is not told the category.
    """
    sizes = dim, depth, num_heads, num_latents, attention, "tokens"
    trunk = BiXT(*sizes, drop_path=drop_path, backend=backend, block=block, latent_std=latent_std)
    encoder = _encoder(in_dims, dim, coord_scale, trunk, {})
    return PointSegmenter(encoder, PartHead(dim, num_parts, dropout=dropout), num_categories)


def encdec_part_segmenter(
    num_parts: int = 50,
    in_dims: int = 3,
    *,
    num_categories: int = 16,
    dim: int,
    num_heads: int,
    num_latents: int,
    embed_dim: int,
    widths: Sequence[int],
    reductions: Sequence[int],
    neighbors: int,
    group_blocks: int = 1,
    group_expansion: float = 1.0,
    center: str = "anchor",
    use_xyz: bool = True,
    sampling: str = "fps",
    mlp_ratio: float = 4.0,
    decoder_widths: Sequence[int],
    decoder_blocks: int = 2,
    context_dim: int = 64,
    head_dim: int = 128,
    coord_scale: float = GROUPED_COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.5,
    backend: str = "auto",
    block: Block = BidirectionalCrossAttention,
    latent_std: float = LATENT_STD,
) -> PointSegmenter:
    """BiXT over a hierarchy, and a PointMLP-style decoder to all points (BiXT, section 4.4).

    PointMLP's own decoder has widths 512, 256, 128, 128 and 4 blocks a stage, and another embedding of the
    category; here the latents join the global context.
    """
    options = _options(neighbors, group_blocks, group_expansion, center, use_xyz, sampling=sampling)
    stages = _hierarchy(embed_dim, widths, reductions, options)
    sizes = dim, len(widths), num_heads, num_latents, "bidirectional", "full", widths, mlp_ratio
    trunk = BiXT(*sizes, drop_path, backend, block, latent_std)
    encoder = _encoder(in_dims, embed_dim, coord_scale, trunk, stages)
    decoder = PropagationDecoder((embed_dim, *widths), dim, decoder_widths, decoder_blocks, context_dim)
    width = decoder_widths[-1] + context_dim + (dim if num_categories else 0)
    head = PartHead(width, num_parts, head_dim, dropout)
    return PointSegmenter(encoder, head, num_categories, decoder)


def _of_scenes(family: Callable[..., PointSegmenter]) -> Family:
    """A family's twin for scenes: it takes ``num_classes`` for ``num_parts``, and is told no category."""

    def build(num_classes: int = 20, in_dims: int = 3, **sizes: Any) -> SceneSegmenter:
        made = family(num_classes, in_dims, num_categories=0, **sizes)
        return SceneSegmenter(made.encoder, made.head, 0, made.decoder)

    own = [inspect.signature(build).parameters[name] for name in ("num_classes", "in_dims")]
    rest = list(inspect.signature(family).parameters.values())[2:]
    signature = inspect.Signature([*own, *(one for one in rest if one.name != "num_categories")])
    build.__signature__ = signature  # type: ignore[attr-defined]
    return build


scene_segmenter, encdec_scene_segmenter = _of_scenes(part_segmenter), _of_scenes(encdec_part_segmenter)


def _last(pool: str) -> str:
    """What the last layer updates: what the head reads, as far as one direction does."""
    return "tokens" if pool == "tokens" else "one_sided"


def _encoder(
    in_dims: int, embed_dim: int, coord_scale: float, trunk: Trunk, stages: dict[int, GroupingStage]
) -> PointEncoder:
    return PointEncoder(SinusoidalTokenizer(at_least_xyz(in_dims), embed_dim, coord_scale), trunk, stages)


def _options(
    neighbors: int, blocks: int, expansion: float, center: str, use_xyz: bool, **others: Any
) -> dict[str, Any]:
    options = {"neighbors": neighbors, "blocks": blocks, "expansion": expansion, "center": center}
    return {**options, "use_xyz": use_xyz, **others}


def _hierarchy(
    embed_dim: int, widths: Sequence[int], reductions: Sequence[int], options: dict[str, Any]
) -> dict[int, GroupingStage]:
    if len(widths) != len(reductions):
        raise ValueError(
            f"widths and reductions: expected one of each a layer, got {len(widths)} and {len(reductions)}"
        )
    sizes = zip([embed_dim, *widths], widths, reductions, strict=False)
    return {
        layer: GroupingStage(before, width, reduction=reduction, **options)
        for layer, (before, width, reduction) in enumerate(sizes)
    }


TI = {"dim": 192, "num_heads": 6, "num_latents": 64}
NANO = {"dim": 96, "num_heads": 3, "num_latents": 32, "drop_path": 0.0}
PICO = {**NANO, "num_latents": 16}
LEVELS = {"embed_dim": 64, "widths": (128, 192, 256, 384)}
LIGHT = {"neighbors": 24, "group_blocks": 0, "mlp_ratio": 2.0}  # no MLP on every neighbour
SMALL_CLS = {**LIGHT, "pool": "both"}
SMALL_PARTSEG = {**LIGHT, "dropout": 0.2, "decoder_blocks": 1, "head_dim": 64}
GRID = {"sampling": "grid"}  # linear in the points on every device
FINE = {"coord_scale": 100.0}  # a point is small beside a scene

# Sizes of every name, by family.
SIZES: dict[Family, dict[str, dict[str, Any]]] = {
    classifier: {
        "bixt_ti_cls": {**TI, "depth": 12},
        "bixt_nano_cls": {**NANO, "depth": 4},
        "sequential_ti_cls": {**TI, "depth": 12, "attention": "sequential"},
        "bixt_ti_cls_grouping": {**TI, "depth": 12, "group_layers": (0, 3, 6, 9)}
        | {"coord_scale": GROUPED_COORD_SCALE},
    },
    hierarchy_classifier: {
        "bixt_ti_cls_hierarchy": {**TI, **LEVELS, "reductions": (2, 2, 2, 2), "neighbors": 24},
        "bixt_nano_cls_hierarchy": {**NANO, "dim": 128, "num_heads": 4, "embed_dim": 64, **SMALL_CLS}
        | {"widths": (64, 128, 256), "reductions": (4, 2, 2)},
        "bixt_pico_cls_hierarchy": {**PICO, "embed_dim": 48, **SMALL_CLS}
        | {"widths": (64, 128), "reductions": (4, 4)},
    },
    aggregation_classifier: {
        "bixt_nano_cls_local": {**NANO, "dim": 128, "num_heads": 4, "embed_dim": 64}
        | {"widths": (64, 128, 256), "reductions": (1, 4, 4), "depths": (2, 2, 2)},
    },
    perceiver_classifier: {"perceiver_ti_cls": {**TI, "num_blocks": 8, "self_attends_per_block": 6}},
    part_segmenter: {
        "bixt_ti_partseg": {**TI, "depth": 12},
        "bixt_nano_partseg": {**NANO, "depth": 5},
    },
    encdec_part_segmenter: {
        "bixt_ti_partseg_encdec": {**TI, **LEVELS, "reductions": (4, 4, 4, 4), "neighbors": 32}
        | {"decoder_widths": (256, 192, 128, 128)},
        "bixt_nano_partseg_encdec": {**NANO, "embed_dim": 48, **SMALL_PARTSEG}
        | {"widths": (64, 96, 128), "reductions": (4, 4, 2), "decoder_widths": (96, 96, 64)},
        "bixt_pico_partseg_encdec": {**PICO, "embed_dim": 32, **SMALL_PARTSEG, "neighbors": 16}
        | {"widths": (64, 96), "reductions": (4, 4), "decoder_widths": (96, 64)},
    },
    aggregation_part_segmenter: {
        "bixt_nano_partseg_local": {**NANO, "embed_dim": 48, "dropout": 0.2, "depths": (2, 2, 2, 2)}
        | {"widths": (48, 96, 128, 192), "reductions": (1, 4, 4, 2), "decoder_widths": (128, 96, 64, 64)},
    },
    scene_segmenter: {
        "bixt_ti_sceneseg": {**TI, **FINE, "depth": 12},
        "bixt_nano_sceneseg": {**NANO, **FINE, "depth": 5},
    },
    encdec_scene_segmenter: {
        "bixt_ti_sceneseg_encdec": {**TI, **LEVELS, **GRID, "reductions": (4, 4, 4, 4), "neighbors": 32}
        | {"decoder_widths": (256, 192, 128, 128)},
        "bixt_nano_sceneseg_encdec": {**NANO, **GRID, "embed_dim": 48, **SMALL_PARTSEG}
        | {"widths": (64, 96, 128), "reductions": (4, 4, 2), "decoder_widths": (96, 96, 64)},
        "bixt_pico_sceneseg_encdec": {**PICO, **GRID, "embed_dim": 32, **SMALL_PARTSEG, "neighbors": 16}
        | {"widths": (64, 96), "reductions": (4, 4), "decoder_widths": (96, 64)},
    },
}
TASKS: dict[Family, str] = {
    **dict.fromkeys((part_segmenter, encdec_part_segmenter, aggregation_part_segmenter), "part_segmentation"),
    **dict.fromkeys((scene_segmenter, encdec_scene_segmenter), "scene_segmentation"),
}  # that a family is for, if not classification
VARIANTS = {name: (family, sizes) for family, names in SIZES.items() for name, sizes in names.items()}


def builder_of(name: str) -> Callable[..., nn.Module]:
    """Return what builds a variant: its family with its sizes, and what the family's models are for."""
    family, sizes = VARIANTS[name]
    build = partial(family, **sizes)
    build.task = TASKS.get(family, "classification")  # type: ignore[attr-defined]
    return build
