"""Clouds of LAS and LAZ files, the format of aerial and mobile laser scans; laspy reads them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.limits import check_unpacked

INSTALL = 'LAS and LAZ files need laspy: pip install "bixt3d[las]"'
RECORD = 54  # bytes of a record's head, between the header and the points
PACKED = 400  # how many times its size a .laz file may unpack to
COLORS = ("red", "green", "blue")


def read_las(path: Path) -> FileCloud:
    """Read scaled coordinates, and all that the file says of each point by its name.

    Colours are left out where all are 0, as writers leave them that know none; those of 8 bits stay such.

    Raises:
        ImportError: laspy is not installed.
        ValueError: The file is damaged, or announces more points than it holds.
    """
    with open_las(path) as file:
        points = file.read()
        if len(points.points) != file.header.point_count:
            raise ValueError(f"it announces {file.header.point_count} points, and holds {len(points.points)}")
    return cloud_of(points, largest_color(points))


@contextmanager
def open_las(path: Path, read_evlrs: bool = False) -> Iterator[Any]:
    """Open a file as laspy's reader, checked so far that what it announces is there.

    Raises:
        ImportError: laspy is not installed.
        ValueError: The file is damaged, which may turn out while its points are read.
    """
    try:
        import laspy
    except ImportError:
        raise ImportError(f"{path}: {INSTALL}") from None
    with path.open("rb") as head:
        fields = head.read(104)
    if fields[:4] != b"LASF" or len(fields) < 104:
        raise ValueError("expected a first word LASF")
    _, begin, records = struct.unpack("<HII", fields[94:])
    if RECORD * records > begin:  # laspy would look for each of them
        raise ValueError(f"it announces {records} records in the {begin} bytes before its points")
    try:
        # the backend of many threads would take memory for what a damaged table of chunks announces
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs, read_evlrs=read_evlrs) as file:
            _check_size(path, file.header)
            yield file
    except laspy.LaspyException as error:
        raise ValueError(f"laspy cannot read it: {error}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # by which lazrs ends on damage; it is no Exception
            raise
        raise ValueError("its points cannot be unpacked: damaged, or of an early LASzip") from None


def largest_color(points: Any) -> int:
    """Return the largest of a file's, or a piece's, colours; 0 where it has none."""
    held = set(COLORS) <= set(points.point_format.dimension_names) and len(points)
    return max(int(np.asarray(points[name]).max()) for name in COLORS) if held else 0


def cloud_of(points: Any, largest: int) -> FileCloud:
    """Return laspy's points as a cloud; ``largest`` is the largest of the file's colours."""
    xyz = np.stack([np.asarray(points[axis], dtype=np.float64) for axis in "xyz"], axis=1)  # (N, 3)
    names = [name for name in points.point_format.dimension_names if name not in ("X", "Y", "Z")]
    named = {name: np.asarray(points[name]) for name in names}
    if set(COLORS) <= set(named):
        for name in COLORS:
            if largest <= 255:
                named[name] = named[name].astype(np.uint8)
        if not largest:
            named = {name: values for name, values in named.items() if name not in COLORS}
    return FileCloud(xyz, named)


def _check_size(path: Path, header: Any) -> None:
    """Raise ValueError for a header that announces more points than the file can hold."""
    size = header.point_count * header.point_format.size
    held = path.stat().st_size - header.offset_to_point_data
    if header.point_count == 0:
        raise ValueError("it holds no points")
    if header.are_points_compressed:
        check_unpacked(size, held)
        if size > PACKED * held:  # lazrs would make points of nothing for minutes
            raise ValueError(f"it announces {header.point_count} points, and has {held} bytes for them")
        _check_chunks(path, header.offset_to_point_data, header.point_count)
    elif size > held:
        raise ValueError(f"it announces {header.point_count} points of {size} bytes, and has {held} bytes")


def _check_chunks(path: Path, begin: int, points: int) -> None:
    """Raise ValueError for a table of more chunks than points, for which lazrs would take memory."""
    with path.open("rb") as file:
        file.seek(begin)
        (table,) = struct.unpack("<q", file.read(8))
        if table == -1:  # as it was not known when the file was begun, it is said at the end
            file.seek(-8, 2)
            (table,) = struct.unpack("<q", file.read(8))
        if not begin < table <= path.stat().st_size - 8:
            raise ValueError(f"its table of chunks is said to be at byte {table}")
        file.seek(table)
        _, chunks = struct.unpack("<II", file.read(8))
    if chunks > points + 1:
        raise ValueError(f"it announces {chunks} chunks of {points} points")
