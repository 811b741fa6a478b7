"""The sizes of every name, and the long arguments that shorter names stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bixt3d import create_model, list_models
from bixt3d.models.variants import VARIANTS

PARAMETERS = {
    "bixt_ti_cls": 14_794_408,
    "bixt_ti_cls_grouping": 15_538_600,
    "bixt_ti_cls_hierarchy": 6_186_152,
    "bixt_ti_partseg": 14_354_546,
    "bixt_ti_partseg_encdec": 8_495_882,
    "perceiver_ti_cls": 21_837_736,
    "sequential_ti_cls": 15_618_088,
    "bixt_nano_cls": 1_191_016,
    "bixt_nano_cls_hierarchy": 1_198_632,
    "bixt_nano_cls_local": 1_955_720,
    "bixt_nano_partseg": 1_398_578,
    "bixt_nano_partseg_encdec": 886_484,
    "bixt_nano_partseg_local": 1_957_442,
    "bixt_pico_cls_hierarchy": 402_648,
    "bixt_pico_partseg_encdec": 527_102,
    "bixt_ti_sceneseg": 14_345_684,
    "bixt_ti_sceneseg_encdec": 8_464_364,
    "bixt_nano_sceneseg": 1_394_132,
    "bixt_nano_sceneseg_encdec": 876_854,
    "bixt_pico_sceneseg_encdec": 517_472,
    "bixt_ti_image_cls": 15_121_192,
    "bixt_ti_image_cls_conv": 15_192_640,
    "bixt_ti_image_seg": 14_512_278,
    "bixt_ti_image_seg_fpn": 19_127_638,
}
LIGHT: dict[str, Any] = {"neighbors": 24, "group_blocks": 0, "mlp_ratio": 2.0, "drop_path": 0.0}
NANO: dict[str, Any] = {"dim": 96, "num_heads": 3, "num_latents": 32, "drop_path": 0.0}
# What configs and checkpoints said before the name.
LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "bixt_nano_cls": ("bixt_ti_cls", {**NANO, "depth": 4, "coord_scale": 10.0}),
    "bixt_nano_cls_hierarchy": (
        "bixt_ti_cls_hierarchy",
        {"dim": 128, "num_heads": 4, "num_latents": 32, "embed_dim": 64, "widths": [64, 128, 256]}
        | {"reductions": [4, 2, 2], **LIGHT, "pool": "both"},
    ),
    "bixt_pico_cls_hierarchy": (
        "bixt_ti_cls_hierarchy",
        {**NANO, "num_latents": 16, "embed_dim": 48, "widths": [64, 128]}
        | {"reductions": [4, 4], **LIGHT, "pool": "both"},
    ),
    "bixt_nano_partseg": ("bixt_ti_partseg", {**NANO, "depth": 5, "coord_scale": 10.0}),
    "bixt_nano_partseg_encdec": (
        "bixt_ti_partseg_encdec",
        {**NANO, "embed_dim": 48, "widths": [64, 96, 128], "reductions": [4, 4, 2], **LIGHT, "dropout": 0.2}
        | {"decoder_widths": [96, 96, 64], "decoder_blocks": 1, "head_dim": 64},
    ),
    "bixt_pico_partseg_encdec": (
        "bixt_ti_partseg_encdec",
        {**NANO, "num_latents": 16, "embed_dim": 32, "widths": [64, 96], "reductions": [4, 4], **LIGHT}
        | {"neighbors": 16, "decoder_widths": [96, 64], "decoder_blocks": 1, "head_dim": 64, "dropout": 0.2},
    ),
}


def test_parameters() -> None:
    """On the meta device, as large weights take time to draw."""
    with torch.device("meta"):
        found = {name: sum(v.numel() for v in create_model(name).parameters()) for name in list_models()}
    assert found == PARAMETERS


@pytest.mark.parametrize("name", LONG)
def test_a_short_name_is_its_long_arguments(name: str) -> None:
    models = []
    for built, args in ((name, {}), LONG[name]):
        torch.manual_seed(3)
        models.append(create_model(built, **args))
    short, long = models
    assert str(short) == str(long)
    assert {n for n, _ in short.named_parameters()} == {n for n, _ in long.named_parameters()}
    assert all(value.equal(long.state_dict()[n]) for n, value in short.state_dict().items())
    for one, other in zip(short.modules(), long.modules(), strict=True):
        kept = [{k: v for k, v in vars(m).items() if isinstance(v, int | float | str)} for m in (one, other)]
        assert kept[0] == kept[1]


@pytest.mark.parametrize("name", VARIANTS)
def test_numbers_of_numpy(name: str) -> None:
    family, sizes = VARIANTS[name]
    numpys = {key: np.array(value)[()] for key, value in sizes.items() if not isinstance(value, str)}
    count = "num_parts" if "partseg" in name else "num_classes"
    with torch.device("meta"):
        model: Any = create_model(name, **numpys, **{count: np.int64(3)})
        assert str(model) == str(create_model(name, **{count: 3}))
    assert model.num_outputs == 3 and type(model.num_outputs) is int
