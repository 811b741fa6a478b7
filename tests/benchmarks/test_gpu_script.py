"""benchmarks/gpu.sh with a stand-in for Python that writes down how it was called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
STAND_IN = """#!/bin/sh
if [ "$1" = - ]; then
  cat >/dev/null
  if [ "$FAILS" = card ]; then exit 3; fi
  echo "Measured on a card."
  exit
fi
if [ "$1" = -c ]; then exit "$WITHOUT_TESTS"; fi
if [ "$2" = benchmarks.page ]; then
  if [ "$FAILS" = page ]; then echo "error: no page" >&2; exit 3; fi
  echo "# The page"
  exit
fi
echo "$*" >>"$CALLS"
case "$*" in *"${SLOW:-nothing}"*) sleep 600;; esac
case "$*" in *"$FAILS"*) echo "the reason" >&2; exit 3;; esac
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is bash")


def run(
    tmp_path: Path, *folder: str, fails: str = "nothing", script: Path = SCRIPT, **more: str
) -> tuple[int, list[str]]:
    """Exit code and calls, from a folder that is not the project's and holds the stand-in as ./python."""
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    names = {"PYTHON": "./python", "CALLS": str(calls), "FAILS": fails, "WITHOUT_TESTS": "0", **more}
    command = ["bash", str(script), *folder]
    done = subprocess.run(command, env={**os.environ, **names}, capture_output=True, text=True, cwd=tmp_path)
    (tmp_path / "said").write_text(done.stdout)
    return done.returncode, calls.read_text().splitlines()


def summary_of(folder: Path) -> list[str]:
    return (folder / "summary.txt").read_text().splitlines()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_step_runs_on_its_device(device: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "modelnet40_ply_hdf5_2048").mkdir(parents=True)
    code, calls = run(tmp_path, "out", DEVICE=device, DATA=str(tmp_path / "data"))
    summary = summary_of(tmp_path / "out")
    assert code == 0
    steps = {"cpu": ["float32"], "cuda": ["bfloat16", "float32"]}[device]
    names = [
        "check",
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
    assert sorted(line.split()[-1] for line in summary[2:4]) == names[1:3]  # these run side by side
    assert [line.split()[-1] for line in summary[4:-1]] == names[3:]
    assert len(calls) == len(names)
    assert all(f"--device {device} " in call for call in (calls[0], *calls[3:]))
    # a test that is left out, or a kernel that is interpreted, says nothing of a GPU
    assert [" --no-skip=cuda,triton " in call for call in calls[1:3]] == [device == "cuda"] * 2
    for call in calls:
        program = call.split()[0]
        module = call.split()[1] if program == "-m" else program
        path = module if module.endswith(".py") else module.replace(".", "/") + ".py"
        assert module == "pytest" or (SCRIPT.parents[1] / path).is_file(), call


def test_what_fails_does_not_stop_the_rest(tmp_path: Path) -> None:
    code, calls = run(tmp_path, "out", fails="benchmarks.ops", DEVICE="cpu", DATA="nowhere")
    summary = summary_of(tmp_path / "out")
    assert code == 1
    failed = [line for line in summary if line.startswith("failed")]
    assert len(failed) == 1 and "search (code 3;" in failed[0] and failed[0].endswith("the reason")
    assert any("tools/benchmark.py" in call for call in calls[4:])
    missing = tmp_path / "nowhere" / "modelnet40_ply_hdf5_2048"
    assert f"left out: epoch, because {missing} is missing (set DATA)" in summary


def test_names_are_those_of_where_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "data" / "modelnet40_ply_hdf5_2048").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").touch()
    code, calls = run(tmp_path, "out", DEVICE="cpu", DATA="data", WHEELS="wheels")
    assert code == 0
    assert calls[0].endswith(f" {tmp_path}/wheels/a.whl")
    assert any(f"data.root={tmp_path}/data " in call for call in calls)
    assert any(call.endswith(f"--out {tmp_path}/out/search.md") for call in calls)
    assert summary_of(tmp_path / "out")[-1].endswith("s in all")


def test_by_default_names_are_those_of_the_project_and_short(tmp_path: Path) -> None:
    """Tables hold the commands that made them: no folder of a machine should be among them."""
    script = tmp_path / "project" / "benchmarks" / "gpu.sh"
    script.parent.mkdir(parents=True)
    (tmp_path / "project" / "data" / "modelnet40_ply_hdf5_2048").mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    code, calls = run(tmp_path, script=script, DEVICE="cpu")
    assert code == 0 and len(summary_of(tmp_path / "project" / "results" / "gpu")) == 11
    assert any(call.endswith(" --out results/gpu/search.md") for call in calls)
    assert not any(str(tmp_path) in call for call in calls)


def test_packages_are_installed_first_where_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").touch()
    _, calls = run(tmp_path, "out", DEVICE="cpu", WHEELS=str(tmp_path / "wheels"))
    assert calls[0].startswith("-m pip install") and calls[0].endswith("/a.whl")
    assert summary_of(tmp_path / "out")[0].endswith("wheels")


def test_a_machine_that_cannot_be_named_is_a_failure(tmp_path: Path) -> None:
    code, calls = run(tmp_path, "out", fails="card", DEVICE="cpu", DATA="nowhere")
    assert code == 1 and len(calls) == 8  # the rest runs all the same
    assert summary_of(tmp_path / "out")[0].startswith("failed")


@pytest.mark.parametrize("kernels", ["attention", "search"])
def test_a_wrong_kernel_is_a_failure(kernels: str, tmp_path: Path) -> None:
    code, _ = run(tmp_path, "out", fails=f"test_triton_{kernels}", DEVICE="cpu", DATA="nowhere")
    failed = [line for line in summary_of(tmp_path / "out") if line.startswith("failed")]
    assert code == 1 and len(failed) == 1 and f"kernels_{kernels} (code 3" in failed[0]


def test_the_page_comes_last(tmp_path: Path) -> None:
    code, _ = run(tmp_path, "out", DEVICE="cpu", DATA="nowhere")
    assert code == 0 and (tmp_path / "out" / "page.md").read_text() == "# The page\n"
    assert (tmp_path / "said").read_text().endswith("into an issue of the kind measurement:\n\n# The page\n")
    code, _ = run(tmp_path, "out", fails="page", DEVICE="cpu", DATA="nowhere")
    assert code == 1
    assert (
        (tmp_path / "said").read_text().splitlines()[-1].startswith("no page: error: no page; please send ")
    )


def test_without_pytest_the_kernels_are_checked_all_the_same(tmp_path: Path) -> None:
    code, calls = run(tmp_path, "out", DEVICE="cpu", DATA="nowhere", WITHOUT_TESTS="1")
    assert code == 0 and calls[0].startswith("-m benchmarks.check ")
    assert not any(call.startswith("-m pytest") for call in calls)
    wanted = "left out: the kernels' tests, because pytest and hypothesis are not installed"
    assert wanted in summary_of(tmp_path / "out")


def test_all_ends_in_time(tmp_path: Path) -> None:
    """What runs is ended, what is left is left out, and the page comes."""
    script = tmp_path / "project" / "benchmarks" / "gpu.sh"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT.read_text().replace("60 * minutes", "3 * minutes"))  # minutes of three seconds
    code, calls = run(
        tmp_path, "out", script=script, DEVICE="cpu", DATA="nowhere", MINUTES="1", SLOW="search"
    )
    summary = summary_of(tmp_path / "out")
    assert code == 1
    (ended,) = [line for line in summary if line.startswith("failed")]
    assert "(code 124; 124 is out of time)" in ended
    assert "left out: large, because 1 minutes are over (MINUTES)" in summary
    assert (tmp_path / "out" / "page.md").exists()


@pytest.mark.parametrize("minutes", ["0", "ten", "1.5"])
def test_minutes_are_whole_numbers(minutes: str, tmp_path: Path) -> None:
    code, calls = run(tmp_path, "out", DEVICE="cpu", MINUTES=minutes)
    assert code == 2 and calls == []
