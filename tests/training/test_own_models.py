"""Models of one's own, however they are built: trained, saved, rebuilt by their names, and asked again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bixt3d
from bixt3d.config import load_config
from bixt3d.tasks import ClassificationTask, PartSegmentationTask
from bixt3d.training.splits import build_task
from tests.training.own import Pooled, settings
from tests.training.tiny import CLASSES, make_split

pytestmark = pytest.mark.usefixtures("registries")


class Made(nn.Module):
    """Its weights come from functions that a trial on shapes alone would trip over."""

    def __init__(self, num_classes: int, make: Callable[[], Tensor], **others: Any) -> None:
        super().__init__()
        self.own = nn.Parameter(make())
        self.out = nn.Linear(3, num_classes)
        self.others = others

    def forward(self, points: Tensor) -> Tensor:
        logits: Tensor = self.out(points.abs().amax(1)) + self.own.sum() * 0
        return logits


STARTS: dict[str, Callable[[], Tensor]] = {
    "eye": lambda: torch.eye(3) + 0.01 * torch.randn(3, 3),
    "arange": lambda: torch.arange(4) * torch.ones(4),
    "cat": lambda: torch.cat([torch.zeros(1, 3), torch.eye(3)]),
    "item": lambda: torch.full((2,), torch.rand(1).item()),
    "numpy": lambda: torch.from_numpy(np.asarray(torch.ones(3)) * 2),
}


@pytest.mark.parametrize("start", STARTS)
def test_weights_of_any_start_are_rebuilt(run: Path, start: str) -> None:
    def build(num_classes: int = 2) -> Made:
        return Made(num_classes, STARTS[start])

    bixt3d.register_model("made", build)
    config = load_config(settings(run, "train.epochs=1"), ["model.args={}", "model.name=made"])
    bixt3d.train(config, train=make_split(), test=make_split(20))
    assert bixt3d.Predictor(run / "last", "cpu")(make_split(4).points[0]).label in CLASSES


@pytest.mark.parametrize(
    "args",
    [
        {"dropout": 0.1},
        {"sizes": [0.5, 0.3]},
        {"names": ["c"]},
        {"widths": [1, 2]},
        {"scale": None},
        {"act": None},
        {"grid": 4096},
        {"depth": 12},
        {"sizes": [1.0, 2.0, 3.0, 4.0, 5.0]},
    ],
)
def test_arguments_are_the_models_own(run: Path, args: dict[str, Any]) -> None:
    """Nothing is concluded from their defaults, nor from the sizes of the weights."""

    def build(
        num_classes: int = 2,
        dropout: float = 0,
        sizes: Sequence[float] = (0.1, 0.2),
        names: Sequence[str] = ("a", "b"),
        widths: list[int] | None = None,
        scale: float | None = 1.0,
        act: str | None = "gelu",
        grid: int = 8,
        depth: int = 1,
    ) -> Made:
        return Made(num_classes, lambda: torch.zeros(2), sizes=sizes)

    bixt3d.register_model("free", build)
    config = load_config(settings(run, "train.epochs=1"), ["model.args={}", "model.name=free"])
    config = bixt3d.config.override(config, model={"args": args})
    bixt3d.train(config, train=make_split())
    assert isinstance(bixt3d.load_model(run / "last", "cpu"), Made)


class Masked(Pooled):
    """With a mask of minus infinity, and a bias that two maps share."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__(num_classes)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
        self.other = nn.Linear(16, num_classes)
        self.other.bias = self.out.bias


@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_masks_and_tied_weights(run: Path, decay: float) -> None:
    bixt3d.register_model("masked", Masked)
    changes = ["model.args={}", "model.name=masked", f"train.ema_decay={decay}"]
    result = bixt3d.train(load_config(settings(run), changes), train=make_split(), val=make_split(22))
    again = bixt3d.load_model(run / "last", "cpu")
    assert isinstance(again, Masked) and again.other.bias is again.out.bias
    points = make_split(4).points
    torch.testing.assert_close(again(points), result.model(points))


def test_what_no_file_can_keep_is_refused_before_training(run: Path) -> None:
    class Stateful(Pooled):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

    with pytest.raises(ValueError, match="^model: expected tensors alone in its state_dict.*_extra_state"):
        bixt3d.train(settings(run), train=make_split(), model=Stateful())
    assert not run.exists()


def test_a_bug_of_a_builder_is_no_mistake_of_a_file(run: Path) -> None:
    broken = []

    def build(num_classes: int = 4) -> Pooled:
        if broken:
            raise KeyError("a bug")
        return Pooled(num_classes)

    bixt3d.register_model("sometimes", build)
    config = load_config(settings(run, "train.epochs=1"), ["model.args={}", "model.name=sometimes"])
    bixt3d.train(config, train=make_split())
    broken.append(True)
    with pytest.raises(KeyError, match="a bug"):
        bixt3d.load_model(run / "last")


def test_builder_that_says_a_task_of_its_own() -> None:
    class Mine(ClassificationTask):
        pass

    def build(num_classes: int = 4) -> Pooled:
        return Pooled(num_classes)

    build.task = Mine  # type: ignore[attr-defined]
    bixt3d.register_model("mine", build)
    assert isinstance(build_task(load_config(bixt3d.Config(), ["model.name=mine"])), Mine)


class PlainSegmenter(nn.Module):
    """Knows neither categories nor its number of outputs."""

    def __init__(self, num_parts: int = 2, in_dims: int = 3) -> None:
        super().__init__()
        self.out = nn.Linear(in_dims, num_parts)

    def forward(self, points: Tensor) -> Tensor:
        logits: Tensor = self.out(points)
        return logits


def test_a_segmenter_that_takes_points_alone(run: Path) -> None:
    points = torch.randn(24, 32, 3)
    parts = (points[..., 1] > 0).long()
    table = {"parts": parts, "category": torch.zeros(24, dtype=torch.int64), "categories": ("thing",)}
    split = bixt3d.Split(
        points, torch.zeros(24, dtype=torch.int64), ("thing",), parts_of_category=((0, 1),), **table
    )
    bixt3d.register_model("plain_parts", PlainSegmenter)
    changes = ["model.args={}", "model.name=plain_parts", "task=part_segmentation", "data.order=random"]
    config = load_config(settings(run, "optim.lr=0.05", "train.batch_size=8"), changes)
    result = bixt3d.train(config, train=split, val=split, test=split)
    assert isinstance(result.task, PartSegmentationTask) and not result.task.told
    answer = bixt3d.Predictor(run / "last", "cpu").segment(points[0])
    assert answer.parts.shape == (32,) and set(answer.names) <= {"part 0", "part 1"}
    assert "accuracy_pointnet2" in result.last


def test_features_of_the_settings_hold_for_given_clouds(run: Path) -> None:
    split = make_split()
    colors = torch.rand(len(split), split.num_points, 3)
    own = bixt3d.Split(
        torch.cat([split.points, colors, colors[..., :1]], -1),
        split.label,
        CLASSES,
        features=["color", "curv"],
    )
    config = settings(run, "data.features=[curv]", "train.epochs=1")
    result = bixt3d.train(config, train=own)
    about: Any = result.model.description
    assert about.preprocess.features == ("curv",) and about.model["args"]["in_dims"] == 4
    assert about.dataset == "clouds given in Python"
    with pytest.raises(ValueError, match="features: expected normal, got color, curv"):
        bixt3d.train(settings(run / "other", "data.features=[normal]"), train=own)


def test_goal_that_is_no_metric(run: Path) -> None:
    class Wrong(ClassificationTask):
        goal = "f1"

    with pytest.raises(ValueError, match="task: goal: expected one of oa, macc, got 'f1'"):
        bixt3d.train(settings(run), train=make_split(), val=make_split(22), task=Wrong)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"model": "x"}, "facts: expected other names than model"),
        ({"mean": np.ones(2)}, "expected JSON's own"),
    ],
)
def test_facts_that_a_checkpoint_cannot_keep(run: Path, facts: dict[str, Any], message: str) -> None:
    class Odd(ClassificationTask):
        def facts(self, split: bixt3d.Split) -> dict[str, Any]:
            return {**super().facts(split), **facts}

    with pytest.raises(ValueError, match=message):
        bixt3d.train(settings(run), train=make_split(), task=Odd)


def test_a_task_that_needs_arguments_is_not_registered() -> None:
    class Needs(ClassificationTask):
        def __init__(self, weight: float) -> None:
            super().__init__()

    with pytest.raises(TypeError, match="expected a class that needs no arguments"):
        bixt3d.register_task("needs", Needs)
    bixt3d.register_task("needs", Needs(2.0))
