"""The list of single changes: what is trained, what is not trained twice, and the table."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import recipe
from bixt3d.config import load_config
from bixt3d.datasets.shapes import write_shapes
from bixt3d.training.stop import Stopped

CONFIG = """
data: {name: shapes, num_points: 32, train_split: train}
augment: {shuffle: false}
model:
  name: bixt_ti_cls
  args: {dim: 12, depth: 2, num_heads: 2, num_latents: 4, coord_scale: 6.0, drop_path: 0.0}
optim: {lr: 1.0e-2, warmup_epochs: 0.5}
train: {epochs: 1, batch_size: 14, ema_decay: 0.0}
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


def test_runs_each_change_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "data", per_class=6, num_points=64, progress=False)
    Path("tiny.yaml").write_text(CONFIG)
    Path("plan.yaml").write_text(PLAN)
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
    assert "test" not in "".join(map(str, rows()))

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
        (["--baselines", "smal"], "--baselines: unknown 'smal'; did you mean 'small'?; known: small"),
        (["--only", "latent"], "unknown 'latent'; did you mean 'latents'?; known: latents, optimiser"),
    ],
)
def test_unknown_names(
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(PLAN)
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, *options)
    assert ended.value.code == 2 and words in capsys.readouterr().err


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
