"""The page that the GPU scripts end with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import page

CPU = torch.device("cpu")
SUMMARY = """Measured on a card.
ok      3 s  check
failed  2 s  search (code 3; 124 is out of time): the reason
left out: epoch, because data is missing (set DATA)
5 s in all
"""


def steps(folder: Path) -> Path:
    (folder / "summary.txt").write_text(SUMMARY)
    (folder / "check.md").write_text("# Kernels: all right\n\n| what |\n|---|\n| attention |\n")
    (folder / "epoch.md").write_text("# of a run before\n")
    (folder / "search.log").write_text("\n".join(f"line {number}" for number in range(40)))
    return folder


def test_steps(tmp_path: Path) -> None:
    """Tables of this run alone, and the end of what failed."""
    text = page.steps_page(steps(tmp_path), CPU)
    assert text.startswith("# bixt3d without a GPU: a trial\n\nMeasured on ")
    assert f"```text\n{SUMMARY.strip()}\n```" in text
    assert "## The end of search.log\n\n```text\nline 25\n" in text and "line 24" not in text
    assert text.endswith("## check: Kernels: all right\n\n| what |\n|---|\n| attention |")


def test_an_issue_takes_it(tmp_path: Path) -> None:
    (steps(tmp_path) / "check.md").write_text("# Kernels\n" + "x" * page.MOST)
    text = page.steps_page(tmp_path, CPU)
    assert len(text) < page.MOST and text.endswith("please attach the folder.") and "line 39" in text


def test_a_gpu_and_its_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, major, minor = "NVIDIA H200", 9, 0
        total_memory, multi_processor_count = 139 << 30, 132

    class Tuner:
        known = {"a GPU": {"attention points=4": {"backend": "triton", "ms": {"torch": 0.5, "triton": 0.25}}}}

        def load(self) -> None: ...
        def machine(self, device: torch.device) -> str:
            return "a GPU"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(page, "environment_line", lambda device: "Measured on it.")
    monkeypatch.setattr(page, "TUNER", Tuner())
    text = page.steps_page(steps(tmp_path), torch.device("cuda"))
    assert text.startswith(
        "# bixt3d on NVIDIA H200\n\nMeasured on it. a GPU; 139 GiB, 132 multiprocessors, CUDA "
    )
    assert text.splitlines()[-1].split("|")[1:5] == [
        " attention points=4 ",
        " triton ",
        " 0.5      ",
        " 0.25      ",
    ]


def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done, going, new = (tmp_path / name for name in ("naive_1", "naive_2", "naive_3"))
    for folder in (done, going, new):
        folder.mkdir()
    rows = [{"epoch": n, "val_oa": 0.5 + n / 10, "clouds_per_second": 10.0 * n} for n in (1, 2, 3)]
    for folder in (done, going):
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (folder / "environment.json").write_text('{"gpu": "NVIDIA H200"}')
    result = {"last": {"epoch": 3, "oa": 0.875, "macc": 0.75}, "minutes": 12.34}
    (done / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["page", "--device", "cpu", "--runs", *map(str, (done, going, new))])
    page.main()
    lines = capsys.readouterr().out.splitlines()[-3:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["naive_1", "finished", "oa 87.5%, macc 75.0%", "12.3", "20", "NVIDIA H200"],
        ["naive_2", "epoch 3", "val_oa 80.0%", "-", "20", "NVIDIA H200"],
        ["naive_3", "epoch 0", "-", "-", "-", "-"],
    ]
