"""The structure that the project promises: which way imports run, what loads when, how long files grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bixt3d.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
TOOLS = sorted((ROOT / "tools").glob("*.py"))

# cli -> commands -> training, inference, visualize -> tasks -> datasets, models -> ops -> torch. Each part
# may import itself and these ("" is the package itself, for its version); inference reads the checkpoints
# that training writes, and visualize draws what inference says. Error messages everywhere use suggest, which
# is held to the standard library. OUTSIDE: the packages beyond it that a part may import, where limited.
LOWER = {"suggest", "progress", "ops", "config", "metrics", "mistakes"}
MAY_IMPORT = {
    "suggest": set(),
    "progress": set(),
    "shipped": {"suggest"},
    "ops": {"suggest"},
    "yaml": set(),
    "settings": {"suggest"},
    "sections": {"suggest", "settings"},
    "config": {"suggest", "settings", "sections", "yaml", "shipped"},
    "mistakes": {"shipped"},
    "retrieval": {"suggest", "ops"},
    "metrics": {"suggest", "ops", "retrieval"},
    "models": {"suggest", "ops"},
    "datasets": {"suggest", "progress", "ops", "yaml"},
    "tasks": {"models", "datasets"} | LOWER,
    "training": {"tasks", "models", "datasets", "yaml", "shipped"} | LOWER,
    "inference": {"training", "tasks", "models", "datasets"} | LOWER,
    "visualize": {"inference", "tasks", "models", "datasets", "yaml"} | LOWER,
    "commands": {"training", "inference", "visualize", "tasks", "models", "datasets", "shipped", "yaml"}
    | LOWER,
    "cli": {"commands", "suggest", ""},
    "__main__": {"cli"},
}
OUTSIDE = {
    "suggest": set(),
    "yaml": {"yaml"},
    "settings": {"numpy"},
    "sections": set(),
    "config": set(),
    "ops": {"torch", "numpy", "scipy", "numba", "triton", "torch_cluster", "pytorch3d"},
}
PROGRAMS = {"tools", "tests", "benchmarks"}  # nothing in bixt3d or tools imports them, but for
RUNS_BENCHMARKS = "bixt3d/commands/benchmark.py"  # the command in front of benchmarks
LATE = (
    *("h5py", "trimesh", "matplotlib", "yaml", "safetensors", "open3d", "tensorboard", "wandb", "trackio"),
    *("pooch", "plotly", "onnx", "onnxruntime", "onnxscript", "scipy"),
)
MAX_LINES = {"bixt3d": 350, "tools": 15}
MACHINE_PATH = re.compile(
    r"(?<![\w.~:/-])(?:/(?:home|Users|root|work|workspace|mnt|scratch|opt)|[A-Z]:\\Users)[/\\]\w"
)


class Import(NamedTuple):
    line: int
    module: str  # absolute and dotted
    at_import: bool  # runs when its file is imported


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Imports of a file, relative ones resolved; `from a import b` is a.b where that is a module, else a."""
    package = path.relative_to(root).with_suffix("").parts[:-1]

    def visit(node: ast.AST, at_import: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, at_import)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                below = root.joinpath(*base.split("."), alias.name)
                is_module = below.is_dir() or below.with_suffix(".py").is_file()
                yield Import(node.lineno, f"{base}.{alias.name}" if is_module else base, at_import)
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        only_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_import and not is_function and not only_types)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def library_files(root: Path) -> list[Path]:
    return sorted((root / "bixt3d").rglob("*.py"))


def wrong_arrows(root: Path) -> list[str]:
    """Imports that run against the arrows; bixt3d/__init__.py may import all of bixt3d, and so may tools."""
    found = []
    for path in library_files(root):
        part = path.relative_to(root / "bixt3d").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        where = path.relative_to(root).as_posix()
        if part not in MAY_IMPORT:
            found.append(f"{where}: {part} has no place in MAY_IMPORT; give it one")
            continue
        for line, module, _ in imports_of(path, root):
            top, _, rest = module.partition(".")
            target = rest.partition(".")[0]
            if top == "bixt3d" and target not in MAY_IMPORT[part] | {part}:
                found.append(f"{where}:{line}: {part} imports {module}")
            elif top in PROGRAMS - ({"benchmarks"} if where == RUNS_BENCHMARKS else set()):
                found.append(f"{where}:{line}: {part} imports {module}")
            elif part in OUTSIDE and top not in OUTSIDE[part] | {"bixt3d"} | sys.stdlib_module_names:
                found.append(f"{where}:{line}: {part} imports {module}")
    for path in sorted((root / "tools").glob("*.py")):
        forbidden = PROGRAMS | {other.stem for other in (root / "tools").glob("*.py")}
        for line, module, _ in imports_of(path, root):
            if module.partition(".")[0] in forbidden:
                found.append(f"tools/{path.name}:{line}: tools imports {module}")
    return found


def early_imports(root: Path) -> list[str]:
    """Imports of the packages in LATE that run as soon as their file is imported."""
    return [
        f"{path.relative_to(root).as_posix()}:{line}: {module} is imported outside the function that uses it"
        for path in library_files(root)
        for line, module, at_import in imports_of(path, root)
        if at_import and module.partition(".")[0] in LATE
    ]


def long_files(root: Path) -> list[str]:
    """Files above their folder's limit of lines."""
    return [
        f"{path.relative_to(root).as_posix()}: {lines} lines, {limit} are allowed"
        for folder, limit in MAX_LINES.items()
        for path in sorted((root / folder).rglob("*.py"))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > limit
    ]


def _text_without_encoding(call: ast.Call, imported: set[str]) -> bool:
    """Whether a call of `open`, `read_text` or `write_text` leaves the encoding of text to the computer."""
    function, given = call.func, {word.arg: word.value for word in call.keywords}
    if "encoding" in given or not isinstance(function, ast.Name | ast.Attribute):
        return False
    method = isinstance(function, ast.Attribute)
    name = function.attr if isinstance(function, ast.Attribute) else function.id
    owner = getattr(function, "value", None)
    if isinstance(owner, ast.Name) and owner.id in imported:  # another function, such as os.open
        return False
    if name in ("read_text", "write_text"):
        return method and len(call.args) < (1 if name == "read_text" else 2)
    if name != "open":
        return False
    at = 0 if method else 1
    mode = given.get("mode", call.args[at] if len(call.args) > at else ast.Constant("r"))
    options = [mode.body, mode.orelse] if isinstance(mode, ast.IfExp) else [mode]
    modes = [one.value for one in options if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any("b" not in one for one in modes)


def unnamed_encodings(root: Path) -> list[str]:
    """Text that is read or written in the encoding of whoever's computer it is."""
    found = []
    for path in library_files(root):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        imported = {alias.asname or alias.name for node in imports for alias in node.names}
        found += [
            f"{path.relative_to(root).as_posix()}:{node.lineno}: {ast.unparse(node)[:60]} names no encoding"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and _text_without_encoding(node, imported)
        ]
    return found


def machine_paths(root: Path, paths: list[Path]) -> list[str]:
    """Lines of text files that name a folder of somebody's machine."""
    found = []
    for path in paths:
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(root).as_posix()}:{number}: {line.strip()[:100]}")
    return found


def project_files(root: Path) -> list[Path]:
    """What git tracks, or would track with `git add .`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so which files belong to the project is not known")
    return [path for name in listed.split("\0") if name and (path := root / name).is_file()]


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# The project


def test_imports_run_along_the_arrows() -> None:
    assert wrong_arrows(ROOT) == []


def test_optional_packages_are_imported_where_they_are_used() -> None:
    assert early_imports(ROOT) == []


def test_import_loads_torch_and_numpy_only() -> None:
    # torch itself loads tqdm where it is installed, so count from after torch
    program = (
        "import sys, numpy, torch; before = set(sys.modules); import bixt3d;"
        f"print(*sorted((set(sys.modules) - before) & { ({*LATE, 'tqdm', 'triton'})!r}))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_files_stay_short() -> None:
    assert long_files(ROOT) == []


def test_text_has_an_encoding() -> None:
    assert unnamed_encodings(ROOT) == []


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_tool_answers_help(tool: Path) -> None:
    result = subprocess.run([sys.executable, str(tool), "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout.lower()
    assert tool.name in result.stdout


def test_makefile_names_what_exists() -> None:
    text = (ROOT / "Makefile").read_text()
    named = re.findall(r"(?:tools|configs)/\w+\.(?:py|yaml)", text)
    assert len(named) >= 2
    assert [name for name in named if not (ROOT / name).is_file()] == []
    verbs = re.findall(r"\$\(BIXT3D\) (\w+)", text)
    assert len(verbs) >= 4 and set(verbs) <= set(COMMANDS)


def test_no_file_names_a_machine() -> None:
    assert machine_paths(ROOT, project_files(ROOT)) == []


# The checks themselves, on small trees that break the rules


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("bixt3d/models/bixt.py", "from bixt3d.datasets import split", "models imports bixt3d.datasets"),
        ("bixt3d/models/bixt.py", "from ..datasets.split import Split", "imports bixt3d.datasets.split"),
        ("bixt3d/models/bixt.py", "from .. import datasets", "models imports bixt3d.datasets"),
        ("bixt3d/models/deep/bixt.py", "from ... import datasets", "models imports bixt3d.datasets"),
        ("bixt3d/models/__init__.py", "from ..training import trainer", "models imports bixt3d.training"),
        ("bixt3d/datasets/split.py", "def f():\n    import bixt3d.models", "datasets imports bixt3d.models"),
        ("bixt3d/datasets/split.py", "import bixt3d", "datasets imports bixt3d"),
        ("bixt3d/ops/fps.py", "from bixt3d.models.bixt import BiXT", "ops imports bixt3d.models.bixt"),
        ("bixt3d/ops/fps.py", "import sklearn.neighbors", "ops imports sklearn.neighbors"),
        ("bixt3d/suggest.py", "import torch", "suggest imports torch"),
        ("bixt3d/suggest.py", "from .ops import fps", "suggest imports bixt3d.ops"),
        ("bixt3d/metrics.py", "from bixt3d import training", "metrics imports bixt3d.training"),
        ("bixt3d/config.py", "from .metrics import oa", "config imports bixt3d.metrics"),
        ("bixt3d/settings.py", "from .config import Config", "settings imports bixt3d.config"),
        ("bixt3d/yaml.py", "from bixt3d.config import Config", "yaml imports bixt3d.config"),
        ("bixt3d/config.py", "def f():\n    import yaml", "config imports yaml"),
        ("bixt3d/config.py", "import torch", "config imports torch"),
        ("bixt3d/datasets/split.py", "from bixt3d.config import Config", "datasets imports bixt3d.config"),
        ("bixt3d/models/bixt.py", "from bixt3d.tasks import Task", "models imports bixt3d.tasks"),
        ("bixt3d/tasks/base.py", "from bixt3d.training import trainer", "tasks imports bixt3d.training"),
        ("bixt3d/tasks/base.py", "from bixt3d.inference import results", "tasks imports bixt3d.inference"),
        ("bixt3d/training/trainer.py", "import bixt3d.visualize.plots", "training imports bixt3d.visualize"),
        ("bixt3d/inference/predictor.py", "import tools.predict", "inference imports tools.predict"),
        ("tools/predict.py", "from tools import evaluate", "tools imports tools"),
        ("tools/predict.py", "import predict", "tools imports predict"),
        ("bixt3d/helpers.py", "", "helpers has no place"),
    ],
)
def test_wrong_arrow_is_found(tmp_path: Path, file: str, text: str, fault: str) -> None:
    modules = ["datasets/split.py", "models/bixt.py", "training/trainer.py", "metrics.py", "config.py"]
    write_tree(tmp_path, {f"bixt3d/{module}": "" for module in modules} | {file: text})
    (found,) = wrong_arrows(tmp_path)
    assert found.startswith(file) and fault in found


def test_right_arrows_pass(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "bixt3d/__init__.py": "from bixt3d.models import bixt\nfrom .datasets import split",
            "bixt3d/ops/__init__.py": "from .fps import fps\nimport math, torch",
            "bixt3d/ops/fps.py": "import numpy as np\nfrom . import fps",
            "bixt3d/models/bixt.py": "from bixt3d import ops\nfrom ..ops.fps import fps\nimport torch.nn",
            "bixt3d/training/trainer.py": "from bixt3d import datasets, metrics\nfrom ..config import Config",
            "bixt3d/datasets/split.py": "import h5py",
            "bixt3d/yaml.py": "def f():\n    import yaml",
            "bixt3d/settings.py": "import numpy as np\nfrom bixt3d.suggest import nearest",
            "bixt3d/suggest.py": "import difflib",
            "bixt3d/config.py": "from bixt3d.settings import Section\ndef f():\n    import bixt3d.yaml",
            "bixt3d/metrics.py": "",
            "bixt3d/tasks/base.py": "from bixt3d import datasets, metrics, models\nfrom ..config import C",
            "bixt3d/inference/predictor.py": "from bixt3d.tasks import base",
            "bixt3d/visualize/scene.py": "from bixt3d.tasks import base",
        },
    )
    assert wrong_arrows(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "import h5py",
        "from matplotlib import pyplot as plt",
        "try:\n    import open3d.visualization\nexcept ImportError:\n    pass",
        "class Reader:\n    import trimesh",
    ],
)
def test_early_import_is_found(tmp_path: Path, text: str) -> None:
    write_tree(tmp_path, {"bixt3d/files.py": text})
    assert len(early_imports(tmp_path)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "def read():\n    import h5py",
        "async def read():\n    from trimesh import load",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import h5py",
        "import h5pyx, numpy",
    ],
)
def test_late_import_passes(tmp_path: Path, text: str) -> None:
    write_tree(tmp_path, {"bixt3d/files.py": text})
    assert early_imports(tmp_path) == []


def test_long_file_is_found(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "bixt3d/a.py": "x = 1\n" * 350,
            "bixt3d/b/c.py": "x = 1\n" * 351,
            "tools/a.py": "x = 1\n" * 15,
            "tools/b.py": "x = 1\n" * 16,
        },
    )
    assert [found.partition(":")[0] for found in long_files(tmp_path)] == ["bixt3d/b/c.py", "tools/b.py"]


@pytest.mark.parametrize(
    "text",
    [
        "path.read_text()",
        "(path / 'a').write_text(text)",
        "json.loads(folder.joinpath('a').read_text())",
        "open(path)",
        "open(path, 'a')",
        "open(path, mode='w', newline='')",
        "path.open()",
        "path.open('wt')",
        "path.open('a' if more else 'wb')",
    ],
)
def test_text_without_an_encoding_is_found(tmp_path: Path, text: str) -> None:
    write_tree(tmp_path, {"bixt3d/a.py": f"import json, os\n{text}\n"})
    (found,) = unnamed_encodings(tmp_path)
    assert found.startswith("bixt3d/a.py:2: ") and found.endswith(" names no encoding")


def test_text_with_an_encoding_passes(tmp_path: Path) -> None:
    lines = ["import os, tarfile", "from PIL import Image", "from bixt3d import files"]
    lines += ["path.read_text('utf-8')", "path.write_text(text, encoding='ascii')", "open(path, 'rb')"]
    lines += [
        "path.open('ab' if more else 'wb')",
        "os.open(path, 0)",
        "Image.open(path)",
        "archive.open(entry)",
    ]
    lines += [
        "open(path, encoding='utf-8')",
        "tarfile.open(path)",
        "read_text(path)",
        "files.write_text(path, text)",
    ]
    write_tree(tmp_path, {"bixt3d/a.py": "\n".join(lines)})
    assert unnamed_encodings(tmp_path) == []


@pytest.mark.parametrize("start", [["", "home"], ["", "Users"], ["", "root"], ["", "work"]])
def test_machine_path_is_found(tmp_path: Path, start: list[str]) -> None:
    path = "/".join([*start, "ada", "bixt3d"])
    write_tree(tmp_path, {"log.txt": f"read\nrun.dir={path}\n"})
    assert machine_paths(tmp_path, [tmp_path / "log.txt"]) == [f"log.txt:2: run.dir={path}"]


def test_other_paths_pass(tmp_path: Path) -> None:
    text = (
        "#!/usr/bin/env python\ndata/home/x\nhttps://example.org/home/x\n~/work/x\n../work/x\n/path/to/data\n"
    )
    write_tree(tmp_path, {"ok.txt": text})
    assert machine_paths(tmp_path, [tmp_path / "ok.txt"]) == []
