"""Cells of a line of text: what stands between them, their quotes, and numbers as programs write them."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

QUOTED = re.compile(r'"[^"]*"')
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
DECIMAL_COMMA = re.compile(r"[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?")
# numbers with a mark between thousands, such as 1,000.5 and 1'000
GROUPED = re.compile(
    r"[-+]?\d{1,3}(?:(?:,\d{3})+\.\d*|(?:\.\d{3})+,\d*|(?:[,.]\d{3}){2,}|(?:'\d{3})+(?:\.\d*)?)"
)
CUT = re.compile(r"(?<![\d.])[1-9]\d{0,2},0\d\d\.\d")  # such a number, read as two: 1 and 000.5
NUMBERS = re.compile(r"[-+.,\deE \t]*")
MOLECULE = re.compile(rf"[A-Z][a-z]?(?:\s+{NUMBER}){{3}}")  # an element's name and its place


def separator_of(line: str) -> str | None:
    """What stands between the cells of a line, beside what is in quotes; None means blanks."""
    text = QUOTED.sub("", line.strip())
    return next((mark for mark in (";", ",", "\t") if mark in text), None)


def cells_of(line: str, separator: str | None) -> list[str]:
    """The cells of a row, without their quotes; one whose quote stays open ends with a line break."""
    if '"' not in line:
        return line.split(separator)
    text = line if separator else " ".join(line.split())
    try:
        return next(csv.reader([text, "\n"], delimiter=separator or " "))
    except csv.Error:  # a cell of more characters than csv takes
        return line.split(separator)


def bare_of(word: str) -> str:
    """A cell without blanks and quotes around it."""
    return word.strip(' \t"')


def is_number(word: str) -> bool:
    """Whether a cell is a number; NaN and infinity are."""
    try:
        float(bare_of(word))
    except ValueError:
        return False
    return "_" not in word


def is_cut(line: str) -> bool:
    """Whether commas stand between the numbers of a line and in them."""
    return NUMBERS.fullmatch(line) is not None and CUT.search(line) is not None


def told_grouped(got: str) -> str:
    """Say what is wrong with numbers such as 1,000.5."""
    return f"expected numbers such as 1234.5, got thousands separators: {got.strip()[:40]!r}"


def other_kind(rows: Sequence[tuple[int, str]]) -> str | None:
    """Say what lines are that look like points and are none."""
    for at, line in rows[:10]:
        if MOLECULE.fullmatch(line):
            return (
                f"line {at}: expected a point, got an atom, {line[:40]!r}: the file is a molecule's, no cloud"
            )
        values = line.split(";") if ";" in line else line.split()
        values = [value.strip() for value in values]
        if len(values) >= 3 and "," in line and all(map(DECIMAL_COMMA.fullmatch, values)):
            return f"line {at}: expected numbers such as 1.5, got decimal commas: {line[:40]!r}"
        cells = [bare_of(cell) for cell in cells_of(line, separator_of(line))] if '"' in line else values
        grouped = any(map(GROUPED.fullmatch, cells)) and all(
            GROUPED.fullmatch(cell) or DECIMAL_COMMA.fullmatch(cell) or is_number(cell) for cell in cells
        )
        if grouped or is_cut(line):
            return f"line {at}: {told_grouped(line)}"
    return None
