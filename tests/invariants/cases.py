"""Every model that the factory builds, small, with each option that changes what it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bixt3d import create_model
from bixt3d.models.encoder import PointModel
from bixt3d.models.segmenter import PointSegmenter
from tests.models.randomize import randomize

COUNT = 128
SIZES: dict[str, Any] = {"dim": 24, "num_heads": 3, "num_latents": 5, "drop_path": 0.0, "dropout": 0.0}
CLASSES: dict[str, Any] = {**SIZES, "num_classes": 7}
PARTS: dict[str, Any] = {**SIZES, "num_parts": 7, "num_categories": 3}
GROUPING: dict[str, Any] = {**CLASSES, "depth": 3, "group_layers": (0, 2), "neighbors": 8}
LEVELS: dict[str, Any] = {"embed_dim": 8, "widths": (12, 16), "reductions": (2, 4), "neighbors": 8}
HIERARCHY: dict[str, Any] = {**CLASSES, **LEVELS}
DECODER: dict[str, Any] = {
    "decoder_widths": (12, 10),
    "decoder_blocks": 1,
    "context_dim": 6,
    "head_dim": 9,
}
ENCDEC: dict[str, Any] = {**PARTS, **LEVELS, **DECODER}
LOCAL: dict[str, Any] = {**CLASSES, **LEVELS, "reductions": (1, 4), "depths": (2, 3)}
PLAIN: dict[str, Any] = {"center": "center", "use_xyz": True, "group_blocks": 0}

# A model of the factory and its arguments, by a name for the test.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "naive": ("bixt_ti_cls", {**CLASSES, "depth": 3}),
    "naive, sequential": ("bixt_ti_cls", {**CLASSES, "depth": 3, "attention": "sequential"}),
    "naive, pooled tokens": ("bixt_ti_cls", {**CLASSES, "depth": 3, "pool": "tokens"}),
    "naive, both pools, normals": ("bixt_ti_cls", {**CLASSES, "depth": 3, "pool": "both", "in_dims": 6}),
    "grouping": ("bixt_ti_cls_grouping", GROUPING),
    "grouping, no blocks": ("bixt_ti_cls_grouping", {**GROUPING, **PLAIN, "pool": "both"}),
    "hierarchy": ("bixt_ti_cls_hierarchy", HIERARCHY),
    "hierarchy, no blocks": ("bixt_ti_cls_hierarchy", {**HIERARCHY, **PLAIN, "in_dims": 6}),
    "hierarchy, prefix": ("bixt_ti_cls_hierarchy", {**HIERARCHY, "sampling": "prefix", "pool": "both"}),
    "local": ("bixt_nano_cls_local", LOCAL),
    "local, prefix, normals": ("bixt_nano_cls_local", {**LOCAL, "sampling": "prefix", "in_dims": 6}),
    "perceiver": ("perceiver_ti_cls", {**CLASSES, "num_blocks": 3, "self_attends_per_block": 2}),
    "perceiver, own first": (
        "perceiver_ti_cls",
        {**CLASSES, "num_blocks": 3, "self_attends_per_block": 1, "share": "all_but_first"},
    ),
    "sequential": ("sequential_ti_cls", {**CLASSES, "depth": 3}),
    "parts": ("bixt_ti_partseg", {**PARTS, "depth": 3}),
    "parts, sequential, untold": (
        "bixt_ti_partseg",
        {**PARTS, "depth": 3, "attention": "sequential", "num_categories": 0},
    ),
    "parts, encdec": ("bixt_ti_partseg_encdec", ENCDEC),
    "parts, encdec, untold, normals": (
        "bixt_ti_partseg_encdec",
        {**ENCDEC, "num_categories": 0, "in_dims": 6, "center": "center", "group_blocks": 2},
    ),
    "parts, local": ("bixt_nano_partseg_local", {**ENCDEC, "reductions": (1, 4), "depths": (1, 2)}),
    "scenes": ("bixt_ti_sceneseg", {**CLASSES, "depth": 3}),
    "scenes, encdec": ("bixt_ti_sceneseg_encdec", {**CLASSES, **DECODER, **LEVELS}),
}
NAMES = sorted(CASES)
# One case of each kind of model, for what takes seconds; the other names are the same with other sizes.
ONE_EACH = {name: next(case for case, (of, _) in CASES.items() if of == name) for name, _ in CASES.values()}
KINDS = sorted(ONE_EACH)


def small(case: str, **changed: Any) -> PointModel:
    """The model of a case, in evaluation, with weights of which every one matters."""
    name, args = CASES[case]
    model = create_model(name, **{**args, **changed})
    assert isinstance(model, PointModel)
    randomize(model)
    return model.eval()


def clouds(model: PointModel, batch: int = 3, count: int = COUNT) -> Tensor:
    """Points of a cube with the channels that the model takes; no two distances are equal."""
    return torch.rand(batch, count, model.in_dims) * 2 - 1


def categories(model: PointModel, batch: int) -> Tensor | None:
    """A category for each cloud, for a model that is told."""
    if not isinstance(model, PointSegmenter) or not model.num_categories:
        return None
    return torch.arange(batch) % model.num_categories


def ask(model: PointModel, points: Tensor, category: Tensor | None = None) -> Tensor:
    """Logits (B, K) or (B, N, P); where a model needs categories and gets none, of the first ones in turn."""
    if category is None:
        category = categories(model, len(points))
    logits: Tensor = model(points) if category is None else model(points, category)
    return logits


def assert_near(found: Tensor, expected: Tensor, bound: float = 1e-5) -> None:
    """No number is farther off than ``bound``, times the largest expected where that is above 1."""
    assert found.shape == expected.shape
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=bound * scale)
