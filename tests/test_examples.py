"""The examples: each is short, runs as it stands, and adds something without an edit of the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from bixt3d import Predictor, create_model, load_model
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.inference.export import export_model
from bixt3d.tasks import Description
from bixt3d.training.checkpoint import save_model
from tests.markers import slow
from tests.training.tiny import CLASSES, NAIVE, awaken

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MAX_LINES = 60
OWN = ("attention", "counting", "dataset", "distillation", "features", "loop", "task")


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run an example in a folder, as a user would; return what it prints."""
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match, text
    return float(match[1])


def test_all_of_them_are_run() -> None:
    own = {f"own_{kind}" for kind in OWN}
    names = own | {"finetune", "lidar_range_image", "serve"}
    assert {path.stem for path in EXAMPLES} == names


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_they_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert f"python examples/{path.name}" in text


def test_own_loop(tmp_path: Path) -> None:
    assert number(r"test accuracy ([\d.]+) %", run("own_loop", tmp_path)) > 90
    assert list(tmp_path.iterdir()) == []


def test_own_dataset(tmp_path: Path) -> None:
    said = run("own_dataset", tmp_path)
    assert number(r"test accuracy ([\d.]+) %", said) > 90
    assert "two blobs are 'two'" in said
    # as a plug-in of the programs, which then know what its name means
    (tmp_path / "my.yaml").write_text(
        "data: {name: blobs, num_points: 64}\n"
        "model: {args: {dim: 12, depth: 2, num_heads: 2, num_latents: 4}}\n"
        "train: {epochs: 1, batch_size: 10}\n"
    )
    plugin = ["--plugin", str(ROOT / "examples" / "own_dataset.py")]
    train = [sys.executable, str(ROOT / "tools" / "train_cls.py"), "--cfg", "my.yaml"]
    done = subprocess.run([*train, *plugin], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    evaluate = [sys.executable, str(ROOT / "tools" / "evaluate.py"), "runs/my/last"]
    done = subprocess.run([*evaluate, *plugin], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "60 shapes of blobs" in done.stdout
    done = subprocess.run(evaluate, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected a data set out of" in done.stderr and "'blobs'" in done.stderr


def test_own_features(tmp_path: Path) -> None:
    """The class is in the colour alone: with it all is known, without it nothing."""
    said = run("own_features", tmp_path)
    assert number(r"with colour and intensity ([\d.]+) %", said) >= 95
    assert number(r"without ([\d.]+) %", said) == pytest.approx(100 / 3, abs=6)
    assert said.strip().endswith("blue")


def test_own_task(tmp_path: Path) -> None:
    assert number(r"test accuracy ([\d.]+) %", run("own_task", tmp_path)) > 90


def test_own_distillation(tmp_path: Path) -> None:
    """Where a quarter of the labels is wrong, the teacher's answers make up for them."""
    said = run("own_distillation", tmp_path)
    teacher, alone, distilled = (
        number(rf"{name}: test accuracy ([\d.]+) %", said) for name in ("teacher", "alone", "distilled")
    )
    assert teacher > 97 and distilled > 97 and distilled > alone


def test_finetune(tmp_path: Path) -> None:
    said = run("finetune", tmp_path)
    scratch, tuned, head = (
        number(rf"{start}: test accuracy ([\d.]+) %", said)
        for start in ("scratch", "fine-tuned", "head alone")
    )
    assert tuned >= 90 and head >= 90 and tuned > scratch
    tensors = len(load_model("modelnet40_cpu", "cpu").state_dict())
    start = f"start: {tensors - 2} of {tensors} tensors from modelnet40_cpu"  # all but the head
    assert said.count(start) == 2
    assert said.strip().endswith("a new cloud is a box")


def test_lidar_range_image(tmp_path: Path) -> None:
    """One trunk labels a scan as points and as an image, far better than the commonest label."""
    said = run("lidar_range_image", tmp_path)
    for name in ("points", "image"):
        right = number(rf"as {name}: ([\d.]+)% right", said)
        assert right > 95 > 80 > number(rf"as {name}: .*ground is ([\d.]+)%", said)


def test_own_counting(tmp_path: Path) -> None:
    said = run("own_counting", tmp_path)
    assert number(r"([\d.]+) % within a half", said) > 50
    assert 2 < number(r"three blobs: ([\d.]+)", said) < 4


@slow
def test_serve(tmp_path: Path) -> None:
    """It answers as Predictor does, where nothing can import PyTorch."""
    pytest.importorskip("onnxruntime")
    model, names = create_model("bixt_ti_cls", num_classes=4, in_dims=6, **NAIVE), list(CLASSES)
    preprocess = Preprocess(64, "fps", 200, ("normal",), "z")
    args = {"num_classes": 4, "in_dims": 6, **NAIVE}
    about = Description(
        "classification", {"name": "bixt_ti_cls", "args": args}, {"classes": names}, preprocess
    )
    save_model(tmp_path / "last.safetensors", awaken(model), about)
    export_model(tmp_path / "last.safetensors", tmp_path / "model.onnx")
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "box.off")
    draw = np.random.default_rng(0).normal(size=(300, 6))
    draw[:, 3:] /= np.linalg.norm(draw[:, 3:], axis=1, keepdims=True)
    draw[:, :3] += (5e6, 4e5, 100)  # of a map
    np.savetxt(tmp_path / "scan.txt", draw)
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    files, script = ["box.off", "scan.txt"], str(ROOT / "examples" / "serve.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, script, "model.onnx", *files]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    answers = [Predictor(tmp_path / "last.safetensors", "cpu")(tmp_path / file) for file in files]
    expected = [f"{file}: {a.label} ({a.confidence:.1%})" for file, a in zip(files, answers, strict=True)]
    assert done.stdout.splitlines() == expected
    (tmp_path / "empty.stl").touch()
    command[3:] = ["empty.stl", *files]  # a line for what cannot be read; the others follow
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.splitlines() == expected
    assert done.stderr == "not named: empty.stl: the file is empty\n"


@slow
def test_own_attention(tmp_path: Path) -> None:
    said = run("own_attention", tmp_path)
    assert number(r"test accuracy ([\d.]+) %", said) > 30
    assert "maps of 3 layers (1, 2, 8, 128)" in said
