"""Meshes of STL files: facets in bytes or in text, of one solid or several."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.mesh import Array, Mesh
from bixt3d.datasets.readers.text import parse_table, unmarked

HEAD, FACET = 84, 50  # bytes: a comment and the number of facets; a normal, three corners and two spare bytes


def read_stl(path: Path) -> Mesh:
    """Read the corners of all facets.

    Raises:
        ValueError: The file is damaged, cut off, or without facets.
    """
    content = path.read_bytes()
    announced = int.from_bytes(content[80:HEAD], "little")
    if len(content) >= HEAD and len(content) == HEAD + FACET * announced:
        corners = _binary(content, announced)
    elif re.match(rb"(?i)\s*solid\b", text := unmarked(content)) and re.search(
        rb"(?i)\bfacet\b|endsolid", text
    ):
        corners = _text(text)
    elif len(content) < HEAD:
        raise ValueError(f"expected an STL file of {HEAD} bytes or more, or a first word solid")
    elif len(content) < HEAD + FACET * announced:
        raise ValueError(
            f"it announces {announced} facets, and ends after {(len(content) - HEAD) // FACET} of them"
        )
    elif content[HEAD + FACET * announced :].strip(b"\0 \t\r\n"):
        more = len(content) - HEAD - FACET * announced
        raise ValueError(f"it announces {announced} facets, and holds {more} bytes behind them")
    else:
        corners = _binary(content, announced)
    if not len(corners):
        raise ValueError("it holds no facets")
    return Mesh(FileCloud(corners), np.full(len(corners) // 3, 3), np.arange(len(corners)))


def _binary(content: bytes, facets: int) -> Array:
    row = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])
    return np.frombuffer(content, row, facets, HEAD)["corners"].reshape(-1, 3).astype(np.float64)


def _text(content: bytes) -> Array:
    """Three lines `vertex x y z` between every `facet` and `endfacet`."""
    unnamed = re.sub(rb"(?im)^\s*(?:end)?solid\b.*$", b"", content)  # a solid's name is any text
    words = unnamed.decode("ascii", "replace")
    facets = re.findall(r"(?is)\bfacet\b(.*?)\bendfacet\b", words)
    begun = len(re.findall(r"(?i)\bfacet\b", words))
    if begun != len(facets):
        raise ValueError(f"it begins {begun} facets, of which {len(facets)} are whole")
    if not re.search(rb"(?i)\bendsolid\b[^\r\n]*\s*\Z", content):
        raise ValueError(f"it ends after {begun} facets, without endsolid: cut off")
    rows = []
    for number, facet in enumerate(facets, 1):
        corners = re.findall(r"(?i)\bvertex\s+(\S+\s+\S+\s+\S+)", facet)
        if len(corners) != 3:
            raise ValueError(f"facet {number}: expected 3 corners, got {len(corners)}")
        rows += [" ".join(corner.split()) for corner in corners]
    if not rows:
        return np.zeros((0, 3))
    return parse_table(rows, "corner")
