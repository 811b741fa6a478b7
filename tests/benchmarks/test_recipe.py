"""The list of single changes: what is trained, what is not trained twice, and the table."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recipe, sweep
from bixt3d.config import load_config
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.training import splits
from bixt3d.training.guards import Stopped

CONFIG = """
data: {name: shapes, num_points: 32, train_split: train}
augment: {shuffle: false}
model:
  name: bixt_ti_cls
  args: {dim: 12, depth: 2, num_heads: 2, num_latents: 4, coord_scale: 6.0, drop_path: 0.0}
optim: {lr: 1.0e-2, warmup_epochs: 0.5}
train: {epochs: 2, batch_size: 14, ema_decay: 0.0}
"""
PLAN = """
baselines:
  small:
    cfg: tiny.yaml
    set: [data.root=data]
    changes:
      latents: [model.args.num_latents=2]
      optimiser: [optim.name=muon optim.lr=4e-3, optim.lr=1e-4]
"""


def call(monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    monkeypatch.setattr(sys, "argv", ["recipe", "--plan", "plan.yaml", "--out", "out/recipe.md", *options])
    recipe.main()
    return Path("out/recipe.md").read_text()


def rows() -> list[dict[str, object]]:
    return [json.loads(line) for line in Path("out/recipe.jsonl").read_text().splitlines()]


def watch(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[list[dict[str, Any]]]]:
    """What is opened, and the epochs of what is trained, as the command runs."""
    opened: list[Any] = []
    learned: list[list[dict[str, Any]]] = []
    shapes: list[int] = []

    def open_splits(config: Any, device: Any, names: tuple[str, ...], train: str | None = None) -> Any:
        opened.append((names, train))
        found = splits.open_splits(config, device, names, train)
        shapes[:] = [len(found[0][name]) for name in ("train", "val")]
        return found

    class Watched(sweep.Trainer):
        def __init__(self, *given: Any, **named: Any) -> None:
            assert [len(split) for split in given[3:5]] == shapes  # train and val
            super().__init__(*given, **named)

    def learn(*given: Any) -> list[dict[str, Any]]:
        learned.append(sweep.learn(*given))
        return learned[-1]

    monkeypatch.setattr(sweep, "Trainer", Watched)
    monkeypatch.setattr(recipe, "open_splits", open_splits)
    monkeypatch.setattr(recipe, "learn", learn)
    return opened, learned


def test_a_config_that_changed_is_trained_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are known by all their settings; a setting that is new since had its default then."""
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "data", per_class=6, num_points=64, progress=False)
    Path("tiny.yaml").write_text(CONFIG)
    Path("plan.yaml").write_text("baselines: {small: {cfg: tiny.yaml, set: [data.root=data], changes: {}}}")
    call(monkeypatch, "--seeds", "1")
    Path("tiny.yaml").write_text(CONFIG.replace("depth: 2", "depth: 1"))
    text = call(monkeypatch, "--seeds", "1")
    assert len(rows()) == 2 and rows()[0]["resolved"] != rows()[1]["resolved"]
    assert sum(line.startswith("|") for line in text.splitlines()) == 3
    stripped = rows()
    for row in stripped:
        del row["resolved"]["model.args.pool"]  # type: ignore[attr-defined]
    Path("out/recipe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stripped))
    call(monkeypatch, "--seeds", "1")
    assert rows() == stripped


def test_rows_of_before_count_as_the_present_settings_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)

    def stated(*settings: str) -> dict[str, Any]:
        return recipe.resolve(recipe.Trial("small", "", "", "tiny.yaml", settings))

    def of_before(normals: bool) -> dict[str, Any]:
        new = ("task", "data.features", "augment.mirror", "augment.feature_jitter", "model.args.pool")
        known = {key: value for key, value in stated().items() if key not in new}
        return {"resolved": {**known, "data.normals": normals}}

    assert recipe.is_of(of_before(normals=True), stated())
    assert not recipe.is_of(of_before(normals=True), stated("data.features=[]"))
    assert recipe.is_of(of_before(normals=False), stated("data.features=[]"))
    assert not recipe.is_of(of_before(normals=False), stated())
    for changed in ("task=part_segmentation", "augment.mirror=0.5", "model.args.pool=both", "optim.lr=2e-2"):
        assert not recipe.is_of(of_before(normals=True), stated(changed)), changed
    gone = of_before(normals=True)
    gone["resolved"]["augment.gone"] = 1.0
    assert not recipe.is_of(gone, stated())


def test_every_kept_run_is_one_of_the_plan_and_in_the_table() -> None:
    kept = Path(__file__).parents[2] / "results" / "recipe.jsonl"
    trials, done = list(recipe.read_plan(recipe.PLAN)), recipe.read_rows(kept)
    known = [recipe.resolve(trial) for trial in trials]
    assert len(done) >= 130
    for row in done:
        assert sum(recipe.is_of(row, settings) for settings in known) == 1, row["settings"]
    assert kept.with_suffix(".md").read_text() == recipe.report(trials, done)


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"error: .*plan\.yaml"):
        call(monkeypatch)
    Path("tiny.yaml").write_text(CONFIG)
    Path("plan.yaml").write_text(PLAN)
    with pytest.raises(SystemExit, match="error: .*cudaa"):
        call(monkeypatch, "--device", "cudaa")
    Path("out").mkdir()
    Path("out/recipe.jsonl").write_text('{"seed": 1, "resolved": {}}\n{"seed": 2, "res')
    with pytest.raises(SystemExit, match=r"error: .*recipe\.jsonl, line 2: no JSON; .* delete it"):
        call(monkeypatch)


def test_runs_each_change_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "data", per_class=6, num_points=64, progress=False)
    Path("tiny.yaml").write_text(CONFIG)
    Path("plan.yaml").write_text(PLAN)
    opened, learned = watch(monkeypatch)
    text = call(monkeypatch, "--seeds", "1", "--only", "latents")
    assert len(rows()) == 2 and "muon" not in text
    first = rows()
    text = call(monkeypatch, "--seeds", "1", "2")
    assert rows()[:2] == first and len(rows()) == 8
    assert {(row["seed"], tuple(row["settings"])) for row in rows()} == {  # type: ignore[arg-type]
        (seed, ("data.root=data", *change))
        for seed in (1, 2)
        for change in (
            (),
            ("model.args.num_latents=2",),
            ("optim.name=muon", "optim.lr=4e-3"),
            ("optim.lr=1e-4",),
        )
    }
    call(monkeypatch, "--seeds", "1", "2")
    assert len(rows()) == 8
    assert set(opened) == {(("train", "val"), "train")}
    assert [row["val_oa"] for row in rows()] == [round(epochs[-1]["val_oa"], 5) for epochs in learned]
    assert all(len(epochs) == 2 for epochs in learned)

    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 6 and "**baseline**" in lines[2]
    of = {
        seed: {" ".join(row["settings"][1:]): row for row in rows() if row["seed"] == seed}  # type: ignore[index]
        for seed in (1, 2)
    }
    gains = [100 * (of[s]["optim.lr=1e-4"]["val_oa"] - of[s][""]["val_oa"]) for s in (1, 2)]  # type: ignore[operator]
    gain = f"| {sum(gains) / 2:+.2f} ± {abs(gains[0] - gains[1]) / 2**0.5:.2f} |"
    assert gain in re.sub(" +", " ", lines[5])
    assert lines[5].rstrip(" |").endswith("1 2")


def test_every_change_of_the_plan_can_be_trained() -> None:
    for trial in recipe.read_plan(recipe.PLAN):
        changed = load_config(trial.config, trial.settings)
        base = next(t for t in recipe.read_plan(recipe.PLAN) if t.baseline == trial.baseline and not t.change)
        assert (changed == load_config(base.config, base.settings)) == (not trial.change), trial
        assert changed.data.train_split == "train"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--baselines", "smal"], "--baselines: unknown 'smal'; did you mean 'small'?; known: 'small'"),
        (["--only", "latent"], "unknown 'latent'; did you mean 'latents'?; known: 'latents', 'optimiser'"),
    ],
)
def test_unknown_names(
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(PLAN)
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, *options)
    assert words in str(ended.value.code)


def test_stopping_keeps_the_runs_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)
    Path("plan.yaml").write_text(PLAN)
    asked: list[recipe.Trial] = []

    def run(trial: recipe.Trial, seed: int, *rest: object) -> dict[str, object]:
        asked.append(trial)
        if len(asked) == 3:
            raise Stopped(15, "stopped")
        return {"config": trial.config, "settings": trial.settings, "seed": seed}

    monkeypatch.setattr(recipe, "run", run)
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch)
    assert ended.value.code == 143 and "goes on" in capsys.readouterr().err
    assert len(rows()) == 2
