"""How many rows of a cloud are its own reaches models whose forward has a parameter ``count``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bixt3d.datasets.loader import Batch, arrange_split
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.split import Split
from bixt3d.inference.graph import RawModel
from bixt3d.models import factory
from bixt3d.tasks import ClassificationTask, PartSegmentationTask
from bixt3d.training import Trainer
from bixt3d.training.distributed import Workers
from bixt3d.training.evaluate import evaluate
from bixt3d.training.experiment import build_model, describe
from bixt3d.training.splits import build_task, training_loader
from tests.training.tiny import make_config, make_split

CLOUDS, POINTS = 16, 32


class Masked(nn.Module):
    """Mean of a linear map over a cloud's own points; it keeps every count that it is told."""

    def __init__(self, num_classes: int, in_channels: int = 3, per_point: bool = False) -> None:
        super().__init__()
        self.linear, self.per_point = nn.Linear(in_channels, num_classes), per_point
        self.told: list[list[int] | None] = []
        self.seen: list[Tensor] = []

    def forward(self, points: Tensor, count: Tensor | None = None) -> Tensor:
        self.told.append(None if count is None else count.tolist())
        self.seen.append(points.detach())
        rows = points.shape[1] if count is None else count[:, None]
        own = (torch.arange(points.shape[1]) < rows).expand(points.shape[:2])  # (B, N)
        values = self.linear(points)  # (B, N, K)
        if self.per_point:
            return torch.where(own[..., None], values, float("nan")).nan_to_num(-9.0)
        return (values * own[..., None]).sum(1) / own.sum(1, keepdim=True)


@pytest.fixture
def registered() -> Iterator[str]:
    factory.register_model("masked_mean", Masked)
    yield "masked_mean"
    factory.MODELS.pop("masked_mean")


def of_sizes(parts: bool = False) -> Split:
    """Clouds of 8 to 32 own points; the rows from there on repeat them."""
    split = make_split(CLOUDS, POINTS)
    count = torch.tensor([8, 16, 24, 32]).repeat(CLOUDS // 4)
    row = torch.arange(POINTS) % count[:, None]  # (S, N)
    points = split.points.gather(1, row[..., None].expand(-1, -1, 3))
    split = replace(split, points=points, count=count)
    if not parts:
        return split
    return replace(
        split,
        parts=(points[..., 1] > 0).long(),
        category=torch.zeros(CLOUDS, dtype=torch.long),
        categories=("thing",),
        parts_of_category=((0, 1),),
        part_names=("low", "high"),
    )


def masked_task(split: Split, model: nn.Module, *overrides: str) -> Any:
    kind = "part_segmentation" if split.parts is not None else "classification"
    task = build_task(make_config(f"task={kind}", "model.args={}", *overrides))
    task.set_facts(task.facts(split))
    task.bind_model(model)
    return task


def test_an_arranged_split_says_how_many_points_are_own() -> None:
    for order in ("stored", "fps", "random"):
        found = arrange_split(of_sizes(), 20, order)
        assert found.count is not None and found.count.tolist() == [8, 16, 20, 20] * (CLOUDS // 4)
        for place, own in enumerate((8, 16, 20, 20)):
            distinct = torch.unique(found.points[place, :own], dim=0)
            assert len(distinct) == own == len(torch.unique(found.points[place], dim=0))
    assert arrange_split(of_sizes(), 8, "stored").count is None  # all are own


def test_picked_points_that_are_own_come_first() -> None:
    points = torch.arange(12.0).reshape(2, 6, 1).expand(-1, -1, 3)
    batch = Batch(points, torch.zeros(2), count=torch.tensor([2, 6]))
    index = torch.tensor([[4, 1, 5, 0], [5, 4, 1, 0]])
    assert batch.pick(index).count is None
    found = batch.pick(index, keep_count=True)
    assert found.count is not None and found.count.tolist() == [2, 4]
    assert found.points[..., 0].tolist() == [[1, 0, 4, 5], [11, 10, 7, 6]]
    dropped = batch.pick(torch.tensor([[0, 1, 0, 0], [0, 0, 5, 2]]), keep_count=True)
    assert dropped.count is not None and dropped.count.tolist() == [2, 3]  # others are on the first
    assert dropped.points[..., 0].tolist() == [[0, 1, 0, 0], [6, 11, 8, 6]]
    repeats = batch.pick(torch.tensor([[4, 5], [0, 1]]), keep_count=True)
    assert repeats.count is not None and repeats.count.tolist() == [1, 2]  # a mask is never empty


@pytest.mark.parametrize("order", ["stored", "fps", "random"])
def test_training_tells_a_classifier_that_asks(order: str) -> None:
    split, model = of_sizes(), Masked(4)
    task = masked_task(split, model, f"data.order={order}", "data.num_points=24", "augment.dropout=0")
    config = task.config
    loader = training_loader(config, task, task.arrange(split, training=True), Workers())
    for batch in loader.epoch(0):
        task.forward(model, batch)
        assert model.told[-1] == batch.count.tolist()
    assert sorted(model.told[-1] or []) == [8] * 4 + [16] * 4 + [24] * 8


def test_a_registered_classifier_trains_and_evaluates_with_it(registered: str, tmp_path: Path) -> None:
    config = make_config(
        f"model.name={registered}", "train.epochs=2", "train.batch_size=8", "train.ema_decay=0"
    )
    config = replace(config, model=replace(config.model, args={}))
    split = of_sizes()
    task = build_task(config)
    task.set_facts(task.facts(split))
    description = describe(config, split, POINTS)
    model = build_model(config, description)
    assert isinstance(model, Masked)
    task.bind_model(model)
    Trainer(config, model, task, task.arrange(split, True), task.arrange(split), tmp_path, description).fit()
    assert len(model.told) == 2 * 2 + 2  # two epochs of two steps, and an evaluation each
    assert all(told is not None and max(told) <= 32 for told in model.told)
    assert [sorted(told or []) for told in model.told[2::3]] == [
        sorted([8, 16, 24, 32] * 4)
    ] * 2  # evaluations


def test_a_classifier_that_masks_judges_a_cloud_by_its_own_points(registered: str) -> None:
    split, model = of_sizes(), Masked(4)
    task = masked_task(split, model)
    arranged = task.arrange(split)
    batch = Batch(arranged.points, arranged.label, count=arranged.count)
    found = task.forward(model, batch)
    assert arranged.count is not None
    for place, own in enumerate(arranged.count.tolist()):
        alone = model.linear(arranged.points[place, :own]).mean(0)
        assert torch.allclose(found[place], alone, atol=1e-6)


def test_prediction_and_export_tell_it() -> None:
    split, model = of_sizes(), Masked(4).eval()
    task = masked_task(split, model)
    clouds = [split.points[place, :own].double() for place, own in enumerate((8, 16, 24, 32, 8))]
    preprocess = Preprocess(24, "fps")
    with torch.no_grad():
        answers = task.predict_batch(model, clouds, preprocess, [None] * 5)
        assert model.told == [[8, 16, 24, 24, 8]]
        task.predict_batch(model, clouds[2:4], preprocess, [None] * 2)
        assert model.told[-1] is None  # all are own
        for cloud, answer in zip(clouds, answers, strict=True):
            logits = RawModel(model, preprocess, per_point=False)(cloud[None].float())[0]
            assert model.told[-1] == [min(24, len(cloud))]
            assert torch.allclose(logits.softmax(-1), torch.from_numpy(answer.probabilities), atol=1e-5)


@pytest.mark.parametrize("points", [24, 100])
def test_stray_points_do_not_count(points: int) -> None:
    split, model = make_split(6, 96), Masked(4).eval()
    far = 3 + torch.arange(15.0).view(1, 5, 3).expand(6, -1, -1)  # far from the others and each other
    split = replace(split, points=torch.cat([split.points, far * 5], 1))
    task = masked_task(split, model, "data.normalization=robust", f"data.num_points={points}")
    preprocess = Preprocess(points, "fps", normalization="robust")
    evaluate(model, task.arrange(split), task, 6)
    told = model.told[-1]
    with torch.no_grad():
        task.predict_batch(model, list(split.points.double()), preprocess, [None] * 6)
        assert model.told[-1] == told
        RawModel(model, preprocess, per_point=False)(split.points)
    assert (model.told[-1] or []) == (told or [points] * 6)
    assert (told is None) == (points == 24) and max(told or [0]) <= 96


def test_a_segmenter_that_asks_is_told_in_training_evaluation_and_prediction() -> None:
    split, model = of_sizes(parts=True), Masked(2, per_point=True)
    task = masked_task(split, model, "data.order=random", "data.num_points=12", "augment.dropout=0")
    assert isinstance(task, PartSegmentationTask) and not task.takes_category
    assert task.config is not None
    loader = training_loader(task.config, task, task.arrange(split, True), Workers())
    for batch in loader.epoch(0):
        logits = task.forward(model, batch)
        assert batch.count is not None and model.told[-1] == batch.count.tolist()
        padded = torch.arange(12) >= batch.count[:, None]  # (B, n)
        loss = task.loss(logits, batch)
        assert loss == task.loss(logits.masked_fill(padded[..., None], 5.0), batch)  # they do not count
    model.told.clear()
    evaluate(model, task.arrange(split), task, CLOUDS)
    assert model.told == [[8, 12, 12, 12] * (CLOUDS // 4)] * 3  # passes over 32 points
    model.told.clear()
    clouds = [split.points[place, :own].double() for place, own in enumerate((8, 10, 12))]
    with torch.no_grad():
        task.predict_batch(model, clouds, Preprocess(12, "random"), [None] * 3)
    assert model.told == [[8, 10, 12]]


def test_others_are_called_as_ever() -> None:
    class Plain(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return points.mean(1)[:, :1].expand(-1, 4)

    split = of_sizes()
    task = masked_task(split, Plain())
    assert isinstance(task, ClassificationTask) and not task.takes_count
    loader = training_loader(task.config or make_config(), task, task.arrange(split, True), Workers())
    batch = next(iter(loader))
    assert batch.count is None and task.forward(Plain(), batch).shape == (CLOUDS, 4)
