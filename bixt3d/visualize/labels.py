"""Labels as files: of points as PLY, NPY and CSV, and of a mesh's faces as a coloured PLY."""

from __future__ import annotations

import csv
import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bixt3d.datasets.readers import MESHES, SOURCES, SOURCES_HEAD
from bixt3d.ops import knn
from bixt3d.visualize.scene import LabelledCloud, part_colors

Array = np.ndarray[Any, Any]
ENDINGS = {"ply": ".ply", "npy": ".npy", "csv": ".csv", "mesh": "_faces.ply"}  # of each form
TAKEN = (*ENDINGS.values(), ".las", ".laz")  # those of scans that are written again, too
logger = logging.getLogger(__name__)


class NoFaces(ValueError):
    """A file is no mesh, whose faces could get labels."""


def write_labels(
    cloud: LabelledCloud, folder: str | Path, name: str, form: str, source: str | Path = ""
) -> Path:
    """Write what is predicted of a cloud's points as ``<folder>/<name>.<form>``, by the files' own numbers.

    Args:
        cloud: The cloud, in its own coordinates.
        folder: Where to write; missing folders are made.
        name: Name of the file, without suffix; may hold folders.
        form: ``"ply"`` as `write_ply`; ``"npy"``, an array with the fields x, y, z, part and confidence;
            ``"csv"``, the same with the part's name; ``"mesh"`` as `write_faces`, ``<name>_faces.ply``.
        source: The file that the cloud was read from, for ``"mesh"``.

    Raises:
        ValueError: For another form, a cloud without predicted parts, or a source without faces (`NoFaces`).
    """
    if form not in ENDINGS:
        raise ValueError(f"expected a form out of {', '.join(ENDINGS)}, got {form!r}")
    path = Path(folder).expanduser() / f"{name}{ENDINGS[form]}"
    if form == "ply":
        return write_ply(cloud, path)
    if form == "mesh":
        return write_faces(cloud, source, path)
    table = _table(cloud)
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "npy":
        np.save(path, table)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*table.dtype.names, "name"])
        names = dict(enumerate(cloud.names))
        parts = np.asarray(cloud.prediction).tolist()
        writer.writerows([*row, names.get(part, "")] for row, part in zip(table.tolist(), parts, strict=True))
    return path


def _table(cloud: LabelledCloud) -> Array:
    """Return x, y, z, part, and confidence where it is known, of every point."""
    if cloud.prediction is None:
        raise ValueError(f"{cloud.title}: expected predicted parts, got none")
    kinds = [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("part", "<i4")]
    kinds += [("confidence", "<f4")] if cloud.confidence is not None else []
    table = np.empty(len(cloud.points), dtype=kinds)
    for axis, name in enumerate("xyz"):
        table[name] = cloud.points[:, axis]
    table["part"] = cloud.coded(cloud.prediction)
    if cloud.confidence is not None:
        table["confidence"] = cloud.confidence
    return table


def write_faces(cloud: LabelledCloud, source: str | Path, path: str | Path) -> Path:
    """Write the mesh that a cloud was sampled from, its own vertices and faces, each face with its part.

    A face's part is that of the most among the sampled points nearest to its middle and its corners.

    Args:
        cloud: The sample, with predicted parts.
        source: The mesh's file.
        path: Where to write; ASCII PLY: faces with red, green, blue (uchar) and part (int).

    Raises:
        NoFaces: If the file is no mesh with faces.
    """
    source, path = Path(source), Path(path).expanduser()
    mesh = MESHES[source.suffix.lower()](source) if source.suffix.lower() in MESHES else None
    if mesh is None or not len(mesh.sizes):
        raise NoFaces(f"{source}: expected a mesh, for the labels of its faces, got a cloud")
    if cloud.prediction is None:
        raise ValueError(f"{cloud.title}: expected predicted parts, got none")
    xyz = np.asarray(mesh.vertices.xyz, dtype=np.float64)
    parts = face_parts(xyz, mesh.sizes, mesh.corners, cloud.points[:, :3], cloud.prediction)
    colors = np.round(255 * part_colors(parts, cloud.ids)).astype(int)  # (F, 3)
    head = [
        *("ply", "format ascii 1.0"),
        *_comments(cloud),
        f"element vertex {len(xyz)}",
        *(f"property double {axis}" for axis in "xyz"),
        f"element face {len(parts)}",
        "property list uchar int vertex_indices"
        if mesh.sizes.max() < 256
        else "property list int int vertex_indices",
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        *("property int part", "end_header"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii", errors="replace") as file:
        file.write("\n".join(head) + "\n")
        file.writelines(f"{x!r} {y!r} {z!r}\n" for x, y, z in xyz.tolist())
        begin = 0
        codes = cloud.coded(parts).tolist()
        for size, color, part in zip(mesh.sizes.tolist(), colors.tolist(), codes, strict=True):
            numbers = (size, *mesh.corners[begin : begin + size].tolist(), *color, part)
            file.write(" ".join(map(str, numbers)) + "\n")
            begin += size
    return path


def face_parts(vertices: Array, sizes: Array, corners: Array, points: Array, parts: Array) -> Array:
    """Return the part of each face (F,): the most among the parts of the points nearest to places on it.

    Args:
        vertices: (V, 3).
        sizes: Corners of each face (F,).
        corners: Vertices of face after face.
        points: Labelled points (N, 3).
        parts: Their parts (N,).
    """
    face = np.repeat(np.arange(len(sizes)), sizes)  # (C,), of each corner
    starts = np.cumsum(sizes) - sizes
    middle = np.add.reduceat(vertices[corners], starts) / sizes[:, None]  # (F, 3)
    places = np.concatenate([middle, (2 * middle[face] + vertices[corners]) / 3])  # (F + C, 3)
    owner = np.concatenate([np.arange(len(sizes)), face])
    weight = np.concatenate([np.full(len(sizes), 1.5), np.ones(len(face))])  # the middle decides a draw
    query, known = (torch.from_numpy(np.ascontiguousarray(one))[None] for one in (places, points))
    nearest = knn(query, known, 1)[0, :, 0].numpy()  # (F + C,)
    ids, number = np.unique(parts, return_inverse=True)
    votes = np.bincount(owner * len(ids) + number[nearest], weight, len(sizes) * len(ids))
    found: Array = ids[votes.reshape(len(sizes), len(ids)).argmax(axis=1)]
    return found


def _comments(cloud: LabelledCloud) -> list[str]:
    """Return the names of the parts as lines of a PLY file's head."""
    ids = sorted(cloud.ids)
    codes = cloud.coded(ids).tolist()
    said = (f"comment part {code} {cloud.names[part]}" for part, code in zip(ids, codes, strict=True))
    return [line.replace("\n", " ") for line in said]


def write_ply(cloud: LabelledCloud, path: str | Path, mode: str = "prediction") -> Path:
    """Write a cloud in its own coordinates, coloured as in every view, with each point's part and confidence.

    Args:
        cloud: The cloud.
        path: Where to write; missing folders are made. Binary PLY: x, y, z (float where that holds every
            digit, else double), red, green, blue (uchar), and where known part (int) and confidence (float).
        mode: What the colours show, one of ``cloud.modes``.

    Returns:
        The path written.

    Raises:
        ValueError: For a mode that the cloud does not have.
    """
    colors = np.round(255 * cloud.colors(mode)).astype(np.uint8)  # (N, 3)
    exact = bool((cloud.points.astype(np.float32) == cloud.points).all())
    kind = ("<f4", "float") if exact else ("<f8", "double")
    columns: list[tuple[str, str, str, Any]] = [
        *(("xyz"[axis], *kind, cloud.points[:, axis]) for axis in range(3)),
        *(((("red", "green", "blue")[channel]), "u1", "uchar", colors[:, channel]) for channel in range(3)),
    ]
    parts = cloud.truth if mode == "truth" else cloud.prediction
    if parts is not None:
        columns.append(("part", "<i4", "int", cloud.coded(parts)))
    if cloud.confidence is not None:
        columns.append(("confidence", "<f4", "float", cloud.confidence))
    table = np.empty(len(cloud.points), dtype=[(name, dtype) for name, dtype, _, _ in columns])
    for name, _, _, values in columns:
        table[name] = values
    header = [
        *("ply", "format binary_little_endian 1.0"),
        *_comments(cloud),
        f"element vertex {len(table)}",
        *(f"property {kind} {name}" for name, _, kind, _ in columns),
        "end_header",
    ]
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(header) + "\n"
    path.write_bytes(text.encode("ascii", errors="replace") + table.tobytes())
    return path


def label_names(
    files: Sequence[str | Path], folder: str | Path, given: Sequence[str | Path] = ()
) -> list[str]:
    """Return a name in a folder for the labels of each file, none twice and none that another file has.

    The folders below the one that all have in common are kept: ``box/s0.xyz`` -> ``box/s0_parts``. A name
    that is another file's gets the common folder before it, or else a number after it, and the log says so.

    Args:
        files: The files of the clouds.
        folder: Where labels are written; its ``sources.csv`` says of which file each name is.
        given: The files and folders in which they were found, if not one by one.
    """
    folder, owners = Path(folder).expanduser(), _owners(folder)
    places = [Path(os.path.abspath(file)) for file in files]
    tops = [Path(os.path.abspath(one)) for one in given or files]
    tops = [top for top in tops if top.exists()] or tops  # a missing file changes no other's name
    base = Path(os.path.commonpath([top if top.is_dir() else top.parent for top in tops]))
    names: list[str] = []
    for place in places:
        below = place.relative_to(base) if place.is_relative_to(base) else Path(place.name)
        plain = below.with_name(f"{place.stem}_parts").as_posix()
        numbered = (f"{plain}_{number}" for number in itertools.count(2))
        for name in itertools.chain([plain] if plain in names else [plain, f"{base.name}/{plain}"], numbered):
            exists = any((folder / f"{name}{ending}").exists() for ending in TAKEN)
            if name not in names and owners.get(name, "" if exists else str(place)) == str(place):
                break
        if name != plain:
            logger.warning("%s: its labels are named %s, as %s is another file's", place, name, plain)
        names.append(name)
    return names


def note_source(folder: str | Path, name: str, source: str | Path) -> None:
    """Note in a folder's ``sources.csv`` of which file the labels of a name are."""
    folder = Path(folder).expanduser()
    row = (name, os.path.abspath(source))
    if _owners(folder).get(name) != row[1]:
        new = not (folder / SOURCES).exists()
        with (folder / SOURCES).open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file, lineterminator="\n").writerows([SOURCES_HEAD.split(","), row] if new else [row])


def _owners(folder: str | Path) -> dict[str, str]:
    """Return the file of each name of labels in a folder; raise ValueError if its list is another's file."""
    path = Path(folder).expanduser() / SOURCES
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    if rows and rows[0] != SOURCES_HEAD.split(","):
        raise ValueError(f"{path}: expected a list {SOURCES_HEAD}, got another file: choose another folder")
    return {row[0]: row[1] for row in rows if len(row) == 2}
