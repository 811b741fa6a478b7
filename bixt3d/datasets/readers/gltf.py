"""Meshes and clouds of glTF 2 files, .glb and .gltf: the default scene with its nodes where they stand."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.limits import check_unpacked
from bixt3d.datasets.readers.mesh import Array, Mesh

Tree = dict[str, Any]
TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
DEEPEST = 100  # nodes inside each other
# what a file may require and does not change where its points are
HARMLESS = (
    "KHR_mesh_quantization",
    "KHR_materials_",
    "KHR_texture_",
    "EXT_texture_",
    "KHR_lights_",
    "KHR_xmp",
)
POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6


def read_gltf(path: Path) -> Mesh:
    """Read the triangles of all meshes in the default scene, or its points where there are none.

    Data lie in the file, or beside a .gltf in its own folder. Skins and morph targets are left at rest.

    Raises:
        ValueError: The file is damaged, announces more than it holds, requires an extension that is not read,
            or names data elsewhere.
    """
    content = path.read_bytes()
    tree, chunk = _split(content) if path.suffix.lower() == ".glb" else (_parse(content), None)
    if not isinstance(tree, dict) or not str(tree.get("asset", {}).get("version", "")).startswith("2"):
        raise ValueError("expected glTF of version 2: convert it, for instance with Blender")
    unread = [one for one in tree.get("extensionsRequired", []) if not str(one).startswith(HARMLESS)]
    if unread:
        raise ValueError(f"it requires {', '.join(map(str, unread))}, which is not read: export it without")
    return _Reader(tree, _buffers(path, tree, chunk)).scene()


def companions(path: Path) -> list[Path]:
    """Return the files beside a .gltf that hold its data; none of another file, nor where it is damaged."""
    if path.suffix.lower() != ".gltf":
        return []
    try:
        uris = [buffer.get("uri") for buffer in json.loads(path.read_bytes()).get("buffers", [])]
        named = [_beside(path, uri) for uri in uris if uri is not None and not uri.startswith("data:")]
        return [file for file in named if file is not None and file.is_file()]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # which reading it tells
        return []


def _beside(path: Path, uri: str) -> Path | None:
    """The file of that name in the folder of a .gltf; None for one elsewhere."""
    name = unquote(uri)
    file = path.parent / name
    inside = Path(name).name == name and "\\" not in name and "\0" not in name and not file.is_symlink()
    return file if inside else None


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"its description is no JSON: {error}") from None


def _split(content: bytes) -> tuple[Tree, bytes | None]:
    """The JSON of a .glb file, and its block of binary data."""
    if content[:4] != b"glTF" or len(content) < 20:
        raise ValueError("expected a first word glTF")
    version, length, size, kind = struct.unpack("<IIII", content[4:20])
    if version != 2:
        raise ValueError(f"expected glTF of version 2, got {version}: convert it, for instance with Blender")
    if length > len(content) or 20 + size > len(content) or kind != 0x4E4F534A:
        raise ValueError(f"it announces {max(length, 20 + size)} bytes, and has {len(content)}")
    tree, rest = _parse(content[20 : 20 + size]), content[20 + size :]
    if len(rest) < 8:
        return tree, None
    size, kind = struct.unpack("<I4s", rest[:8])
    if kind != b"BIN\0" or 8 + size > len(rest):
        raise ValueError(f"its data announce {size} bytes, and have {len(rest) - 8}")
    return tree, rest[8 : 8 + size]


def _buffers(path: Path, tree: Tree, chunk: bytes | None) -> list[bytes]:
    found = []
    for number, buffer in enumerate(tree.get("buffers", [])):
        uri = buffer.get("uri")
        if uri is None:
            data = chunk if number == 0 and chunk is not None else b""
        elif uri.startswith("data:"):
            data = base64.b64decode(uri.partition(",")[2])
        else:
            beside = _beside(path, uri)
            if path.suffix.lower() == ".glb" or beside is None:
                raise ValueError(f"its data are in another file, {uri!r:.80}, which is not read")
            if not beside.is_file():
                raise ValueError(f"its data are in {unquote(uri)!r:.80}, which is not beside it")
            data = beside.read_bytes()
        if len(data) < buffer["byteLength"] and not buffer.get("extensions"):
            raise ValueError(
                f"its buffer {number} announces {buffer['byteLength']} bytes, and has {len(data)}"
            )
        found.append(data)
    return found


class _Reader:
    """Reads accessors, meshes and nodes of a tree."""

    def __init__(self, tree: Tree, buffers: list[bytes]) -> None:
        self.tree = tree
        self.buffers = buffers

    def scene(self) -> Mesh:
        """All that the default scene places, as one mesh."""
        placed = list(self._placed())
        primitives = [
            (one, place) for mesh, place in placed for one in self._get("meshes", mesh)["primitives"]
        ]
        faces = [pair for pair in primitives if pair[0].get("mode", TRIANGLES) in (TRIANGLES, STRIP, FAN)]
        chosen = faces or [pair for pair in primitives if pair[0].get("mode", TRIANGLES) == POINTS]
        counts = [self._get("accessors", number)["count"] for one, _ in chosen for number in _taken(one)]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("an accessor's count is no whole number")
        # float64 corners, whole numbers, and their copies in one mesh
        check_unpacked(64 * sum(counts), sum(map(len, self.buffers)))
        parts = [self._primitive(*pair) for pair in chosen]
        if not parts:
            raise ValueError("its scene holds no triangles and no points")
        begin = np.cumsum([0] + [len(xyz) for xyz, _, _ in parts])
        triangles = np.concatenate([index + at for at, (_, index, _) in zip(begin, parts, strict=False)])
        named = {
            name: np.concatenate([beside[name] for *_, beside in parts])
            for name in parts[0][2]
            if all(name in beside for *_, beside in parts)
        }
        cloud = FileCloud(np.concatenate([xyz for xyz, _, _ in parts]), named)
        return Mesh(cloud, np.full(len(triangles), 3), triangles.reshape(-1))

    def _placed(self) -> Iterator[tuple[int, Array]]:
        """The mesh and the place (4, 4) of each node that has one."""
        nodes = self.tree.get("nodes", [])
        scenes = self.tree.get("scenes", [])
        children = {child for node in nodes for child in node.get("children", [])}
        roots = [number for number in range(len(nodes)) if number not in children]
        if scenes:
            roots = self._get("scenes", self.tree.get("scene", 0)).get("nodes", [])
        level, seen = [(root, np.eye(4)) for root in roots], set[int]()
        for _ in range(DEEPEST):
            below = []
            for number, place in level:
                if number in seen:
                    raise ValueError(f"its node {number} stands at two places")
                seen.add(number)
                node = self._get("nodes", number)
                here = place if "skin" in node else place @ _place(node)
                if "mesh" in node:
                    yield node["mesh"], here
                below += [(child, place @ _place(node)) for child in node.get("children", [])]
            if not below:
                return
            level = below
        raise ValueError(f"its nodes lie more than {DEEPEST} deep inside each other")

    def _primitive(self, one: Tree, place: Array) -> tuple[Array, Array, dict[str, Array]]:
        """Points (V, 3), triangles (T, 3), and colours and normals by name."""
        attributes = one["attributes"]
        bare = "bufferView" not in self._get("accessors", attributes["POSITION"])
        if bare and one.get("extensions"):
            raise ValueError(f"its points are packed by {', '.join(one['extensions'])}, which is not read")
        xyz = self._accessor(attributes["POSITION"], 3)
        named = {}
        if "COLOR_0" in attributes:
            color = self._accessor(attributes["COLOR_0"])
            named["color"] = color[:, :3]
        mode = one.get("mode", TRIANGLES)
        if mode == POINTS and "NORMAL" in attributes:
            normal = self._accessor(attributes["NORMAL"], 3) @ np.linalg.pinv(place[:3, :3])
            length = np.linalg.norm(normal, axis=1, keepdims=True)
            named["normal"] = normal / np.where(length > 0, length, 1)
        index = np.arange(len(xyz))
        if "indices" in one and mode != POINTS:
            index = self._accessor(one["indices"], 1)[:, 0].astype(np.int64)
        if len(index) and index.max() >= len(xyz):
            raise ValueError(f"a triangle names point {index.max()}, of {len(xyz)} that count from 0")
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused with its faces
            xyz = xyz @ place[:3, :3].T + place[:3, 3]
        return xyz, _triangles(index, mode), named

    def _accessor(self, number: int, width: int | None = None) -> Array:
        """The values (count, width) of an accessor, float64; normalised ones from -1 or 0 to 1."""
        accessor = self._get("accessors", number)
        dtype, count = np.dtype(TYPES[accessor["componentType"]]), accessor["count"]
        columns = WIDTHS[accessor["type"]]
        if width not in (None, columns):
            raise ValueError(f"its accessor {number} has {columns} numbers each, expected {width}")
        values = np.zeros((count, columns))
        if "bufferView" in accessor:
            offset = accessor.get("byteOffset", 0)
            values = self._view(accessor["bufferView"], offset, count, columns, dtype).astype(np.float64)
        sparse = accessor.get("sparse")
        if sparse:
            many, at, new = sparse["count"], sparse["indices"], sparse["values"]
            kind = np.dtype(TYPES[at["componentType"]])
            where = self._view(at["bufferView"], at.get("byteOffset", 0), many, 1, kind)[:, 0]
            if len(where) and where.max() >= count:
                raise ValueError(f"its accessor {number} changes value {where.max()}, of {count}")
            values[where] = self._view(new["bufferView"], new.get("byteOffset", 0), many, columns, dtype)
        if accessor.get("normalized") and dtype.kind in "iu":
            values = np.maximum(values / np.iinfo(dtype).max, -1)
        return values

    def _view(self, number: int, offset: int, count: int, columns: int, dtype: np.dtype[Any]) -> Array:
        """Rows of numbers (count, columns) within a buffer, side by side or with others between them."""
        view = self._get("bufferViews", number)
        if view.get("extensions") and not len(self.buffers[view["buffer"]]):
            raise ValueError(f"its data are packed by {', '.join(view['extensions'])}, which is not read")
        row = columns * dtype.itemsize
        stride = view.get("byteStride", row)
        begin = view.get("byteOffset", 0) + offset
        end = begin + (stride * (count - 1) + row if count else 0)
        data = self.buffers[view["buffer"]]
        if min(view.get("byteOffset", 0), offset, count) < 0 or stride < row or end > len(data):
            raise ValueError(f"its buffer view {number} reaches from byte {begin} to {end}, of {len(data)}")
        return np.ndarray((count, columns), dtype, data, begin, (stride, dtype.itemsize))

    def _get(self, kind: str, number: Any) -> Tree:
        """An entry of one of the tree's lists."""
        entries: list[Tree] = self.tree.get(kind, [])
        if type(number) is not int or not 0 <= number < len(entries) or not isinstance(entries[number], dict):
            raise ValueError(f"it names {number!r:.40} of its {kind}, of which there are {len(entries)}")
        return entries[number]


def _taken(primitive: Tree) -> list[int]:
    """The accessors that are read of a primitive, the points twice."""
    attributes = primitive["attributes"]
    beside = [attributes["COLOR_0"]] if "COLOR_0" in attributes else []
    return [attributes["POSITION"]] * 2 + beside + ([primitive["indices"]] if "indices" in primitive else [])


def _triangles(index: Array, mode: int) -> Array:
    """Triangles (T, 3) of a list of points: each three, a strip, or a fan around the first."""
    if mode == POINTS:
        return np.zeros((0, 3), np.int64)
    if mode == TRIANGLES:
        return index[: len(index) // 3 * 3].reshape(-1, 3)
    if mode == FAN:
        return np.stack([np.broadcast_to(index[:1], max(len(index) - 2, 0)), index[1:-1], index[2:]], axis=1)
    strip = np.stack([index[:-2], index[1:-1], index[2:]], axis=1)
    strip[1::2] = strip[1::2, ::-1]  # every other one turns around
    return strip


def _place(node: Tree) -> Array:
    """A node's matrix (4, 4), or that of its translation, rotation and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    place = np.eye(4)
    place[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)))
    place[:3, 3] = node.get("translation", (0, 0, 0))
    return place
