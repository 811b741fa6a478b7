"""Clouds in text files: one point a line, with or without names of the columns; errors name the line."""

from __future__ import annotations

import codecs
import logging
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.files import WHERE
from bixt3d.datasets.readers.cells import (
    GROUPED,
    Head,
    bare_of,
    cells_of,
    columns_before,
    filled,
    first_value,
    head_of,
    hold_xyz,
    is_cut,
    is_number,
    listed_names,
    mentions_xyz,
    other_kind,
    separator_of,
    told_grouped,
    without_ends,
    words_of,
)
from bixt3d.datasets.readers.cloud import AS_TEXT, FileCloud
from bixt3d.datasets.readers.names import LABEL_NAMES, POINTS

UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # marks at the beginning of such text
# What bytes that are no UTF-8 mean in Windows, by the marks that Python decodes them to; it leaves five out
WINDOWS = {
    0xDC00 + byte: bytes([byte]).decode("latin-1" if byte in b"\x81\x8d\x8f\x90\x9d" else "cp1252")
    for byte in range(0x80, 0x100)
}
COMMENTS = ("#", "//", "%", "!")
SCANNER = {4: ("intensity",), 6: ("r", "g", "b"), 7: ("intensity", "r", "g", "b")}  # of PTS, by columns

logger = logging.getLogger(__name__)


def read_text(path: Path) -> FileCloud:
    """Read a cloud of one point a line: blanks, tabs, commas or semicolons stand between its numbers.

    Comments are passed over. A line of names with x, y and z, a comment or not, names the columns, of which
    those that hold text, with a remark, or nothing are left out, but for labels that are words, as are
    separators that end every line. A comment with words that no list of names has is a remark. A first line
    of one whole number is the count of points, as in PTS; one that counts the columns from 0, as pandas
    writes it, is left out. Cells of x, y or z that are empty are NaN. Text that is no UTF-8 is in the code
    of Windows. What was left out or is in doubt is logged.

    Raises:
        ValueError: A line is no point.
    """
    notes: list[str] = []
    cloud = _read(path, notes)
    for note in notes:
        logger.warning("%s: %s", path, note)
    return cloud


def _read(path: Path, notes: list[str]) -> FileCloud:
    content, is_utf_8 = _decoded(path.read_bytes())
    whole = content.split("\n")
    if not is_utf_8:
        notes.append("it is no UTF-8 and is read as Windows-1252; save it as UTF-8 if its words look wrong")
    rows = [(at, line) for at, raw in enumerate(whole, 1) if (line := raw.strip())]
    heads: list[Head] = []
    remark: tuple[int, str] | None = None  # the last comment with x, y and z
    blank: list[tuple[int, str]] = []  # rows of empty cells before all others
    count, begin = None, -1
    for at, line in rows:
        begin += 1
        comment = line.startswith(COMMENTS)
        words = listed_names(line) if comment else words_of(line)
        if comment and mentions_xyz(line):
            remark = at, line
        if not comment and any(map(is_number, [*words, *line.split("\t")])):
            cells = bool(heads) and heads[-1].tabs and "\t" in whole[at - 1]
            if cells or len(words) > 1 or count is not None or not words[0].isdecimal():
                break
            count = int(words[0])
        elif hold_xyz(words):
            heads.append(Head(at, words, separator_of(line) == "\t", comment))
            blank = []
        elif len(words) > 1 and not line.strip(',;" \t'):
            blank.append((at, line))
        elif not comment:
            raise ValueError(
                other_kind(rows) or f"line {at}: expected numbers, or names such as x,y,z, got {line[:60]!r}"
            )
    else:
        raise ValueError("expected lines of numbers, got none")
    at, first = rows[begin]
    data = [row for row in (*blank, *rows[begin:]) if not row[1].startswith(COMMENTS)]
    if fault := other_kind(data):
        raise ValueError(fault)
    separator = separator_of(first)
    head = head_of(heads, whole[at - 1].strip(" "), separator)
    names = head.names if head else []
    by_tabs = head is not None and head.tabs
    if by_tabs:  # a cell may be empty, the last one, too
        uncut = [(number, whole[number - 1].strip(" ")) for number, _ in data]
        uncut = without_ends(uncut, "\t", len(names))
        by_tabs = len(cells_of(uncut[0][1], "\t")) == len(names)
    if by_tabs:
        separator, data = "\t", uncut
    elif separator == "\t":
        separator = None  # tabs that only align are blanks
    elif separator and first.endswith(separator):
        data = without_ends(data, separator, len(names))
    values = cells_of(data[0][1], separator)
    if head and len(names) != len(values):
        if not head.comment:
            raise ValueError(
                f"line {head.at} names {len(names)} columns, and line {data[0][0]} has {len(values)}"
            )
        names = []  # a comment that is about something else
    before = None  # columns before x, where pandas counts the others
    if not names and count is None and path.suffix.lower() in (".csv", ".txt"):
        before = columns_before(whole[data[0][0] - 1], [line for _, line in data[1:]], separator)
    if before is not None:
        beside = ", as is its first column, which has no number" if before else ""
        notes.append(f"line {data[0][0]} numbers the columns and is left out{beside}")
        data = data[1:]
        values = cells_of(data[0][1], separator)
    if remark and not names and len(values) > 3:
        notes.append(
            f"line {remark[0]} is taken for a remark, not for the names of the {len(values)} columns: "
            f"{remark[1][:60]!r}; if it is meant to name them, write a name for each, with commas between"
        )
    places = _places(names, before or 0)
    kept = [
        column
        for column, value in list(enumerate(values))[before:]
        if not names or column in places or is_number(bare_of(value) or first_value(data, separator, column))
    ]
    lines, numbers = [line for _, line in data], [number for number, _ in data]
    every = len(kept) == len(values)  # then loadtxt itself counts them in each line
    columns = None if every else kept
    try:
        table = parse_table(lines, "line", separator, columns, numbers, names)
    except ValueError:
        full = [filled(line, separator, len(values), kept, places) for line in lines]
        if full == lines:
            raise
        table = parse_table(full, "line", separator, columns, numbers, names)
    if count is not None and count != len(table):
        raise ValueError(f"it announces {count} points in its first line, and holds {len(table)}")
    if names:
        named = {names[column]: table[:, place] for place, column in reversed(list(enumerate(kept)))}
        text = {at: first_value(data, separator, at) for at in range(len(names)) if at not in kept}
        remarks = {names[at]: AS_TEXT.format(value) for at, value in text.items() if value}
        for at, value in text.items():
            if value and names[at].lower() in LABEL_NAMES:
                named.setdefault(
                    names[at], np.array([bare_of(cells_of(line, separator)[at]) for line in lines])
                )
        return replace(FileCloud.of_names(dict(reversed(named.items()))), remarks=remarks)
    width = table.shape[1]
    if count is not None and path.suffix.lower() == ".pts" and width in SCANNER:
        colors = table[:, width - 3 :]
        if width == 4 or (colors.min() >= 0 and (colors == np.round(colors)).all()):
            return FileCloud(table[:, :3], dict(zip(SCANNER[width], table[:, 3:].T, strict=True)))
    return FileCloud.of_array(table, path)


def unmarked(content: bytes) -> bytes:
    """Return text without the mark of its encoding at its beginning; UTF-16 becomes UTF-8."""
    if content[:2] in UTF_16:
        return content.decode("utf-16", errors="replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def lines_of(content: bytes) -> list[str]:
    """Split text into lines, whatever ends them, without a mark of its encoding: UTF-8, or Windows' code."""
    return _decoded(content)[0].split("\n")


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
    width = len(cells_of(rows[0], separator))

    def odd(row: str) -> bool:
        cells = cells_of(row, separator)
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
        with path.open(encoding="utf-8-sig", errors="replace") as file:
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
                encoding="utf-8-sig",
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


def _decoded(content: bytes) -> tuple[str, bool]:
    """Text whose lines end in line breaks alone, and whether it is UTF-8."""
    content, is_utf_8 = unmarked(content), True
    try:
        text = content.decode()
    except UnicodeDecodeError:
        is_utf_8 = False
        text = content.decode(errors="surrogateescape")
        text = re.sub(r"(?<=\d)\udca0(?=\d)", "\ufffd", text)  # a blank in a number, which it would cut
        text = text.translate(WINDOWS)
    return text.replace("\r\n", "\n").replace("\r", "\n"), is_utf_8


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
        values = cells_of(line.strip(" \r\n"), separator)
        if values[-1].endswith("\n"):
            return f"{what} {number}: expected a quote that ends in its line, got {line.strip()[:80]!r}"
        if len(values) != width:
            if separator == "," and is_cut(line.strip()):
                return f"{what} {number}: {told_grouped(line)}"
            blank = {None: "blanks", ",": "commas", ";": "semicolons", "\t": "tabs"}.get(separator, separator)
            return (
                f"{what} {number}: expected {width} numbers with {blank} between, got {len(values)}: "
                f"{line.strip()[:80]!r}"
            )
        for column in range(width) if columns is None else columns:
            value = values[column].strip()
            bare = bare_of(value)
            if not bare:
                of = f" for {names[column]}" if names else ""
                return f"{what} {number}: expected a number{of}, got an empty cell"
            if GROUPED.fullmatch(bare):
                return f"{what} {number}: {told_grouped(value)}"
            plain = '"' not in value and is_number(value)
            if not (plain and (most == np.inf or abs(float(bare)) <= most)):  # no NaN
                return f"{what} {number}: expected finite numbers, got {value[:40]!r}"
    return None


def _places(names: Sequence[str], before: int) -> tuple[int, ...]:
    """The columns of x, y and z; without names the first three after so many others."""
    known = [name.lower() for name in names]
    found = (points for points in POINTS[-3:] if set(points) <= {*known})
    return tuple(known.index(name) for name in next(found, ())) or (before, before + 1, before + 2)
