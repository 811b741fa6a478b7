"""Models by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from bixt3d.models import variants
from bixt3d.models.encoder import PointModel
from bixt3d.suggest import nearest

MODELS: dict[str, Callable[..., PointModel]] = {
    "bixt_ti_cls": variants.bixt_ti_cls,
    "bixt_ti_cls_grouping": variants.bixt_ti_cls_grouping,
    "bixt_ti_cls_hierarchy": variants.bixt_ti_cls_hierarchy,
    "bixt_ti_partseg": variants.bixt_ti_partseg,
    "bixt_ti_partseg_encdec": variants.bixt_ti_partseg_encdec,
    "perceiver_ti_cls": variants.perceiver_ti_cls,
    "sequential_ti_cls": variants.sequential_ti_cls,
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
