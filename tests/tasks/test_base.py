"""What every task has, and what a task of one's own gets for nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from bixt3d.config import config_from
from bixt3d.datasets import Preprocess
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.spheres import in_unit_sphere
from bixt3d.datasets.split import Split
from bixt3d.tasks import Task
from bixt3d.tasks.base import smoothing_of


class Plain(Task):
    """As little as a task may define to be trained."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return logits.mean()

    def start(self, device: torch.device) -> Tensor:
        return torch.zeros(2, device=device)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        return torch.tensor([float(logits.sum()), len(logits)])

    def metrics(self, counts: Tensor) -> dict[str, float]:
        return {"loss": float(counts[0] / counts[1]), "half": 0.5}


def make_split(num_points: int = 20, count: int = 6) -> Split:
    points = torch.randn(count, num_points, 3, generator=Generator().manual_seed(0))
    return Split(points * 5 + 2, torch.arange(count) % 2, ("a", "b"))


def configured(**sections: Any) -> Plain:
    task = Plain()
    stated = {"data": {"num_points": 8}, **sections}
    task.configure(config_from(stated))
    return task


@pytest.mark.parametrize("missing", ["loss", "start", "count", "metrics", "predict"])
def test_what_is_missing_is_named(missing: str) -> None:
    batch, split = Batch(torch.zeros(1, 1, 3), torch.zeros(1).long()), Preprocess()
    arguments: dict[str, tuple[Any, ...]] = {
        "loss": (torch.zeros(1), batch),
        "start": (torch.device("cpu"),),
        "count": (torch.zeros(1), batch),
        "metrics": (torch.zeros(1),),
        "predict": (nn.Identity(), torch.zeros(1, 3), split),
    }

    class Half(Task):
        pass

    with pytest.raises(TypeError, match=f"^Half must define {missing}$"):
        getattr(Half(), missing)(*arguments[missing])


def test_defaults() -> None:
    task, split = configured(), make_split()
    assert task.facts(split) == {"classes": ["a", "b"]}
    assert task.model_args(split) == {"num_classes": 2}
    batch = Batch(split.points, split.label)
    assert torch.equal(task.forward(nn.Identity(), batch), split.points)
    counts = task.count(torch.ones(3), batch)
    assert task.table(counts) == [["metric", "value"], ["loss", 1.0], ["half", 0.5]]
    assert task.confusion(counts) is None and task.point_labels(split) is None
    assert task.category_number("mug") is None
    names, number = task.groups(split)
    assert names == ("a", "b") and torch.equal(number, split.label)
    assert task.view(3) == {"verdict": "predicted 3"}
    example = task.example(nn.Identity(), 2, 5, 4)
    assert set(example) == {"points"} and example["points"].shape == (2, 5, 4)
    assert example["points"].abs().max() <= 1
    assert torch.equal(example["points"], task.example(nn.Identity(), 2, 5, 4)["points"])


def test_without_settings_clouds_keep_all_points() -> None:
    task, split = Plain(), make_split()
    arranged = task.arrange(split)
    assert arranged.num_points == 20 and in_unit_sphere(arranged.points[..., :3]).all()
    assert task.wanted_points() is None and task.least_points == 1


@pytest.mark.parametrize(
    ("order", "thin", "training", "wanted", "points"),
    [
        ("stored", 0.0, True, 8, 8),
        ("stored", 0.0, False, 8, 8),
        ("stored", 0.5, True, None, 20),  # other ones every epoch
        ("stored", 0.5, False, 8, 8),
        ("fps", 0.0, True, None, 8),
        ("fps", 0.5, True, None, 20),
        ("random", 0.0, True, None, 20),
        ("random", 0.0, False, None, 8),
    ],
)
def test_points_that_are_read_and_kept(
    order: str, thin: float, training: bool, wanted: int | None, points: int
) -> None:
    task = configured(data={"num_points": 8, "order": order}, augment={"thin": thin})
    assert task.wanted_points(training) == wanted and task.least_points == 8
    arranged = task.arrange(make_split(), training)
    assert arranged.num_points == points and arranged.normalized
    # By the centre and the radius of all points, also where few are kept.
    whole = Plain().arrange(make_split()).points
    distance = torch.cdist(arranged.points, whole).amin(2)
    assert distance.max() < 1e-5
    if training:
        chosen = task.choose()(arranged.points[:2], Generator().manual_seed(0), None)
        assert chosen is not None and chosen.shape == (2, 8)


def test_too_few_points() -> None:
    with pytest.raises(ValueError, match="num_points: expected 1 to 20, as each cloud has, got 21"):
        configured(data={"num_points": 21}).arrange(make_split())


def test_inputs_of_one_cloud_are_as_in_training() -> None:
    split = make_split()
    task = configured()
    (seen,) = task.inputs(split.points[0].double(), Preprocess(8, "stored", 20))
    torch.testing.assert_close(seen[0], task.arrange(split).points[0])


@pytest.mark.parametrize(("mass", "count"), [(0.0, 5), (0.2, 40), (0.1, 2)])
def test_smoothing_moves_the_mass_to_the_others(mass: float, count: int) -> None:
    """torch gives each label its share, the true one included."""
    share = smoothing_of(mass, count) / count
    assert share * (count - 1) == pytest.approx(mass)


def test_smoothing_of_one_label_and_of_all() -> None:
    assert smoothing_of(0.3, 1) == smoothing_of(0.3, 0) == 0.0
    assert smoothing_of(0.9, 2) == 1.0
