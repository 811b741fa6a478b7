"""YAML as configs use it: plain values, numbers, duplicates, overrides, and a way back."""

from __future__ import annotations

import math
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bixt3d.yaml import dump_yaml, parse_overrides, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("a: 1e-3", {"a": 1e-3}),
        ("a: 1E+3", {"a": 1000.0}),
        ("a: .5e3", {"a": 500.0}),
        ("a: -1.5e2", {"a": -150.0}),
        ("a: 1e-3_seed0", {"a": "1e-3_seed0"}),  # a folder's name, such as of a run
        ("a: '1e-3'", {"a": "1e-3"}),
        ("a: 12", {"a": 12}),
        ("a: .inf", {"a": math.inf}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: [1, {b: null}]", {"a": [1, {"b": None}]}),
        ("a: true", {"a": True}),
        ("a: é", {"a": "é"}),
        ("a: $HOME", {"a": "$HOME"}),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "expected the node content"),
        ("a: 1\na: 2", "duplicate key a"),
        ("a: {b: 1, 'b': 2}", "duplicate key b"),
        ("a: &x 1\nb: *x", r"\*x: aliases are not taken, write the values out"),
        ("a: &x [*x]", "aliases are not taken"),
        ("? [a]\n: 1", "a key that is no name"),
        ("? {a: 1}\n: 1", "a key that is no name"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: !mine 3", "could not determine a constructor"),
        ("a: !!int ''", "."),
        ("a: !!bool maybe", "."),
        ("a: !!timestamp x", "."),
        ("a: ${b}", r"^a: expected a value, got '\$\{b\}'"),
        ("a: {b: [x, '${c}']}", r"^a\.b: expected a value"),
        ("--- 1\n--- 2", "single document"),
        ("[" * 5000, "recursion"),
        ("a: \x07", "special characters"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_overrides_nest_and_the_last_counts() -> None:
    given = parse_overrides(["a.b=1e-3", "c=[1, 2]", "a.d={e: 3}", "a.b=2", "f=", "a.d.g=x=y", "h='true'"])
    assert given == {"a": {"b": 2, "d": {"e": 3, "g": "x=y"}}, "c": [1, 2], "f": "", "h": "true"}
    assert parse_overrides(["a=3", "a.b=4"]) == {"a": {"b": 4}}
    assert parse_overrides([]) == {}


@pytest.mark.parametrize("text", ["a", "", "a:3"])
def test_override_without_a_value(text: str) -> None:
    with pytest.raises(ValueError, match=f"^override {text!r}: expected key=value, such as optim.lr=1e-3$"):
        parse_overrides([text])


def test_override_that_is_no_yaml() -> None:
    with pytest.raises(ValueError, match=r"^overrides a=\[: a: "):
        parse_overrides(["a=["])


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
LOOKS_LIKE = st.sampled_from(
    ["1e-3", "1E5", "-.5e+1", "null", "~", "yes", "2024-01-01", "0x1f", "1_0", "12:30"]
)
TEXT = LOOKS_LIKE | st.text(string.printable + "éü€", max_size=20).filter(lambda text: "${" not in text)
VALUES = st.recursive(
    PLAIN | TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_is_written_is_read_again(value: dict[str, Any]) -> None:
    again = parse_yaml(dump_yaml(value))
    assert again == value and repr(again) == repr(value)  # in its order and kinds: 1 is not 1.0


def test_what_is_held_twice_is_written_twice() -> None:
    shared = [1, 2]
    assert parse_yaml(dump_yaml({"a": shared, "b": {"c": shared}})) == {"a": [1, 2], "b": {"c": [1, 2]}}


def test_a_dump_is_for_people() -> None:
    assert dump_yaml({"b": {"rate": 1e-3, "names": ["é", "1e-3"]}, "a": None}) == (
        "b:\n  rate: 0.001\n  names:\n  - é\n  - '1e-3'\na: null\n"
    )
