"""Labelled clouds as PLY files, which every viewer of meshes opens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.visualize.scene import LabelledCloud


def write_ply(cloud: LabelledCloud, path: str | Path, mode: str = "prediction") -> Path:
    """Write a cloud in its own coordinates, coloured as in every view, with each point's part and confidence.

    Args:
        cloud: The cloud.
        path: Where to write; missing folders are made. Binary PLY: x, y, z (double), red, green, blue
            (uchar), and where they are known part (int) and confidence (float).
        mode: What the colours show, one of ``cloud.modes``.

    Returns:
        The path written.

    Raises:
        ValueError: For a mode that the cloud does not have.
    """
    colors = np.round(255 * cloud.colors(mode)).astype(np.uint8)  # (N, 3)
    columns: list[tuple[str, str, str, Any]] = [
        *(("xyz"[axis], "<f8", "double", cloud.points[:, axis]) for axis in range(3)),
        *(((("red", "green", "blue")[channel]), "u1", "uchar", colors[:, channel]) for channel in range(3)),
    ]
    parts = cloud.truth if mode == "truth" else cloud.prediction
    if parts is not None:
        columns.append(("part", "<i4", "int", parts))
    if cloud.confidence is not None:
        columns.append(("confidence", "<f4", "float", cloud.confidence))
    table = np.empty(len(cloud.points), dtype=[(name, dtype) for name, dtype, _, _ in columns])
    for name, _, _, values in columns:
        table[name] = values
    header = [
        *("ply", "format binary_little_endian 1.0"),
        *(f"comment part {part} {cloud.names[part]}" for part in sorted(cloud.ids)),
        f"element vertex {len(table)}",
        *(f"property {kind} {name}" for name, _, kind, _ in columns),
        "end_header",
    ]
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line.replace("\n", " ") for line in header) + "\n"
    path.write_bytes(text.encode("ascii", errors="replace") + table.tobytes())
    return path


def ply_names(files: Sequence[str | Path]) -> list[str]:
    """Return a name for the labelled cloud of each file, none twice: ``chair.off`` -> ``chair_parts.ply``."""
    names: list[str] = []
    for file in files:
        base, number = f"{Path(file).stem}_parts", 1
        while (name := f"{base}{'' if number == 1 else f'_{number}'}.ply") in names:
            number += 1
        names.append(name)
    return names
