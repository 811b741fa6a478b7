"""The programs with a plug-in: a model and a task of a user's own, from training to prediction."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.markers import slow
from tests.tools.conftest import Outcome, Workplace

PLUGIN = """
import torch
from torch import nn
import bixt3d

class Extent(nn.Module):
    def __init__(self, num_classes, in_dims):
        super().__init__()
        self.map = nn.Linear(2 * in_dims, num_classes)

    def forward(self, points):
        return self.map(torch.cat([points.amax(1), points.amin(1)], -1))

class NumberTask(bixt3d.Task):
    name, goal, shown = "number", "close", ("close",)

    def model_args(self, split):
        return {"num_classes": 1}

    def loss(self, logits, batch):
        return (logits[:, 0] - batch.label).abs().mean()

    def start(self, device):
        return torch.zeros(2, dtype=torch.float64, device=device)

    def count(self, logits, batch):
        close = (logits[:, 0] - batch.label).abs() < 3
        return torch.stack([close.sum(), torch.ones_like(close).sum()]).double()

    def metrics(self, counts):
        return {"close": float(counts[0] / counts[1])}

    def predict(self, model, points, preprocess, category=None):
        return float(model(*self.inputs(points, preprocess)))

bixt3d.register_model("extent", Extent)
bixt3d.register_task("number", NumberTask)
"""
CONFIG = """
task: number
data: {name: shapes, num_points: 48}
model: {name: extent}
optim: {lr: 1.0e-2, warmup_epochs: 0}
train: {epochs: 2, batch_size: 14, ema_decay: 0.0}
run: {tensorboard: false}
"""


@pytest.fixture(scope="module")
def trained(workplace: Workplace) -> Outcome:
    """A run in runs/number, and what its training said."""
    (workplace.folder / "mine.py").write_text(PLUGIN)
    (workplace.folder / "number.yaml").write_text(CONFIG)
    settings = ("--set", "run.dir=runs/number", f"data.root={workplace.folder / 'data'}")
    return workplace.run("train_cls", "--plugin", "mine.py", "--cfg", "number.yaml", *settings).succeeded()


def number(text: str) -> float:
    return float(text.rsplit(maxsplit=1)[-1])


def test_training_and_evaluation(workplace: Workplace, trained: Outcome) -> None:
    assert "extent: 7 parameters on cpu" in trained.out
    assert re.search(r"^epoch 2/2  loss \d+\.\d+  .*val close [\d.]+%", trained.out, re.M)
    result = json.loads((workplace.folder / "runs/number/result.json").read_text())
    assert set(result["last"]) == {"epoch", "close"}
    done = workplace.run("evaluate", "runs/number/last", "--plugin", "mine.py").succeeded()
    assert f"close  {100 * result['last']['close']:.2f}%" in done.out and "confusion" not in done.out
    table = (workplace.folder / "runs/number/last_test/table.csv").read_text().splitlines()
    assert table[0] == "metric,value" and table[1].startswith("close,") and len(table) == 2
    assert float(table[1].removeprefix("close,")) == pytest.approx(result["last"]["close"], abs=5e-5)


def test_prediction_is_the_answer_of_the_task(workplace: Workplace, trained: Outcome, tmp_path: Path) -> None:
    (tmp_path / "bad.off").write_text("hello")
    files = (*workplace.meshes[:2], tmp_path / "bad.off")
    told = ("--checkpoint", "runs/number", "--plugin", "mine.py")
    table = workplace.run("predict", *files, *told)
    assert table.code == 1 and "bad.off" in table.err and "Traceback" not in table.err
    assert len(table.out.splitlines()) == 2
    rows = json.loads(workplace.run("predict", *files, *told, "--format", "json").out)
    assert [set(row) for row in rows] == [{"file", "answer"}] * 2 + [{"file", "error"}]
    assert [row["answer"] for row in rows[:2]] == list(map(number, table.out.splitlines()))


@slow
def test_what_else_takes_the_checkpoint(workplace: Workplace, trained: Outcome, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).normal(size=(90, 3)))
    told = ("--checkpoint", "runs/number/last", "--plugin", "mine.py")
    done = workplace.run(
        "export", "runs/number/last", "--plugin", "mine.py", "--format", "torch", "--out", "m.pt2"
    )
    assert "points (batch, points, 3) float32" in done.succeeded().out
    pytest.importorskip("matplotlib")
    done = workplace.run("view_parts", tmp_path / "scan.npy", *told, "--png", tmp_path / "p").succeeded()
    assert [path.name for path in (tmp_path / "p").iterdir()] == [
        "1_scan.npy.png"
    ] and "picture: " in done.out
    done = workplace.run("view_attention", tmp_path / "scan.npy", *told)
    done.refused("expected a model with located_attention(points), got Extent; it returns for each layer")
    done = workplace.run(
        "evaluate", "runs/number/last", "--plugin", "mine.py", "--retrieval", "--out", tmp_path / "none"
    )
    done.refused("expected a model with forward_features(points), got Extent; it returns latents (B, M, D)")
    assert not (tmp_path / "none").exists()


def test_without_the_plugin_it_is_told_of(workplace: Workplace, trained: Outcome) -> None:
    words = ("--plugin FILE.py", "bixt3d.register_")
    workplace.run("predict", workplace.meshes[0], "--checkpoint", "runs/number").refused("extent", *words)
    settings = ("--set", "run.dir=runs/other", f"data.root={workplace.folder / 'data'}")
    workplace.run("train_cls", "--cfg", "number.yaml", *settings).refused("unknown task 'number'", *words)
    workplace.run("train_cls", "--cfg", "number.yaml", "--plugin", "gone.py", *settings).refused(
        "no file gone.py"
    )
    assert not (workplace.folder / "runs/other").exists()
