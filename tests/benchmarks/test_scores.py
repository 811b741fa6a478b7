"""The page of scores: which runs belong together, what is counted, what others published."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import scores
from benchmarks.models import Spec, count_macs
from benchmarks.scores import find_experiments
from bixt3d import create_model, load_config
from bixt3d.datasets.synthetic.shapes import CATEGORIES, write_shapes

ARGS = {"dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4}


def finish(folder: Path, seed: int, oa: float, **where: Any) -> None:
    """Leave what a finished run leaves."""
    folder.mkdir(parents=True)
    config = {
        "data": {"name": "shapes", "root": "data", "num_points": 32},
        "model": {"name": "bixt_ti_cls", "args": ARGS},
        "train": {"seed": seed},
        "run": {"dir": str(folder)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = {"last": {"epoch": 3, "oa": oa, "macc": oa - 0.1}, "minutes": 2.0 * seed}
    (folder / "result.json").write_text(json.dumps(result))
    command = f"tools/train_cls.py --set train.seed={seed}"
    about = {"command": command, "commit": "abc", "gpu": None, "processor": "P", "threads": 1}
    (folder / "environment.json").write_text(json.dumps({**about, **where}))


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "data", per_class=6, num_points=64, progress=False)
    finish(Path("results/tiny/seed1"), 1, 0.5)
    finish(Path("results/tiny/seed2"), 2, 0.6, commit="def")
    finish(Path("results/tiny/large_machine"), 3, 0.7, gpu="G")
    told = {"last": {"oa": 0.7, "macc": 0.6}, "mean": {"oa": 0.68, "macc": 0.58}, "std": {"oa": 0.01}}
    told |= {"best_on_test": {"oa": 0.75, "macc": 0.5}, "of": [281, 300]}
    told["last"]["epoch"] = 300
    Path("results/tiny/large_machine/epochs.json").write_text(json.dumps(told))
    finish(Path("results/short/seed1"), 1, 0.7)
    short = {**told, "of": [5, 24], "last": {**told["last"], "epoch": 24}}
    Path("results/short/seed1/epochs.json").write_text(json.dumps(short))
    log = "{model: Its log, last: 98.5, mean: 98.1 ± 0.1, best_on_test: 99.9, runs: 1, source: A log}"
    Path("published.yaml").write_text(
        f"shapes: [{{model: Other, oa: 99.9, selection: test, source: A book}}]\nshapes_logs: [{log}]"
    )
    options = ["--out", "results/README.md", "--published", "published.yaml"]
    monkeypatch.setattr(sys, "argv", ["scores", *options])
    scores.main()
    page = Path("results/README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line[:1] == "|"]
    assert len(rows) == 14
    model = create_model("bixt_ti_cls", num_classes=len(CATEGORIES), **ARGS)
    parameters = sum(p.numel() for p in model.parameters())
    table = [dict(zip(rows[0], row, strict=True)) for row in rows[2:5] if "short" not in row[-1]]
    both, alone = sorted(table, key=lambda row: row["OA %"])
    assert (both["seeds"], both["OA %"], both["mAcc %"]) == ("1 2", "55.00 ± 7.07", "45.00 ± 7.07")
    assert (both["parameters"], both["minutes"], both["commit"]) == (f"{parameters:,}", "3", "abc, def")
    assert (both["hardware"], both["log"], both["points"]) == ("P, 1 thread", "[tiny](tiny)", "32")
    spec = Spec("", "bixt_ti_cls", {"num_classes": len(CATEGORIES), **ARGS})
    macs = count_macs(spec, 32, torch.device("cpu"))
    assert both["GMAC"] == f"{macs / 1e9:.3g}"
    assert (alone["seeds"], alone["OA %"], alone["hardware"]) == ("3", "70.00", "G")
    assert alone["log"] == "[large_machine](tiny/large_machine)"
    assert rows[5] == ["published", "OA %", "epoch chosen by", "source"]
    assert rows[7] == ["Other", "99.9", "test", "A book"]
    assert rows[8][:5] == [
        "model",
        "last",
        "mean of the last 20",
        "best on test",
        "mAcc, mean of the last 20",
    ]
    ways = {row[-1]: row[1:-1] for row in rows[10:]}
    assert ways["ours: tiny"] == ["55.00 ± 7.07", "", "", "", "2", "300"]  # the epochs were not kept
    assert ways["ours: large_machine"] == ["70.00", "68.00 ± 1.00", "75.00", "58.00", "1", "300"]
    # Of 24 epochs the last 20 begin at the fifth, where a training is not done.
    assert ways["ours: short"] == ["70.00", "", "75.00", "", "1", "300"]
    assert ways["A log"] == ["98.5", "98.1 ± 0.1", "99.9", "", "1", ""]
    assert "not measured here" in page and "`python tools/train_cls.py --set train.seed=1`" in page


def test_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--results", str(tmp_path), "--out", str(tmp_path / "page.md")]
    monkeypatch.setattr(sys, "argv", ["scores", *options])
    with pytest.raises(SystemExit) as ended:
        scores.main()
    assert ended.value.code == 2 and "expected folders with result.json" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_every_published_score_names_its_source() -> None:
    for rows in yaml.safe_load(scores.PUBLISHED.read_text()).values():
        assert all(row["source"] and row["model"] for row in rows)


def test_the_paper_is_quoted_alike() -> None:
    published = yaml.safe_load(scores.PUBLISHED.read_text())
    oa = [str(row["oa"]) for row in published["modelnet40"] if row["model"].startswith("BiXT")]
    miou = [str(row["class"]) for row in published["shapenetpart"] if row["model"].startswith("BiXT")]
    words = " ".join((Path(__file__).parents[2] / "README.md").read_text().split())
    assert re.findall(r"`bixt3d train paper_\w+` \| OA (\S+) %", words) == oa
    assert re.findall(r"`bixt3d train paper_\w+` \| class mIoU (\S+) %", words) == miou


def test_runs_that_are_kept_can_be_given_as_settings() -> None:
    """Of whatever version: some name a bundle of settings beside all of them."""
    root = Path(__file__).parents[2] / "results"
    kept = list(find_experiments(root))
    assert len(kept) >= 5 and {e.config.data.name for e in kept} == {"modelnet40", "shapenetpart"}
    for experiment in kept:
        assert experiment.config.run.dir.startswith("runs/") and experiment.config.data.features is None


def test_settings_of_a_run_of_before(tmp_path: Path) -> None:
    """A run's own config.yaml states all; a file that names a bundle lacks what it stood for."""
    kept = (Path(__file__).parents[2] / "results/modelnet40_cpu_strong/seed1/config.yaml").read_text()
    assert "preset: ''" in kept
    (tmp_path / "run.yaml").write_text(kept)
    (tmp_path / "plain.yaml").write_text(kept.replace("preset: ''", ""))
    assert load_config(tmp_path / "run.yaml") == load_config(tmp_path / "plain.yaml")
    (tmp_path / "short.yaml").write_text("preset: pointmlp\noptim: {lr: 0.1}\n")
    with pytest.raises(ValueError, match="unknown key preset"):
        load_config(tmp_path / "short.yaml")
