"""Finds data set folders and the files that they list."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

WHERE = "data/README.md says which files belong there, `bixt3d list data` how to get them"


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


def stated_size(path: Path) -> str:
    """Writes the size of a file as ``under 1 MB``, or as whole megabytes, upwards."""
    size = size_of(path)
    return "under 1 MB" if size < 1_000_000 else megabytes(size)


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
        with path.open(encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; {WHERE}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected a text file, got other bytes ({error.reason} at {error.start})"
        ) from None
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path}: expected one name per line, got an empty file")
    line, count = Counter(lines).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{path}: expected each line once, got {line!r} {count} times")
    return lines
