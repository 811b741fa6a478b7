"""Compares what a mesh file announces with what it holds, before memory is taken for it."""

from __future__ import annotations

import io
import json
import re
from itertools import islice
from typing import NamedTuple

from bixt3d.datasets.readers.limits import check_unpacked

LONGEST_HEADER = 1 << 16  # bytes of a PLY file's
DEEPEST = 100  # nodes of a GLB file inside each other; what trimesh takes for them grows with the square


def check_mesh(content: bytes, suffix: str) -> None:
    """Holds a mesh's header against the rest of the file.

    Raises:
        ValueError: It announces other than it holds, or more than its size can stand for.
    """
    if suffix == ".off":
        _check_off(content)
    elif suffix == ".ply":
        _check_ply(content)
    elif suffix == ".glb":
        _check_glb(content)


def check_loaded(content: bytes, suffix: str, faces: int) -> None:
    """Holds what was read of a mesh against what its file announces, where `trimesh` lets less pass.

    Raises:
        ValueError: Faces are missing.
    """
    if suffix == ".ply" and faces == 0:
        announced = sum(element.number for element in _ply_elements(content)[1] if element.name == "face")
        if announced:
            raise ValueError(f"it announces {announced} faces, and ends before them")
    if suffix == ".stl" and content[:5].lower() == b"solid" and len(content) != 84 + 50 * faces:
        announced = len(re.findall(rb"^\s*facet\b", content, re.IGNORECASE | re.MULTILINE))
        if announced != faces:
            raise ValueError(f"it begins {announced} facets, of which {faces} are whole")


def _check_off(content: bytes) -> None:
    text = content.decode("utf-8", errors="replace").upper()
    lines = [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
    head = lines[0].removeprefix("C").removeprefix("OFF").split() if lines else []
    start = 1 if head else 2
    counts = head or (lines[1].split() if len(lines) > 1 else [])
    if len(counts) < 2:
        raise ValueError("it does not say how many vertices and faces it holds")
    vertices, faces = int(counts[0]), int(counts[1])
    if min(vertices, faces) < 0 or len(lines) - start != vertices + faces:
        raise ValueError(
            f"it announces {vertices} vertices and {faces} faces, and holds {len(lines) - start} lines"
        )
    for line in lines[start + vertices :]:
        corners, *listed = line.split()
        if int(corners) > len(listed):
            raise ValueError(f"a face announces {corners} corners, and names {len(listed)}")


class Element(NamedTuple):
    """What a PLY file's header says of one kind of its elements; `lists` tells which properties are lists."""

    name: str
    number: int
    lists: list[bool]


def _ply_elements(content: bytes) -> tuple[int, list[Element]]:
    """Returns where a PLY file's header ends, and its elements."""
    end = re.search(rb"^\s*end_header[ \t\r]*\n", content[:LONGEST_HEADER], re.MULTILINE)
    if end is None:
        raise ValueError("its header has no end")
    elements: list[Element] = []
    for line in content[: end.start()].decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "element":
            elements.append(Element(words[1], int(words[2]), []))
        elif len(words) > 2 and words[0] == "property" and elements:
            elements[-1].lists.append(words[1] == "list")
    return end.end(), elements


def _check_ply(content: bytes) -> None:
    start, elements = _ply_elements(content)
    announced = sum(element.number for element in elements)
    if min((element.number for element in elements), default=0) < 0 or announced > len(content) - start:
        raise ValueError(f"it announces {announced} elements, and has {len(content) - start} bytes for them")
    if not re.search(rb"^\s*format\s+ascii", content[:start], re.MULTILINE):
        return
    lines = [line.split() for line in io.BytesIO(content[start:]) if line.strip()]
    if len(lines) != announced:
        raise ValueError(f"it announces {announced} elements, and holds {len(lines)} lines of them")
    rows = iter(lines)
    for element in elements:
        for words in islice(rows, element.number):
            needed = 0
            for is_list in element.lists:
                needed += 1 + (int(words[needed]) if is_list and needed < len(words) else 0)
            if len(words) < needed:
                raise ValueError(f"a line of its {element.name} has {len(words)} numbers and needs {needed}")


def _check_glb(content: bytes) -> None:
    """Adds up what is copied: accessors, what primitives take of them, and what nodes place of those."""
    tree = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    for buffer in tree.get("buffers", []):
        if not str(buffer.get("uri", "data:")).startswith("data:"):
            raise ValueError(f"its data are in another file, {buffer['uri']!r:.80}, which is not read")
    counts = [accessor["count"] for accessor in tree.get("accessors", [])]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("an accessor's count is no whole number")
    meshes = [
        sum(
            counts[primitive["attributes"]["POSITION"]]
            + (counts[primitive["indices"]] if "indices" in primitive else 0)
            for primitive in mesh["primitives"]
        )
        for mesh in tree.get("meshes", [])
    ]
    nodes = tree.get("nodes", [])
    placed = sum(meshes[node["mesh"]] for node in nodes if "mesh" in node)
    # float64 corners, whole numbers, and their copies in one mesh
    check_unpacked(64 * (sum(counts) + sum(meshes) + placed), len(content))
    level, depth = {child for node in nodes for child in node.get("children", [])}, 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"its nodes lie more than {DEEPEST} deep inside each other")
        level = {child for number in level for child in nodes[number].get("children", [])}
