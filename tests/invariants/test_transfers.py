"""Training, evaluation and prediction on a device that refuses what GPUs refuse, with copies counted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bixt3d
from bixt3d.datasets.normals import estimate_normals
from bixt3d.datasets.orientation import guess_up
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.spheres import normalize_split
from bixt3d.datasets.split import Split
from bixt3d.datasets.survey import survey_split
from bixt3d.inference import Predictor
from bixt3d.models.segmenter import SceneSegmenter
from bixt3d.tasks import PartSegmentationTask
from bixt3d.training.distributed import Workers
from bixt3d.training.evaluate import evaluate
from bixt3d.training.trainer import TrainState
from tests.invariants.cases import KINDS, ONE_EACH, small
from tests.invariants.device import DEVICE, DeviceGenerator, Log, OnDevice, Refused, device_exists
from tests.invariants.test_numbers import batch_of
from tests.training.tiny import make_config


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    with device_exists(monkeypatch) as log:
        yield log


def split_of(kind: str, count: int = 12) -> Split:
    """Clouds with labels, or with parts."""
    batch, task = batch_of(small(ONE_EACH[kind]), count, 64)
    names = tuple("abcdefg")
    if batch.parts is None:
        return Split(batch.points, batch.label, names)
    assert isinstance(task, PartSegmentationTask)
    tables: dict[str, Any] = {
        "categories": task.categories,
        "parts_of_category": task.parts_of_category,
        "part_names": names,
    }
    return Split(batch.points, batch.label, names, batch.parts, batch.category, **tables)


def there(split: Split) -> Split:
    held = {f.name: getattr(split, f.name) for f in fields(split)}
    return replace(split, **{name: v.to(DEVICE) for name, v in held.items() if isinstance(v, Tensor)})


# A scene's columns are cut on the host before a step, and its answers are those of a part segmenter's passes.
SCENES = [kind for kind in KINDS if isinstance(small(ONE_EACH[kind]), SceneSegmenter)]


@pytest.mark.parametrize("kind", SCENES)
def test_a_step_of_scenes_copies_nothing(kind: str, device: Log) -> None:
    model = small(ONE_EACH[kind])
    batch, task = batch_of(model)
    held = {field.name: getattr(batch, field.name) for field in fields(batch)}
    moved = replace(batch, **{name: v.to(DEVICE) for name, v in held.items() if isinstance(v, Tensor)})
    state = TrainState(make_config(), model.to("mps").train(), task, torch.device("mps"), Workers())
    state.train_step(iter([moved]), 0)  # the first copies which labels there are
    before = copy.deepcopy(device)
    state.train_step(iter([moved]), 1)
    step = device.since(before)
    assert step.operations > 1000 and (step.uploads, step.downloads, step.waits) == ([], [], {})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SCENES])
def test_training_evaluation_and_prediction(
    kind: str, device: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training's steps copy nothing; what an evaluation and a prediction copy does not grow with models."""
    split, model = split_of(kind), small(ONE_EACH[kind])
    parts = split.parts is not None
    order = f"data.order={'random' if parts else 'stored'}"
    config = make_config("train.epochs=1", "train.batch_size=4", order, f"run.dir={tmp_path}")
    steps: list[Log] = []
    take = TrainState.train_step

    def counted(self: TrainState, *args: Any) -> Any:
        before = copy.deepcopy(device)
        taken = take(self, *args)
        steps.append(device.since(before))
        return taken

    monkeypatch.setattr(TrainState, "train_step", counted)
    result = bixt3d.train(config, train=split, val=split, model=model, device="mps")
    assert len(steps) == 3 and all(step.operations > 1000 for step in steps)
    tables = [(len(split.categories), 7)] if parts else []  # which parts a category has: once a process
    assert steps[0].uploads in ([], tables)
    assert [step.uploads for step in steps[1:]] == [[], []]
    assert [(step.downloads, step.waits) for step in steps] == [([], {})] * 3

    own = there(split)
    for batches in (1, 3):
        before = copy.deepcopy(device)
        seen = evaluate(result.model, own, result.task, 12 // batches)
        copied = device.since(before)
        assert copied.uploads == [(64,)] * (batches if parts else 0)  # the order of a pass's points
        assert len(copied.downloads) <= 2 and copied.waits.total() <= 1  # the loss and the counts

    twin = small(ONE_EACH[kind])
    twin.load_state_dict({name: value.cpu() for name, value in result.model.state_dict().items()})
    here = evaluate(twin, split, result.task, 4)
    assert seen.loss == pytest.approx(here.loss, abs=1e-5)
    assert torch.allclose(seen.counts.cpu().double(), here.counts.double(), atol=1e-5)

    clouds = list(split.points[:2].numpy())
    answers = []
    for one, where in ((result.model, "mps"), (twin, "cpu")):
        predictor = Predictor(one, where, num_points=32)
        predictor.task, predictor.preprocess = result.task, Preprocess(32)
        before = copy.deepcopy(device)
        answers.append(predictor.segment(clouds, 1) if parts else predictor(clouds))
        copied = device.since(before)
        each = (3, 3, 1) if parts else (1, 2, 0)  # points, order, category; or points
        each = each if where == "mps" else (0, 0, 0)
        tables = [shape for shape in copied.uploads if shape == (1, 7)]  # a category's parts: once a process
        found = len(copied.uploads) - len(tables), len(copied.downloads), copied.waits.total()
        assert len(tables) <= 1
        assert found == tuple(2 * number for number in each)
    for first, second in zip(*answers, strict=True):
        np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-5)


def test_preparations_of_clouds(device: Log) -> None:
    """What is computed in double precision goes to the CPU for it, and gives what it gives there."""
    split = split_of(KINDS[0], 4)
    moved = there(split)
    assert torch.equal(survey_split(moved).moments, survey_split(split).moments)
    assert torch.equal(normalize_split(moved).points.cpu(), normalize_split(split).points)
    normals = estimate_normals(moved.points)
    assert isinstance(normals, OnDevice)
    assert torch.equal(normals.cpu(), estimate_normals(split.points))
    standing = split.points * torch.tensor([1.0, 0.01, 1.0])
    assert guess_up(list(standing.to(DEVICE))) == guess_up(list(standing)) == "y"


REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "double": (lambda x: x.double(), "no float64"),
    "made double": (lambda x: torch.zeros(2, dtype=torch.float64, device=x.device), "no float64"),
    "moved double": (lambda x: torch.zeros(2, dtype=torch.float64).to(x.device), "no float64"),
    "host": (lambda x: x + torch.ones(3), r"expected tensors on mps:0, got those of the host \[\(3,\)\]"),
    "host index": (lambda x: x[torch.tensor([0])], r"the host \[\(1,\)\]"),
    "list as index": (lambda x: x[:, [0, 2]], r"the host \[\(2,\)\]"),
    "numpy": (lambda x: x.numpy(), "copy it by .cpu"),
    "pinned": (lambda x: torch.zeros(3).pin_memory(), "pinned"),
    "made pinned": (lambda x: torch.zeros(3, pin_memory=True), "pinned"),
    "generator": (lambda x: torch.rand(3, device=x.device, generator=torch.Generator()), "one of cpu"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_device_refuses(what: str, device: Log) -> None:
    call, message = REFUSED[what]
    with pytest.raises(Refused, match=message):
        call(torch.randn(2, 3, device=DEVICE))


def test_the_device_counts(device: Log) -> None:
    x = torch.arange(6.0).view(2, 3).to("mps")
    assert torch.rand(2, device=x.device, generator=DeviceGenerator(x.device)).device == x.device == DEVICE
    assert device.uploads == [(2, 3)] and device.downloads == []
    assert (x[x > 2].sum() + x[0, 1]).item() == 13 and device.downloads == [()]
    assert device.waits == {"index": 1, "_local_scalar_dense": 1}
    x.new_tensor([1, 2]), torch.tensor(3.0, device=x.device), torch.ones(2).to(x)
    assert device.uploads == [(2, 3), (2,), (), (2,)]
    assert x.cpu().sum() == 15 and device.downloads == [(), (2, 3)]
    y = torch.zeros(2, 3)
    assert y.copy_(x).sum() == 15 and device.downloads[-1] == (2, 3)
