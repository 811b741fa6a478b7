"""Words of messages: numbers with their nouns."""

from __future__ import annotations

from bixt3d.suggest import counted


def test_numbers_have_the_noun_that_fits() -> None:
    assert [counted(number, "file") for number in (0, 1, 1234)] == ["0 files", "1 file", "1,234 files"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
