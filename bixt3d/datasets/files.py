"""Finds data set folders and reads their text files; errors name the file, and the line where they can."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WHERE = "data/README.md says which files belong there and where to get them"


def find_folder(root: str | os.PathLike[str], name: str, marker: str) -> Path:
    """Finds the data set folder `name` in `root`; `root` may also be that folder itself, under any name.

    Args:
        root: The data folder or the data set's own folder.
        name: The data set's folder name.
        marker: A file by which the data set's own folder is known.

    Raises:
        FileNotFoundError: Neither is there.
    """
    base = Path(root).expanduser().absolute()
    if (base / name).is_dir():
        return base / name
    if base.is_dir() and (base.name == name or (base / marker).is_file()):
        return base
    missing = "" if base.is_dir() else f" {base} is not a folder."
    raise FileNotFoundError(
        f"no data set {name}: expected the folder {base / name}, or {base} itself with {marker} in it; "
        f"{WHERE}.{missing}"
    )


def find_data(folder: Path, name: str, marker: str) -> Path:
    """Finds a data set's own folder at any depth of a folder: the one that holds its marker.

    Where several do it is one of that name, else the outermost.

    Raises:
        ValueError: None does.
    """
    found = [path.parent for path in folder.rglob(marker) if path.is_file()]
    if not found:
        names = sorted(path.name for path in folder.iterdir())
        holds = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "") or "nothing"
        raise ValueError(f"expected {name}, known by its {marker}, got a folder with {holds}")
    return min(found, key=lambda path: (path.name != name, len(path.parts), path))


def require_files(files: Iterable[Path], listing: Path) -> None:
    """Checks that the files named in `listing` are there.

    Raises:
        FileNotFoundError: At least one is missing.
    """
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is missing, one of {len(missing)} that {listing} names and that are not there. "
            f"Unpack the data set again; {WHERE}."
        )


def size_of(path: Path) -> int:
    """Returns the bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def megabytes(size: float) -> str:
    """Writes a number of bytes as whole megabytes, upwards."""
    return f"{-int(-size // 1_000_000):,} MB"


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a small text file, stripped, without the empty ones.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not text, holds no lines, or holds one twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {WHERE}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected a text file, came other bytes ({error.reason} at {error.start})"
        ) from None
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path}: expected one name per line, came an empty file")
    line, count = Counter(lines).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{path}: expected each line once, came {line!r} {count} times")
    return lines


def read_rows(
    path: Path,
    columns: int,
    limit: int | None = None,
    separator: str | None = None,
    dtype: type[np.floating[Any]] = np.float32,
    most: float | None = None,
) -> NDArray[Any]:
    """Reads the first `limit` rows of a text file of numbers.

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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # on empty lines and empty files; the latter is handled below
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
        raise ValueError(_fault(path, columns, limit, separator) or f"{path}: {error}") from None
    if rows.size == 0:
        raise ValueError(f"{path}: expected lines of {columns} numbers, came an empty file")
    finite = np.isfinite(rows).all() and float(np.abs(rows).max()) <= (most or np.inf)
    if rows.shape[1] != columns or not finite:
        raise ValueError(
            _fault(path, columns, limit, separator) or f"{path}: expected {columns} finite numbers a line"
        )
    return rows


def _fault(path: Path, columns: int, limit: int | None, separator: str | None) -> str | None:
    """Finds the first bad line the slow way."""
    rows = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if rows == limit:
                break
            rows += 1
            values = line.strip().split(separator)
            if len(values) != columns:
                shown = line.strip()[:80]
                return f"{path}, line {number}: expected {columns} numbers, came {len(values)}: {shown!r}"
            for value in values:
                try:
                    finite = abs(float(value)) <= float(np.finfo(np.float32).max)  # False for NaN
                except ValueError:
                    finite = False
                if not finite:
                    return f"{path}, line {number}: expected finite numbers, came {value[:40]!r}"
    return None
