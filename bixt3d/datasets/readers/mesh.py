"""Points from meshes: samples of their surface, or their vertices where they have no faces."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.mesh_checks import check_loaded, check_mesh


def read_mesh(path: Path, num_samples: int, seed: int) -> FileCloud:
    """Draws points from a mesh, evenly by area, with normals and any colours; see `read_cloud`."""
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
