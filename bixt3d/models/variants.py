"""The sizes of every variant, in view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bixt3d.models.bixt import BiXT, Perceiver, Trunk
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.decoder import PropagationDecoder
from bixt3d.models.encoder import PointEncoder
from bixt3d.models.grouping import GroupingStage
from bixt3d.models.heads import ClassificationHead, PartHead
from bixt3d.models.segmenter import PointSegmenter
from bixt3d.models.tokenizers import COORD_SCALE, GROUPED_COORD_SCALE, SinusoidalTokenizer

F = TypeVar("F", bound=Callable[..., Any])


def for_task(name: str) -> Callable[[F], F]:
    """Let a builder say which task its model is for."""

    def say(builder: F) -> F:
        builder.task = name  # type: ignore[attr-defined]
        return builder

    return say


@for_task("classification")
def bixt_ti_cls(
    num_classes: int = 40,
    in_dims: int = 3,
    *,
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 6,
    num_latents: int = 64,
    attention: str = "bidirectional",
    coord_scale: float = COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    pool: str = "latents",
    backend: str = "auto",
) -> PointClassifier:
    """Naive BiXT: sinusoidal tokens, 12 layers (the last one-sided), mean latent (BiXT, section 4.4)."""
    trunk = BiXT(
        dim, depth, num_heads, num_latents, attention, _last(pool), drop_path=drop_path, backend=backend
    )
    return _classifier(num_classes, in_dims, dim, coord_scale, trunk, {}, pool, dim, dropout)


@for_task("classification")
def bixt_ti_cls_grouping(
    num_classes: int = 40,
    in_dims: int = 3,
    *,
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 6,
    num_latents: int = 64,
    neighbors: int = 24,
    group_layers: Sequence[int] = (0, 3, 6, 9),
    group_blocks: int = 1,
    group_hidden: int | None = None,
    group_expansion: float = 1.0,
    center: str = "anchor",
    use_xyz: bool = False,
    coord_scale: float = GROUPED_COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    pool: str = "latents",
    backend: str = "auto",
) -> PointClassifier:
    """BiXT with affine grouping of all tokens before the layers in ``group_layers``."""
    trunk = BiXT(
        dim, depth, num_heads, num_latents, last_layer=_last(pool), drop_path=drop_path, backend=backend
    )
    stages = {
        layer: GroupingStage(
            dim,
            dim,
            neighbors=neighbors,
            hidden=group_hidden,
            blocks=group_blocks,
            expansion=group_expansion,
            center=center,
            use_xyz=use_xyz,
        )
        for layer in group_layers
    }
    return _classifier(num_classes, in_dims, dim, coord_scale, trunk, stages, pool, dim, dropout)


@for_task("classification")
def bixt_ti_cls_hierarchy(
    num_classes: int = 40,
    in_dims: int = 3,
    *,
    dim: int = 192,
    num_heads: int = 6,
    num_latents: int = 64,
    embed_dim: int = 64,
    widths: Sequence[int] = (128, 192, 256, 384),
    reductions: Sequence[int] = (2, 2, 2, 2),
    neighbors: int = 24,
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
) -> PointClassifier:
    """BiXT whose points are sampled and grouped before each of 4 layers; one width and reduction each."""
    stages = _hierarchy(
        embed_dim, widths, reductions, neighbors, group_blocks, group_expansion, center, use_xyz, sampling
    )
    trunk = BiXT(
        dim,
        len(widths),
        num_heads,
        num_latents,
        last_layer=_last(pool),
        token_dim=list(widths),
        mlp_ratio=mlp_ratio,
        drop_path=drop_path,
        backend=backend,
    )
    return _classifier(num_classes, in_dims, embed_dim, coord_scale, trunk, stages, pool, widths[-1], dropout)


@for_task("classification")
def perceiver_ti_cls(
    num_classes: int = 40,
    in_dims: int = 3,
    *,
    dim: int = 192,
    num_blocks: int = 8,
    self_attends_per_block: int = 6,
    share: str = "all",
    num_heads: int = 6,
    num_latents: int = 64,
    coord_scale: float = COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.0,
) -> PointClassifier:
    """Iterative baseline sa6-d8: 8 cross-attentions, each with 6 self-attentions after it."""
    trunk = Perceiver(
        dim, num_blocks, self_attends_per_block, share, num_heads, num_latents, drop_path=drop_path
    )
    return _classifier(num_classes, in_dims, dim, coord_scale, trunk, {}, "latents", dim, dropout)


@for_task("classification")
def sequential_ti_cls(
    num_classes: int = 40,
    in_dims: int = 3,
    *,
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 6,
    num_latents: int = 64,
    coord_scale: float = COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.0,
) -> PointClassifier:
    """Sequential baseline: two separate cross-attentions a layer."""
    trunk = BiXT(dim, depth, num_heads, num_latents, "sequential", drop_path=drop_path)
    return _classifier(num_classes, in_dims, dim, coord_scale, trunk, {}, "latents", dim, dropout)


@for_task("part_segmentation")
def bixt_ti_partseg(
    num_parts: int = 50,
    in_dims: int = 3,
    *,
    num_categories: int = 16,
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 6,
    num_latents: int = 64,
    attention: str = "bidirectional",
    coord_scale: float = COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    backend: str = "auto",
) -> PointSegmenter:
    """Naive part segmenter: 12 layers, LayerNorm and a linear map on the tokens (BiXT, section 4.4).

    The last layer's latents would be read by nobody and are not updated. ``num_categories=0`` builds a model
    that is not told the category.
    """
    trunk = BiXT(
        dim, depth, num_heads, num_latents, attention, "tokens", drop_path=drop_path, backend=backend
    )
    encoder = _encoder(in_dims, dim, coord_scale, trunk, {})
    return PointSegmenter(encoder, PartHead(dim, num_parts, dropout=dropout), num_categories)


@for_task("part_segmentation")
def bixt_ti_partseg_encdec(
    num_parts: int = 50,
    in_dims: int = 3,
    *,
    num_categories: int = 16,
    dim: int = 192,
    num_heads: int = 6,
    num_latents: int = 64,
    embed_dim: int = 64,
    widths: Sequence[int] = (128, 192, 256, 384),
    reductions: Sequence[int] = (4, 4, 4, 4),
    neighbors: int = 32,
    group_blocks: int = 1,
    group_expansion: float = 1.0,
    center: str = "anchor",
    use_xyz: bool = True,
    mlp_ratio: float = 4.0,
    decoder_widths: Sequence[int] = (256, 192, 128, 128),
    decoder_blocks: int = 2,
    context_dim: int = 64,
    head_dim: int = 128,
    coord_scale: float = GROUPED_COORD_SCALE,
    drop_path: float = 0.1,
    dropout: float = 0.5,
    backend: str = "auto",
) -> PointSegmenter:
    """BiXT over a hierarchy of 4 layers, and a PointMLP-style decoder to all points (BiXT, section 4.4).

    PointMLP's own decoder has widths 512, 256, 128, 128 and 4 blocks a stage, and another embedding of the
    category; here the latents join the global context.
    """
    stages = _hierarchy(
        embed_dim, widths, reductions, neighbors, group_blocks, group_expansion, center, use_xyz, "fps"
    )
    trunk = BiXT(
        dim,
        len(widths),
        num_heads,
        num_latents,
        last_layer="full",
        token_dim=list(widths),
        mlp_ratio=mlp_ratio,
        drop_path=drop_path,
        backend=backend,
    )
    encoder = _encoder(in_dims, embed_dim, coord_scale, trunk, stages)
    decoder = PropagationDecoder((embed_dim, *widths), dim, decoder_widths, decoder_blocks, context_dim)
    width = decoder_widths[-1] + context_dim + (dim if num_categories else 0)
    head = PartHead(width, num_parts, head_dim, dropout)
    return PointSegmenter(encoder, head, num_categories, decoder)


def _last(pool: str) -> str:
    """What the last layer updates: what the head reads, as far as one direction does."""
    return "tokens" if pool == "tokens" else "one_sided"


def _classifier(
    num_classes: int,
    in_dims: int,
    embed_dim: int,
    coord_scale: float,
    trunk: Trunk,
    stages: dict[int, GroupingStage],
    pool: str,
    token_dim: int,
    dropout: float,
) -> PointClassifier:
    head = ClassificationHead(trunk.dim, num_classes, pool, token_dim, dropout)
    return PointClassifier(_encoder(in_dims, embed_dim, coord_scale, trunk, stages), head)


def _encoder(
    in_dims: int, embed_dim: int, coord_scale: float, trunk: Trunk, stages: dict[int, GroupingStage]
) -> PointEncoder:
    if in_dims < 3:
        raise ValueError(f"in_dims: expected 3 for xyz, and the widths of the features, got {in_dims}")
    return PointEncoder(SinusoidalTokenizer(in_dims, embed_dim, coord_scale), trunk, stages)


def _hierarchy(
    embed_dim: int,
    widths: Sequence[int],
    reductions: Sequence[int],
    neighbors: int,
    blocks: int,
    expansion: float,
    center: str,
    use_xyz: bool,
    sampling: str,
) -> dict[int, GroupingStage]:
    if len(widths) != len(reductions):
        raise ValueError(
            f"widths and reductions: expected one of each a layer, got {len(widths)} and {len(reductions)}"
        )
    incoming = [embed_dim, *widths]
    return {
        layer: GroupingStage(
            incoming[layer],
            width,
            neighbors=neighbors,
            reduction=reductions[layer],
            blocks=blocks,
            expansion=expansion,
            center=center,
            use_xyz=use_xyz,
            sampling=sampling,
        )
        for layer, width in enumerate(widths)
    }
