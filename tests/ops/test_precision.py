"""A device without float64 is never given it: the CPU stands in for it, and a guard refuses float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bixt3d import metrics
from bixt3d.datasets.loader import Batch
from bixt3d.inference import Predictor
from bixt3d.ops import attention_symmetry, precision
from bixt3d.tasks import PartSegmentationTask
from bixt3d.training.evaluate import evaluate
from bixt3d.training.totals import EpochTotals
from tests.training.tiny import make_config, make_split, make_trainer


class NoFloat64(TorchDispatchMode):
    """Refuses every operation that makes a tensor in float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{func}: this device has no float64")
        return result


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "WITHOUT_FLOAT64", {"cpu"})


def test_devices() -> None:
    assert precision.widest(torch.device("cpu")) == precision.widest(torch.device("cuda")) == torch.float64
    assert precision.widest(torch.device("mps")) == torch.float32
    assert precision.place_of_float64(torch.device("mps")) == torch.device("cpu")
    assert precision.place_of_float64(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_the_guard_refuses() -> None:
    with NoFloat64(), pytest.raises(TypeError, match="no float64"):
        torch.zeros(1).double()


def test_a_training_step_makes_none(without: None, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_config())
    batches = trainer.loader.epoch(0)
    with NoFloat64():
        totals = EpochTotals(trainer.task.start(trainer.device))
        loss, counts, skipped = trainer.state.train_step(batches, 0)
        totals.loss += loss.to(totals.loss)
        totals.counts += counts
    assert totals.loss.dtype == torch.float32 and float(skipped) == 0
    trainer.log.close()


def test_counting_parts_makes_none_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, parts = (
        torch.randn(4, 32, 5, generator=generator),
        torch.randint(0, 2, (4, 32), generator=generator),
    )
    category = torch.zeros(4, dtype=torch.long)
    task = PartSegmentationTask(("Mug", "Table"), ((0, 1), (2, 3, 4)), 32)
    batch = Batch(make_split(4).points, category, parts, category)
    exact = task.count(logits, batch)
    similar = attention_symmetry(logits[:, None], logits.transpose(1, 2)[:, None])
    monkeypatch.setattr(precision, "WITHOUT_FLOAT64", {"cpu"})
    with NoFloat64():
        found = task.count(logits, batch)
        near = attention_symmetry(logits[:, None], logits.transpose(1, 2)[:, None])
        metrics.calibration(torch.rand(9), torch.ones(9, dtype=torch.bool))
    assert exact.dtype == torch.float64 and torch.allclose(found.double(), exact, atol=1e-6)
    assert torch.allclose(near.double(), similar, atol=1e-6)


def test_prediction_gives_models_float32_where_they_are(without: None) -> None:
    """Clouds stay on the CPU in float64; what the model computes from them has none."""
    seen: list[torch.dtype] = []

    class Guarded(torch.nn.Module):
        task, in_dims, num_outputs = "classification", 3, 4

        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 4)

        def forward(self, points: Tensor) -> Tensor:
            seen.append(points.dtype)
            with NoFloat64():
                return self.linear(points).mean(1)

    predictor = Predictor(Guarded(), classes=list("abcd"), num_points=16)
    moved = 1e6 + make_split(1).points[0].double()  # of a map: float32 would lose its shape
    first, second = predictor([moved, make_split(1).points[0]])
    assert seen == [torch.float32] * len(seen) and seen
    assert abs(first.probabilities - second.probabilities).max() < 1e-5


def test_an_evaluation_makes_none_on_the_device(
    without: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, split = make_trainer(tmp_path, make_config()), make_split(22, seed=1)
    metric = trainer.task.metrics
    monkeypatch.setattr(trainer.task, "metrics", lambda counts: {})  # from counts that are on the CPU by then
    with NoFloat64():
        seen = evaluate(trainer.result, split, trainer.task, 8)
    trainer.log.close()
    assert seen.loss > 0 and metric(seen.counts)["oa"] >= 0 and int(seen.counts.sum()) == 22
