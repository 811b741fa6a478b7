"""Nothing depends on what pads: the rows of a cloud beyond its own points, of which `Split.count` tells."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from bixt3d.config import config_from
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.split import Split
from bixt3d.models.encoder import PointModel
from bixt3d.models.segmenter import segment_all_points
from bixt3d.tasks import PartSegmentationTask
from bixt3d.training.distributed import Workers
from bixt3d.training.evaluate import Evaluation, evaluate
from bixt3d.training.splits import build_task, training_loader
from tests.invariants.cases import CASES, categories, small

SEGMENTERS = sorted(case for case, (name, _) in CASES.items() if "partseg" in name)
OWN = torch.tensor([40, 64, 90, 150])  # fewer points than the model takes, as many, and more
TABLE = ((0, 1, 2), (3, 4), (5, 6))
HAND = 64


def padded(model: PointModel, width: int = 150, garbage: bool = False) -> Split:
    """The same clouds each time, in rows of ``width``; what pads repeats them, or is wild."""
    generator = Generator().manual_seed(3)
    points = torch.rand(4, 150, model.in_dims, generator=generator) * 2 - 1
    category = torch.arange(4) % 3
    parts = torch.tensor([0, 3, 5])[category][:, None] + (points[..., 0] > 0).long()  # (B, N)
    row = torch.arange(width).expand(4, -1)
    place, pads = row % OWN[:, None], row >= OWN[:, None]  # (B, N)
    points = points.gather(1, place[..., None].expand(-1, -1, model.in_dims))
    parts = parts.gather(1, place)
    if garbage:
        points = torch.where(pads[..., None], torch.randn(points.shape, generator=generator) * 1e6, points)
        parts = torch.where(pads, 6 - parts, parts)
    names = ("a", "b", "c")
    features = ("own:3",) if model.in_dims == 6 else ()
    return Split(points, category, names, parts, category, names, TABLE, count=OWN, features=features)


def task() -> PartSegmentationTask:
    return PartSegmentationTask("abc", TABLE, HAND, 0.2)


@pytest.fixture(params=SEGMENTERS)
def model(request: pytest.FixtureRequest) -> PointModel:
    return small(request.param)


def labels(model: PointModel, points: Tensor) -> list[Tensor]:
    """Logits of each cloud's own points."""
    with torch.no_grad():
        logits = segment_all_points(model, points, categories(model, 4), HAND, OWN)
    return [each[:own] for each, own in zip(logits, OWN.tolist(), strict=True)]


def test_labels_of_points(model: PointModel) -> None:
    """Not even what is no number reaches the model."""
    split = padded(model)
    pads = torch.arange(150) >= OWN[:, None]  # (B, N)
    wild = torch.where(pads[..., None], torch.nan, split.points)
    expected = labels(model, split.points)
    for found in (labels(model, wild), labels(model, padded(model, 200).points)):
        assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def same(first: Evaluation, second: Evaluation) -> bool:
    return first.metrics == second.metrics and first.counts.equal(second.counts)


def test_metrics(model: PointModel) -> None:
    expected = evaluate(model, padded(model), task())
    assert 0 < expected.metrics["instance_miou_pointmlp"] < 1
    for split in (padded(model, garbage=True), padded(model, 200), padded(model, 333, garbage=True)):
        found = evaluate(model, split, task())
        assert same(found, expected)
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def test_evaluation_twice_is_the_same_to_the_bit(model: PointModel) -> None:
    split = padded(model)
    first = evaluate(model, split, task(), batch_size=3)
    assert same(first, second := evaluate(model, split, task(), batch_size=3)) and first.loss == second.loss
    assert same(first, evaluate(model, split, task(), batch_size=1))


def test_training_draws_a_cloud_s_own_points() -> None:
    """Clouds with as many points as a batch takes, or more; one with fewer repeats what pads, as it says."""
    config = config_from(
        {
            "data": {"num_points": 40, "order": "random"},
            "model": {"name": "bixt_ti_partseg"},
            "train": {"batch_size": 4},
        }
    )
    batches: list[list[Batch]] = []
    for garbage in (False, True):
        split = padded(small("parts"), garbage=garbage)
        batches.append(list(training_loader(config, build_task(config), split, Workers()).epoch(5)))
    for batch, wild in zip(*batches, strict=True):
        assert wild.points.equal(batch.points) and wild.parts is not None and batch.parts is not None
        assert wild.parts.equal(batch.parts) and wild.points.abs().max() < 10
