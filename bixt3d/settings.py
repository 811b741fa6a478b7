"""Frozen dataclasses of settings: types and choices follow from annotations, mistakes are ValueErrors."""

from __future__ import annotations

import copy
import os
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from bixt3d.suggest import nearest

T = TypeVar("T")
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def settings(cls: type[T]) -> type[T]:
    """Let a frozen dataclass refuse an unknown name, as an argument or assigned, by a ValueError."""

    def new(kind: type[T], *args: Any, **given: Any) -> T:
        check_names(kind, given, getattr(kind, "section", ""))
        return object.__new__(kind)

    def refuse(self: Any, name: str, value: Any = None) -> None:
        check_names(type(self), [name], self.section)
        raise Frozen(
            f"{_key(self.section, name)}: settings are frozen: expected dataclasses.replace, or "
            "overrides for bixt3d.load_config"
        )

    for name, method in (("__new__", new), ("__setattr__", refuse), ("__delattr__", refuse)):
        setattr(cls, name, method)
    return cls


class Frozen(AttributeError, ValueError):
    """A setting was assigned; settings are replaced instead."""


class Section:
    """What the sections of the settings share: types are checked when one is built."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Convert values to the annotated types, and check ranges.

        Raises:
            ValueError: For a value of another type, out of its choices or range.
        """
        for name, kind in kinds_of(type(self)).items():
            value = convert(getattr(self, name), kind, _key(self.section, name))
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""

    def expect(self, words: str, fits: Callable[[Any], bool], *names: str) -> None:
        """Raise ValueError unless the named values fit; ``words`` say what is expected."""
        for name in names:
            if not fits(getattr(self, name)):
                key = _key(self.section, name)
                raise ValueError(f"{key}: expected {words}, got {getattr(self, name)}")


def check_names(kind: Any, given: Any, section: str) -> None:
    """Raise ValueError for the first name that a dataclass does not have, naming the nearest.

    Args:
        kind: The dataclass.
        given: Names.
        section: What errors call the dataclass; "" for the whole of the settings.
    """
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise ValueError(
                f"unknown key {_key(section, name)}{nearest(name, known)}; {section or 'the top level'} has: "
                f"{', '.join(known)}"
            )


def convert(value: Any, kind: Any, key: str) -> Any:
    """Return a value as its annotation has it.

    NumPy's numbers become Python's, paths become text, numbers in quotes become numbers, and dictionaries
    become the dataclasses that they stand for.

    Raises:
        ValueError: If it cannot be; ``key`` says of what.
    """
    origin, choices = get_origin(kind), get_args(kind)
    if isinstance(value, np.generic):
        value = value.item()
    if origin is Literal:
        if not isinstance(value, str) or value not in choices:
            hint = nearest(value, choices) if isinstance(value, str) else ""
            raise ValueError(f"{key}: expected one of {', '.join(choices)}, got {value!r}{hint}")
        return value
    if origin in (Union, types.UnionType):
        (inner,) = (choice for choice in choices if choice is not type(None))
        return None if value is None else convert(value, inner, key)
    if origin is tuple:
        items = [item for item in value.split(",") if item] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ValueError(f"{key}: expected a list, got {value!r}")
        return tuple(convert(item, choices[0], key) for item in items)
    if origin is dict:
        if value is None:  # as YAML has a key with nothing below it
            return {}
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{key}: expected keys and values, got {value!r}")
        return {name: convert(inner, choices[1], f"{key}.{name}") for name, inner in value.items()}
    if is_dataclass(kind):
        return build(kind, value, key)
    return _anything(value, key) if kind is Any else _plain(value, kind, key)


def build(kind: Any, value: Any, key: str) -> Any:
    """Return the dataclass that a dictionary stands for; one that is built already is checked again."""
    if is_dataclass(value) and not isinstance(value, type) and isinstance(value, kind):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key or 'settings'}: expected keys and values, got {value!r}")
    check_names(kind, value, key)
    return kind(**value)


def check_layer(schema: Any, layer: Any, key: str) -> None:
    """Raise ValueError for an unknown key or a value of another type, of what a layer states."""
    if not isinstance(layer, Mapping):
        raise ValueError(f"{key}: expected keys and values, got {layer!r}")
    check_names(schema, layer, key)
    for name, value in layer.items():
        kind, inner = kinds_of(schema)[name], f"{key}.{name}" if key else name
        if is_dataclass(kind):
            check_layer(kind, value, inner)
        else:
            convert(value, kind, inner)


def merge(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return nested dictionaries, values of ``above`` before those of ``below``."""
    merged = dict(below)
    for name, value in above.items():
        if value == {}:  # replaces, as nothing of it could be merged
            merged[name] = {}
            continue
        under = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        merged[name] = merge(under, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    return merged


def _anything(value: Any, key: str) -> Any:
    """Return a value in the kinds that files of settings and checkpoints hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_anything(item, key) for item in value]
    if isinstance(value, Mapping):
        return {name: _anything(item, f"{key}.{name}") for name, item in value.items()}
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(
            f"{key}: expected a number, text, a list, or keys and values, got {type(value).__name__}"
        )
    return value


def _plain(value: Any, kind: type, key: str) -> Any:
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if kind in (int, float) and isinstance(value, str):
        try:
            value = kind(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= sys.float_info.max else value  # which is refused
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key}: expected {KINDS[kind]}, got {value!r}")
    return value


def kinds_of(cls: Any) -> dict[str, Any]:
    """Return the annotated type of each field of a dataclass."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _key(section: str, name: str) -> str:
    return f"{section}.{name}" if section else str(name)
