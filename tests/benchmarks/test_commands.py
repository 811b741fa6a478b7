"""Commands that measure parts of the library: wrong options, and the command that their tables show."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import allocator, kernels, ops
from benchmarks.kernels import Taken, size

CPU = torch.device("cpu")


def call(monkeypatch: pytest.MonkeyPatch, module: str, *options: str) -> None:
    """As from a shell."""
    monkeypatch.setattr(sys, "argv", [module, *options])
    importlib.import_module(module).main()


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("ops", ["--repeats", "0"], "argument --repeats: expected a whole number from 1 up"),
        ("ops", ["--out", "."], "argument --out: expected a file that can be written, got '.'"),
        ("attention", ["--out", "."], "argument --out: expected a file that can be written, got '.'"),
        ("allocator", ["--repeats", "none"], "argument --repeats: expected a whole number from 1 up"),
        ("allocator", ["--out", "."], "argument --out: expected a file"),
        ("kernels", ["--sizes", "64"], "argument --sizes: expected 1x1 to 256x128, such as 64x32, got '64'"),
        ("kernels", ["--capability", "5"], "argument --capability: invalid choice: 5"),
        ("kernels", ["--out", "."], "argument --out: expected a file"),
    ],
)
def test_wrong_options_end_with_one_line(
    module: str,
    options: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, f"benchmarks.{module}", *options)
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == ""
    assert f"error: {words}" in said.err.splitlines()[-1]


def test_a_device_that_is_not_here_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^error: device 'cuda:77' cannot be used here .*\Z"):
        call(monkeypatch, "benchmarks.ops", "--device", "cuda:77")


@pytest.mark.parametrize("text", ["64", "64x", "x32", "64x32x2", "0x32", "512x32", "64x256"])
def test_no_sizes_of_kernels(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"such as 64x32, got {text!r}"):
        size(text)


def test_sizes_of_kernels() -> None:
    assert [size(text) for text in ("1x1", "50x24", "256x128")] == [(1, 1), (50, 24), (256, 128)]


@pytest.mark.parametrize("module", ["ops", "kernels", "allocator"])
def test_tables_show_the_command_that_made_them(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurements themselves are left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ops, "grouping", lambda device, repeats: [["an operation", *["1"] * 5]] * repeats)
    monkeypatch.setattr(ops, "search", lambda device, repeats: [])
    monkeypatch.setattr(ops, "choices", lambda device, repeats: [])
    monkeypatch.setattr(ops, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(kernels, "compile_case", lambda *what: Taken(1000, 100, 0))

    process = SimpleNamespace(run=lambda command, **how: SimpleNamespace(stdout="100.0\n"))
    monkeypatch.setattr(allocator, "subprocess", process)
    options = {
        "ops": ["--device", "cpu", "--repeats", "2"],
        "kernels": [
            "--sizes",
            "64x64",
            "--only",
            "attention",
            "--dtypes",
            "tf32",
            "--capability",
            "80",
            "90",
        ],
        "allocator": ["--repeats", "2"],
    }[module]
    call(monkeypatch, f"benchmarks.{module}", *options, "--out", "new/a table.md")
    text = (tmp_path / "new" / "a table.md").read_text()
    assert f"`python -m benchmarks.{module} {' '.join(options)} --out 'new/a table.md'`" in text
    assert ("Compiled on" if module == "kernels" else "Measured on") in text
    table = text.partition("## The least time")[0]
    rows = {"ops": 2, "kernels": 2, "allocator": 1}[module]
    assert len(re.findall(r"^\|", table, re.MULTILINE)) == 2 + rows


def test_what_is_compiled() -> None:
    """All sizes and types both ways; splits, single directions and fp16 of one even and one padded size."""
    cases = [
        str(case) for case in kernels.attention_cases([(64, 32), (128, 64), (50, 24)], list(kernels.KINDS))
    ]
    plain = {case for case in cases if "," not in case}
    assert len(cases) == len(set(cases)) == 3 * 3 * 2 + 2 * 2 + 2 * 2 * 2 * 3
    assert len(plain) == 3 * 3 * 2 + 2 * 2 and "50 x 24 fp16 backward" in plain
    assert {case.rpartition("backward")[2] for case in cases if case.startswith("50 x 24 bf16 b")} == {
        *("", ", split", ", latents alone", ", tokens alone")
    }
    assert {case.name for case in kernels.search_cases()} == {
        *("fps_on_chip", "fps_by_tiles", "knn_by_tiles", "knn_by_boxes")
    }


def test_programs_that_do_not_start_are_in_bold() -> None:
    assert [Taken(99 << 10, 255, 8).cell(86), Taken((99 << 10) + 1, 255, 8).cell(86)] == [
        *("255 / 8 / 99", "**255 / 8 / 100**")
    ]
    assert Taken((99 << 10) + 1, 255, 8).cell(90) == "255 / 8 / 100"


def test_backends_of_the_search_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {"torch_cluster": ImportError("none"), "pytorch3d": ArithmeticError("a fault\nor more")}

    def search(*given: object, backend: str = "auto") -> None:
        if backend in errors:
            raise errors[backend]

    def compare(name: str, size: str, plain: Callable[[], object], *more: object) -> list[str]:
        plain()
        return [name, size, *["1"] * 4]

    monkeypatch.setattr(ops, "farthest_point_sample", search)
    monkeypatch.setattr(ops, "knn", search)
    monkeypatch.setattr(ops, "compare", compare)
    rows = {row[0]: row[2:] for row in ops.search(CPU, 1)}
    for name in ("farthest_point_sample", "knn"):
        assert rows[f"{name}: backend torch_cluster"] == ["not installed", "-", "-", "-"]
        wrong = "did not run: ArithmeticError: a fault"
        assert rows[f"{name}: backend pytorch3d"] == [wrong, "-", "-", "-"]


def test_what_auto_takes_is_measured_against_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "SIZES", ((1, 64), (2, 600)))
    monkeypatch.setattr(ops, "LARGE", 1024)
    rows = ops.choices(CPU, 1)
    sizes = ["1 x 64 -> 32"] * 4 + ["2 x 600 -> 300"] * 4 + ["1 x 1024 -> 256"] * 2
    assert [row[1] for row in rows] == sizes
    assert all(float(row[2]) >= 0 and float(row[4]) > 0 for row in rows)


def test_triton_that_is_not_installed_did_not_run() -> None:
    assert ops.why_not("triton", ImportError("none")) == "did not run: ImportError: none"
