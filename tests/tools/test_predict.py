from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bixt3d import Predictor
from bixt3d.datasets.shapes import CATEGORIES
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
        outcome.refused("--ply and --category are for models of parts")
    assert not (workplace.folder / "out").exists()
