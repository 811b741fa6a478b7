"""Clouds from PCD files, the Point Cloud Library's format: ascii, binary and binary_compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.limits import check_unpacked
from bixt3d.datasets.readers.text import lines_of, parse_table, unmarked

XYZ = ("x", "y", "z")
WIDEST = 64  # values of a field that is read; wider ones, such as histograms, are no features of a point
TYPES = {f"{kind}{size}" for kind in "IU" for size in (1, 2, 4, 8)} | {"F4", "F8"}
ENCODINGS = ("ascii", "binary", "binary_compressed")
LONGEST_HEADER = 65_536  # bytes
COLORS = {"rgb", "rgba"}  # fields of red, green and blue in the bits of one number
SMALL = ("<u1", "<u2")


class Field(NamedTuple):
    """One field of a point: its NumPy type, how many values it has, and what stands before it in a row."""

    format: str
    values: int
    values_before: int
    bytes_before: int


class Header(NamedTuple):
    """What a file's header says; the points begin at the byte `start`."""

    fields: dict[str, Field]
    row_values: int
    row_bytes: int
    points: int
    encoding: str
    start: int


def read_pcd(path: Path) -> FileCloud:
    """Reads x y z, and the other fields by their names; `rgb` becomes three numbers from 0 to 255.

    Rows whose x, y or z is NaN, as depth cameras leave them where they measured nothing, stay in their
    places. The viewpoint is not applied, as in other readers.

    Returns:
        The points in the file's own coordinates, and fields (N, values).

    Raises:
        ValueError: The file is no PCD file, is damaged, ends before its last point, or has no x, y, z. What
            its header announces is believed only as far as the file has the bytes for it.
    """
    content = unmarked(path.read_bytes())
    header = _read_header(content)
    for name in XYZ:
        if name not in header.fields or header.fields[name].values != 1:
            raise ValueError(f"expected the fields x y z of one value each, got {' '.join(header.fields)}")
    if header.encoding != "ascii":
        for name in COLORS & header.fields.keys():
            # as a float the bits of a colour may be no number, and then would not survive as such
            one = header.fields[name]
            header.fields[name] = one._replace(format=one.format.replace("f4", "u4"))
    names = [
        *XYZ,
        *(n for n, one in header.fields.items() if n not in XYZ and n != "_" and one.values <= WIDEST),
    ]
    fields = [one for name in names for one in _values(header.fields[name])]
    read = {"ascii": _read_ascii, "binary": _read_binary, "binary_compressed": _read_compressed}
    table = read[header.encoding](content, header, fields)
    named: dict[str, NDArray[Any]] = {}
    begin = 3
    for name in names[3:]:
        one = header.fields[name]
        values = table[:, begin : begin + one.values]  # (N, values)
        begin += one.values
        with np.errstate(over="ignore", invalid="ignore"):  # text may state what its type cannot hold
            # whole numbers stay such: of colours the type says which is the largest
            named[name] = values.astype(one.format) if one.format in SMALL else values
            if name in COLORS and one.values == 1 and not np.isnan(values).any():
                named["rgb"] = _unpack_colors(values[:, 0], one.format)
    return FileCloud(table[:, :3], named)


def _values(field: Field) -> list[Field]:
    """One field a value of a field of several."""
    size = int(field.format[2:])
    return [
        Field(field.format, 1, field.values_before + at, field.bytes_before + at * size)
        for at in range(field.values)
    ]


def _unpack_colors(packed: NDArray[np.float64], format: str) -> NDArray[np.uint8]:
    """Red, green and blue (N, 3) of PCL's packed colours: the bits of a float, or a whole number."""
    if "f" in format:
        bits = packed.astype(np.float32).view(np.uint32)
    else:
        bits = packed.astype(np.int64).astype(np.uint32)
    return np.stack([(bits >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)], axis=1)


def _read_header(content: bytes) -> Header:
    lines: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in lines:
        end = content.find(b"\n", start, LONGEST_HEADER)
        if end < 0:
            raise ValueError("expected a PCD header up to a line DATA, got none")
        words = content[start:end].decode("ascii", "replace").split() or [""]
        lines[words[0]] = words[1:]  # comments end up under a name that nobody asks for
        start = end + 1

    names = lines.get("FIELDS", [])
    sizes, kinds = lines.get("SIZE", []), lines.get("TYPE", [])
    counts = lines.get("COUNT", ["1"] * len(names))
    if not names or not len(names) == len(sizes) == len(kinds) == len(counts):
        raise ValueError("expected as many entries in FIELDS, SIZE, TYPE and COUNT of its header")
    fields: dict[str, Field] = {}
    row_values = row_bytes = 0
    for name, size, kind, times in zip(names, sizes, kinds, counts, strict=True):
        if kind + size not in TYPES:
            known = ", ".join(sorted(TYPES))
            raise ValueError(f"field {name}: expected a type out of {known}, got {kind}{size}")
        count = _whole("COUNT", [times])
        known = name.lower() if name.lower() in XYZ else name
        fields[known] = Field(f"<{kind.lower()}{size}", count, row_values, row_bytes)
        row_values += count
        row_bytes += count * int(size)

    rows = _whole("WIDTH", lines.get("WIDTH", [])) * _whole("HEIGHT", lines.get("HEIGHT", ["1"]))
    points = _whole("POINTS", lines.get("POINTS", [str(rows)]))
    if points == 0:
        raise ValueError("it holds no points")
    if points != rows:
        raise ValueError(f"its header announces {points} points, and WIDTH times HEIGHT is {rows}")
    encoding = " ".join(lines["DATA"])
    if encoding not in ENCODINGS:
        raise ValueError(f"DATA: expected one of {', '.join(ENCODINGS)}, got {encoding!r}")
    return Header(fields, row_values, row_bytes, points, encoding, start)


def _whole(key: str, words: list[str]) -> int:
    if len(words) != 1 or not words[0].isdecimal() or len(words[0]) > 18:
        raise ValueError(f"{key}: expected a whole number, got {' '.join(words) or 'nothing'!r}")
    return int(words[0])


def _read_ascii(content: bytes, header: Header, fields: list[Field]) -> NDArray[np.float64]:
    rows = [line for line in lines_of(content[header.start :]) if line.strip()]
    if len(rows) != header.points:
        raise ValueError(f"it announces {header.points} points, and holds {len(rows)} lines of them")
    table = parse_table(rows, "point")  # (N, row_values)
    if table.shape[1] != header.row_values:
        raise ValueError(f"expected {header.row_values} numbers a point, got {table.shape[1]}")
    return table[:, [field.values_before for field in fields]]


def _read_binary(content: bytes, header: Header, fields: list[Field]) -> NDArray[np.float64]:
    """Row after row, each the fields of one point."""
    _check_size(header.points * header.row_bytes, content, header.start)
    names = [str(number) for number in range(len(fields))]
    row = np.dtype(
        {
            "names": names,
            "formats": [field.format for field in fields],
            "offsets": [field.bytes_before for field in fields],
            "itemsize": header.row_bytes,
        }
    )
    rows = np.frombuffer(content, row, header.points, header.start)
    return np.stack([rows[name].astype(np.float64) for name in names], axis=1)  # (N, C)


def _read_compressed(content: bytes, header: Header, fields: list[Field]) -> NDArray[np.float64]:
    """Two sizes, then an LZF block that holds field after field, each for all points."""
    sizes = content[header.start : header.start + 8]
    packed, size = int.from_bytes(sizes[:4], "little"), int.from_bytes(sizes[4:], "little")
    _check_size(8 + packed, content, header.start)
    if size != header.points * header.row_bytes:
        raise ValueError(
            f"its header announces {header.points * header.row_bytes} bytes of points, and its "
            f"compressed block {size}"
        )
    check_unpacked(size, packed)
    start = header.start + 8
    block = _decompress(content[start : start + packed], size)
    count = header.points
    columns = []
    for field in fields:  # a field of several values holds those of a point side by side
        whole = next(
            one for one in header.fields.values() if 0 <= field.values_before - one.values_before < one.values
        )
        held = np.frombuffer(block, whole.format, count * whole.values, count * whole.bytes_before)
        columns.append(held.reshape(count, whole.values)[:, field.values_before - whole.values_before])
    return np.stack([column.astype(np.float64) for column in columns], axis=1)  # (N, C)


def _check_size(expected: int, content: bytes, start: int) -> None:
    """Raises ValueError for a file that ends too early, or holds more than blanks behind its last point."""
    if len(content) - start < expected or content[start + expected :].strip(b"\0 \t\r\n"):
        raise ValueError(
            f"it announces {expected} bytes of points, and holds {len(content) - start} bytes of them"
        )


def _decompress(block: bytes, size: int) -> bytes:
    """Undoes LZF: a byte below 32 announces bytes to take as they are, another a run to copy from before."""
    out = bytearray()
    at = 0
    try:
        while at < len(block) and len(out) <= size:
            control = block[at]
            at += 1
            if control < 32:
                out += block[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += block[at]
                at += 1
            length += 2
            back = ((control & 31) << 8) + block[at] + 1
            at += 1
            if back > len(out):
                raise IndexError
            run = out[len(out) - back : len(out) - back + length]
            out += (run * -(-length // len(run)))[:length]  # a run longer than its source repeats it
    except IndexError:
        raise ValueError("its compressed block is damaged") from None
    if len(out) != size:
        raise ValueError(f"its compressed block is damaged: {len(out)} bytes, {size} are announced")
    return bytes(out)
