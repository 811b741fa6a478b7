"""Clouds of LAS and LAZ files, the format of aerial and mobile laser scans; laspy reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.limits import check_unpacked

INSTALL = 'LAS and LAZ files need laspy: pip install "bixt3d[las]"'
COLORS = ("red", "green", "blue")


def read_las(path: Path) -> FileCloud:
    """Read scaled coordinates, and all that the file says of each point by its name.

    Colours are left out where all are 0, as writers leave them that know none; those of 8 bits stay such.

    Raises:
        ImportError: laspy is not installed.
        ValueError: The file is damaged, or announces more points than it holds.
    """
    try:
        import laspy
    except ImportError:
        raise ImportError(f"{path}: {INSTALL}") from None
    with laspy.open(path) as file:
        header = file.header
        size = header.point_count * header.point_format.size
        held = path.stat().st_size - header.offset_to_point_data
        if header.point_count == 0:
            raise ValueError("it holds no points")
        if header.are_points_compressed:
            check_unpacked(size, held)
        elif size > held:
            raise ValueError(
                f"it announces {header.point_count} points of {size} bytes, and has {held} bytes"
            )
        points = file.read()
    if len(points.points) != header.point_count:
        raise ValueError(f"it announces {header.point_count} points, and holds {len(points.points)}")
    xyz = np.stack([np.asarray(points[axis], dtype=np.float64) for axis in "xyz"], axis=1)  # (N, 3)
    names = [name for name in points.point_format.dimension_names if name not in ("X", "Y", "Z")]
    named = {name: np.asarray(points[name]) for name in names}
    if set(COLORS) <= set(named):
        largest = max(int(named[name].max()) for name in COLORS)
        for name in COLORS:
            if largest <= 255:
                named[name] = named[name].astype(np.uint8)
        if not largest:
            named = {name: values for name, values in named.items() if name not in COLORS}
    return FileCloud(xyz, named)
