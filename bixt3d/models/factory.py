"""Models by name: the sizes of every variant, in view."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from bixt3d.models.bixt import BiXT, Perceiver, Trunk
from bixt3d.models.classifier import PointClassifier, PointEncoder
from bixt3d.models.grouping import GroupingStage
from bixt3d.models.heads import ClassificationHead
from bixt3d.models.tokenizers import COORD_SCALE, GROUPED_COORD_SCALE, SinusoidalTokenizer
from bixt3d.suggest import nearest


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
    trunk = BiXT(dim, depth, num_heads, num_latents, attention, drop_path=drop_path, backend=backend)
    return _classifier(num_classes, in_dims, dim, coord_scale, trunk, {}, pool, dim, dropout)


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
    trunk = BiXT(dim, depth, num_heads, num_latents, drop_path=drop_path, backend=backend)
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
    if len(widths) != len(reductions):
        raise ValueError(
            f"widths and reductions: expected one of each a layer, got {len(widths)} and {len(reductions)}"
        )
    trunk = BiXT(
        dim,
        len(widths),
        num_heads,
        num_latents,
        token_dim=list(widths),
        mlp_ratio=mlp_ratio,
        drop_path=drop_path,
        backend=backend,
    )
    incoming = [embed_dim, *widths]
    stages = {
        layer: GroupingStage(
            incoming[layer],
            width,
            neighbors=neighbors,
            reduction=reductions[layer],
            blocks=group_blocks,
            expansion=group_expansion,
            center=center,
            use_xyz=use_xyz,
            sampling=sampling,
        )
        for layer, width in enumerate(widths)
    }
    return _classifier(num_classes, in_dims, embed_dim, coord_scale, trunk, stages, pool, widths[-1], dropout)


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


MODELS: dict[str, Callable[..., PointClassifier]] = {
    "bixt_ti_cls": bixt_ti_cls,
    "bixt_ti_cls_grouping": bixt_ti_cls_grouping,
    "bixt_ti_cls_hierarchy": bixt_ti_cls_hierarchy,
    "perceiver_ti_cls": perceiver_ti_cls,
    "sequential_ti_cls": sequential_ti_cls,
}


def list_models() -> list[str]:
    """Return the names that `create_model` knows, sorted."""
    return sorted(MODELS)


def create_model(name: str, **args: Any) -> nn.Module:
    """Build a model by name.

    Args:
        name: One of `list_models`.
        **args: The model's own arguments, such as ``num_classes`` and ``in_dims``.

    Raises:
        ValueError: For an unknown name or argument, naming the nearest, or a value that does not fit.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}{nearest(name, MODELS)}; known: {', '.join(list_models())}")
    build = MODELS[name]
    known = inspect.signature(build).parameters
    for key in args:
        if key not in known:
            raise ValueError(
                f"{name} has no argument {key!r}{nearest(key, known)}; it takes: {', '.join(known)}"
            )
        _check_type(name, key, args[key], known[key].default)
    return build(**args)


def _check_type(name: str, key: str, value: Any, default: Any) -> None:
    # Arguments may come from YAML, where a number is easily quoted or a list forgotten.
    def whole(number: Any) -> bool:
        return isinstance(number, int) and not isinstance(number, bool)

    if isinstance(default, tuple):
        fits = isinstance(value, (list, tuple)) and all(whole(item) for item in value)
    elif isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, float):
        fits = whole(value) or isinstance(value, float)
    elif isinstance(default, str):
        fits = isinstance(value, str)
    else:
        fits = whole(value) or (default is None and value is None)
    if not fits:
        raise ValueError(f"{name}: {key}: expected a value like {default!r}, got {value!r}")


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
    if in_dims not in (3, 6):
        raise ValueError(f"in_dims: expected 3 (xyz) or 6 (xyz and normal), got {in_dims}")
    tokenizer = SinusoidalTokenizer(in_dims, embed_dim, coord_scale)
    head = ClassificationHead(trunk.dim, num_classes, pool, token_dim, dropout)
    return PointClassifier(PointEncoder(tokenizer, trunk, stages), head)
