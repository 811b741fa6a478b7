"""Cells of a line of text: what stands between them, their quotes, and numbers and names in them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bixt3d.datasets.readers.names import POINTS

QUOTED = re.compile(r'"[^"]*"')
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
DECIMAL_COMMA = re.compile(r"[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?")
# three or more such numbers with commas between them, too, where blanks tell these from those
LISTED_COMMAS = re.compile(
    r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?(?:(?:\s+,\s*|,\s+)[-+]?\d+,\d+(?:[eE][-+]?\d+)?){2,}(?:\s*,)?"
)
# numbers with a mark between thousands, such as 1,000.5 and 1'000
GROUPED = re.compile(
    r"[-+]?\d{1,3}(?:(?:,\d{3})+\.\d*|(?:\.\d{3})+,\d*|(?:[,.]\d{3}){2,}|(?:'\d{3})+(?:\.\d*)?)"
)
CUT = re.compile(r"(?<![\d.])[1-9]\d{0,2},0\d\d\.\d")  # such a number, read as two: 1 and 000.5
NUMBERS = re.compile(r"[-+.,\deE \t]*")
INTRO = re.compile(r"(.*)[:=](?!\d)\s*")  # not of Points:0, as ParaView names x
# words before a colon after which the columns are listed, in whatever order
LISTS = frozenset(
    "the each per of in is are data file point points cloud line row column columns cols field fields "
    "name names order format header layout list attributes properties channels variables".split()
)
# words that a remark has, and a list of names has not
PROSE = frozenset(
    "of in the each and per is are as with for from to by or then where which this that these was were has "
    "have holds contains units metres meters centimetres centimeters millimetres millimeters coordinates "
    "points columns fields format".split()
)
MOLECULE = re.compile(rf"[A-Z][a-z]?(?:\s+{NUMBER}){{3}}")  # an element's name and its place


class Head(NamedTuple):
    """A line that may name the columns: its number, names, and whether it has tabs and is a comment."""

    at: int
    names: list[str]
    tabs: bool
    comment: bool


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


def told_decimal_commas(at: int, line: str) -> str:
    """Say what is wrong with numbers such as 1,5."""
    return f"line {at}: expected numbers such as 1.5, got decimal commas: {line[:40]!r}"


def other_kind(rows: Sequence[tuple[int, str]]) -> str | None:
    """Say what lines are that look like points and are none."""
    if rows and all(LISTED_COMMAS.fullmatch(line) for _, line in rows):
        return told_decimal_commas(*rows[0])
    for at, line in rows[:10]:
        if MOLECULE.fullmatch(line):
            return (
                f"line {at}: expected a point, got an atom, {line[:40]!r}: the file is a molecule's, no cloud"
            )
        values = line.split(";") if ";" in line else line.split()
        values = [value.strip() for value in values]
        if len(values) >= 3 and "," in line and all(map(DECIMAL_COMMA.fullmatch, values)):
            return told_decimal_commas(at, line)
        cells = [bare_of(cell) for cell in cells_of(line, separator_of(line))] if '"' in line else values
        grouped = any(map(GROUPED.fullmatch, cells)) and all(
            GROUPED.fullmatch(cell) or DECIMAL_COMMA.fullmatch(cell) or is_number(cell) for cell in cells
        )
        if grouped or is_cut(line):
            return f"line {at}: {told_grouped(line)}"
    return None


def words_of(line: str) -> list[str]:
    """The names or numbers of a line, without marks of a comment, quotes and units in brackets."""
    text = line.lstrip("#/%! \t")
    words = cells_of(text, separator_of(text))
    return [re.sub(r"[\[(].*[\])]", "", word).strip(' "\n') for word in words] or [""]


def hold_xyz(words: Iterable[str]) -> bool:
    """Whether x, y and z, or other names for the three, are among words."""
    known = {word.lower() for word in words}
    return any(set(points) <= known for points in POINTS[-3:])


def mentions_xyz(comment: str) -> bool:
    """Whether a comment speaks of x, y and z, as a list of names or not."""
    return hold_xyz(re.split(r"[\s,;]+", comment.lstrip("#/%! \t")))


def listed_names(comment: str) -> list[str]:
    """The names of columns in a comment, perhaps after others and a colon; none if it is a remark."""
    text = comment.lstrip("#/%! \t")
    intro = INTRO.match(text)
    if intro and hold_xyz(names := words_of(text[intro.end() :])):
        # three names alone may be an order of something else, such as of rotations
        if len(names) <= 3 and not LISTS.issuperset(intro[1].lower().split()):
            return []
        text = text[intro.end() :]
    names = words_of(text)
    of_cloudcompare = comment.startswith("//") and not comment[2:3].isspace()
    if of_cloudcompare or separator_of(text):
        return names
    remark = any(name.lower() in PROSE or name.endswith((":", "=")) for name in names)
    return [] if remark else names


def columns_before(head: str, rows: Sequence[str], separator: str | None) -> int | None:
    """How many columns stand before those that a first line counts 0, 1, ..., as pandas writes it.

    It is 1 where the rows have an index, whose head is empty. None: the line may be a point, as it may be
    where all rows hold whole numbers.
    """
    cells = [bare_of(cell) for cell in cells_of(head.strip(), separator)]
    counts = cells[1:] if cells[0] == "" else cells
    if not rows or len(counts) < 3 or counts != [str(at) for at in range(len(counts))]:
        return None
    before = len(cells_of(rows[0], separator)) - len(counts)
    indented = separator is None and head[:1].isspace()  # by the blank after an empty head
    if before != len(cells) - len(counts) and not (before == 1 and indented):
        return None
    mark = re.compile("[.eE]")  # of numbers that are not whole
    broken = (
        mark.search(cell) and is_number(cell)
        for row in filter(mark.search, rows)
        for cell in cells_of(row, separator)
    )
    return before if any(broken) else None


def head_of(heads: Sequence[Head], row: str, separator: str | None) -> Head | None:
    """The last line that has as many names as a row has cells, comments after others; else any but those."""

    def widths(mark: str | None) -> range:  # without separators that end the row, and with them
        least = len(cells_of(row.rstrip(f"{mark or ''} \t"), mark))
        return range(least, len(cells_of(row, mark)) + 1)

    cells, tabs = widths(None if separator == "\t" else separator), widths("\t")
    for head in sorted(reversed(heads), key=lambda head: head.comment):
        if len(head.names) in cells or (head.tabs and len(head.names) in tabs):
            return head
    return next((head for head in reversed(heads) if not head.comment), None)


def without_ends(rows: list[tuple[int, str]], separator: str, columns: int) -> list[tuple[int, str]]:
    """Rows without the separators that end every one; as many columns as there are names stay, if any are."""
    bare = [(number, line.rstrip(separator + " \t")) for number, line in rows]
    widths = {len(cells_of(line, separator)) for _, line in bare}
    if len(widths) == 1 and (not columns or widths == {columns}):
        return bare
    most = max(len(cells_of(rows[0][1], separator)) - columns, 0)
    ends = [line[len(kept) :].count(separator) for (_, line), (_, kept) in zip(rows, bare, strict=True)]
    return [(number, line.rsplit(separator, min(most, *ends))[0]) for number, line in rows]


def filled(line: str, separator: str | None, width: int, kept: Sequence[int], places: Sequence[int]) -> str:
    """A row with NaN in its empty cells, where x, y or z is one of them: no point, whatever else it lacks."""
    cells = [bare_of(cell) for cell in cells_of(line, separator)]
    if len(cells) != width or not any(cells[place].lower() in ("", "nan") for place in places[:width]):
        return line
    return (separator or " ").join((cell if at in kept else "") or "nan" for at, cell in enumerate(cells))


def first_value(rows: Sequence[tuple[int, str]], separator: str | None, column: int) -> str:
    """The first value of a column that is no empty cell, or the last that is."""
    value = ""
    for _, line in rows:
        value = bare_of("".join(cells_of(line, separator)[column : column + 1]))
        if value:
            break
    return value
