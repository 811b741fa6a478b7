"""Clouds in text files: one point a line, with or without names of the columns; errors name the line."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.files import WHERE
from bixt3d.datasets.readers.cloud import POINTS, FileCloud

UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # marks at the beginning of such text
COMMENTS = ("#", "//", "%", "!")
QUOTED = re.compile(r'"[^"]*"')
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
DECIMAL_COMMA = re.compile(r"[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?")
MOLECULE = re.compile(rf"[A-Z][a-z]?(?:\s+{NUMBER}){{3}}")  # an element's name and its place
SCANNER = {4: ("intensity",), 6: ("r", "g", "b"), 7: ("intensity", "r", "g", "b")}  # of PTS, by columns


def read_text(path: Path) -> FileCloud:
    """Read a cloud of one point a line: blanks, tabs, commas or semicolons stand between its numbers.

    Comments are passed over. A line of names with x, y and z, a comment or not, names the columns, of which
    those that hold text or nothing are left out, as are separators that end every line. A first line of one
    whole number is the count of points, as in PTS.

    Raises:
        ValueError: A line is no point.
    """
    whole = lines_of(path.read_bytes())
    rows = [(at, line) for at, raw in enumerate(whole, 1) if (line := raw.strip())]
    names: list[str] = []
    by_tabs = False  # the names
    stated, count, begin = 0, None, -1
    for at, line in rows:
        begin += 1
        words = _words(line)
        if any(map(_is_number, [*words, *line.split("\t")])) and not line.startswith(COMMENTS):
            if len(words) > 1 or count is not None or not words[0].isdecimal():
                break
            count = int(words[0])
        elif any(set(points) <= {word.lower() for word in words} for points in POINTS[-3:]):
            names, stated = words, 0 if line.startswith(COMMENTS) else at
            by_tabs = _separator(line) == "\t"
        elif not line.startswith(COMMENTS):
            raise ValueError(
                _other_kind(rows) or f"line {at}: expected numbers, or names such as x,y,z, got {line[:60]!r}"
            )
    else:
        raise ValueError("expected lines of numbers, got none")
    at, first = rows[begin]
    data = [row for row in rows[begin:] if not row[1].startswith(COMMENTS)]
    separator = _separator(first)
    if by_tabs:  # a cell may be empty, the last one, too
        uncut = [(number, whole[number - 1].strip(" ")) for number, _ in data]
        uncut = _without_ends(uncut, "\t", len(names))
        by_tabs = len(_cells(uncut[0][1], "\t")) == len(names)
    if by_tabs:
        separator, data = "\t", uncut
    elif separator == "\t":
        separator = None  # tabs that only align are blanks
    elif separator and first.endswith(separator):
        data = _without_ends(data, separator, len(names))
    values = _cells(data[0][1], separator)
    if names and len(names) != len(values):
        if stated:
            raise ValueError(f"line {stated} names {len(names)} columns, and line {at} has {len(values)}")
        names = []  # a comment that is about something else
    kept = [
        column
        for column, value in enumerate(values)
        if not names or _is_number(_bare(value) or _first_value(data, separator, column))
    ]
    fault = _other_kind(data)
    if fault:
        raise ValueError(fault)
    lines, numbers = [line for _, line in data], [number for number, _ in data]
    every = len(kept) == len(values)  # then loadtxt itself counts them in each line
    table = parse_table(lines, "line", separator, None if every else kept, numbers, names)
    if count is not None and count != len(table):
        raise ValueError(f"it announces {count} points in its first line, and holds {len(table)}")
    if names:
        named = {names[column]: table[:, place] for place, column in reversed(list(enumerate(kept)))}
        return FileCloud.of_names(dict(reversed(named.items())))
    width = table.shape[1]
    if count is not None and path.suffix.lower() == ".pts" and width in SCANNER:
        colors = table[:, width - 3 :]
        if width == 4 or (colors.min() >= 0 and (colors == np.round(colors)).all()):
            return FileCloud(table[:, :3], dict(zip(SCANNER[width], table[:, 3:].T, strict=True)))
    return FileCloud.of_array(table, path)


def lines_of(content: bytes) -> list[str]:
    """Split text into lines, whatever ends them, without a mark of its encoding."""
    encoding = "utf-16" if content[:2] in UTF_16 else "utf-8-sig"
    text = content.decode(encoding, errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parse_table(
    rows: Sequence[str],
    what: str,
    separator: str | None = None,
    columns: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    names: Sequence[str] = (),
) -> NDArray[np.float64]:
    """Parse rows that hold as many numbers each, (N, C) float64.

    Args:
        rows: Lines of text, none empty.
        what: What errors call a row.
        separator: What stands between numbers; None means blanks.
        columns: The columns to take; None takes all.
        numbers: What errors count the rows by; None counts from 1.
        names: What errors call the columns; none if empty.

    Raises:
        ValueError: A row holds something else; the message says which.
    """
    width = len(_cells(rows[0], separator))

    def odd(row: str) -> bool:
        cells = _cells(row, separator)
        return len(cells) != width or cells[-1].endswith("\n")

    try:
        # loadtxt shifts the columns it takes in rows of another width, and joins lines over an open quote
        if (columns is not None or any('"' in row for row in rows)) and any(map(odd, rows)):
            raise ValueError("rows of different widths")
        return np.loadtxt(
            rows, np.float64, comments=None, delimiter=separator, ndmin=2, usecols=columns, quotechar='"'
        )
    except ValueError as error:
        numbered = zip(numbers or range(1, len(rows) + 1), rows, strict=True)
        found = _fault(numbered, what, width, separator, columns, np.inf, names)
        raise ValueError(found or str(error)) from None


def read_rows(
    path: Path,
    columns: int,
    limit: int | None = None,
    separator: str | None = None,
    dtype: type[np.floating[Any]] = np.float32,
    most: float | None = None,
) -> NDArray[Any]:
    """Read the first `limit` rows of a text file of numbers.

    Args:
        path: The file.
        columns: How many numbers each line must hold.
        limit: Rows to read; None reads all.
        separator: What stands between numbers; None means blanks.
        dtype: The type of the numbers.
        most: The largest number that is taken; None for any.

    Returns:
        (rows, columns) of that type, at most `limit` rows; empty lines do not count.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line read has another number of columns or anything but finite numbers, or there is
            none.
    """

    def fault(otherwise: object) -> ValueError:
        with path.open(encoding="utf-8", errors="replace") as file:
            rows = islice(((at, line) for at, line in enumerate(file, 1) if line.strip()), limit)
            largest = float(np.finfo(np.float32).max)
            found = _fault(rows, "line", columns, separator, None, largest)
        return ValueError(f"{path}, {found}" if found else f"{path}: {otherwise}")

    try:
        with warnings.catch_warnings():
            # on empty lines and empty files; the latter are refused below
            warnings.simplefilter("ignore", UserWarning)
            # the C parser behind loadtxt is the fastest reader in NumPy 2: 0.7 ms for 2048 rows of 6
            rows = np.loadtxt(
                path,
                dtype,
                comments=None,
                delimiter=separator,
                ndmin=2,
                max_rows=limit,
                encoding="utf-8",
            )
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {WHERE}.") from None
    except ValueError as error:
        raise fault(error) from None
    if rows.size == 0:
        raise ValueError(f"{path}: expected lines of {columns} numbers, got an empty file")
    finite = np.isfinite(rows).all() and float(np.abs(rows).max()) <= (most or np.inf)
    if rows.shape[1] != columns or not finite:
        raise fault(f"expected {columns} finite numbers a line")
    return rows


def _fault(
    rows: Iterable[tuple[int, str]],
    what: str,
    width: int,
    separator: str | None,
    columns: Sequence[int] | None,
    most: float,
    names: Sequence[str] = (),
) -> str | None:
    """Find the first row that is not so many numbers up to `most`, the slow way."""
    for number, line in rows:
        values = _cells(line.strip(" \r\n"), separator)
        if values[-1].endswith("\n"):
            return f"{what} {number}: expected a quote that ends in its line, got {line.strip()[:80]!r}"
        if len(values) != width:
            blank = {None: "blanks", ",": "commas", ";": "semicolons", "\t": "tabs"}.get(separator, separator)
            return (
                f"{what} {number}: expected {width} numbers with {blank} between, got {len(values)}: "
                f"{line.strip()[:80]!r}"
            )
        for column in range(width) if columns is None else columns:
            value = values[column].strip()
            bare = _bare(value)
            if not bare:
                of = f" for {names[column]}" if names else ""
                return f"{what} {number}: expected a number{of}, got an empty cell"
            plain = '"' not in value and _is_number(value)
            if not (plain and (most == np.inf or abs(float(bare)) <= most)):  # no NaN
                return f"{what} {number}: expected finite numbers, got {value[:40]!r}"
    return None


def _without_ends(rows: list[tuple[int, str]], separator: str, columns: int) -> list[tuple[int, str]]:
    """Rows without the separators that end every one; as many columns as there are names stay, if any are."""
    bare = [(number, line.rstrip(separator + " \t")) for number, line in rows]
    widths = {len(_cells(line, separator)) for _, line in bare}
    if len(widths) == 1 and (not columns or widths == {columns}):
        return bare
    most = max(len(_cells(rows[0][1], separator)) - columns, 0)
    ends = [line[len(kept) :].count(separator) for (_, line), (_, kept) in zip(rows, bare, strict=True)]
    return [(number, line.rsplit(separator, min(most, *ends))[0]) for number, line in rows]


def _first_value(rows: Sequence[tuple[int, str]], separator: str | None, column: int) -> str:
    """The first value of a column that is no empty cell, or the last that is."""
    value = ""
    for _, line in rows:
        value = _bare("".join(_cells(line, separator)[column : column + 1]))
        if value:
            break
    return value


def _words(line: str) -> list[str]:
    """The names or numbers of a line, without marks of a comment, quotes and units in brackets."""
    text = line.lstrip("#/%! \t")
    words = _cells(text, _separator(text))
    return [re.sub(r"[\[(].*[\])]", "", word).strip(' "\n') for word in words] or [""]


def _separator(line: str) -> str | None:
    """What stands between the cells of a line, beside what is in quotes; None means blanks."""
    text = QUOTED.sub("", line.strip())
    return next((mark for mark in (";", ",", "\t") if mark in text), None)


def _cells(line: str, separator: str | None) -> list[str]:
    """The cells of a row, without their quotes; one whose quote stays open ends with a line break."""
    if '"' not in line:
        return line.split(separator)
    text = line if separator else " ".join(line.split())
    try:
        return next(csv.reader([text, "\n"], delimiter=separator or " "))
    except csv.Error:  # a cell of more characters than csv takes
        return line.split(separator)


def _bare(word: str) -> str:
    """A cell without blanks and quotes around it."""
    return word.strip(' \t"')


def _is_number(word: str) -> bool:
    try:
        float(_bare(word))
    except ValueError:
        return False
    return "_" not in word


def _other_kind(rows: Sequence[tuple[int, str]]) -> str | None:
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
    return None
