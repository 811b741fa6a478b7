"""The wheel alone, installed into an empty environment and used in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.markers import slow
from tests.test_structure import project_files

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_is_packed() -> None:
    """Setuptools is told them by name, as some lie beside the package."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    with open(ROOT / "pyproject.toml", "rb") as file:
        settings = tomllib.load(file)["tool"]["setuptools"]
    inside = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "bixt3d").rglob("__init__.py")
    }
    beside = {
        f"bixt3d.{'.'.join(p.parent.relative_to(ROOT).parts)}" for p in ROOT.glob("benchmarks/**/__init__.py")
    }
    assert set(settings["packages"]) == inside | beside | {"bixt3d.configs", "bixt3d.weights"}
    assert all((ROOT / folder).is_dir() for folder in settings["package-dir"].values())


class Installed:
    """The wheel in an environment of its own, which has no other place to take bixt3d from."""

    def __init__(self, folder: Path) -> None:
        source, self.home, self.empty = folder / "source", folder / "environment", folder / "empty"
        for path in project_files(ROOT):
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        self.empty.mkdir()
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        wheels = folder / "wheels"
        self._run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(source)], folder)
        shutil.rmtree(source)
        (self.wheel,) = wheels.glob("bixt3d-*.whl")
        venv.create(self.home, with_pip=False, symlinks=True)
        purelib = sysconfig.get_path("purelib", vars={"base": str(self.home), "platbase": str(self.home)})
        self._run([*pip, "install", "--quiet", "--no-deps", "--target", purelib, str(self.wheel)], folder)
        # What bixt3d needs is taken from this environment, behind it; an editable install there is not.
        others = sysconfig.get_path("purelib")
        (Path(purelib) / "others.pth").write_text(f"import sys; sys.path.append({others!r})\n")

    def _run(self, command: list[str], folder: Path) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80"}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bixt3d(self, *words: str) -> str:
        return self.python("-m", "bixt3d", *words)

    def python(self, *words: str) -> str:
        return self._run([str(self.home / "bin" / "python"), *words], self.empty)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


@slow
def test_it_is_the_installed_one(installed: Installed) -> None:
    said = installed.python("-c", "import bixt3d; print(bixt3d.__file__, bixt3d.__version__)")
    place, version = said.split()
    assert Path(place).is_relative_to(installed.home) and version in installed.wheel.name
    assert installed.bixt3d("--version") == f"bixt3d {version}\n"


@slow
def test_configs_and_weights_are_inside(installed: Installed) -> None:
    program = (
        "import bixt3d\n"
        "config = bixt3d.load_config('modelnet40_cpu')\n"
        "model = bixt3d.load_model('modelnet40_cpu')\n"
        "print(config.run.dir, sum(p.numel() for p in model.parameters()), *bixt3d.list_configs())\n"
    )
    card = json.loads((ROOT / "bixt3d/weights.json").read_text())["modelnet40_cpu"]["card"]
    run_dir, parameters, *configs = installed.python("-c", program).split()
    assert run_dir == "runs/modelnet40_cpu" and int(parameters) == card["parameters"]
    assert configs == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    for what in ("weights", "configs"):
        assert str(installed.home) in installed.bixt3d("list", what).splitlines()[-1]


@slow
def test_from_shapes_to_a_named_shape(installed: Installed) -> None:
    """All of it in a folder that was empty."""
    installed.bixt3d("data", "make", "--per-class", "10", "--num-points", "256", "--quiet")
    small = ["train.epochs=1", "train.batch_size=16", "data.num_points=128", "model.args.neighbors=8"]
    said = installed.bixt3d("train", "shapes_quickstart", "--set", *small)
    assert "everything is in runs/shapes_quickstart" in said
    assert "20 shapes of shapes" in installed.bixt3d("evaluate", "runs/shapes_quickstart")
    mesh = str(next(installed.empty.glob("data/shapes/meshes/test/chair/*.off")))
    for checkpoint in ("runs/shapes_quickstart", "modelnet40_cpu"):
        assert installed.bixt3d("predict", checkpoint, mesh).startswith(mesh)
    assert "parameters on cpu" in installed.bixt3d("train", "modelnet40_cpu", "--dry-run")
    assert {path.name for path in installed.empty.iterdir()} == {"data", "runs"}


@slow
def test_benchmark(installed: Installed) -> None:
    quick = ("--points", "64", "--batch", "2", "--repeats", "1", "--mode", "inference", "--dtype", "float32")
    said = installed.bixt3d("benchmark", "--models", "pointnet", *quick)
    assert said.splitlines()[2].startswith("pointnet ") and "did not run" not in said
