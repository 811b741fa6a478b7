"""A skip names its reason, and --no-skip turns it into a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import markers

ROOT = Path(__file__).resolve().parent.parent

SUITE = """
import pytest
from tests import markers

@markers.needs_data
def test_marked():
    pass

def test_helper():
    assert markers.data_dir().is_dir()

def test_other_reason():
    pytest.skip("a reason of its own")

@pytest.mark.xfail(reason="needs_data: not a skip")
def test_expected_failure():
    assert False
"""

MODULE_SKIP = """
import pytest
pytest.skip("needs_data: the whole file", allow_module_level=True)
"""


def run_suite(folder: Path, text: str, *options: str, data: str | None = None) -> tuple[int, str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_made_up.py").write_text(text)
    environment = {key: value for key, value in os.environ.items() if key != "BIXT3D_DATA"}
    if data is not None:
        environment["BIXT3D_DATA"] = data
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-rs", "--rootdir", str(folder)]
    command += ["-p", "no:dash", "-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider"]
    command += [*options, str(folder)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def test_a_skip_without_no_skip_passes_and_says_what_to_do(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, SUITE)
    assert code == 0, output
    assert "3 skipped" in output
    assert "needs_data: set BIXT3D_DATA to the folder that holds" in output


def test_no_skip_fails_the_marked_and_the_skipping_test_but_no_other(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, SUITE, "--no-skip=data,torch_cluster")
    assert code == 1, output
    # a mark skips before the test begins, which pytest counts as an error
    assert "1 failed, 1 skipped, 1 xfailed, 1 error" in output
    assert "--no-skip=data forbids it: needs_data: set BIXT3D_DATA" in output


def test_no_skip_of_another_name_lets_the_skip_be(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, SUITE, "--no-skip=torch_cluster")
    assert code == 0, output


def test_no_skip_fails_a_file_skipped_as_a_whole(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, MODULE_SKIP, "--no-skip=data")
    assert code not in (0, 5), output
    assert "needs_data: the whole file" in output


def test_no_skip_passes_where_nothing_is_missing(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, SUITE, "--no-skip=data", data=str(tmp_path))
    assert code == 0, output
    assert "2 passed, 1 skipped, 1 xfailed" in output


def test_no_skip_refuses_an_unknown_name(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, SUITE, "--no-skip=dta")
    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert "dta" in output and "torch_cluster" in output


@pytest.mark.parametrize(
    ("variable", "helper"), [("BIXT3D_DATA", markers.data_dir), ("BIXT3D_FIXTURES", markers.fixtures_dir)]
)
def test_folder_helpers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, helper) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    assert helper() == tmp_path
    monkeypatch.setenv(variable, str(tmp_path / "absent"))
    with pytest.raises(pytest.skip.Exception, match="not a folder"):
        helper()
    monkeypatch.delenv(variable)
    with pytest.raises(pytest.skip.Exception, match=f"set {variable}"):
        helper()
