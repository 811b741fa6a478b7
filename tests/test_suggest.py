"""Words of messages: the name that was meant, and numbers with their nouns."""

from __future__ import annotations

import pytest

from bixt3d.suggest import counted, nearest

SHAPES = ("airplane", "chair", "Lutscher", "Mug", "table", "teddy", "tent", "vase", "lamp")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("chiar", "chair"),
        ("chairs", "chair"),
        ("Mg", "Mug"),
        ("tabel", "table"),
        ("airplne", "airplane"),
        ("aeroplane", "airplane"),
        ("CHAIR", "chair"),  # whatever the case
        ("mugg", "Mug"),
        ("mgu", "Mug"),
        ("lut", "Lutscher"),  # how it begins
        ("tedy", "teddy"),
    ],
)
def test_a_slip_is_understood(given: str, meant: str) -> None:
    assert nearest(given, SHAPES) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize("given", ["tisch", "Kapseln", "Kästen", "stuhl", "bottle", "", "te", "x", 3, None])
def test_another_word_is_no_slip(given: object) -> None:
    assert nearest(given, SHAPES) == ""


def test_numbers_have_the_noun_that_fits() -> None:
    assert [counted(number, "file") for number in (0, 1, 1234)] == ["0 files", "1 file", "1,234 files"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
