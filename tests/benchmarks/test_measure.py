"""A measurement: what it finds, what follows from it, and what is said where it fails."""

from __future__ import annotations

import argparse
import io
import json
import signal
import subprocess
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import measure as module
from benchmarks.measure import (
    Request,
    Settings,
    answer,
    duration,
    failure,
    measure,
    number,
    reason,
    row,
    run,
    writable,
)
from benchmarks.models import Spec, count_macs

TINY = "bixt_ti_cls:dim=12:depth=2:num_heads=2:num_latents=4"
SETTINGS = Settings(device="cpu", batch=2, repeats=4, warmup=1)
REQUEST = Request(TINY, 32, "training", "float32", SETTINGS)


def test_what_is_measured() -> None:
    first, second = measure(REQUEST)
    low, high = first["spread"]
    assert 0 < low <= first["ms"] <= high < 60_000
    assert first["repeats"] == 4
    assert first["parameters"] == sum(value.numel() for value in Spec.parse(TINY).build().parameters())
    slow, fast = first["matmul_spread"]
    assert 1e8 < slow <= first["matmul_flops"] <= fast < 1e15
    assert second == {"macs": count_macs(Spec.parse(TINY), 32, torch.device("cpu"))}


def test_repeating_ends_when_the_time_is_over_but_not_before_the_third() -> None:
    first, _ = measure(replace(REQUEST, settings=replace(SETTINGS, repeats=50, seconds=0.0)))
    assert first["repeats"] == 3


FOUND: dict[str, Any] = {
    "ms": 50.0,
    "spread": [49.0, 52.0],
    "repeats": 4,
    "peak_memory_bytes": 3_000_000,
    "parameters": 7,
    "matmul_flops": 2e9,
    "matmul_spread": [1.8e9, 2e9],
    "limit_operations": 1e8,
    "macs": 3_000_000,
    "note": None,
}


@pytest.mark.parametrize(("mode", "passes"), [("inference", 1), ("training", 3)])
def test_share_of_the_product_s_rate(mode: str, passes: int) -> None:
    found = row(replace(REQUEST, mode=mode), "a machine", FOUND)
    assert found["clouds_per_second"] == pytest.approx(40)
    # 2 clouds x 3 M multiply-accumulates x 2 operations of 100 M
    assert found["fraction"] == pytest.approx(passes * 0.12)
    assert found["model"] == TINY and found["name"] == "bixt_ti_cls" and found["args"]["dim"] == 12
    assert found["device"] == "a machine" and found["ms"] == 50


def test_share_is_over_what_the_product_would_have_done_around_each_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches of 1, 2, 3 and 4 s between products at 10, 20, 40, 80 and 160 FLOP/s."""
    rates, times = iter([0.0, 10.0, 20.0, 40.0, 80.0, 160.0]), iter([1e3, 2e3, 3e3, 4e3])
    monkeypatch.setattr(module.MatrixProduct, "rate", lambda self: next(rates))
    monkeypatch.setattr(module, "milliseconds", lambda run, device: next(times))
    first, _ = measure(REQUEST)
    # 15, 60, 180 and 480 operations
    assert first["limit_operations"] == 120
    assert first["matmul_flops"] == 40 and first["ms"] == 2500


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (ValueError("300 points are too few\nmore"), "300 points are too few"),
        (RuntimeError("a fault"), None),
    ],
)
def test_reasons(error: Exception, expected: str | None) -> None:
    assert reason(error) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("300 points are too few\nmore"), "300 points are too few"),
        (RuntimeError("\na fault\nmore"), "RuntimeError: a fault"),
        (MemoryError(), "out of memory"),
        (NotImplementedError(), "NotImplementedError"),
    ],
)
def test_failures(error: Exception, expected: str) -> None:
    assert failure(error) == f"did not run: {expected}"


def test_process_answers_with_what_was_found_before_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> int:
        raise MemoryError

    monkeypatch.setattr(module, "count_macs", fail)
    with redirect_stdout(io.StringIO()) as out:
        answer(REQUEST)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first["ms"] > 0 and second == {"note": "out of memory"}


def ending(monkeypatch: pytest.MonkeyPatch, out: str, err: str = "", code: int = 0) -> dict[str, Any]:
    """Return the row of a process that says this and ends so."""

    def process(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        given = json.loads(command[-1])
        assert Request(**{**given, "settings": Settings(**given["settings"])}) == REQUEST
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(subprocess, "run", process)
    return run(REQUEST, "a machine")


def test_answers_of_a_process_become_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{k: v for k, v in FOUND.items() if k not in ("macs", "note")}, {"macs": 3_000_000}]
    found = ending(monkeypatch, "\n".join(map(json.dumps, lines)))
    assert found == row(REQUEST, "a machine", FOUND)


@pytest.mark.parametrize(
    ("out", "err", "code", "note"),
    [
        ('{"note": "out of memory"}', "", 0, "out of memory"),
        ("", "", -signal.SIGKILL, "killed, probably out of memory"),
        ("", "Traceback\nTypeError: a fault\n", 1, "TypeError: a fault"),
        ("", "", 3, "it ended with 3 and said nothing"),
    ],
)
def test_a_failure_is_a_row_without_numbers(
    monkeypatch: pytest.MonkeyPatch, out: str, err: str, code: int, note: str
) -> None:
    found = ending(monkeypatch, out, err, code)
    assert found["note"] == note
    for key in ("clouds_per_second", "ms", "spread", "peak_memory_bytes", "macs", "fraction"):
        assert found[key] is None, key
    assert found["model"] == TINY and found["num_points"] == 32


def test_times_are_kept_where_counting_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ending(monkeypatch, json.dumps({**FOUND, "macs": None, "note": None}), code=-signal.SIGKILL)
    assert found["note"] == "operations not counted: killed, probably out of memory"
    assert found["clouds_per_second"] == 40 and found["fraction"] is None


def test_given_up_after_the_limit() -> None:
    found = run(replace(REQUEST, settings=replace(SETTINGS, limit=0.01)), "a machine")
    assert found["note"] == "given up after 0.01 s" and found["clouds_per_second"] is None


@pytest.mark.parametrize(
    ("text", "expected"), [("1024", 1024), ("16k", 16_000), ("1M", 10**6), ("1.5k", 1500)]
)
def test_numbers(text: str, expected: int) -> None:
    assert number(text) == expected


@pytest.mark.parametrize("text", ["0", "-4", "1.5", "k", "", "inf", "nan", "1G"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="from 1 up, such as 1024, 16k or 1M, got"):
        number(text)


def test_numbers_from_0_up() -> None:
    assert number("0", least=0) == 0
    with pytest.raises(argparse.ArgumentTypeError, match="from 0 up, .* got '-1'"):
        number("-1", least=0)


def test_durations() -> None:
    assert [duration(text) for text in ("0.5", "20", "1e3")] == [0.5, 20, 1000]
    for text in ("0", "-1", "nan", "inf", "a while", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"seconds, more than 0, got {text!r}"):
            duration(text)


def test_files_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.md").write_text("kept")
    for text in ("new.md", "old.md", "a/new/folder/file.md", str(tmp_path / "file.md")):
        assert writable(text) == Path(text)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["old.md"]  # none is written yet
    assert Path("old.md").read_text() == "kept" and Path("a/new/folder").is_dir()


@pytest.mark.parametrize("text", [".", "", "/", "old.md/file.md", "old.md/folder/file.md", "x" * 300])
def test_files_that_cannot_be_written(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.md").touch()
    with pytest.raises(argparse.ArgumentTypeError, match=f"can be written, got {text!r} \\("):
        writable(text)


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "TemporaryFile", refuse)
    with pytest.raises(argparse.ArgumentTypeError, match=r"got 'new.md' \(Permission denied\)"):
        writable("new.md")
