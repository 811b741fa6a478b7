"""benchmarks/gpu_modelnet40.sh: a training in pieces, and, with a stand-in for trainings, what it calls."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import bixt3d
from bixt3d.config import Config, override
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.models.factory import task_of
from tests.markers import slow
from tests.tools.conftest import CONFIG
from tests.training.tiny import assert_same, rows_of, weights

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_modelnet40.sh"
MODELS = ("hierarchy", "grouping", "naive", "perceiver", "sequential")
# Python itself where the script reads settings; what a training leaves, where it trains.
STAND_IN = """#!/bin/bash
if [ "$1" = - ] || [ "$2" = benchmarks.page ]; then exec "$REAL" "$@"; fi
echo "$*" >>"$CALLS"
for word in "$@"; do case $word in run.dir=*) run=${word#*=};; esac; done
case "$*" in *"$FAILS"*) echo "error: the reason"; exit 1;; esac
echo 1 >"$run/resume.pt"
echo "epoch 1/2  loss 1.0"
trap 'echo "stopped by SIGTERM: the state is saved"; kill $!; exit 143' TERM
sleep "$SLEEPS" &
wait $!
echo '{"last": 1}' >"$run/result.json"
echo 1 >"$run/last.safetensors"
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is bash")


def environment(folder: Path, **more: str) -> dict[str, str]:
    names = {"PYTHON": sys.executable, "DEVICE": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **names, "RUNS": "runs", "OUT": "out", "DATA": str(folder / "data"), **more}


def call(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Call the script from a folder that is not the project's."""
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=600,
    )


def stand_in(
    folder: Path, *words: str, **more: str
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Call it with the stand-in as ./python; also returns the words of all trainings so far."""
    python, calls = folder / "python", folder / "calls"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    calls.touch()
    names = {"REAL": sys.executable, "CALLS": str(calls), "FAILS": "nothing", "SLEEPS": "0", **more}
    done = call(folder, *words, PYTHON="./python", **names)
    return done, [line.split() for line in calls.read_text().splitlines()]


def settings_of(words: list[str]) -> Config:
    """The settings of a training, checked as it would check them."""
    given = words[words.index("--set") + 1 :]
    return bixt3d.load_config(ROOT / words[words.index("--cfg") + 1], [word for word in given if "=" in word])


@slow
def test_training_in_pieces_is_training_in_one(tmp_path: Path) -> None:
    """Real trainings: two calls that SIGTERM ends, one that finishes, and one that has nothing left to do."""
    write_shapes(tmp_path / "data", per_class=10, num_points=256, progress=False)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    command, run = ["./tiny.yaml", "3", "train.epochs=24"], tmp_path / "runs" / "tiny_3_short"
    for epochs in (1, 3):
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *command],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + 600
            while not (run / "metrics.jsonl").exists() or len(rows_of(run)) < epochs:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            told, _ = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == 75, told
        assert "stopped by SIGTERM: the state at step" in told and not (run / "result.json").exists()
        copies = tmp_path / "out" / run.name
        assert rows_of(copies) == rows_of(run) and not (copies / "last.safetensors").exists()
    done = call(tmp_path, *command)
    assert done.returncode == 0, done.stdout
    log = (run / "train.log").read_text()
    assert log.count("stopped by SIGTERM") == 2 and log.count("epoch 24/24") == 1
    assert [row["epoch"] for row in rows_of(run)] == list(range(1, 25))

    straight = tmp_path / "straight" / run.name
    assert call(tmp_path, *command, RUNS="straight").returncode == 0
    assert rows_of(run) == rows_of(straight)
    for name in ("last", "best"):
        assert_same(weights(run / f"{name}.safetensors"), weights(straight / f"{name}.safetensors"))
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, straight)]
    assert [result.pop("minutes") for result in results] and results[0] == results[1]
    names = {path.name for path in (tmp_path / "out" / run.name).iterdir()}
    assert names == {
        *("config.yaml", "environment.json", "metrics.jsonl", "result.json", "train.log"),
        *("last.safetensors", "last_test.csv", "best_test.csv"),
    }
    assert_same(weights(tmp_path / "out" / run.name / "last.safetensors"), weights(run / "last.safetensors"))

    again = call(tmp_path, *command)
    assert again.returncode == 0 and "finished" in again.stdout and '"oa"' in again.stdout
    assert (run / "train.log").read_text() == log
    other = call(tmp_path, *command, "optim.lr=0.02")
    assert other.returncode == 2 and "was begun with other settings" in other.stderr


def test_all_runs_one_after_another_with_models_that_fit(tmp_path: Path) -> None:
    """The shortened settings build every model, and it takes a batch."""
    done, calls = stand_in(tmp_path, "--all", "psb_encdec:7", "shapenetpart_naive:4", "augment.shift=0.1")
    assert done.returncode == 0, done.stderr
    configs = [settings_of(words) for words in calls]
    folders = [f"modelnet40_{name}_{seed}" for name in MODELS for seed in (1, 2, 3)]
    folders += ["psb_encdec_7", "shapenetpart_naive_4"]
    assert [config.run.dir for config in configs] == [f"{tmp_path}/runs/{name}_short" for name in folders]
    for words, config in zip(calls, configs, strict=True):
        parts = task_of(config.model.name) == "part_segmentation"
        assert words[0] == ("tools/seg_shapenetpart.py" if parts else "tools/train_cls.py")
        assert words[words.index("--device") + 1] == "cpu" and "--resume" not in words
        assert config.train.seed == int(config.run.dir.split("_")[-2]) and config.augment.shift == 0.1
        args = {"in_dims": 6, **config.model.args} if parts else config.model.args
        points = torch.rand(2, config.data.num_points, 6 if parts else 3)  # (B, N, C)
        model = bixt3d.create_model(config.model.name, **args).eval()
        with torch.inference_mode():
            logits = model(points, torch.tensor([0, 1])) if parts else model(points)
        assert logits.isfinite().all()
    assert {config.data.root for config in configs[:-2]} == {f"{tmp_path}/data"}
    assert configs[-2].data.root == f"{tmp_path}/data/psb_benchmark_v0_normal"
    assert done.stdout.count("finished  ") == 17 and done.stdout.count('{"last": 1}') == 17
    assert len(list((tmp_path / "out").glob("*/last.safetensors"))) == 17


def test_on_a_gpu_settings_are_the_files(tmp_path: Path) -> None:
    done, calls = stand_in(tmp_path, "hierarchy", "1", "augment.shift=0.1", DEVICE="cuda")
    assert done.returncode == 0, done.stderr
    (words,) = calls
    config, wanted = settings_of(words), bixt3d.load_config(ROOT / "configs" / "modelnet40_hierarchy.yaml")
    assert config.run.dir == f"{tmp_path}/runs/modelnet40_hierarchy_1" and not config.run.tensorboard
    wanted = override(
        wanted,
        run=vars(config.run),
        data={"root": f"{tmp_path}/data"},
        train={"seed": 1},
        augment={"shift": 0.1},
    )
    assert config == wanted and words[words.index("--device") + 1] == "cuda"


def test_a_call_ends_when_its_minutes_are_over_and_the_next_goes_on(tmp_path: Path) -> None:
    command = ["hierarchy:1", "grouping:2"]
    begun = time.monotonic()
    done, calls = stand_in(tmp_path, *command, MINUTES="0.05", SLEEPS="600")
    assert time.monotonic() - begun < 300
    assert done.returncode == 75, done.stderr
    assert "stopped by SIGTERM" in done.stdout and "epoch 1/2" in done.stdout
    assert done.stdout.endswith("2 of 2 not finished: the same command goes on\n")
    page = (tmp_path / "out" / "page.md").read_text()
    assert page in done.stdout and "| modelnet40_hierarchy_1_short | epoch 0 |" in page
    assert len(calls) == 1  # no time was left for the second
    done, calls = stand_in(tmp_path, *command)
    assert done.returncode == 0 and done.stdout.count("finished  ") == 2
    assert ["--resume" in words for words in calls] == [False, True, False]


def test_what_fails_does_not_stop_the_rest(tmp_path: Path) -> None:
    done, calls = stand_in(tmp_path, "hierarchy:1", "naive:1", "hierarchy:2", FAILS="modelnet40_naive")
    assert done.returncode == 1 and len(calls) == 3 and done.stdout.count("finished  ") == 2
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert len(failed) == 1 and failed[0].endswith("modelnet40_naive_1_short (code 1): error: the reason")


@pytest.mark.parametrize(
    ("words", "minutes", "reason"),
    [
        ([], "8", "KEY=VALUE"),
        (["hierarchy"], "8", "expected CONFIG SEED or CONFIG:SEED, got hierarchy"),
        (["hierarchy", "one"], "8", "got hierarchy"),
        (["hierarchy", "1"], "eight", "MINUTES: expected a number, got eight"),
        (["hierarchy", "1"], "0.001", "MINUTES: expected a second or more"),
        (["hierarchie", "1"], "8", "no config file configs/hierarchie.yaml"),
        (["hierarchy", "1", "train.epoch=3"], "8", "did you mean 'epochs'?"),
        (["hierarchy", "1", "run.dir=here"], "8", "set RUNS"),
        (["hierarchy", "1", "train.seed=2"], "8", "as in modelnet40_hierarchy:1"),
        (["naive", "010"], "8", "got naive"),
        (["naive:1", "naive:1"], "8", "modelnet40_naive_1_short would hold two of the runs"),
    ],
)
def test_wrong_call_trains_nothing(words: list[str], minutes: str, reason: str, tmp_path: Path) -> None:
    done, calls = stand_in(tmp_path, *words, MINUTES=minutes)
    assert done.returncode == 2 and calls == [] and not (tmp_path / "runs").exists()
    assert reason in done.stderr and "Traceback" not in done.stderr


def test_help_is_what_the_script_says_of_itself(tmp_path: Path) -> None:
    done = call(tmp_path, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Trains on one GPU in pieces")
    assert done.stdout.rstrip().endswith("2 if the call is wrong.")
