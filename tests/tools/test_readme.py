"""Every code block of the README: run as it stands, on what a small `make demo` leaves behind.

What needs data or a machine that are not here (ModelNet40, ShapeNetPart, a network, several GPUs) is not run:
of a training its settings are loaded, and of a download its options are read.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import bixt3d
from bixt3d import cli, commands
from bixt3d.datasets.synthetic.shapes import write_shapes
from tests.tools.conftest import CONFIG, Workplace
from tests.tools.test_seg_shapenetpart import CONFIG as PARTS_CONFIG

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
SHELL = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
LINES = [line.partition("  #")[0].strip() for line in SHELL]
PYTHON = "".join(block for kind, block in BLOCKS if kind == "python")
OURS = re.compile(r"python |bixt3d ")
NOT_HERE = re.compile(r"modelnet40|paper_|seg_shapenetpart|shapenetpart_")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A folder as after `make demo`, with small models, and FOLDER with files of a user's own."""
    folder = tmp_path_factory.mktemp("readme")
    write_shapes(folder / "data", per_class=10, num_points=1024, progress=False)
    for name in ("tools", "configs"):
        (folder / name).symlink_to(ROOT / name)
    for split, copies in (("train", 3), ("test", 1)):
        for mesh in (folder / "data/shapes/meshes/test").glob("*/*.off"):
            own = folder / "FOLDER" / split / mesh.parent.name
            own.mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                shutil.copy(mesh, own / f"{copy}_{mesh.name}")
    place = Workplace(folder)
    for run, tool, config, root in (
        ("demo", "train_cls", CONFIG, "data"),
        ("demo_parts", "seg_shapenetpart", PARTS_CONFIG, "data/shapes"),
    ):
        (folder / f"{run}.yaml").write_text(config)
        settings = [f"data.root={root}", f"run.dir=runs/{run}", "train.epochs=1"]
        place.run(tool, "--cfg", f"{run}.yaml", "--set", *settings).succeeded()
    return place


def shell(demo: Workplace, line: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**demo.environment(), "PATH": places, "COLUMNS": "80"}
    environment = {key: value for key, value in environment.items() if "DISPLAY" not in key}
    return subprocess.run(
        ["bash", "-c", line], cwd=demo.folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_there_are_blocks_of_two_kinds_only() -> None:
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}
    assert len(LINES) > 15 and all(LINES)


def test_python(demo: Workplace) -> None:
    done = shell(demo, f"python -c {shlex.quote(PYTHON.replace('chair_0098', 'chair_0009'))}")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[0], done.stdout
    assert re.match(r"\w+ 0\.\d+", first)
    assert "(1024, 3)" in second or "(1024, 6)" in second


@pytest.mark.parametrize("line", [x for x in LINES if OURS.match(x) and not NOT_HERE.search(x)])
def test_command_runs(line: str, demo: Workplace) -> None:
    done = shell(demo, line + (" train.epochs=1" if "--set" in line else ""))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [line for line in LINES if NOT_HERE.search(line)])
def test_command_that_needs_more_than_is_here(line: str) -> None:
    words = re.split(r"tools/|bixt3d ", line, maxsplit=1)
    assert len(words) == 2, f"nothing checks {line}"
    verb, arguments = verb_of(shlex.split(words[1]))
    args = cli.parser_of(verb, verb.__name__).parse_args(arguments)
    config = getattr(args, "cfg", None) or getattr(args, "config", None)
    if config:
        bixt3d.load_config(ROOT / config if "/" in config else config, args.set)


def verb_of(words: list[str]) -> tuple[ModuleType, list[str]]:
    """The verb of a command line, by its own words or by a door of tools/, and the words after it."""
    if words[0].endswith(".py"):
        door = re.search(r"main\(\[(.*), \*sys", (ROOT / "tools" / words[0]).read_text())
        assert door is not None
        words = [*re.findall(r'"(.*?)"', door[1]), *words[1:]]
    verb: ModuleType = commands
    while cli.is_group(verb):
        verb = import_module(f"{verb.__name__}.{words[0].replace('-', '_')}")
        words = words[1:]
    return verb, words


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make")])
def test_make_knows_its_jobs(line: str) -> None:
    done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text())
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []
