"""A small part data set in ShapeNetPart's layout, with known contents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

CATEGORIES = {"Mug": "001", "Table": "002"}
PARTS = {"Mug": {"body": 0, "handle": 1}, "Table": {"top": 2, "leg": 3, "shelf": 4}}
SPLITS = {"train": 4, "val": 2, "test": 3}


def write_parts(
    folder: Path,
    *,
    categories: Mapping[str, str] = CATEGORIES,
    parts: Mapping[str, Mapping[str, int]] = PARTS,
    splits: Mapping[str, int] = SPLITS,
    points: tuple[int, int] = (20, 30),
    parts_json: bool = True,
    seed: int = 0,
) -> Path:
    """Write so many shapes of each category to each split; a part is a slice of the shape along x.

    Shapes have between ``points`` points, stand anywhere and have any size; the first of each category holds
    all of its parts.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    table = "".join(f"{name}\t{synset}\n" for name, synset in categories.items())
    (folder / "synsetoffset2category.txt").write_text(table)
    if parts_json:
        (folder / "parts.json").write_text(json.dumps(parts))
    (folder / "train_test_split").mkdir()
    for split, each in splits.items():
        entries = []
        for name, synset in categories.items():
            (folder / synset).mkdir(exist_ok=True)
            for index in range(each):
                token = f"{split}{index}"
                entries.append(f"shape_data/{synset}/{token}")
                rows = make_rows(rng, int(rng.integers(points[0], points[1] + 1)), list(parts[name].values()))
                np.savetxt(folder / synset / f"{token}.txt", rows, fmt="%.6f")
        path = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        path.write_text(json.dumps(entries))
    return folder


def make_rows(rng: np.random.Generator, count: int, ids: list[int]) -> np.ndarray:
    """x y z nx ny nz part of one shape, (count, 7)."""
    xyz = rng.uniform(-1, 1, (count, 3))
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    place = np.clip(((xyz[:, 0] + 1) / 2 * len(ids)).astype(int), 0, len(ids) - 1)
    place[: len(ids)] = np.arange(len(ids))
    xyz = xyz * rng.uniform(0.5, 3) + rng.uniform(-2, 2, 3)
    return np.concatenate([xyz, normals, np.array(ids)[place][:, None]], axis=1)
