"""Models by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from bixt3d.models import image, variants
from bixt3d.suggest import check_free, nearest

Builder = Callable[..., nn.Module]

MODELS: dict[str, Builder] = {
    name: family.builder_of(name) for family in (variants, image) for name in family.VARIANTS
}
_OWN = frozenset(MODELS)


def list_models() -> list[str]:
    """Return the names that `create_model` knows, sorted."""
    return sorted(MODELS)


def register_model(name: str, builder: Builder) -> None:
    """Make a model known by a name, which `create_model` and ``model.name`` of a config then take.

    Args:
        name: The name; one that ships with the package is not replaced.
        builder: A function or class whose arguments are the model's, and which returns a `torch.nn.Module`.
            It is told ``num_classes`` (or ``num_parts`` and ``num_categories``) and ``in_dims`` where it has
            such parameters. Its attribute ``task`` is the task that the model is for, ``"classification"`` if
            it has none.

    Raises:
        ValueError: If the name is taken by a model of the package, or no name.
        TypeError: If the builder cannot be called.
    """
    check_free(name, _OWN, "model")
    if not callable(builder):
        raise TypeError(f"builder: expected a function that returns a model, got {type(builder).__name__}")
    MODELS[name] = builder


def find_builder(name: str) -> Builder:
    """Return what builds the model of that name.

    Raises:
        ValueError: If there is none, naming the nearest.
    """
    if name not in MODELS:
        raise ValueError(
            f"unknown model {name!r}{nearest(name, MODELS)}; known: {', '.join(list_models())}. Yours "
            "is known after bixt3d.register_model, on the command line by --plugin FILE.py"
        )
    return MODELS[name]


def task_of(name: str) -> Any:
    """Return the task that a model is for, as its builder says: its name, or a task.

    Raises:
        ValueError: For an unknown name.
    """
    return getattr(find_builder(name), "task", "classification")


def is_own(name: str) -> bool:
    """Return whether the model of that name ships with the package."""
    return name in _OWN


def takes(name: str, argument: str) -> bool:
    """Return whether the model of that name has an argument."""
    parameters = inspect.signature(find_builder(name)).parameters
    return argument in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def create_model(name: str, **args: Any) -> nn.Module:
    """Build a model by name.

    Args:
        name: One of `list_models`.
        **args: The model's own arguments, such as ``num_classes`` and ``in_dims``.

    Raises:
        ValueError: For an unknown name or argument, naming the nearest, or a value that does not fit.
    """
    build = find_builder(name)
    known = inspect.signature(build).parameters
    args = {key: _plain(value) for key, value in args.items()}
    for key, value in args.items():
        if not takes(name, key):
            close = nearest(key, known)
            others = (
                "" if close else ". A config for another model has its arguments: clear them, model.args={}"
            )
            raise ValueError(f"{name} has no argument {key!r}{close}; it takes: {', '.join(known)}{others}")
        if key in known and name in _OWN:
            _check_type(name, key, value, known[key])
    model = build(**args)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{name}: expected its builder to return a torch.nn.Module, got {type(model).__name__}"
        )
    return model


def _plain(value: Any) -> Any:
    """Return NumPy's numbers and arrays as Python's, also those in lists."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _check_type(name: str, key: str, value: Any, parameter: inspect.Parameter) -> None:
    """Raise ValueError for a quoted number or a forgotten list, as YAML may hold them."""
    default = parameter.default
    kind = int if default is None and "int" in str(parameter.annotation) else type(default)
    items = value if kind is tuple and isinstance(value, (list, tuple)) else [value]
    allowed = {bool: (bool,), int: (int,), float: (int, float), str: (str,), tuple: (int,)}.get(kind)
    fits = allowed is None or all(isinstance(item, allowed) for item in items)
    fits = fits and (kind is not tuple or items is value)
    fits = fits and (kind is bool or allowed is None or not any(isinstance(item, bool) for item in items))
    if not fits and not (default is None and value is None):
        raise ValueError(f"{name}: {key}: expected a value like {default!r}, got {value!r}")
