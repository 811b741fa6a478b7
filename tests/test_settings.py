"""Frozen dataclasses of settings: kinds from annotations, unknown names, nested dictionaries."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from bixt3d.settings import (
    Frozen,
    Section,
    build,
    check_layer,
    check_names,
    convert,
    kinds_of,
    merge,
    settings,
)


@settings
@dataclass(frozen=True)
class Engine(Section):
    section: ClassVar[str] = "engine"
    power: float = 1.0
    cylinders: int = 4
    fuel: Literal["petrol", "diesel"] = "petrol"
    extras: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        self.expect("more than 0", lambda value: value > 0, "power", "cylinders")


@settings
@dataclass(frozen=True)
class Car(Section):
    name: str = "car"
    engine: Engine = field(default_factory=Engine)
    wheels: tuple[int, ...] | None = None
    notes: Any = None
    fast: bool = False


def test_kinds_follow_from_annotations() -> None:
    assert kinds_of(Car) == {
        "name": str,
        "engine": Engine,
        "wheels": tuple[int, ...] | None,
        "notes": Any,
        "fast": bool,
    }


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        (3, float, 3.0),
        ("3", int, 3),
        ("-1.5e3", float, -1500.0),
        (3, str, "3"),
        (0.5, str, "0.5"),
        (Path("a/b"), str, "a/b"),
        (np.int8(3), int, 3),
        (np.float32(0.5), float, 0.5),
        (np.int64(3), float, 3.0),
        (np.bool_(False), bool, False),
        (np.str_("x"), str, "x"),
        ("x", Literal["x", "y"], "x"),
        (np.str_("x"), Literal["x", "y"], "x"),
        (None, int | None, None),
        ("3", int | None, 3),
        ([1, "2"], tuple[int, ...], (1, 2)),
        ("1,2,", tuple[int, ...], (1, 2)),
        ("", tuple[int, ...], ()),
        (None, tuple[int, ...] | None, None),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        (None, dict[str, float], {}),
        ({"a": {"b": (1,)}}, dict[str, Any], {"a": {"b": [1]}}),
        ({"power": 2}, Engine, Engine(power=2.0)),
        (Engine(power=2), Engine, Engine(power=2.0)),
    ],
)
def test_convert(value: Any, kind: Any, found: Any) -> None:
    converted = convert(value, kind, "key")
    assert converted == found and type(converted) is type(found)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (True, int, "key: expected a whole number, got True"),
        (1.0, int, "key: expected a whole number, got 1.0"),
        ("1.5", int, "key: expected a whole number, got '1.5'"),
        ("one", float, "key: expected a number, got 'one'"),
        (True, float, "key: expected a number, got True"),
        (1, bool, "key: expected true or false, got 1"),
        ("true", bool, "key: expected true or false, got 'true'"),
        (True, str, "key: expected text, got True"),
        (None, str, "key: expected text, got None"),
        (b"x", str, "key: expected text, got b'x'"),
        ("z", Literal["x", "y"], "key: expected one of x, y, got 'z'"),
        ([], Literal["x", "y"], r"key: expected one of x, y, got \[\]"),
        ("petrl", Literal["petrol", "diesel"], "key: .* got 'petrl'; did you mean 'petrol'"),
        (3, tuple[int, ...], "key: expected a list, got 3"),
        ([1, "x"], tuple[int, ...], "key: expected a whole number, got 'x'"),
        ([1], dict[str, float], r"key: expected keys and values, got \[1\]"),
        ({1: 1}, dict[str, float], "key: expected keys and values, got {1: 1}"),
        ({"a": "x"}, dict[str, float], "key.a: expected a number, got 'x'"),
        ({"a": {"b": object()}}, dict[str, Any], "key.a.b: expected a number, text, .* got object"),
        ({"powr": 2}, Engine, "unknown key key.powr; did you mean 'power'"),
        ("diesel", Engine, "key: expected keys and values, got 'diesel'"),
        (Engine, Engine, "key: expected keys and values, got <class"),
    ],
)
def test_convert_refuses(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        convert(value, kind, "key")


def test_sections_are_built_and_checked() -> None:
    car = Car(engine={"power": "3", "extras": {"turbo": 1}}, wheels=[16, 17])  # type: ignore[arg-type]
    assert car.engine == Engine(power=3.0, extras={"turbo": 1.0}) and car.wheels == (16, 17)
    for wrong in ({"power": 0}, Engine):
        with pytest.raises(ValueError, match=r"^engine.*: expected"):
            Car(engine=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^engine.cylinders: expected more than 0, got -1$"):
        Engine(cylinders=-1)


def test_nothing_is_assigned() -> None:
    car = Car()
    for change in (lambda: setattr(car, "name", "x"), lambda: delattr(car, "name")):
        with pytest.raises(Frozen, match="^name: settings are frozen: expected dataclasses.replace"):
            change()
    with pytest.raises(ValueError, match="^engine.power: settings are frozen"):
        car.engine.power = 3.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="^unknown key engine.powr; did you mean 'power'"):
        car.engine.powr = 3.0  # type: ignore[attr-defined]
    assert car == Car()
    # Both kinds of error, for whoever expects that of frozen dataclasses.
    assert issubclass(Frozen, AttributeError) and issubclass(Frozen, ValueError)


def test_names_are_checked() -> None:
    check_names(Engine, {"power": 1, "fuel": 2}, "engine")
    with pytest.raises(
        ValueError, match="^unknown key engine.5; engine has: power, cylinders, fuel, extras$"
    ):
        check_names(Engine, {"power": 1, 5: 2}, "engine")
    with pytest.raises(ValueError, match="^unknown key zzz; the top level has: name, engine,"):
        Car(zzz=3)  # type: ignore[call-arg]


def test_a_layer_states_some_keys() -> None:
    check_layer(Car, {"engine": {"power": -1}}, "")  # ranges are those of the whole
    for layer, message in (
        ({"engine": {"power": "much"}}, "engine.power: expected a number, got 'much'"),
        ({"engine": {"powr": 1}}, "unknown key engine.powr; did you mean 'power'"),
        ({"engine": 3}, "engine: expected keys and values, got 3"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            check_layer(Car, layer, "")


def test_merge_goes_down_and_copies() -> None:
    below = {"a": {"b": 1, "c": [1]}, "d": {"e": 1}, "f": 3}
    above = {"a": {"b": 2}, "d": 5, "f": {"g": [7]}}
    before = copy.deepcopy((below, above))
    merged = merge(below, above)
    assert merged == {"a": {"b": 2, "c": [1]}, "d": 5, "f": {"g": [7]}}
    merged["f"]["g"].append(8)
    assert (below, above) == before


def test_build_checks_again_what_is_built() -> None:
    engine = Engine()
    object.__setattr__(engine, "power", 0)
    with pytest.raises(ValueError, match="^engine.power: expected more than 0, got 0"):
        build(Engine, engine, "engine")
    car = Car(engine=Engine(power=2))
    assert build(Car, car, "") == car
