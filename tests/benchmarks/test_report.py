"""Lines and files of measurements."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.measure import row
from benchmarks.report import (
    Target,
    heading,
    labelled,
    line,
    pair_heading,
    pair_line,
    significant,
    write,
    write_pairs,
)
from bixt3d.visualize.bars import throughput
from bixt3d.visualize.runs import read_throughput
from tests.benchmarks.test_measure import FOUND, REQUEST

CPU = torch.device("cpu")
LONG = (
    "bixt_ti_cls_hierarchy:num_latents=128:widths=[128, 192, 256, 384]:reductions=[2, 2, 2, 2]:backend=sdpa"
)


def made(model: str = "bixt_ti_partseg_encdec", points: int = 1024, **found: Any) -> dict[str, Any]:
    return row(replace(REQUEST, model=model, num_points=points), "a machine", FOUND | found)


def failed(note: str, model: str = "pointmlp_elite") -> dict[str, Any]:
    return row(replace(REQUEST, model=model), "a machine", {"note": note})


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.012345, "0.0123"), (0.9996, "1.000"), (12.34, "12.3"), (123456.7, "123457")],
)
def test_three_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


def test_lines_stand_under_their_heading() -> None:
    columns = heading("training", "float32", 8).splitlines()[-1]
    shown = line(made(points=1_000_000, ms=123_456.0, spread=[123_000, 125_469], peak_memory_bytes=99_999e6))
    assert len(columns) <= 80 and len(shown) == len(columns)
    assert columns.split() == ["model", "points", "clouds/s", "ms", "±%", "MB", "GMAC", "share"]
    cells = shown.split()
    assert cells[:6] == ["bixt_ti_partseg_encdec", "1000000", "0.0162", "123456", "1.0", "99999"]
    assert cells[6:] == ["0.00300", "0.36"]


@pytest.mark.parametrize(
    "shown",
    [
        line(made(LONG)),
        line(made(note="operations not counted: killed, probably out of memory, or something long to say")),
        line(failed("100 points a cloud are too few: stage 4 groups 24 neighbours, and only 12 are left")),
        line(failed("out of memory", LONG)),
        pair_heading([LONG, LONG], 8),
        pair_line({"mode": "inference", "dtype": "bfloat16", "num_points": 10**6, **FOUND, "ratio": 123.4567}
                  | {"first_ms": 123456.7, "second_ms": 123456.7, "spread": [123.4567, 123.4567]}),
        pair_line({"mode": "training", "dtype": "float32", "num_points": 9, "note": "a long tale " * 8}),
    ],
)  # fmt: skip
def test_lines_fit_a_terminal(shown: str) -> None:
    assert max(map(len, shown.splitlines())) <= 80


def test_failures_say_why() -> None:
    assert "pointmlp_elite" in line(failed("out of memory"))
    assert line(failed("out of memory")).endswith("did not run: out of memory")
    assert line(made(macs=None, note="operations not counted: x")).endswith("operations not counted: x")


def test_rows_are_told_apart_by_what_varies() -> None:
    rows = [made("pointnet"), made("pointmlp")]
    assert [one["model"] for one in labelled(rows)] == ["pointnet", "pointmlp"]
    rows += [{**one, "mode": "inference"} for one in rows]
    names = [one["model"] for one in labelled(rows)]
    assert names[0] == "pointnet (training)" and names[3] == "pointmlp (inference)"
    assert labelled(rows)[0]["name"] == "pointnet"


def test_files(tmp_path: Path) -> None:
    rows = [made("pointnet"), made("pointnet", 4096), failed("out of memory", "pointmlp")]
    rows += [{**one, "mode": "inference", "dtype": "bfloat16"} for one in rows]
    out, markdown = tmp_path / "new" / "speed.json", tmp_path / "new" / "speed.md"
    rates = {"float32": [50e9, 40e9], "bfloat16": [1e9]}
    target = Target("python tools/benchmark.py --batch 2", out, markdown)
    write(rows, {"batch": 2}, rates, CPU, target)
    content = json.loads(out.read_text())
    assert content["environment"]["command"] == "python tools/benchmark.py --batch 2"
    assert content["environment"]["torch"] == torch.__version__
    assert content["settings"] == {"batch": 2} and content["matmul_flops"] == rates
    assert content["rows"] == labelled(rows)
    text = markdown.read_text()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert len(table) == 8 and len({len(cells) for cells in table}) == 1
    shown = ["40.0", "50.0 (49.0 to 52.0)", "3.00", "7", "0.00300", "0.36", ""]
    assert table[2] == ["pointnet", "1024", "2", "training", "float32", *shown]
    assert table[4][5:] == ["-"] * 6 + ["out of memory"] and table[5][4] == "bfloat16"
    assert "before the models and after: float32 50.0 and 40.0; bfloat16 1.00." in text
    assert "`python tools/benchmark.py --batch 2`" in text and "Measured on" in text


def test_rows_are_drawn_as_they_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [made("pointnet", n, ms=n / 10) for n in (512, 1024)] + [failed("out of memory", "pointnet")]
    rows += [{**one, "mode": "inference"} for one in rows]
    write(rows, {}, {"float32": [1e9]}, CPU, Target("x", tmp_path / "speed.json"))
    picture = throughput(read_throughput(tmp_path / "speed.json"), tmp_path / "speed.svg")
    drawn = picture.read_text(encoding="utf-8")
    for name in ("pointnet (training)", "pointnet (inference)", "did not run"):
        assert name in drawn, name


def test_comparisons(tmp_path: Path) -> None:
    at = {"first": "a", "second": "b", "num_points": 64, "batch": 2, "mode": "training", "dtype": "float32"}
    found = {"first_ms": 30.0, "second_ms": 20.0, "ratio": 1.5, "spread": [1.4, 1.625], "repeats": 5}
    rows = [at | found, at | {"note": "out of memory"}]
    write_pairs(rows, {"batch": 2}, CPU, Target("x", tmp_path / "pair.json", tmp_path / "pair.md"))
    content = json.loads((tmp_path / "pair.json").read_text())
    assert content["comparisons"] == rows and content["settings"] == {"batch": 2}
    text = (tmp_path / "pair.md").read_text()
    assert "- A: `a`\n- B: `b`" in text and "out of memory" in text
    cells = [cell.strip() for cell in text.splitlines()[7].split("|")[1:-1]]
    assert cells == ["64", "2", "training", "float32", "30.0", "20.0", "1.500", "1.400 to 1.625"]
    assert pair_line(rows[0]).split()[-6:] == ["30.0", "20.0", "1.500", "1.400", "to", "1.625"]
