from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.tools.conftest import Workplace

TINY = "bixt_ti_cls:dim=12:depth=1:num_heads=2:num_latents=4"
QUICK = ("--points", "64", "--batch", "2", "--repeats", "1", "--mode", "inference", "--dtype", "float32")
KEYS = {
    *("model", "name", "args", "ways", "num_points", "batch", "mode", "dtype", "device", "note"),
    *("clouds_per_second", "ms", "spread", "repeats", "peak_memory_bytes", "parameters", "macs", "fraction"),
    *("matmul_flops", "matmul_spread", "limit_operations"),
}


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_models_that_run_and_one_that_refuses(place: Workplace) -> None:
    (place.folder / "benchmarks").mkdir()  # a folder of the user's own by that name is not taken for ours
    (place.folder / "benchmarks/__init__.py").write_text("raise SystemExit('not this one')")
    models = ("pointnet", TINY, "pointnet2_ssg", "pointnet")
    files = ("--out", "new/speed.json", "--markdown", "new/speed.md")
    outcome = place.run("benchmark", "--models", *models, *QUICK, "--threads", "1", *files).succeeded()
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "inference, float32, batches of 2 clouds"
    assert lines[1].split()[:3] == ["model", "points", "clouds/s"]
    assert lines[2].startswith("pointnet ") and lines[2].split()[1] == "64"
    assert lines[3] == TINY and lines[4].split()[0] == "64"
    assert lines[5].startswith("pointnet2_ssg") and "did not run: 64 points a cloud are too few" in lines[5]

    content = json.loads((place.folder / "new/speed.json").read_text())
    assert content["settings"]["threads"] == 1 and content["settings"]["points"] == [64]
    assert content["environment"]["command"].startswith("python tools/benchmark.py --models pointnet bixt_ti")
    assert [rate > 1e8 for rate in content["matmul_flops"]["float32"]] == [True, True]
    rows = content["rows"]
    assert [row["model"] for row in rows] == ["pointnet", TINY, "pointnet2_ssg"]
    assert all(set(row) == KEYS for row in rows)
    for row in rows[:2]:
        assert row["clouds_per_second"] == pytest.approx(2e3 / row["ms"])
        assert 0 < row["fraction"] < 2 and row["macs"] > 1e5 and row["note"] is None
        if sys.platform == "linux":
            assert 1e6 < row["peak_memory_bytes"] < 1e9
    assert rows[2]["clouds_per_second"] is None and "too few" in rows[2]["note"]
    text = (place.folder / "new/speed.md").read_text()
    assert "`python tools/benchmark.py --models" in text and "| 3,480,049" in text


@pytest.mark.skipif(sys.platform != "linux", reason="the shell limits memory on Linux alone")
def test_out_of_memory_is_a_row_and_the_next_model_runs(place: Workplace) -> None:
    # clouds of 48 GB where a process may have 16 GB
    command = place.command("benchmark", "--models", "pointnet", TINY, *QUICK, "--out", "speed.json")
    command[command.index("64")] = "1M"
    command[command.index("--batch") + 1] = "4k"
    limited = ["sh", "-c", 'ulimit -v 16000000 && exec "$@"', "sh", *command]
    outcome = place.run("benchmark", command=limited).succeeded()
    rows = json.loads((place.folder / "speed.json").read_text())["rows"]
    assert [(row["num_points"], row["clouds_per_second"], row["note"]) for row in rows] == [
        (1_000_000, None, "out of memory")
    ] * 2
    assert outcome.out.count("did not run: out of memory") == 2


def test_comparison_of_two_backends_and_of_threads(place: Workplace) -> None:
    sides = (f"{TINY}:backend=sdpa:threads=2", f"{TINY}:backend=torch")
    extra = ("--repeats", "3", "--mode", "both", "--out", "pair.json", "--markdown", "pair.md")
    outcome = place.run("benchmark", "--compare", *sides, *QUICK, *extra).succeeded()
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == f"A: {sides[0]}" and lines[1] == f"B: {sides[1]}"
    assert lines[2] == "in turn, batches of 2 clouds"
    assert lines[3].split() == ["points", "A", "ms", "B", "ms", "A", "/", "B", "middle", "half"]
    assert [line[:18] for line in lines[4:]] == ["inference, float32", "training, float32 "]
    rows = json.loads((place.folder / "pair.json").read_text())["comparisons"]
    for row in rows:
        assert row["first_ms"] > 0 and row["second_ms"] > 0 and row["repeats"] == 3
        low, high = row["spread"]
        assert low <= row["ratio"] <= high
    assert "| A / B " in (place.folder / "pair.md").read_text()


def test_comparison_with_a_model_that_refuses(place: Workplace) -> None:
    outcome = place.run("benchmark", "--compare", TINY, "pointnet2_ssg", *QUICK).succeeded()
    assert "did not run: 64 points a cloud are too few" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--models", "pointnet", "bixt_ti_clss"],
            ["'bixt_ti_clss'", "did you mean 'bixt_ti_cls'?", "pointmlp"],
        ),
        (["--compare", "pointnet", "pointnet:dtype=half"], ["dtype: expected one of float32, bfloat16"]),
        (["--device", "cuda:7"], ["device 'cuda:7' cannot be used here", "--device cpu"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistake_ends_with_one_line(arguments: list[str], words: list[str], place: Workplace) -> None:
    place.run("benchmark", *arguments).refused(*words)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--points", "1G", "expected a whole number from 1 up, such as 1024, 16k or 1M, got '1G'"),
        ("--warmup", "-1", "expected a whole number from 0 up, such as 1024, 16k or 1M, got '-1'"),
        ("--seconds", "nan", "expected seconds, more than 0, got 'nan'"),
        ("--limit", "0", "expected seconds, more than 0, got '0'"),
        ("--out", ".", "expected a file that can be written, got '.' (Is a directory)"),
        ("--markdown", "file/a.md", "expected a file that can be written, got 'file/a.md' (File exists)"),
    ],
)
def test_options_that_are_none(option: str, value: str, words: str, place: Workplace) -> None:
    (place.folder / "file").touch()
    outcome = place.run("benchmark", option, value)
    assert outcome.code == 2 and outcome.out == "" and "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1] == f"benchmark.py: error: argument {option}: {words}"
