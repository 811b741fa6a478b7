"""Data sets larger than memory: read and trained on within less; and by two processes that share them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from bixt3d.datasets.cache import FOLDER
from tests.tools.conftest import TOOLS, Workplace
from tests.tools.test_processes import TORCHRUN
from tests.training.tiny import rows_of, weights

MEGA = 2**20
LIMIT = 40 * MEGA  # of what a process may take beyond what it takes with its libraries
CLOUDS, POINTS = 80, 2048  # of a file: 1.9 MiB
FILES = 5 * LIMIT // (CLOUDS * POINTS * 12) + 1

PROGRAM = """
import re, resource, sys
from pathlib import Path
import h5py, torch
import bixt3d
from bixt3d.datasets.mapped import Mapped

def taken(what):
    return 1024 * int(re.search(rf"{what}:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
LIMIT, folder = int(sys.argv[1]), Path(sys.argv[2])
few = bixt3d.Split(torch.randn(8, 64, 3), torch.arange(8) % 2, ("ball", "board"))
config = bixt3d.load_config(folder / "config.yaml", [f"run.dir={folder / 'few'}"])
bixt3d.train(config, train=few, test=few)  # so that all libraries are loaded
before, resident = taken("VmData"), taken("VmRSS")
resource.setrlimit(resource.RLIMIT_DATA, (before + LIMIT, before + LIMIT))
config = bixt3d.load_config(folder / "config.yaml", [f"run.dir={folder / 'run'}"])
train = bixt3d.open_dataset("modelnet40", folder, "trainval")
assert isinstance(train.points, Mapped), train.points
bixt3d.train(config)
print("sizes", train.points.numel() * 4 / LIMIT, (taken("VmHWM") - resident) / LIMIT)
"""

CONFIG = """
data: {{name: modelnet40, root: {folder}, num_points: 64, train_split: trainval}}
model:
  name: bixt_ti_cls
  args: {{dim: 12, depth: 1, num_heads: 2, num_latents: 4, coord_scale: 6.0, drop_path: 0.0}}
train: {{epochs: 1, batch_size: 64, eval_batch_size: 64}}
run: {{tensorboard: false}}
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of five times the memory."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "shape_names.txt").write_text("ball\nboard\n")
    draw = np.random.default_rng(0)
    label = np.arange(CLOUDS) // (CLOUDS // 2)
    for name in (*(f"train{number:03}" for number in range(FILES)), "test0"):
        cloud = draw.random(size=(CLOUDS, POINTS, 3), dtype=np.float32) - 0.5
        cloud *= draw.uniform(0.2, 1, size=(CLOUDS, 1, 3)).astype(np.float32)  # each of its own shape
        cloud[: CLOUDS // 2, :, 1] /= 10
        cloud -= cloud.mean(1, keepdims=True)
        cloud /= np.sqrt(np.square(cloud).sum(2).max(1))[:, None, None]
        with h5py.File(folder / f"ply_data_{name}.h5", "w") as file:
            file["data"], file["label"] = cloud, label
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_set_five_times_the_memory(large: Path) -> None:
    """It is parsed, trained on and tested within a limit of data that it is five times as large as."""
    command = [sys.executable, "-c", PROGRAM, str(LIMIT), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    size, peak = map(float, re.search(r"^sizes (\S+) (\S+)$", done.stdout, re.M).groups())  # type: ignore[union-attr]
    assert size >= 5 and peak < 2.5
    assert "test, last epoch" in done.stdout


Runs = dict[str, Path]


@pytest.fixture(scope="module")
def shared(workplace: Workplace) -> tuple[Runs, str]:
    """The same training by two processes: with its clouds in memory, and in files that are not there yet."""
    runs, said = {}, ""
    caches = workplace.folder / "data/shapes" / "modelnet40_ply_hdf5_2048" / FOLDER
    for name, memory in (("memory", "1G"), ("map", "0")):
        shutil.rmtree(caches, ignore_errors=True)
        runs[name] = workplace.folder / "runs" / f"two_{name}"
        settings = [f"run.dir={runs[name]}", f"data.root={workplace.folder / 'data'}", "train.epochs=1"]
        program = [str(TOOLS / "train_cls.py"), "--cfg", str(workplace.config), "--device", "cpu"]
        done = subprocess.run(
            [sys.executable, *TORCHRUN, *program, "--set", *settings],
            cwd=workplace.folder,
            env={**workplace.environment(), "BIXT3D_MEMORY": memory},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout + done.stderr
    return runs, said


def test_two_processes_train_on_a_map_as_on_memory(shared: tuple[Runs, str]) -> None:
    """To the last bit, draws of points and their farthest-point order included."""
    runs, _ = shared
    assert rows_of(runs["map"]) == rows_of(runs["memory"])
    for name in ("last", "best"):
        one, other = (weights(run / f"{name}.safetensors") for run in runs.values())
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_one_of_two_processes_makes_what_both_map(workplace: Workplace, shared: tuple[Runs, str]) -> None:
    caches = workplace.folder / "data/shapes" / "modelnet40_ply_hdf5_2048" / FOLDER
    made = sorted(path.name for path in caches.glob("*.points.npy"))
    assert len(made) == 2 and not list(caches.glob("*.tmp")) and not list(caches.glob("*.lock"))
    orders = [path.name for path in caches.glob("*.fps-48-*.npz")]
    assert len(orders) == len(set(orders)) == 3  # of train, val and test, each once
