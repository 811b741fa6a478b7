"""Meshes and clouds of OBJ files: vertices with colours, faces of many corners, normals of clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.mesh import Array, Mesh, mesh_of_lists
from bixt3d.datasets.readers.text import unmarked

FREE_FORM = {b"curv", b"curv2", b"surf"}


def read_obj(path: Path) -> Mesh:
    """Read the vertices and faces of all objects and groups; materials, textures and lines are passed over.

    Raises:
        ValueError: A line is damaged, a face names a vertex that is missing, or there are no vertices.
    """
    content = unmarked(path.read_bytes())
    if b"\\" in content:  # a line goes on in the next
        content = content.replace(b"\\\r\n", b"  ").replace(b"\\\n", b" ")
    vertices: list[list[bytes]] = []
    normals: list[list[bytes]] = []
    faces: list[list[int]] = []
    free_form = False
    for number, line in enumerate(content.splitlines(), 1):
        words = (line.partition(b"#")[0] if b"#" in line else line).split()
        if not words:
            continue
        kind = words[0]
        if kind == b"v":
            if len(words) < 4:
                raise ValueError(f"line {number}: expected 3 numbers of a vertex, got {len(words) - 1}")
            vertices.append(words[1:])
        elif kind == b"f" or kind == b"fo":
            faces.append([_corner(word, len(vertices), number) for word in words[1:]])
        elif kind == b"vn":
            normals.append(words[1:])
        free_form = free_form or kind in FREE_FORM
    if not vertices:
        raise ValueError("it holds no vertices: expected lines such as v 0 0 1")
    if free_form and not faces:
        raise ValueError(
            "it holds curves or surfaces of free form, which are not read: export it as polygons"
        )
    cloud = FileCloud(_numbers([words[:3] for words in vertices], "vertex"))
    if min(map(len, vertices)) >= 6:
        cloud.named["color"] = _numbers([words[3:6] for words in vertices], "colour of vertex")
    if len(normals) == len(vertices) and not faces:
        cloud.named["normal"] = _numbers([words[:3] for words in normals], "normal")
    return mesh_of_lists(cloud, [face for face in faces if len(face) > 2])


def _corner(word: bytes, before: int, number: int) -> int:
    """The vertex of a corner such as 3/1/2, counted from 0; below 0 it counts back from the last so far."""
    try:
        index = int(word.partition(b"/")[0])
    except ValueError:
        index = 0
    if index == 0 or index < -before:
        shown = word.decode("utf-8", "replace")[:40]
        raise ValueError(
            f"line {number}: expected a vertex of a face, counted from 1 or back from -1, got {shown!r}"
        )
    return index - 1 if index > 0 else before + index


def _numbers(rows: list[list[bytes]], what: str) -> Array:
    try:
        return np.array([[float(word) for word in row] for row in rows], dtype=np.float64)
    except ValueError:
        for place, row in enumerate(rows, 1):
            shown = b" ".join(row).decode("utf-8", "replace")[:60]
            try:
                list(map(float, row))
            except ValueError:
                raise ValueError(f"{what} {place}: expected numbers, got {shown!r}") from None
        raise ValueError(f"{what}: expected 3 numbers each") from None
