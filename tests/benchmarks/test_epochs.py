"""Kept epochs of a run trained here, read as last, mean of the last 20 and best on test."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import epochs, summarize
from benchmarks.epochs import columns, rows, score
from bixt3d.config import load_config
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.training.device import pick_device
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.experiment import train
from tests.tools.conftest import CONFIG
from tests.training.tiny import contents

CPU = pick_device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and runs/1 and runs/2 of three epochs, of which the first kept all."""
    place = tmp_path_factory.mktemp("epochs")
    write_shapes(place / "data", per_class=6, num_points=64, progress=False)
    (place / "tiny.yaml").write_text(CONFIG)
    for seed, every in ((1, 1), (2, 2)):
        settings = [f"data.root={place / 'data'}", f"run.dir={place}/runs/{seed}", f"train.seed={seed}"]
        train(load_config(place / "tiny.yaml", [*settings, f"train.keep_every={every}"]), device=CPU)
    return place


def call(monkeypatch: pytest.MonkeyPatch, module: Any, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, options)])
    module.main()


def test_scores_are_those_of_each_epoch(place: Path, tmp_path: Path) -> None:
    found, goal = score(place / "runs/2", [], CPU)
    assert goal == "oa" and [row["epoch"] for row in found] == [2, 3]  # the last is always there
    for row, name in zip(found, ("epoch_0002", "last"), strict=True):
        seen = evaluate_checkpoint(place / "runs/2" / name, out=tmp_path).seen
        assert row == {"epoch": row["epoch"], **seen.metrics}
    assert found[-1] == json.loads((place / "runs/2/result.json").read_text())["last"]


def test_three_columns() -> None:
    """Of 30 epochs, every second kept: ten lie among the last 20, and the best is before them."""
    found = [{"epoch": epoch, "oa": epoch / 100, "macc": 0.5} for epoch in range(2, 31, 2)]
    found[1] |= {"oa": 0.9, "macc": 0.4}
    told = columns(found, "oa")
    last = [epoch / 100 for epoch in range(12, 31, 2)]
    assert told["of"] == list(range(12, 31, 2)) and told["last"] == found[-1]
    assert told["mean"] == {"oa": pytest.approx(0.21), "macc": 0.5}
    assert told["std"] == {"oa": pytest.approx(statistics.stdev(last)), "macc": 0.0}
    assert told["best_on_test"] == {"epoch": 4, "oa": 0.9, "macc": 0.4}  # one epoch, chosen by the goal
    assert rows(told) == [
        ["OA", "30.00", "21.00 ± 6.06", "90.00", "10 from 12 to 30", "4"],
        ["mAcc", "50.00", "50.00 ± 0.00", "40.00", "10 from 12 to 30", "4"],
    ]


def test_one_epoch_has_no_deviation() -> None:
    assert rows(columns([{"epoch": 50, "oa": 0.5}], "oa")) == [
        ["OA", "50.00", "50.00", "50.00", "50 alone", "50"]
    ]


def test_command_and_table_of_results(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [place / "runs/1", place / "runs/2"]
    assert summarize.three_columns(tmp_path, [1, 2]) == ""
    call(monkeypatch, epochs, *runs, "--device", "cpu")
    told = [json.loads((run / "epochs.json").read_text()) for run in runs]
    assert [one["of"] for one in told] == [[1, 2, 3], [2, 3]]
    assert capsys.readouterr().out.count("3 from 1 to 3") == 2  # OA and mAcc
    call(monkeypatch, summarize, *runs, "--title", "Tiny", "--out", tmp_path)
    page = (tmp_path / "README.md").read_text()
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line[:1] == "|"
    ]
    head = next(number for number, row in enumerate(cells) if "best on test" in row)
    assert cells[head][:5] == ["seed", "score, %", "last", "mean of the last 20", "best on test"]
    body = cells[head + 2 :]
    assert [row[0] for row in body] == ["1", "1", "2", "2", "mean ± std", "mean ± std"]
    for key, shown in zip(("last", "mean", "best_on_test"), body[4][2:5], strict=True):
        values = [100 * one[key]["oa"] for one in told]
        assert shown == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert json.loads((tmp_path / "seed2/epochs.json").read_text()) == told[1]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("unfinished", "expected a finished run, with result.json"),
        ("none kept", "expected epochs that train.keep_every keeps, got none"),
        ("other clouds", "expected oa 0.9999 of epoch 3, as in result.json, got "),
    ],
)
def test_mistakes_write_nothing(
    fault: str, words: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "runs/2", run)
    (run / "epochs.json").unlink(missing_ok=True)
    if fault == "unfinished":
        (run / "result.json").unlink()
    elif fault == "none kept":
        (run / "epoch_0002.safetensors").unlink()
    else:
        result = json.loads((run / "result.json").read_text())
        result["last"]["oa"] = 0.9999
        (run / "result.json").write_text(json.dumps(result))
    before = contents(run)
    with pytest.raises(SystemExit, match=f"^error: {run}: {words}"):
        call(monkeypatch, epochs, run, "--device", "cpu")
    assert contents(run) == before
