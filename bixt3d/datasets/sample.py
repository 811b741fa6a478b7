"""Samples meshes of published benchmarks anew: ModelNet40's as its HDF5 files, PSB's as part data."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.import_parts import Imported, import_parts
from bixt3d.datasets.layouts import class_of, list_splits
from bixt3d.datasets.modelnet40 import HDF5_FOLDER
from bixt3d.datasets.readers import MESHES, clouds_in, load_cloud

SHAPES_PER_FILE = 2048
DIGITS = 3  # kept of coordinates in the unit sphere


def sample_modelnet40(
    source: str | os.PathLike[str], root: str | os.PathLike[str], num_points: int = 1024, seed: int = 0
) -> Path:
    """Samples ModelNet40's meshes and writes them in the layout of the official HDF5 files.

    Points are drawn from the surface evenly by area, turned so that y points up as in the official release (z
    does in the meshes), moved into the unit sphere, and rounded to 0.001. ``name`` holds each shape's id. A
    shape's points depend on the seed and its id alone; shapes are stored in a drawn order.

    Args:
        source: The folder of the meshes, ``<class>/<split>/*.off``, or another layout of `folder`.
        root: The data folder, which gets ``modelnet40_ply_hdf5_2048/``.
        num_points: Points of a shape.
        seed: Seed of points and order.

    Returns:
        The folder that was written.

    Raises:
        FileNotFoundError: There is no such folder, or no meshes in it.
        FileExistsError: The data set is there already.
        ValueError: A mesh is damaged, or numbers are below 1.
    """
    from tqdm import tqdm

    listings = list_splits(Path(source).expanduser())
    out = _new_folder(Path(root).expanduser() / HDF5_FOLDER, num_points)
    train = {**listings["train"].files, **(listings["val"].files if "val" in listings else {})}
    files = {"train": train, "test": listings["test"].files if "test" in listings else {}}
    classes = sorted({class_of(name) for name in (*files["train"], *files["test"])})
    with tempfile.TemporaryDirectory(prefix=".sampling.", dir=out.parent) as made:
        folder = Path(made) / out.name
        folder.mkdir()
        (folder / "shape_names.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        bar = tqdm(total=sum(map(len, files.values())), desc="sampling meshes", unit="shape", disable=None)
        for split, paths in files.items():
            names = sorted(paths)
            order = np.random.default_rng([seed, len(names)]).permutation(len(names))
            names = [names[place] for place in order]
            written: list[str] = []
            for begin in range(0, len(names), SHAPES_PER_FILE):
                chunk = names[begin : begin + SHAPES_PER_FILE]
                clouds = []
                for name in chunk:
                    clouds.append(_upright(paths[name], num_points, seed))
                    bar.update()
                written.append(f"ply_data_{split}{len(written)}.h5")
                _write_hdf5(folder / written[-1], clouds, chunk, classes)
            lines = "".join(f"data/{HDF5_FOLDER}/{name}\n" for name in written)
            (folder / f"{split}_files.txt").write_text(lines, encoding="utf-8")
        bar.close()
        folder.rename(out)
    return out


def sample_psb(
    source: str | os.PathLike[str], out: str | os.PathLike[str], num_points: int = 2500, seed: int = 0
) -> Imported:
    """Samples labelled meshes, such as PSB's, and writes them in ShapeNetPart's layout with normals.

    Labels of a mesh lie beside it, under its name: ``.seg`` or ``.labels`` with one a face, numbers or names;
    or ``_labels.txt``, pairs of lines, a part's name and its faces, which count from 1.

    Args:
        source: The folder of the meshes, ``<category>/<id>.off``, perhaps in folders train, val, test.
        out: The folder to write, which is empty or not there yet.
        num_points: Points of a shape.
        seed: Seed of the points, and of the splits where no folder says them, see `import_parts`.

    Raises:
        FileNotFoundError: There is no such folder, no mesh in it, or a mesh has no labels.
        FileExistsError: ``out`` holds files already.
        ValueError: A mesh is damaged, or its labels are not one a face.
    """
    from tqdm import tqdm

    base = Path(source).expanduser()
    meshes = clouds_in(base, tuple(MESHES)) if base.is_dir() else []
    if not meshes:
        raise FileNotFoundError(f"{base}: expected <category>/<id>.off, found no mesh")
    _new_folder(Path(out).expanduser(), num_points)
    labels = {path: read_face_labels(path) for path in meshes}
    parts: dict[str, list[str]] = {}
    for path in meshes:
        known = parts.setdefault(path.parent.name, [])
        known += sorted(set(labels[path]) - set(known))
    names = {category: dict(enumerate(sorted(known))) for category, known in parts.items()}
    with tempfile.TemporaryDirectory() as made:
        for path in tqdm(meshes, desc="sampling meshes", unit="shape", disable=None):
            numbers = {name: number for number, name in names[path.parent.name].items()}
            mesh = MESHES[path.suffix.lower()](path)
            if len(mesh.sizes) != len(labels[path]):
                raise ValueError(
                    f"{path}: expected a label for each of {len(mesh.sizes)} faces, got {len(labels[path])}"
                )
            mesh.faces["label"] = np.array([numbers[name] for name in labels[path]])
            cloud = mesh.sample(num_points, _seed(path, seed))
            file = Path(made) / path.relative_to(base).with_suffix(".npz")
            file.parent.mkdir(parents=True, exist_ok=True)
            xyz = _unit_sphere(cloud.xyz)
            np.savez(file, xyz=xyz, normal=cloud.named["normal"], label=cloud.named["label"])
        return import_parts(made, out, names, ["normal"], seed=seed)


def read_face_labels(mesh: Path) -> list[str]:
    """Reads the label of each face of a mesh, by name, from the file beside it; see `sample_psb`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its faces are not numbered from 1, each once.
    """
    for suffix in (".seg", ".labels"):
        path = mesh.with_suffix(suffix)
        if path.is_file():
            return path.read_text(encoding="utf-8-sig").split()
    path = mesh.with_name(f"{mesh.stem}_labels.txt")
    if not path.is_file():
        raise FileNotFoundError(
            f"{mesh}: expected its labels beside it, in {mesh.stem}.seg, .labels or {path.name}"
        )
    with path.open(encoding="utf-8-sig") as file:
        lines = [line.strip() for line in file if line.strip()]
    found: dict[int, str] = {}
    for number, (name, faces) in enumerate(zip(lines[::2], lines[1::2], strict=False)):
        for face in faces.split():
            if not face.isdecimal() or int(face) in found:
                raise ValueError(
                    f"{path}, part {number + 1}: expected numbers of faces, each once, got {face}"
                )
            found[int(face)] = name
    if len(lines) % 2 or sorted(found) != list(range(1, len(found) + 1)):
        raise ValueError(f"{path}: expected pairs of lines, a name and faces that count from 1 without gaps")
    return [found[face] for face in sorted(found)]


def _new_folder(out: Path, num_points: int) -> Path:
    if num_points < 1:
        raise ValueError(f"num_points: expected at least 1, got {num_points}")
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds files already: move it away, or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _seed(path: Path, seed: int) -> int:
    """A seed of one shape, by its id."""
    return zlib.crc32(f"{seed} {path.stem}".encode())


def _upright(path: Path, num_points: int, seed: int) -> NDArray[np.float32]:
    """Samples a mesh whose z points up: (num_points, 3), y up, in the unit sphere, rounded."""
    x, y, z = load_cloud(path, num_points, _seed(path, seed)).xyz.T
    return _unit_sphere(np.stack([x, z, -y], axis=1)).round(DIGITS).astype(np.float32)


def _unit_sphere(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = xyz - xyz.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1).max()
    return centred


def _write_hdf5(
    path: Path, clouds: Sequence[NDArray[np.float32]], names: Sequence[str], classes: Sequence[str]
) -> None:
    import h5py

    dtype = np.min_scalar_type(
        len(classes) - 1
    )  # uint8, as the official files have, for 256 classes or fewer
    with h5py.File(path, "w") as file:
        file["data"] = np.stack(clouds)  # (n, num_points, 3)
        file["label"] = np.array([[classes.index(class_of(name))] for name in names], dtype)  # (n, 1)
        file["name"] = np.array([Path(name).stem.encode() for name in names])
