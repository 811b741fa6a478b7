"""One shape from a file: points from clouds, surface samples from meshes."""

from __future__ import annotations

import io
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.announced import check_loaded, check_mesh, read_array
from bixt3d.datasets.files import read_rows
from bixt3d.datasets.pcd import read_pcd

MESHES = (".off", ".obj", ".ply", ".stl", ".glb")
CLOUDS = (".pcd",)
TEXT = (".xyz", ".txt")
ARRAYS = (".npy", ".npz")
SUFFIXES = (*MESHES, *CLOUDS, *TEXT, *ARRAYS)
LENGTH_OFF = 0.05  # a unit normal printed with two digits is off by 0.01


def read_cloud(
    path: str | os.PathLike[str], channels: int | None = 3, num_samples: int = 2048, seed: int = 0
) -> NDArray[np.float64]:
    """Reads a cloud, or samples the surface of a mesh.

    Args:
        path: A mesh (.off, .obj, .ply, .stl, .glb), a cloud (.ply without faces, .pcd), a text file of one
            point a line (.xyz, .txt), or an array (N, C) (.npy; .npz with the key `points` or one array).
        channels: 3 for xyz, 6 for xyz and normal: the faces' of a mesh, the fields nx ny nz of .ply and
            normal_x normal_y normal_z of .pcd, else columns 4 to 6. None: 6 where the file holds normals,
            which are of length 1 (or 0, where unknown) as colours are not, else 3.
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
        raise FileNotFoundError(f"no file {path}{': it is a folder' if path.is_dir() else ''}")
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    if suffix in TEXT:
        points: Any = _read_text(path)
    elif suffix in CLOUDS:
        points = read_pcd(path)
    elif suffix in ARRAYS:
        points = _read_array(path)
    elif suffix in MESHES:
        points = _read_mesh(path, num_samples, seed)
    else:
        raise ValueError(f"{path}: expected one of {', '.join(SUFFIXES)}, came {suffix or 'no suffix'}")
    if channels is None:
        channels = 6 if _has_normals(points) else 3
    if points.ndim != 2 or points.shape[0] == 0 or points.shape[1] < channels:
        what = ", xyz and normal" if channels == 6 else ""
        raise ValueError(f"{path}: expected points (N, {channels}){what}, came an array {points.shape}")
    points = points[:, :channels]
    if points.dtype.kind not in "fiu" or not np.isfinite(points).all():
        raise ValueError(f"{path}: expected finite numbers, came {points.dtype} with others among them")
    return np.ascontiguousarray(points, dtype=np.float64)


def _has_normals(points: NDArray[Any]) -> bool:
    """Tells whether columns 4 to 6 are unit vectors; some may be zero, where the normal is not known."""
    if points.ndim != 2 or points.shape[1] < 6 or points.dtype.kind not in "fiu":
        return False
    with np.errstate(over="ignore"):  # infinity and NaN are no unit lengths
        length = np.linalg.norm(points[:, 3:6].astype(np.float64), axis=1)  # (N,)
    unit = np.abs(length - 1) <= LENGTH_OFF
    return bool(unit.any() and (unit | (length == 0)).all())


def _read_text(path: Path) -> NDArray[Any]:
    with path.open(encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    separator = "," if "," in first else None
    columns = len(first.strip().split(separator))
    return read_rows(path, columns, separator=separator, dtype=np.float64)


def _read_array(path: Path) -> Any:
    try:
        return read_array(path)
    except PermissionError:
        raise
    except Exception as error:  # zip and header errors are of many kinds
        raise ValueError(f"{path}: expected a whole NumPy array without objects ({error})") from None


def _read_mesh(path: Path, num_samples: int, seed: int) -> Any:
    import trimesh

    suffix = path.suffix.lower()
    said = logging.getLogger("trimesh")
    level = said.level
    said.setLevel(logging.ERROR)  # it would show tracebacks of what it passes over
    try:
        content = path.read_bytes()
        check_mesh(content, suffix)
        with warnings.catch_warnings():
            # NumPy's on text that is no number, and on coordinates whose squares overflow
            warnings.simplefilter("error", DeprecationWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            # from memory, so that no file names another one to be read; materials are of no use here
            mesh = trimesh.load(io.BytesIO(content), suffix[1:], process=False, skip_materials=True)
            if isinstance(mesh, trimesh.Scene):
                mesh = mesh.to_geometry()
            check_loaded(content, suffix, len(getattr(mesh, "faces", ())))
            if isinstance(mesh, trimesh.PointCloud):
                return _with_ply_normals(mesh)
            if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces) or not mesh.area > 0:
                raise ValueError("it holds no surface")
            points, faces = trimesh.sample.sample_surface(mesh, num_samples, seed=seed)
            return np.concatenate([points, mesh.face_normals[faces]], axis=1)
    except PermissionError:
        raise
    except Exception as error:  # trimesh's readers raise whatever a broken file makes them meet
        raise ValueError(f"{path}: cannot be read as a mesh ({type(error).__name__}: {error})") from None
    finally:
        said.setLevel(level)


def _with_ply_normals(cloud: Any) -> NDArray[Any]:
    """The points of a PLY cloud, (N, 3), or (N, 6) where its vertices have normals."""
    raw = cloud.metadata.get("_ply_raw", {}).get("vertex", {}).get("data", {})  # arrays by property
    properties = raw.keys() if isinstance(raw, dict) else raw.dtype.names
    if not {"nx", "ny", "nz"} <= set(properties):
        return np.asarray(cloud.vertices)
    normals = np.column_stack([raw[name] for name in ("nx", "ny", "nz")])  # (N, 3)
    return np.concatenate([cloud.vertices, normals], axis=1)
