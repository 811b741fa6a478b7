"""Synthetic shapes with parts: drawn, sampled, and written in the layouts of ModelNet40 and ShapeNetPart.

Every shape depends on (seed, category, index) alone: the same seed gives the same bytes. The geometry is in
`models`.
"""

from __future__ import annotations

import json
import os
import shutil
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bixt3d.datasets.modelnet40 import HDF5_FOLDER
from bixt3d.datasets.part_table import TABLE, list_path
from bixt3d.datasets.shapenetpart import FOLDER as PART_FOLDER
from bixt3d.datasets.synthetic.models import MODELS, PARTS
from bixt3d.suggest import nearest

if TYPE_CHECKING:
    import trimesh

CATEGORIES: tuple[str, ...] = tuple(sorted(PARTS))
_NAMES = [(category, part) for category in CATEGORIES for part in PARTS[category]]
PART_IDS: dict[str, dict[str, int]] = {
    category: {part: _NAMES.index((category, part)) for part in PARTS[category]} for category in CATEGORIES
}
FORMAT_VERSION = 1
SHAPES_PER_FILE = 2048
MESHES_PER_CLASS = 2
STRETCH = 0.2

Entry = tuple[str, int]  # a category, and the number of a shape of it


def make_shape(category: str, rng: np.random.Generator) -> tuple[trimesh.Trimesh, np.ndarray]:
    """Draw one shape of a category, in metres and y up, standing on about y = 0.

    Args:
        category: one of `CATEGORIES`.
        rng: the source of every choice; equal states give equal shapes.

    Returns:
        The mesh, and for each of its faces the index of its part in `PARTS[category]`, (F,) int64.

    Raises:
        ValueError: the category is not one of `CATEGORIES`.
    """
    import trimesh

    if category not in MODELS:
        known = ", ".join(CATEGORIES)
        raise ValueError(
            f"category: expected one of {known}, got {category!r}{nearest(category, CATEGORIES)}"
        )
    pieces = MODELS[category](rng)
    # A stretch a axis hides what is left of a category in the proportions of its bounding box.
    stretch = np.exp(rng.uniform(-STRETCH, STRETCH, size=3))
    names, meshes = zip(*pieces, strict=True)
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    vertices = np.concatenate([mesh.vertices for mesh in meshes]) * stretch  # (V, 3)
    faces = np.concatenate(
        [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    )  # (F, 3)
    parts = [PARTS[category].index(name) for name in names]
    face_parts = np.repeat(parts, [len(mesh.faces) for mesh in meshes])  # (F,)
    return trimesh.Trimesh(vertices, faces, process=False), face_parts.astype(np.int64)


def sample_shape(
    mesh: trimesh.Trimesh, face_parts: np.ndarray, num_points: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample a surface evenly by area, and centre and scale the points to the unit sphere.

    Args:
        mesh: F triangles.
        face_parts: (F,) part of each face.
        num_points: how many points to draw.
        rng: the source of the draw.

    Returns:
        points (num_points, 3) float32 with mean 0 and largest norm 1, normals (num_points, 3) float32 of
        length 1, and parts (num_points,) int64.

    Raises:
        ValueError: `face_parts` does not hold one part a face.
    """
    if len(face_parts) != len(mesh.faces):
        raise ValueError(
            f"face_parts: expected one part for each of {len(mesh.faces)} faces, got {len(face_parts)}."
        )
    corner, edge, other = np.moveaxis(np.asarray(mesh.vertices)[np.asarray(mesh.faces)], 1, 0)  # each (F, 3)
    edge, other = edge - corner, other - corner
    cross = np.cross(edge, other)
    area = np.linalg.norm(cross, axis=1)
    total = np.cumsum(area)
    face = np.searchsorted(total, rng.random(num_points) * total[-1], side="right")
    weights = rng.random((2, num_points, 1))
    u, v = np.where(weights.sum(axis=0) > 1, 1 - weights, weights)  # folded back into the triangle
    points = corner[face] + u * edge[face] + v * other[face]
    points -= points.mean(axis=0)
    points /= np.linalg.norm(points, axis=1).max()
    normals = cross[face] / area[face, None]
    return points.astype(np.float32), normals.astype(np.float32), np.asarray(face_parts, dtype=np.int64)[face]


def shapes_are_ready(
    root: str | os.PathLike[str],
    *,
    per_class: int | None = None,
    num_points: int | None = None,
    seed: int | None = None,
) -> bool:
    """Tell whether `root/shapes` is a whole data set of this format and these arguments (None: any)."""
    try:
        stamp = json.loads((Path(root).expanduser() / "shapes" / "shapes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    wanted = {"per_class": per_class, "num_points": num_points, "seed": seed}
    wanted = {
        "format": FORMAT_VERSION,
        **{name: value for name, value in wanted.items() if value is not None},
    }
    return isinstance(stamp, dict) and wanted.items() <= stamp.items()


def write_shapes(
    root: str | os.PathLike[str],
    *,
    per_class: int = 100,
    num_points: int = 2048,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write the data set to `root/shapes`, about 70 / 10 / 20 % train / val / test of each category.

    It holds `modelnet40_ply_hdf5_2048` (with normals and part ids; the train file has train, then val),
    `shapenetcore_partanno_segmentation_benchmark_v0_normal` with its `parts.json` (the same shapes, in the
    order of its split lists), `meshes/test/<class>/*.off` (a few of the test shapes, at any scale and place)
    and `shapes.json`, which says the arguments. The folder appears at once when all is written. A data set
    that is there is kept if its arguments are the same, and else replaced.

    Args:
        root: the folder that gets `shapes/`; it is created if missing.
        per_class: shapes a category, at least 3.
        num_points: points a shape, at least 32.
        seed: 0 or larger; the same seed gives the same bytes.
        progress: show a progress bar.

    Returns:
        The path `root/shapes`.

    Raises:
        ValueError: a number is out of range, `root` is a file, or `root/shapes` holds something else.
    """
    arguments = {
        "per_class": _whole_number("per_class", per_class, 3),
        "num_points": _whole_number("num_points", num_points, 32),
        "seed": _whole_number("seed", seed, 0),
    }
    target = Path(root).expanduser() / "shapes"
    if shapes_are_ready(root, **arguments):
        return target
    for path in (target, *target.parents):
        if path.is_file():
            raise ValueError(f"{path} is a file: expected a folder to write the data set in.")
    if target.is_dir() and any(target.iterdir()) and not (target / "shapes.json").is_file():
        raise ValueError(
            f"{target} holds something else (no shapes.json in it): move it away, or choose another root."
        )

    making = target.with_name(f".shapes.{os.getpid()}.making")
    replaced = target.with_name(f".shapes.{os.getpid()}.replaced")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    try:
        _write_all(making, **arguments, progress=progress)
        (making / "shapes.json").write_text(
            json.dumps({"format": FORMAT_VERSION, **arguments}, indent=2) + "\n", encoding="utf-8"
        )
        if not shapes_are_ready(root, **arguments):  # another run may have been faster
            if target.exists():
                target.rename(replaced)
            making.rename(target)
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return target


def _write_all(folder: Path, *, per_class: int, num_points: int, seed: int, progress: bool) -> None:
    """Write every file but the stamp, in chunks of one HDF5 file."""
    from tqdm import tqdm

    splits = _split_entries(per_class, seed)
    _write_tables(folder, splits)
    total, quiet = per_class * len(CATEGORIES), None if progress else True
    with tqdm(total=total, desc="making shapes", unit="shape", disable=quiet) as bar:
        for name, entries in {"train": splits["train"] + splits["val"], "test": splits["test"]}.items():
            files: list[str] = []
            queue = iter(entries)
            while chunk := list(islice(queue, SHAPES_PER_FILE)):
                clouds = []
                for entry in chunk:
                    clouds.append(_make_cloud(folder, entry, per_class, num_points, seed))
                    bar.update()
                files.append(f"ply_data_{name}{len(files)}.h5")
                _write_hdf5(folder / HDF5_FOLDER / files[-1], chunk, clouds)
            lines = "".join(f"data/{HDF5_FOLDER}/{file}\n" for file in files)
            (folder / HDF5_FOLDER / f"{name}_files.txt").write_text(lines, encoding="utf-8")


def _split_entries(per_class: int, seed: int) -> dict[str, list[Entry]]:
    """The shuffled (category, index) of each split; shape 0, which has every part, is always in train."""
    test, val = max(1, round(0.2 * per_class)), max(1, round(0.1 * per_class))
    bounds = {
        "train": (0, per_class - val - test),
        "val": (per_class - val - test, per_class - test),
        "test": (per_class - test, per_class),
    }
    rng = np.random.default_rng(seed)
    splits = {}
    for split, (first, last) in bounds.items():
        entries = [(category, index) for category in CATEGORIES for index in range(first, last)]
        splits[split] = [entries[i] for i in rng.permutation(len(entries))]
    return splits


def _write_tables(folder: Path, splits: dict[str, list[Entry]]) -> None:
    """Write the lists and tables of names of both layouts, and make their folders."""
    (folder / HDF5_FOLDER).mkdir()
    lines = "".join(f"{category}\n" for category in CATEGORIES)
    (folder / HDF5_FOLDER / "shape_names.txt").write_text(lines, encoding="utf-8")
    (folder / PART_FOLDER / "train_test_split").mkdir(parents=True)
    for category in CATEGORIES:
        (folder / PART_FOLDER / _synset(category)).mkdir()
        (folder / "meshes" / "test" / category).mkdir(parents=True)
    synsets = "".join(f"{category}\t{_synset(category)}\n" for category in CATEGORIES)
    (folder / PART_FOLDER / TABLE).write_text(synsets, encoding="utf-8")
    text = json.dumps(PART_IDS, indent=2) + "\n"
    (folder / PART_FOLDER / "parts.json").write_text(text, encoding="utf-8")
    for split, entries in splits.items():
        names = [f"shape_data/{_synset(category)}/{_token(category, index)}" for category, index in entries]
        list_path(folder / PART_FOLDER, split).write_text(json.dumps(names) + "\n", encoding="utf-8")


def _make_cloud(
    folder: Path, entry: Entry, per_class: int, num_points: int, seed: int
) -> dict[str, np.ndarray]:
    """Make one shape, write its text file (and of some test shapes the mesh), and return its arrays."""
    category, index = entry
    rng = np.random.default_rng([seed, CATEGORIES.index(category), index])
    mesh, face_parts = make_shape(category, rng)
    while index == 0 and len(np.unique(face_parts)) < len(PARTS[category]):
        mesh, face_parts = make_shape(category, rng)
    points, normals, parts = sample_shape(mesh, face_parts, num_points, rng)
    parts = np.array(list(PART_IDS[category].values()))[parts]  # (num_points,)

    table = np.concatenate([points, normals, parts[:, None]], axis=1)  # (num_points, 7)
    text = ("%.6f %.6f %.6f %.6f %.6f %.6f %.6f\n" * num_points) % tuple(table.ravel().tolist())
    path = folder / PART_FOLDER / _synset(category) / f"{_token(category, index)}.txt"
    path.write_text(text, encoding="utf-8")
    if index >= per_class - MESHES_PER_CLASS and index > 0:
        mesh.vertices *= 10 ** rng.uniform(-1, 2)
        mesh.vertices += rng.uniform(-1, 1, size=3) * mesh.scale
        mesh.export(folder / "meshes" / "test" / category / f"{_token(category, index)}.off")
    return {"data": points, "normal": normals, "pid": parts}


def _write_hdf5(path: Path, entries: list[Entry], clouds: list[dict[str, np.ndarray]]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for key in ("data", "normal", "pid"):
            file[key] = np.stack([cloud[key] for cloud in clouds])  # (n, num_points, 3), pid: (n, num_points)
        label = [[CATEGORIES.index(category)] for category, _ in entries]
        file["label"] = np.array(label, dtype=np.uint8)  # (n, 1)


def _synset(category: str) -> str:
    return str(90000001 + CATEGORIES.index(category))


def _token(category: str, index: int) -> str:
    return f"{category}_{index:04d}"


def _whole_number(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}.")
    return int(value)
