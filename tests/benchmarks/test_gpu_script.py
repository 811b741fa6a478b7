"""benchmarks/gpu.sh with a stand-in for Python that writes down how it was called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
STAND_IN = """#!/bin/sh
if [ "$1" = - ]; then cat >/dev/null; echo "Measured on a card."; exit; fi
echo "$*" >>"$CALLS"
case "$*" in *"$FAILS"*) echo "the reason" >&2; exit 3;; esac
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is bash")


def run(tmp_path: Path, fails: str = "nothing", **more: str) -> tuple[int, list[str], list[str]]:
    """Exit code, calls, and lines of the summary."""
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    names = {"PYTHON": str(python), "CALLS": str(calls), "FAILS": fails, **more}
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "out")],
        env={**os.environ, **names},
        capture_output=True,
        text=True,
    )
    summary = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    return done.returncode, calls.read_text().splitlines(), summary


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_step_runs_on_its_device(device: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "modelnet40_ply_hdf5_2048").mkdir(parents=True)
    code, calls, summary = run(tmp_path, DEVICE=device, DATA=str(tmp_path / "data"))
    assert code == 0
    steps = {"cpu": ["float32"], "cuda": ["bfloat16", "float32"]}[device]
    names = [
        "kernels_attention",
        "kernels_search",
        *(f"attention_{dtype}" for dtype in steps),
        "search",
        "training",
        "inference",
        "large",
    ]
    names += ["epoch", "graphs"] if device == "cuda" else ["epoch"]
    assert summary[0] == "Measured on a card." and summary[-1].endswith("s in all")
    assert [line.split()[0] for line in summary[1:-1]] == ["ok"] * len(names)
    assert sorted(line.split()[-1] for line in summary[1:3]) == names[:2]  # these run side by side
    assert [line.split()[-1] for line in summary[3:-1]] == names[2:]
    assert len(calls) == len(names)
    assert all(f"--device {device} " in call for call in calls[2:])
    for call in calls:
        program = call.split()[0]
        module = call.split()[1] if program == "-m" else program
        path = module if module.endswith(".py") else module.replace(".", "/") + ".py"
        assert module == "pytest" or (SCRIPT.parents[1] / path).is_file(), call


def test_what_fails_does_not_stop_the_rest(tmp_path: Path) -> None:
    code, calls, summary = run(tmp_path, fails="benchmarks.ops", DEVICE="cpu", DATA="nowhere")
    assert code == 1
    failed = [line for line in summary if line.startswith("failed")]
    assert len(failed) == 1 and "search (code 3;" in failed[0] and failed[0].endswith("the reason")
    assert any("tools/benchmark.py" in call for call in calls[4:])
    assert "left out: epoch, because nowhere/modelnet40_ply_hdf5_2048 is missing (set DATA)" in summary


def test_packages_are_installed_first_where_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").touch()
    _, calls, summary = run(tmp_path, DEVICE="cpu", WHEELS=str(tmp_path / "wheels"))
    assert calls[0].startswith("-m pip install") and calls[0].endswith("/a.whl")
    assert summary[0].endswith("wheels")


@pytest.mark.parametrize("kernels", ["attention", "search"])
def test_a_wrong_kernel_is_a_failure(kernels: str, tmp_path: Path) -> None:
    code, _, summary = run(tmp_path, fails=f"test_triton_{kernels}", DEVICE="cpu", DATA="nowhere")
    assert code == 1
    assert [f"kernels_{kernels} (code 3" in line for line in summary if line.startswith("failed")] == [True]
