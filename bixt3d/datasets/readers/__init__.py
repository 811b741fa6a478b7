"""One cloud from a file of any kind: its points, or samples of the surface of a mesh."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.readers.arrays import is_part_of_gltf, read_array_file, read_kitti
from bixt3d.datasets.readers.cloud import FileCloud
from bixt3d.datasets.readers.gltf import read_gltf
from bixt3d.datasets.readers.las import read_las
from bixt3d.datasets.readers.mesh import Mesh
from bixt3d.datasets.readers.obj import read_obj
from bixt3d.datasets.readers.off import read_off
from bixt3d.datasets.readers.pcd import read_pcd
from bixt3d.datasets.readers.ply import read_ply
from bixt3d.datasets.readers.stl import read_stl
from bixt3d.datasets.readers.text import read_text

# clouds too, where they have no faces
MESHES: Mapping[str, Callable[[Path], Mesh]] = {
    **{".off": read_off, ".obj": read_obj, ".ply": read_ply, ".stl": read_stl},
    **{".glb": read_gltf, ".gltf": read_gltf},
}
CLOUDS: Mapping[str, Callable[[Path], FileCloud]] = {
    **{".pcd": read_pcd, ".las": read_las, ".laz": read_las, ".bin": read_kitti},
    **dict.fromkeys((".xyz", ".txt", ".csv", ".asc", ".pts"), read_text),
    **{".npy": read_array_file, ".npz": read_array_file},
}
SUFFIXES = (*MESHES, *CLOUDS)
SOURCES, SOURCES_HEAD = "sources.csv", "name,file"  # of which files the labels beside it are
# what reads other kinds, and writes one of ours
CONVERTERS: Mapping[str, str] = {
    **dict.fromkeys(
        (".e57", ".rcs", ".rcp", ".ptx", ".fls", ".zfs"), "CloudCompare, saving it as .las or .ply"
    ),
    **dict.fromkeys((".3mf", ".amf", ".ctm", ".wrl", ".x3d"), "MeshLab, exporting it as .ply"),
    **dict.fromkeys(
        (".fbx", ".dae", ".3ds", ".blend", ".usd", ".usda", ".usdc", ".usdz"), "Blender, as .glb"
    ),
    **dict.fromkeys(
        (".step", ".stp", ".iges", ".igs", ".brep", ".fcstd"), "FreeCAD, exporting a mesh as .stl"
    ),
    **dict.fromkeys((".vtk", ".vtp", ".vtu"), "ParaView, saving it as .ply or .csv"),
    **dict.fromkeys((".h5", ".hdf5", ".mat"), "Python, saving each cloud as .npy"),
    **dict.fromkeys((".zip", ".gz", ".7z", ".tar"), "a program that unpacks it"),
}

logger = logging.getLogger(__name__)


def read_cloud(
    path: str | os.PathLike[str],
    features: Sequence[str] | None = (),
    num_samples: int = 2048,
    seed: int = 0,
    notes: list[str] | None = None,
) -> NDArray[np.float64]:
    """Read a cloud, or sample the surface of a mesh.

    Args:
        path: A mesh or a cloud with a suffix out of `SUFFIXES`; see `load_cloud`.
        features: Features beside xyz, in order, by our names or others that are common, such as nx ny nz,
            red green blue, scalar_Intensity; one that is wider than 1 also as name_0, name_1 and so on. Of a
            mesh, `normal` is that of its faces. Columns that a file does not name are the features in order.
            None: `normal`, where the file names them, or its first columns are of length 1 (or 0, where
            unknown), as colours are not.
        num_samples: Points drawn from a mesh, evenly by area.
        seed: Seed of that draw.
        notes: Receives what was changed, such as colours up to 255, or left out; it is logged if None.

    Returns:
        Points (N, 3 + F) float64, in the file's own coordinates.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The package that reads it is not installed.
        ValueError: The file is of another kind, damaged, empty, lacks a feature (`FeatureError`), or its
            numbers cannot be it.
    """
    path = Path(os.path.expanduser(path))  # which leaves a file ~a as it is
    cloud = load_cloud(path, num_samples, seed, notes)
    if features is None:
        features = ("normal",) if cloud.has_normals() else ()
    return cloud.take(features, path, notes)


def is_cloud_file(path: Path, suffixes: Sequence[str] = SUFFIXES) -> bool:
    """Tell by its name whether a file is to be read: no hidden one, nor what belongs to others beside it.

    That is the data of a .gltf, and the list of sources that stands beside labels.
    """
    suffix = path.suffix.lower()
    known = suffix in suffixes and not path.name.startswith(".") and path.is_file()
    if known and path.name == SOURCES:
        with path.open("rb") as file:
            return file.readline().rstrip() != SOURCES_HEAD.encode()
    return known and not (suffix == ".bin" and is_part_of_gltf(path))


def clouds_in(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the files to be read in a folder at any depth, sorted; see `files_in`."""
    return [path for path in files_in(folder) if is_cloud_file(path, suffixes)]


def files_in(folder: Path) -> list[Path]:
    """Return all files in a folder at any depth, sorted; what is hidden is passed over.

    Links to folders are followed, as `layouts` does it, but for those to a folder that they lie in.
    """
    return sorted(_walk(folder, frozenset()))


def log_unread(where: str, files: Iterable[Path | str]) -> None:
    """Log the kinds of files among these that are not read, each with what writes one that is."""
    for suffix in sorted({Path(file).suffix.lower() for file in files} & set(CONVERTERS)):
        logger.warning("%s: %s is not read; convert it with %s", where, suffix, CONVERTERS[suffix])


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    within = above | {os.path.realpath(folder)}
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except PermissionError:  # of somebody else
        return
    for path in entries:
        if path.is_file():
            yield path
        elif path.is_dir() and os.path.realpath(path) not in within:
            yield from _walk(path, within)


def hold_labels(files: Sequence[Path]) -> bool:
    """Tell whether one of the first files holds labels of points, of several kinds."""
    for path in files[:3]:
        try:
            cloud = load_cloud(path, notes=[])
            labels = cloud.words if cloud.labels is None else cloud.labels
        except (ValueError, ImportError):
            continue
        if labels is not None and (labels != labels[0]).any():
            return True
    return False


def load_cloud(
    path: Path, num_samples: int = 2048, seed: int = 0, notes: list[str] | None = None
) -> FileCloud:
    """Read all that a file holds of a cloud, or of a sample of a mesh: features, labels, columns.

    Points that are NaN are left out, with a note. The arguments and errors are those of `read_cloud`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}{': it is a folder' if path.is_dir() else ''}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        remedy = f"; convert it with {CONVERTERS[suffix]}" if suffix in CONVERTERS else ""
        got = suffix or "no suffix"
        raise ValueError(f"{path}: expected one of {', '.join(SUFFIXES)}, got {got}{remedy}")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    try:
        with np.errstate(invalid="ignore"):  # NumPy warns of NaN that signal; they are left out or refused
            if suffix in CLOUDS:
                cloud = CLOUDS[suffix](path).narrowed()
            else:
                cloud = MESHES[suffix](path).sample(num_samples, seed)
    except (OSError, ImportError):
        raise
    except Exception as error:
        if type(error) is not ValueError:  # what a damaged file makes a parser meet, of any kind
            raise ValueError(f"{path}: expected a whole {suffix} file, got one that is damaged") from error
        reason = str(error).removeprefix(str(path)).lstrip(":, ")
        raise ValueError(f"{path}{', ' if reason.startswith('line ') else ': '}{reason}") from None
    return cloud.measured(path, notes)
