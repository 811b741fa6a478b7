"""One cloud from a file of any kind: points from clouds, samples of the surface from meshes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.readers.arrays import read_array_file
from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.mesh import read_mesh
from bixt3d.datasets.readers.pcd import read_pcd
from bixt3d.datasets.readers.text import read_text

MESHES = (".off", ".obj", ".ply", ".stl", ".glb")  # or clouds, where they have no faces
CLOUDS: Mapping[str, Callable[[Path], FileCloud]] = {
    ".pcd": read_pcd,
    ".xyz": read_text,
    ".txt": read_text,
    ".npy": read_array_file,
    ".npz": read_array_file,
}
SUFFIXES = (*MESHES, *CLOUDS)


def read_cloud(
    path: str | os.PathLike[str],
    features: Sequence[str] | None = (),
    num_samples: int = 2048,
    seed: int = 0,
    notes: list[str] | None = None,
) -> NDArray[np.float64]:
    """Reads a cloud, or samples the surface of a mesh.

    Args:
        path: A mesh (.off, .obj, .ply, .stl, .glb), a cloud (.ply without faces, .pcd), a text file of one
            point a line (.xyz, .txt), or an array (N, C) (.npy; .npz with the key `points`, `xyz` or
            `positions`, or one array, and features under their names).
        features: Features beside xyz, in order: `normal` is that of a mesh's faces, the fields nx ny nz of
            .ply and normal_x normal_y normal_z of .pcd; `color` a mesh's or the fields red green blue, rgb of
            .pcd; others are fields of their names, of .ply also name_0, name_1 and so on. Text and plain
            arrays name nothing: their columns after xyz are the features in order. None: `normal`, where the
            file names them, or its first columns are of length 1 (or 0, where unknown), as colours are not.
        num_samples: Points drawn from a mesh, evenly by area.
        seed: Seed of that draw.
        notes: Receives what was changed of features, such as colours up to 255; it is logged if None.

    Returns:
        Points (N, 3 + F) float64, in the file's own coordinates.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind, damaged, empty, lacks a feature (`FeatureError`), or its
            numbers cannot be it.
    """
    path = Path(path).expanduser()
    cloud = load_cloud(path, num_samples, seed)
    if features is None:
        features = ("normal",) if cloud.has_normals() else ()
    return cloud.take(features, path, notes)


def load_cloud(path: Path, num_samples: int = 2048, seed: int = 0) -> FileCloud:
    """Reads all that a file holds of a cloud, or of a sample of a mesh; see `read_cloud`."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}{': it is a folder' if path.is_dir() else ''}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected one of {', '.join(SUFFIXES)}, came {suffix or 'no suffix'}")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    return CLOUDS[suffix](path) if suffix in CLOUDS else read_mesh(path, num_samples, seed)
