"""What files announce costs nothing: each is refused by its name, in a process with little memory left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.border import bombs, files

NAMES = (
    *("counts.off", "ascii.ply", "binary.ply", "list.ply", "count.stl", "index.obj"),
    *(
        "accessor.glb",
        "instances.glb",
        "deep.glb",
        "accessor.gltf",
        "corners.off",
        "count.las",
        "count.laz",
        "records.las",
    ),
    *(
        "shape.npy",
        "kind.npy",
        "unpacks.npz",
        "shape.npz",
        "points.pcd",
        "block.pcd",
        "sparse.h5",
        "names.h5",
    ),
    *("header.safetensors", "wide.safetensors", "deep.safetensors", "points.safetensors", "packed.pt"),
    *("aliases.yaml", "nested.yaml", "long.yaml", "pax.tar.gz", "dictionary.tar.xz", "claims.zip"),
)
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits are Linux's")


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    warm, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("bombs")
    for suffix, contents in {**files.SHAPES, ".h5": [files.hdf5()], ".pt": [files.state()]}.items():
        (warm / f"{suffix[1:]}{suffix}").write_bytes(contents[0])
    (warm / "whole.safetensors").write_bytes(files.checkpoint())
    (warm / "whole.yaml").write_bytes(files.CONFIG)
    for suffix, content in files.ARCHIVES.items():
        (warm / f"whole{suffix}").write_bytes(content)
    bombs.write_all(folder)
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.border.bombs", str(warm), str(folder)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    told = {line["name"]: line for line in map(json.loads, ran.stdout.splitlines())}
    assert ran.returncode == 0, f"it ended after {list(told)[-1:]}: {ran.stderr[-2000:]}"
    return told


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_announces_takes_no_memory(endings: dict[str, Any], name: str) -> None:
    ending = endings[name]
    assert ending["kind"] == "ValueError", ending
    assert name in ending["message"]
    assert "MemoryError" not in ending["message"] and "allocate" not in ending["message"]
    assert ending["took"] < 200 << 20
    assert ending["seconds"] < 20


def test_every_file_is_looked_at(endings: dict[str, Any]) -> None:
    assert sorted(endings) == sorted(NAMES)
