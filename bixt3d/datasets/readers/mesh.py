"""Polygon meshes: their vertices and faces as a file holds them, and points drawn from their surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.names import LABELS

Array = NDArray[Any]


@dataclass
class Mesh:
    """A mesh as a file holds it.

    Attributes:
        vertices: The vertices, and what the file says of each.
        sizes: Corners of each face (F,).
        corners: The vertices of face after face (sum of sizes,).
        faces: What the file says of each face, (F,) or (F, width) by name.
    """

    vertices: FileCloud
    sizes: Array
    corners: Array
    faces: dict[str, Array] = field(default_factory=dict)

    def sample(self, count: int, seed: int) -> FileCloud:
        """Draw points from the surface, evenly by area, with their face's normal, colours and labels.

        A mesh without faces gives its vertices.

        Raises:
            ValueError: A face names a vertex that is missing or not finite, or no face has an area.
        """
        import trimesh

        vertices, of_faces = self.vertices.narrowed(), FileCloud(self.sizes, self.faces).narrowed()
        if not len(self.sizes):
            return vertices
        xyz = np.asarray(self.vertices.xyz, dtype=np.float64)  # (V, 3)
        low, high = int(self.corners.min(initial=0)), int(self.corners.max(initial=0))
        if low < 0 or high >= len(xyz):
            raise ValueError(
                f"a face names vertex {low if low < 0 else high}, of {len(xyz)} that count from 0"
            )
        used = xyz[self.corners]
        if not np.isfinite(used).all():
            bad = int(self.corners[(~np.isfinite(used)).any(axis=1).argmax()])
            raise ValueError(f"expected finite numbers, got {xyz[bad].tolist()} for vertex {bad} of a face")
        triangles, face_of = triangulate(xyz, self.sizes, self.corners)
        with np.errstate(all="ignore"):  # coordinates whose squares overflow have no area
            surface = trimesh.Trimesh(xyz, triangles, process=False)
            if not 0 < surface.area < np.inf:
                raise ValueError(f"it holds no surface: its {len(self.sizes)} faces have no area")
            points, drawn = trimesh.sample.sample_surface(surface, count, seed=seed)
            weights: Any = trimesh.triangles.points_to_barycentric
            weight = np.nan_to_num(weights(surface.triangles[drawn], points)).clip(0, 1)  # (count, 3)
        named = _between(vertices, triangles[drawn], weight) | {
            name: values[face_of[drawn]] for name, values in of_faces.named.items()
        }
        named["normal"] = surface.face_normals[drawn]  # whatever normals the vertices have
        return FileCloud(points, named, remarks={**vertices.remarks, **of_faces.remarks})


def _between(vertices: FileCloud, corners: Array, weight: Array) -> dict[str, Array]:
    """What vertices have, at points within triangles (n, 3): labels of the nearest, else in between."""
    values = {name: value for name, value in vertices.named.items() if value.dtype.kind in "iuf"}
    color = vertices.feature("color")
    if color is not None:
        up_to_255 = color.max(initial=0) > 2 and bool((color == np.round(color)).all())
        values["color"] = color / 255 if up_to_255 else color
    nearest = corners[np.arange(len(corners)), weight.argmax(axis=1)]  # (n,)
    found = {}
    for name, value in values.items():
        if name.lower().removeprefix("scalar_") in LABELS:
            found[name] = value[nearest]
        else:
            value = value.astype(np.float64)
            between = np.einsum("nc,nc...->n...", weight, value[corners])
            found[name] = between.clip(value.min(), value.max())  # what rounding adds
    return found


def triangulate(xyz: Array, sizes: Array, corners: Array) -> tuple[Array, Array]:
    """Cut polygons into triangles, concave ones by their ears.

    Args:
        xyz: Vertices (V, 3).
        sizes: Corners of each polygon (F,).
        corners: Their vertices, polygon after polygon (sum of sizes,).

    Returns:
        Triangles (T, 3), and the polygon of each (T,), in order.
    """
    begin = np.cumsum(sizes) - sizes  # (F,)
    triangles, owner = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for size in np.unique(sizes[sizes >= 3]).tolist():
        which = np.flatnonzero(sizes == size)  # (n,)
        polygons = corners[begin[which, None] + np.arange(size)].astype(np.int64)  # (n, size)
        fan = np.stack([np.zeros(size - 2, int), np.arange(1, size - 1), np.arange(2, size)], axis=1)
        concave = _concave(xyz[polygons]) if size > 3 else np.zeros(len(which), bool)
        triangles.append(polygons[~concave][:, fan].reshape(-1, 3))
        owner.append(np.repeat(which[~concave], size - 2))
        for face, polygon in zip(which[concave], polygons[concave], strict=True):
            cut = polygon[_ears(xyz[polygon])]  # (t, 3)
            triangles.append(cut)
            owner.append(np.full(len(cut), face))
    face_of = np.concatenate(owner)
    order = face_of.argsort(kind="stable")
    return np.concatenate(triangles)[order], face_of[order]


def _normals(polygons: Array) -> Array:
    """Newell's normals (n, 3) of polygons (n, size, 3): twice their area long, whatever their shape."""
    centred = polygons - polygons.mean(axis=1, keepdims=True)
    return np.asarray(np.cross(centred, np.roll(centred, -1, axis=1)).sum(axis=1))


def _concave(polygons: Array) -> Array:
    """Tell which polygons (n, size, 3) turn to the other side at a corner, seen along their normal."""
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.roll(polygons, -1, axis=1) - polygons
        turns = np.cross(np.roll(edges, 1, axis=1), edges)  # (n, size, 3)
        turn = np.einsum("nsd,nd->ns", turns, _normals(polygons))
        return np.asarray((turn < -1e-9 * np.abs(turn).max(axis=1, keepdims=True)).any(axis=1))


def _ears(polygon: Array) -> Array:
    """Cut one polygon (size, 3), seen along its normal, into triangles (t, 3) of its corners."""
    import mapbox_earcut

    normal = _normals(polygon[None])[0]
    across = np.linalg.svd(normal[None])[2][1:]  # (2, 3), at right angles to it
    flat = np.ascontiguousarray((polygon - polygon.mean(axis=0)) @ across.T)
    cut = mapbox_earcut.triangulate_float64(flat, np.array([len(flat)], np.uint32)).reshape(-1, 3).astype(int)
    turn = np.cross(polygon[cut[:, 1]] - polygon[cut[:, 0]], polygon[cut[:, 2]] - polygon[cut[:, 0]]) @ normal
    return np.where((turn < 0)[:, None], cut[:, ::-1], cut)  # the side that the polygon shows


def mesh_of_lists(vertices: FileCloud, faces: Sequence[Sequence[int]]) -> Mesh:
    """Make a mesh of faces that are lists of vertices."""
    sizes = np.fromiter(map(len, faces), np.int64, len(faces))
    corners = np.fromiter((corner for face in faces for corner in face), np.int64, int(sizes.sum()))
    return Mesh(vertices, sizes, corners)
