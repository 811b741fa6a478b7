"""Meshes and clouds of PLY files: text and both byte orders, lists of any lengths, elements of any kind."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.mesh import Array, Mesh
from bixt3d.datasets.readers.text import lines_of, parse_table, unmarked

LONGEST_HEADER = 1 << 16  # bytes
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8", "int64": "i8", "uint64": "u8"},
}
CORNERS = ("vertex_indices", "vertex_index", "vertex_ids")


class _Property(NamedTuple):
    name: str
    type: str
    length: str  # type of a list's length; "" for a single value


@dataclass
class _Element:
    name: str
    number: int
    properties: list[_Property] = field(default_factory=list)


class _Lists(NamedTuple):
    """Lists of one property: the length of each, and their values one after another."""

    sizes: Array
    values: Array


_Table = dict[str, "Array | _Lists"]


def read_ply(path: Path) -> Mesh:
    """Read vertices with all of their properties, and faces or triangle strips with theirs.

    Raises:
        ValueError: The file is damaged, or announces other than it holds.
    """
    content = unmarked(path.read_bytes())
    order, start, elements = _read_header(content)
    announced = sum(element.number for element in elements)
    if announced > len(content) - start:
        raise ValueError(f"it announces {announced} elements, and has {len(content) - start} bytes for them")
    read = _read_text if order == "" else _read_binary
    tables = read(content, start, elements, order)
    vertices = {name: one for name, one in tables.get("vertex", {}).items() if not isinstance(one, _Lists)}
    if not any(element.name == "vertex" and element.number for element in elements):
        raise ValueError("it holds no vertices")
    cloud = FileCloud.of_names(vertices)
    for name in ("face", "faces", "tristrips"):
        table = tables.get(name, {})
        lists = {key: one for key, one in table.items() if isinstance(one, _Lists)}
        corners = next((lists[key] for key in CORNERS if key in lists), None)
        if corners is not None and len(corners.sizes):
            if name == "tristrips":
                return _of_strips(cloud, corners)
            held = {key: one for key, one in table.items() if not isinstance(one, _Lists)}
            return Mesh(cloud, corners.sizes, corners.values, held)
        if table and corners is None and any(element.name == name and element.number for element in elements):
            raise ValueError(f"its element {name} has no list {CORNERS[0]}, but {', '.join(table)}")
    return Mesh(cloud, np.zeros(0, np.int64), np.zeros(0, np.int64))


def _read_header(content: bytes) -> tuple[str, int, list[_Element]]:
    """Return the order of bytes ("" for text), where the header ends, and what it announces."""
    if content[:3] != b"ply" or content[3:4] not in (b"\n", b"\r", b" "):
        raise ValueError("expected a first line ply")
    end = re.search(rb"[\r\n]end_header[ \t]*(?:\r\n|\n|\r)", content[:LONGEST_HEADER])
    if end is None:
        raise ValueError("its header has no end")
    order, elements = None, list[_Element]()
    for line in lines_of(content[: end.start()])[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) > 1:
            orders = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
            order = orders.get(words[1])
            if order is None:
                raise ValueError(f"expected a format out of {', '.join(orders)}, got {words[1]}")
        elif words[0] == "element" and len(words) == 3 and words[2].isdecimal() and len(words[2]) < 19:
            elements.append(_Element(words[1], int(words[2])))
        elif (
            words[0] == "property"
            and elements
            and len(words) in (3, 5)
            and (words[1] == "list") == (len(words) == 5)
        ):
            unknown = [word for word in words[1 if len(words) == 3 else 2 : -1] if word not in TYPES]
            if unknown:
                raise ValueError(f"its property {words[-1]} is of an unknown type, {unknown[0]}")
            count = TYPES[words[2]] if len(words) == 5 else ""
            if count[:1] == "f":
                raise ValueError(f"its property {words[-1]} is a list whose lengths are no whole numbers")
            elements[-1].properties.append(_Property(words[-1], TYPES[words[-2]], count))
        else:
            raise ValueError(f"its header has a line {line.strip()[:60]!r}, which means nothing")
    if order is None:
        raise ValueError("its header has no line format")
    return order, end.end(), elements


def _read_text(content: bytes, start: int, elements: list[_Element], order: str) -> dict[str, _Table]:
    """Read one element a line."""
    lines = [line for line in lines_of(content[start:]) if line.strip()]
    announced = sum(element.number for element in elements)
    if len(lines) != announced:
        raise ValueError(f"it announces {announced} elements, and holds {len(lines)} lines of them")
    tables, at = {}, 0
    for element in elements:
        rows = lines[at : at + element.number]
        at += element.number
        if not rows or not element.properties:
            continue
        if any(one.length for one in element.properties):
            tables[element.name] = _split_lists(element, rows)
            continue
        table = parse_table(rows, element.name)
        if table.shape[1] != len(element.properties):
            needed = len(element.properties)
            raise ValueError(f"expected {needed} numbers a line of {element.name}, got {table.shape[1]}")
        tables[element.name] = {
            one.name: _typed(column, one.type)
            for one, column in zip(element.properties, table.T, strict=True)
        }
    return tables


def _split_lists(element: _Element, rows: list[str]) -> _Table:
    """Split lines into properties, of which some begin with how many values they have."""
    parts: dict[str, list[list[str]]] = {one.name: [] for one in element.properties}
    longer = False
    for number, row in enumerate(rows, 1):
        words, at = row.split(), 0
        for one in element.properties:
            size = 1
            if one.length:
                size = int(words[at]) if at < len(words) and words[at].isdecimal() else -1
                at += 1
            if size < 0 or at + size > len(words):
                raise ValueError(
                    f"{element.name} {number}: expected more numbers in its line, got {row.strip()[:60]!r}"
                )
            parts[one.name].append(words[at : at + size])
            at += size
        longer = longer or at < len(words)
    table: _Table = {}
    for one in element.properties:
        if longer and not one.length:
            continue  # there are more numbers than announced, so that it is not known which are these
        sizes = np.array([len(values) for values in parts[one.name]], np.int64)
        try:
            values = np.array([float(word) for values in parts[one.name] for word in values])
        except ValueError as error:
            raise ValueError(f"its {element.name}: {one.name}: {error}") from None
        typed = _typed(values, one.type)
        table[one.name] = _Lists(sizes, typed) if one.length else typed
    return table


def _typed(values: Array, kind: str) -> Array:
    """Numbers of a text in the type that its header states, where that loses nothing."""
    if kind[0] == "f":
        return values
    with np.errstate(invalid="ignore"):
        stated = values.astype(kind)
    return stated if (stated == values).all() else values


def _read_binary(content: bytes, start: int, elements: list[_Element], order: str) -> dict[str, _Table]:
    """Read element after element; where all lists of one are as long as its first's, in one go."""
    tables, at = {}, start
    for element in elements:
        if not element.number:
            continue
        table, size = _read_alike(element, content, at, order)
        if table is None:
            table, size = _read_unlike(element, content, at, order)
        tables[element.name] = table
        at += size
    if content[at:].strip(b"\0 \t\r\n"):
        raise ValueError(f"it holds {len(content) - at} bytes behind what it announces")
    return tables


def _read_alike(element: _Element, content: bytes, start: int, order: str) -> tuple[_Table | None, int]:
    """Read rows that are all of the first's size; None if they are not."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    at = start
    lengths = {}
    for place, one in enumerate(element.properties):
        if one.length:
            length = _length(element, content, at, order + one.length)
            fields.append((f"count{place}", order + one.length))
            at += int(one.length[1])
            fields.append((str(place), order + one.type, (length,)))
            lengths[place] = length
            at += length * int(one.type[1])
        else:
            fields.append((str(place), order + one.type))
            at += int(one.type[1])
    size = (at - start) * element.number
    if size > len(content) - start:
        if not lengths:
            raise _ends_early(element, content)
        return None, 0
    rows = np.frombuffer(content, np.dtype(fields), element.number, start)
    if not all((rows[f"count{place}"] == length).all() for place, length in lengths.items()):
        return None, 0
    table: _Table = {}
    for place, one in enumerate(element.properties):
        values = rows[str(place)].astype(one.type)  # of this machine's order
        sizes = np.full(element.number, lengths.get(place, 1))
        table[one.name] = _Lists(sizes, values.reshape(-1)) if one.length else values
    return table, size


def _read_unlike(element: _Element, content: bytes, start: int, order: str) -> tuple[_Table, int]:
    """Read row after row, as their lists are of different lengths."""
    parts: list[list[bytes]] = [[] for _ in element.properties]
    at = start
    for _ in range(element.number):
        for place, one in enumerate(element.properties):
            length = 1
            if one.length:
                length = _length(element, content, at, order + one.length)
                at += int(one.length[1])
            end = at + length * int(one.type[1])
            if end > len(content):
                raise _ends_early(element, content)
            parts[place].append(content[at:end])
            at = end
    table: _Table = {}
    for one, pieces in zip(element.properties, parts, strict=True):
        values = np.frombuffer(b"".join(pieces), order + one.type).astype(one.type)
        sizes = np.array([len(piece) // int(one.type[1]) for piece in pieces])
        table[one.name] = _Lists(sizes, values) if one.length else values
    return table, at - start


def _length(element: _Element, content: bytes, at: int, kind: str) -> int:
    """The length of a list, which begins there."""
    size = int(kind[2])
    if at + size > len(content):
        raise _ends_early(element, content)
    length = int(np.frombuffer(content, kind, 1, at)[0])
    if not 0 <= length <= len(content):
        raise ValueError(f"a list of its {element.name} announces {length} values, in {len(content)} bytes")
    return length


def _ends_early(element: _Element, content: bytes) -> ValueError:
    return ValueError(f"it announces {element.number} of its element {element.name}, and ends before them")


def _of_strips(cloud: FileCloud, strips: _Lists) -> Mesh:
    """A mesh of strips: each corner makes a triangle with the two before it; -1 begins anew."""
    ends = np.cumsum(strips.sizes)
    whole = np.insert(strips.values.astype(np.int64), ends[:-1], -1)
    three = np.stack([whole[:-2], whole[1:-1], whole[2:]], axis=1)  # (n, 3)
    place = np.arange(len(whole))
    begin = np.maximum.accumulate(np.where(whole < 0, place + 1, 0))[2:]
    odd = ((place[:-2] - begin) % 2 == 1) if len(whole) > 2 else np.zeros(0, bool)
    three[odd] = three[odd][:, ::-1]  # every other triangle turns around
    triangles = three[(three >= 0).all(axis=1)]
    return Mesh(cloud, np.full(len(triangles), 3), triangles.reshape(-1))
