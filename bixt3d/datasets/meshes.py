"""One shape from a file: points from clouds, surface samples from meshes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.files import read_rows

MESHES = (".off", ".obj", ".ply", ".stl", ".glb")
TEXT = (".xyz", ".txt")
ARRAYS = (".npy", ".npz")


def read_cloud(
    path: str | os.PathLike[str], channels: int = 3, num_samples: int = 2048, seed: int = 0
) -> NDArray[np.float64]:
    """Reads a cloud, or samples the surface of a mesh.

    Args:
        path: A mesh (.off, .obj, .ply, .stl, .glb), a text file of one point a line (.xyz, .txt), or an
            array (N, C) (.npy; .npz with the key `points` or one array).
        channels: 3 for xyz, 6 for xyz and normal. Files with more columns give their first ones.
        num_samples: Points drawn from a mesh, evenly by area.
        seed: Seed of that draw.

    Returns:
        Points (N, channels) float64, in the file's own coordinates.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind, damaged, empty, or has fewer columns.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    suffix = path.suffix.lower()
    if suffix in TEXT:
        points: Any = _read_text(path)
    elif suffix in ARRAYS:
        points = _read_array(path)
    elif suffix in MESHES:
        points = _read_mesh(path, num_samples, seed)
    else:
        known = ", ".join((*MESHES, *TEXT, *ARRAYS))
        raise ValueError(f"{path}: expected one of {known}, came {suffix or 'no suffix'}")
    if points.ndim != 2 or points.shape[0] == 0 or points.shape[1] < channels:
        raise ValueError(f"{path}: expected points (N, {channels}), came an array {points.shape}")
    if points.dtype.kind not in "fiu" or not np.isfinite(points).all():
        raise ValueError(f"{path}: expected finite numbers, came {points.dtype} with others among them")
    return np.ascontiguousarray(points[:, :channels], dtype=np.float64)


def _read_text(path: Path) -> NDArray[Any]:
    with path.open(encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    separator = "," if "," in first else None
    columns = len(first.strip().split(separator))
    return read_rows(path, columns, separator=separator, dtype=np.float64)


def _read_array(path: Path) -> Any:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            if "points" in names or len(names) == 1:
                return loaded["points" if "points" in names else names[0]]
    except Exception as error:  # zip, header and pickle errors are of many kinds
        raise ValueError(f"{path}: expected a whole NumPy array without objects ({error})") from None
    raise ValueError(f"{path}: expected the key 'points' or one array, came {', '.join(names)}")


def _read_mesh(path: Path, num_samples: int, seed: int) -> Any:
    import trimesh

    try:
        if path.suffix.lower() == ".off":
            _check_off(path)
        mesh = trimesh.load(path, process=False)
        if isinstance(mesh, trimesh.Scene):
            mesh = mesh.to_geometry()
        if isinstance(mesh, trimesh.PointCloud):
            return np.asarray(mesh.vertices)
        if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces) or not mesh.area > 0:
            raise ValueError("it holds no surface")
        points, faces = trimesh.sample.sample_surface(mesh, num_samples, seed=seed)
        return np.concatenate([points, mesh.face_normals[faces]], axis=1)
    except Exception as error:  # trimesh's readers raise whatever a broken file makes them meet
        raise ValueError(f"{path}: cannot be read as a mesh ({type(error).__name__}: {error})") from None


def _check_off(path: Path) -> None:
    """Raise ValueError if an OFF file ends before the faces that it announces, which trimesh lets pass."""
    text = path.read_text(encoding="utf-8", errors="replace").upper()
    lines = [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
    head = lines[0].removeprefix("C").removeprefix("OFF").split() if lines else []
    start = 1 if head else 2
    counts = head or (lines[1].split() if len(lines) > 1 else [])
    announced = sum(int(count) for count in counts[:2])
    if len(lines) - start < announced:
        raise ValueError(f"it announces {announced} vertices and faces, and holds {len(lines) - start} lines")
