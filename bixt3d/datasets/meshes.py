"""One shape from a file: points from clouds, surface samples from meshes."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.announced import check_loaded, check_mesh, read_arrays
from bixt3d.datasets.clouds import FileCloud
from bixt3d.datasets.files import read_rows
from bixt3d.datasets.pcd import read_pcd

MESHES = (".off", ".obj", ".ply", ".stl", ".glb")
CLOUDS = (".pcd",)
TEXT = (".xyz", ".txt")
ARRAYS = (".npy", ".npz")
SUFFIXES = (*MESHES, *CLOUDS, *TEXT, *ARRAYS)


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
    if suffix in SUFFIXES and not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    if suffix in TEXT:
        return _of_array(_read_text(path), path)
    if suffix in CLOUDS:
        return read_pcd(path)
    if suffix in ARRAYS:
        arrays = _read_arrays(path)
        cloud = _of_array(arrays.pop(""), path)
        fits = {name: value for name, value in arrays.items() if value.shape[:1] == cloud.xyz.shape[:1]}
        return FileCloud(cloud.xyz, fits, cloud.columns)
    if suffix in MESHES:
        return _read_mesh(path, num_samples, seed)
    raise ValueError(f"{path}: expected one of {', '.join(SUFFIXES)}, came {suffix or 'no suffix'}")


def _of_array(points: NDArray[Any], path: Path) -> FileCloud:
    if points.ndim != 2 or points.shape[0] == 0 or points.shape[1] < 3:
        raise ValueError(f"{path}: expected points (N, 3), came an array {points.shape}")
    if points.shape[0] == 3 and points.shape[1] > 16:  # no point has so many channels
        raise ValueError(f"{path}: expected points (N, 3), got {points.shape}: transpose it")
    return FileCloud(points[:, :3], {}, points[:, 3:] if points.shape[1] > 3 else None)


def _read_text(path: Path) -> NDArray[Any]:
    with path.open(encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    separator = "," if "," in first else None
    columns = len(first.strip().split(separator))
    return read_rows(path, columns, separator=separator, dtype=np.float64)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads a cloud's arrays: the one of its points under "", others by their names."""
    try:
        return read_arrays(path)
    except PermissionError:
        raise
    except Exception as error:  # zip and header errors are of many kinds
        raise ValueError(f"{path}: expected a whole NumPy array without objects ({error})") from None


def _read_mesh(path: Path, num_samples: int, seed: int) -> FileCloud:
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
                return _bare_cloud(mesh)
            if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces) or not mesh.area > 0:
                raise ValueError("it holds no surface")
            points, faces = trimesh.sample.sample_surface(mesh, num_samples, seed=seed)
            return FileCloud(points, {"normal": mesh.face_normals[faces], **_colors_at(mesh, points, faces)})
    except PermissionError:
        raise
    except Exception as error:  # trimesh's readers raise whatever a broken file makes them meet
        raise ValueError(f"{path}: cannot be read as a mesh ({type(error).__name__}: {error})") from None
    finally:
        said.setLevel(level)


def _bare_cloud(cloud: Any) -> FileCloud:
    """The points of a cloud, and its colours, or, of a PLY file, its vertices' other properties by name."""
    raw = cloud.metadata.get("_ply_raw", {}).get("vertex", {}).get("data", {})  # arrays by property
    properties = raw.keys() if isinstance(raw, dict) else raw.dtype.names
    named = {name: np.asarray(raw[name]) for name in properties if name not in ("x", "y", "z")}
    if not properties and cloud.visual.kind == "vertex":
        named["color"] = np.asarray(cloud.visual.vertex_colors)
    xyz = np.asarray(cloud.vertices)
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ValueError(f"expected points (N, 3), got {xyz.shape}")
    return FileCloud(xyz, {name: value for name, value in named.items() if value.shape[:1] == xyz.shape[:1]})


def _colors_at(mesh: Any, points: NDArray[Any], faces: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The colours of samples of a mesh, from those of its vertices or faces, where it has any."""
    import trimesh

    if mesh.visual.kind == "face":
        return {"color": mesh.visual.face_colors[faces, :3]}
    if mesh.visual.kind != "vertex":
        return {}
    barycentric: Any = trimesh.triangles.points_to_barycentric
    weights = barycentric(mesh.triangles[faces], points)  # (N, 3)
    corners = mesh.visual.vertex_colors[mesh.faces[faces], :3] / 255  # (N, 3, 3)
    return {"color": np.einsum("nc,ncd->nd", weights, corners).clip(0, 1)}
