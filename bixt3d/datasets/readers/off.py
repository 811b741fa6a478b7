"""Meshes and clouds of OFF files: OFF, COFF, NOFF, STOFF, 4OFF, nOFF and their mixtures, text and binary."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.mesh import Array, Mesh, mesh_of_lists
from bixt3d.datasets.readers.text import lines_of, parse_table, unmarked

# texture coordinates, colours, normals, a fourth coordinate that divides the others, a number of dimensions
KEYWORD = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF(.*)|(c)?off(.*)", re.DOTALL)


class _Kind(NamedTuple):
    """What a vertex has beside x, y and z."""

    name: str
    texture: bool
    color: bool
    normal: bool
    fourth: bool
    dimensions: bool


def read_off(path: Path) -> Mesh:
    """Read vertices and faces with the colours and normals that the file's kind names.

    Raises:
        ValueError: The file is of another kind or damaged, or holds more or fewer lines than it announces.
    """
    content = unmarked(path.read_bytes())
    first = content.partition(b"\n")[0].decode("ascii", "replace")
    if re.fullmatch(r"\w*OFF\s+BINARY\s*", first):
        kind, _ = _kind_of(first)
        return _read_binary(content[len(first) + 1 :], kind)
    lines = [line for raw in lines_of(content) if (line := raw.partition("#")[0].strip())]
    kind, rest = _kind_of(lines[0] if lines else "")
    at, head = 1, rest.split()
    while len(head) < 2 + kind.dimensions and at < min(
        len(lines), 3
    ):  # the dimensions may have their own line
        head += lines[at].split()
        at += 1
    if kind.dimensions and head and head.pop(0) != "3":
        raise ValueError("expected points of 3 dimensions, got an nOFF file of others")
    if len(head) not in (2, 3) or not all(count.isdecimal() and len(count) < 16 for count in head):
        raise ValueError(f"it does not say how many vertices and faces it holds: {' '.join(head)[:40]!r}")
    vertices, faces = int(head[0]), int(head[1])
    if len(lines) - at != vertices + faces:
        raise ValueError(
            f"it announces {vertices} vertices and {faces} faces, and holds {len(lines) - at} lines of them"
        )
    if not vertices:
        raise ValueError("it holds no vertices")
    rows = lines[at : at + vertices]
    cloud = _vertices(parse_table(rows, "vertex"), kind, "." not in " ".join(rows[0].split()[3:]))
    return _faces(cloud, [line.split() for line in lines[at + vertices :]])


def _kind_of(line: str) -> tuple[_Kind, str]:
    """Read the keyword, and return what follows it, which may be the counts, even without a blank."""
    found = KEYWORD.match(line.strip())
    if found is None:
        raise ValueError(f"expected a first word OFF (or COFF, NOFF, STOFF, 4OFF, nOFF), got {line[:20]!r}")
    texture, color, normal, fourth, dimensions, rest, small, small_rest = found.groups()
    name = line.strip().split("OFF")[0] + "OFF"
    flags = (bool(each) for each in (texture, color or small, normal, fourth, dimensions))
    return _Kind(name, *flags), rest if small_rest is None else small_rest


def _vertices(table: Array, kind: _Kind, whole: bool) -> FileCloud:
    """Split rows into xyz, normals and colours, which are whole numbers up to 255 or fractions up to 1."""
    begin = 3 + kind.fourth
    color = begin + 3 * kind.normal
    end = color + 2 * kind.texture
    width = table.shape[1]
    if width < end + 3 * kind.color:
        raise ValueError(f"expected {end + 3 * kind.color} numbers a vertex of {kind.name}, got {width}")
    xyz, named = table[:, :3], {}
    if kind.fourth:
        if not table[:, 3].all():
            raise ValueError("expected a fourth coordinate other than 0, by which 4OFF divides x, y and z")
        xyz = xyz / table[:, 3:4]
    if kind.normal:
        named["normal"] = table[:, begin:color]
    if kind.color:
        named["color"] = _colors(table[:, color : color + min(4, width - end)], whole)
        return FileCloud(xyz, named)
    return FileCloud(xyz, named, table[:, end:] if width > end else None)


def _colors(values: Array, whole: bool) -> Array:
    fits = whole and values.size and values.min() >= 0 and values.max() <= 255
    return values.astype(np.uint8) if fits else values


def _faces(cloud: FileCloud, rows: list[list[str]]) -> Mesh:
    sizes = np.array([int(row[0]) if row[0].isdecimal() else -1 for row in rows], dtype=np.int64)  # (F,)
    held = np.array([len(row) - 1 for row in rows], dtype=np.int64)
    wrong = (sizes < 0) | (sizes > held)
    if wrong.any():
        bad = int(wrong.argmax())
        raise ValueError(f"face {bad + 1} announces {rows[bad][0]!r:.20} corners, and names {held[bad]}")
    lists = []
    for number, row in enumerate(rows, 1):
        corners = row[1 : int(row[0]) + 1]
        if not all(corner.isdecimal() for corner in corners):
            raise ValueError(f"face {number}: expected whole numbers, got {' '.join(corners)[:60]!r}")
        lists.append([int(corner) for corner in corners])
    mesh = mesh_of_lists(cloud, lists)
    if set((held - sizes).tolist()) in ({3}, {4}):
        beside = [row[int(row[0]) + 1 :] for row in rows]
        colors = parse_table([" ".join(words) for words in beside], "colour of face")
        mesh.faces["color"] = _colors(colors, "." not in "".join(beside[0]))
    return mesh


def _read_binary(content: bytes, kind: _Kind) -> Mesh:
    """Big-endian counts, float32 vertices, and faces: corners by their number, then a colour by its own."""
    words = np.frombuffer(content, ">i4", len(content) // 4)
    head = words[: 3 + kind.dimensions]
    if len(head) < 3 + kind.dimensions or (kind.dimensions and head[0] != 3):
        raise ValueError("expected points of 3 dimensions, and how many vertices and faces it holds")
    vertices, faces = int(head[-3]), int(head[-2])
    width = 3 + kind.fourth + 3 * kind.normal + 4 * kind.color + 2 * kind.texture
    at = len(head) + vertices * width
    if not 0 < vertices or faces < 0 or at + 2 * faces > len(words):
        raise ValueError(f"it announces {vertices} vertices and {faces} faces, and has {len(content)} bytes")
    table = words[len(head) : at].view(">f4").reshape(vertices, width).astype(np.float64)
    lists = []
    for face in range(faces):
        size = int(words[at]) if at < len(words) else -1
        after = at + 1 + size
        if size < 0 or after >= len(words) or not 0 <= words[after] <= len(words) - after - 1:
            raise ValueError(f"face {face + 1} ends behind the file's last byte")
        lists.append(words[at + 1 : after].tolist())
        at = after + 1 + int(words[after])
    if at != len(words):
        raise ValueError(f"it announces {faces} faces, and holds more behind them")
    return mesh_of_lists(_vertices(table, kind, False), lists)
