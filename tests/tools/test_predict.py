from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from bixt3d import Predictor
from bixt3d.datasets.synthetic.shapes import CATEGORIES
from tests.tools.conftest import Trained, Workplace


def shares(line: str) -> list[tuple[str, float]]:
    return [(name, float(share)) for name, share in re.findall(r"(\w+) ([\d.]+)%", line)]


def test_meshes_get_their_classes(workplace: Workplace, trained: Trained) -> None:
    files = workplace.meshes[:3]
    outcome = workplace.run("predict", *files, "--checkpoint", trained.run_dir / "last").succeeded()
    lines = outcome.out.splitlines()
    assert len(lines) == 3
    predictor = Predictor(trained.run_dir / "last", "cpu")
    for path, line in zip(files, lines, strict=True):
        seen = predictor(path)
        assert line.startswith(str(path))
        shown = shares(line.removeprefix(str(path)))
        assert len(shown) == 3 and shown[0][0] == seen.label
        assert shown[0][1] == pytest.approx(100 * seen.probabilities.max(), abs=0.06)
        assert shown == sorted(shown, key=lambda entry: -entry[1])


def test_all_classes_on_request(workplace: Workplace, trained: Trained) -> None:
    outcome = workplace.run("predict", workplace.meshes[0], "--checkpoint", trained.run_dir, "--top", "10")
    shown = shares(outcome.succeeded().out.removeprefix(str(workplace.meshes[0])))
    assert sorted(name for name, _ in shown) == sorted(CATEGORIES)
    assert sum(share for _, share in shown) == pytest.approx(100, abs=0.6)


def test_bad_files_are_told_and_the_others_predicted(
    workplace: Workplace, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "bad.off").write_text("hello")
    (tmp_path / "two.xyz").write_text("0 0\n1 1\n")
    files = [tmp_path / "bad.off", workplace.meshes[0], tmp_path / "gone.off", tmp_path / "two.xyz"]
    outcome = workplace.run("predict", *files, "--checkpoint", trained.run_dir)
    assert outcome.code == 1 and "Traceback" not in outcome.err
    errors = outcome.err.splitlines()
    assert [name for line in errors[:3] for name in ("bad.off", "gone.off", "two.xyz") if name in line] == [
        "bad.off",
        "gone.off",
        "two.xyz",
    ]
    assert all(line.startswith("error: ") for line in errors[:3])
    assert "3 of 4 files" in errors[3]
    assert len(outcome.out.splitlines()) == 1 and str(workplace.meshes[0]) in outcome.out


def test_reader_that_has_seen_enough(workplace: Workplace, trained: Trained) -> None:
    """As `| head -1` does."""
    arguments = (*workplace.meshes * 20, "--checkpoint", trained.run_dir, "--format", "json")
    process = subprocess.Popen(
        workplace.command("predict", *arguments),
        cwd=workplace.folder,
        env=workplace.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=300) == 141


def interrupted(workplace: Workplace, trained: Trained, *options: str) -> tuple[str, str]:
    """What a long run has said when Ctrl-C comes after its second file, and its last line of errors."""
    files = [workplace.meshes[0], workplace.folder / "gone.off", *workplace.meshes * 100]
    process = subprocess.Popen(
        workplace.command("predict", *files, "--checkpoint", trained.run_dir, *options),
        cwd=workplace.folder,
        env=workplace.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None and process.stderr is not None
    assert "gone.off" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode != 0 and "Traceback" not in err
    return out, err.splitlines()[-1]


def test_ctrl_c_keeps_what_is_done(workplace: Workplace, trained: Trained) -> None:
    out, last = interrupted(workplace, trained)
    lines = out.splitlines()
    assert last == "stopped" and 1 <= len(lines) < 200
    assert all(line.startswith(str(workplace.folder)) and len(shares(line)) >= 3 for line in lines)


def test_ctrl_c_leaves_a_whole_document(workplace: Workplace, trained: Trained) -> None:
    rows = json.loads(interrupted(workplace, trained, "--format", "json")[0])
    assert rows[0]["file"] == str(workplace.meshes[0]) and rows[0]["class"] in CATEGORIES
    assert "gone.off" in rows[1]["error"] and len(rows) < 200


def test_names_stand_in_one_column(workplace: Workplace, trained: Trained, tmp_path: Path) -> None:
    long = tmp_path / f"{'x' * 200}.off"
    shutil.copy(workplace.meshes[0], long)
    files = [workplace.meshes[0], long]
    lines = workplace.run("predict", *files, "--checkpoint", trained.run_dir).succeeded().out.splitlines()
    assert len({re.search(r"(?<=  )\w+ [\d.]+%", line).start() for line in lines}) == 1


def test_file_whose_name_is_no_text(workplace: Workplace, trained: Trained, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9 1.off"
    shutil.copy(workplace.meshes[0], path)
    outcome = workplace.run("predict", os.fsdecode(path), "--checkpoint", trained.run_dir).succeeded()
    assert outcome.out.startswith(f"{tmp_path}/caf\\udce9 1.off  ")


def test_numbers_of_classes_that_are_none(workplace: Workplace, trained: Trained) -> None:
    outcome = workplace.run("predict", workplace.meshes[0], "--checkpoint", trained.run_dir, "--top", "0")
    assert outcome.code == 2 and "--top: expected 1 or more, got 0" in outcome.err


def test_missing_checkpoint(workplace: Workplace, trained: Trained) -> None:
    outcome = workplace.run("predict", workplace.meshes[0], "--checkpoint", "runs/gone")
    outcome.refused("no checkpoint runs/gone")


def test_options_for_parts_only(workplace: Workplace, trained: Trained) -> None:
    for options in (("--ply", "out"), ("--category", "chair")):
        outcome = workplace.run("predict", workplace.meshes[0], "--checkpoint", trained.run_dir, *options)
        outcome.refused("--ply and --category are for part segmenters")
    assert not (workplace.folder / "out").exists()
