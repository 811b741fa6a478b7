"""Primitives of synthetic shapes: closed meshes with outward faces, in metres, y up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import trimesh

Vector = Sequence[float] | np.ndarray


class Pieces(list[tuple[str, Any]]):
    """The meshes of one shape, each with the name of its part."""

    def add(self, part: str, *meshes: trimesh.Trimesh) -> None:
        """Append meshes that belong to `part`."""
        self.extend((part, mesh) for mesh in meshes)


def box(size: Vector, at: Vector) -> trimesh.Trimesh:
    """A box of `size` (x, y, z) centred at `at`."""
    import trimesh

    mesh: trimesh.Trimesh = trimesh.creation.box(extents=size)
    mesh.apply_translation(at)
    return mesh


def ball(radius: float, at: Vector) -> trimesh.Trimesh:
    """A sphere of `radius` centred at `at`."""
    import trimesh

    mesh: trimesh.Trimesh = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    mesh.apply_translation(at)
    return mesh


def lathe(profile: Sequence[tuple[float, float]], at: Vector = (0, 0, 0), sides: int = 24) -> trimesh.Trimesh:
    """A solid turned about y from a profile of (radius, height): up on the outside, down on the inside."""
    import trimesh

    mesh = trimesh.creation.revolve(np.asarray(profile, dtype=np.float64), sections=sides)
    turn = np.array([[0, 1, 0, at[0]], [0, 0, 1, at[1]], [1, 0, 0, at[2]], [0, 0, 0, 1]])
    mesh.apply_transform(turn)
    return mesh


def tube(
    path: Sequence[Vector] | np.ndarray, radius: float | Vector, sides: int = 10, flat: Vector | None = None
) -> trimesh.Trimesh:
    """A closed tube along `path`, one radius or one a point; `flat` is the normal of a bent path's plane."""
    import trimesh

    points = np.asarray(path, dtype=np.float64)
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), (len(points),))
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = (
        np.asarray(flat, dtype=np.float64) if flat is not None else np.eye(3)[np.abs(tangent[0]).argmin()]
    )
    first = np.cross(normal, tangent)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangent, first)

    angle = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    ring = np.cos(angle)[:, None, None] * first + np.sin(angle)[:, None, None] * second  # (sides, path, 3)
    rings = points[:, None] + radii[:, None, None] * ring.transpose(1, 0, 2)  # (path, sides, 3)
    vertices = np.concatenate([rings.reshape(-1, 3), points[[0, -1]]])  # (path * sides + 2, 3)

    a = np.arange((len(points) - 1) * sides)
    b = a - a % sides + (a + 1) % sides
    here, after = np.arange(sides), (np.arange(sides) + 1) % sides
    last, start, end = (len(points) - 1) * sides, len(vertices) - 2, len(vertices) - 1
    faces = np.concatenate(
        [
            np.stack([a, b, b + sides], axis=1),
            np.stack([a, b + sides, a + sides], axis=1),
            np.stack([after, here, np.full(sides, start)], axis=1),
            np.stack([here + last, after + last, np.full(sides, end)], axis=1),
        ]
    )
    return trimesh.Trimesh(vertices, faces, process=False)


def plate(outline: np.ndarray, thickness: float, axis: int, at: Vector = (0, 0, 0)) -> trimesh.Trimesh:
    """A prism of `thickness` along `axis`; its outline (K, 2), in the other two, is a star about its mean."""
    import trimesh

    count = len(outline)
    rim = np.concatenate([outline, outline.mean(axis=0, keepdims=True)])
    lower, upper = np.insert(rim, axis, -thickness / 2, axis=1), np.insert(rim, axis, thickness / 2, axis=1)
    a, b = np.arange(count), (np.arange(count) + 1) % count
    c, shift = np.full(count, count), count + 1
    faces = np.concatenate(
        [
            np.stack([b, a, c], axis=1),
            np.stack([a, b, c], axis=1) + shift,
            np.stack([a, b, b + shift], axis=1),
            np.stack([a, b + shift, a + shift], axis=1),
        ]
    )
    mesh = trimesh.Trimesh(np.concatenate([lower, upper]) + np.asarray(at), faces, process=False)
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def rounded(width: float, depth: float, power: float, count: int = 28) -> np.ndarray:
    """The outline (count, 2) of a superellipse: power 2 is an ellipse, large powers approach a rectangle."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False) + np.pi / count
    cos, sin = np.cos(angle), np.sin(angle)
    radius = (np.abs(cos) ** power + np.abs(sin) ** power) ** (-1 / power)
    return np.stack([cos * radius * width / 2, sin * radius * depth / 2], axis=1)


def turned(mesh: trimesh.Trimesh, x: float, z: float) -> trimesh.Trimesh:
    """The mesh turned about y, so that what was along x is along (x, z), a unit vector."""
    turn = np.array([[x, 0, -z, 0], [0, 1, 0, 0], [z, 0, x, 0], [0, 0, 0, 1]])
    return mesh.apply_transform(turn)


def around(count: int, radius: float, phase: float = 0.0) -> list[tuple[float, float]]:
    """`count` places (x, z) evenly on a circle about y."""
    angles = 2 * np.pi * np.arange(count) / count + phase
    return [(radius * float(np.cos(angle)), radius * float(np.sin(angle))) for angle in angles]
