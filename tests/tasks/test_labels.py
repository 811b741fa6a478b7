from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import bixt3d
from bixt3d.config import config_from
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.split import Split
from bixt3d.tasks import ClassificationTask, PartSegmentationTask, Task
from bixt3d.tasks.labels import class_weights, note_ignored

NAMES = ("a", "b", "c")


def made(kind: type[Task], split: Split, **loss: Any) -> Any:
    order = "random" if kind is PartSegmentationTask else "stored"
    task = kind()
    task.configure(config_from({"loss": loss, "data": {"order": order}, "optim": {"label_smoothing": 0.0}}))
    task.set_facts(task.facts(split))
    task.look_at_training(split)
    return task


def shapes(label: list[int]) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(len(label), 6, 3, generator=generator), torch.tensor(label), NAMES)


def part_shapes(parts: list[list[int]]) -> Split:
    """Shapes of one category with parts 0, 1, 2."""
    count = len(parts)
    points = torch.randn(count, len(parts[0]), 3, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(count, dtype=torch.int64)
    table = {"categories": ("cup",), "parts_of_category": ((0, 1, 2),), "part_names": NAMES}
    return Split(points, zeros, ("cup",), torch.tensor(parts), zeros, **table)  # type: ignore[arg-type]


def batch_of(split: Split) -> Batch:
    return Batch(split.points, split.label, split.parts, split.category)


def logits_like(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_weights_of_classes() -> None:
    counts = torch.tensor([6, 2, 0])
    assert class_weights("none", counts) is None
    balanced = class_weights("balanced", counts)
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([8 / 12, 2.0, 0.0])  # 6 * 2/3 == 2 * 2, the mean over 8 is 1
    stated = class_weights([1, 5, 7], counts)
    assert stated is not None
    assert (stated[1] / stated[0]).item() == pytest.approx(5)
    assert (stated * counts).sum().item() == pytest.approx(8)
    with pytest.raises(ValueError, match=r"loss\.class_weights: expected 3 numbers, one a label \(a, b, c"):
        class_weights([1.0, 2.0], counts, NAMES)
    with pytest.raises(ValueError, match=r"loss\.class_weights: .*to weigh more than 0"):
        class_weights([0, 0, 1], counts)


@pytest.mark.parametrize("stated", ["even", [], [1, -1], [1, math.inf], ["x"], 3, None])
def test_settings_of_weights_that_are_none(stated: Any) -> None:
    with pytest.raises(ValueError, match=r"loss\.class_weights: expected none, balanced, or a list"):
        config_from({"loss": {"class_weights": stated}})


def test_weighted_loss_of_clouds() -> None:
    split = shapes([0, 0, 0, 1])
    logits, task = logits_like(4, 3), made(ClassificationTask, split, class_weights="balanced")
    each = F.cross_entropy(logits, split.label, reduction="none")
    weights = torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0])
    torch.testing.assert_close(task.loss(logits, batch_of(split)), (each * weights).mean())
    plain = made(ClassificationTask, split)
    torch.testing.assert_close(plain.loss(logits, batch_of(split)), each.mean())


def test_ignored_labels_of_clouds() -> None:
    """Neither -1 nor a class of the list has a loss, a gradient, or a place in the confusion."""
    split, kept = shapes([0, -1, 2, 1]), shapes([0, 1])
    logits = logits_like(4, 3).requires_grad_()
    task = made(ClassificationTask, split, ignore=[2])
    loss = task.loss(logits, batch_of(split))
    torch.testing.assert_close(loss, F.cross_entropy(logits[[0, 3]], kept.label))
    loss.backward()
    assert logits.grad is not None and (logits.grad[[1, 2]] == 0).all() and (logits.grad[[0, 3]] != 0).all()
    counts = task.count(logits.detach(), batch_of(split))
    assert int(counts.sum()) == 2 and counts.sum(1).tolist() == [1, 1, 0]
    assert task.labelled(split).tolist() == [True, False, False, True]
    nothing = shapes([-1, -1])
    assert task.loss(logits_like(2, 3), batch_of(nothing)).item() == 0.0


def test_ignored_and_weighted_points() -> None:
    split = part_shapes([[0, 1, -1, 2], [0, 0, 0, 0], [-1, -1, -1, 2]])
    logits = logits_like(3, 4, 3)
    each = F.cross_entropy(logits.transpose(1, 2), split.parts.clamp_min(0), reduction="none")  # type: ignore[union-attr]
    task = made(PartSegmentationTask, split, ignore=[2])
    assert task.labelled(split).tolist() == [True, True, False]
    wanted = (each[0, :2].mean() + each[1].mean()) / 2
    torch.testing.assert_close(task.loss(logits, batch_of(split)), wanted)
    counts = task.count(logits, batch_of(split))
    assert counts[0, 2] == 2 and counts[-1, 2] == 6  # shapes and points that count
    weighted = made(PartSegmentationTask, split, ignore=[2], class_weights="balanced")
    assert weighted.class_weights.tolist() == pytest.approx([6 / 10, 3.0, 0.0])
    wanted = ((0.6 * each[0, 0] + 3.0 * each[0, 1]) / 2 + 0.6 * each[1].mean()) / 2
    torch.testing.assert_close(weighted.loss(logits, batch_of(split)), wanted)


def test_the_iou_of_points_that_count_alone() -> None:
    """As if the ignored points were not there, and the ignored part were none of the category's."""
    truth, ids = torch.tensor([[0, 0, 1, 1, -1, -1]]), [[0, 1]]
    logits = F.one_hot(torch.tensor([[0, 1, 1, 1, 0, 0]]), 2).float()
    zero = torch.zeros(1, dtype=torch.int64)
    for convention in bixt3d.metrics.CONVENTIONS:
        seen = bixt3d.metrics.part_miou(logits, truth, zero, ids, convention, ignore=-1)
        short = bixt3d.metrics.part_miou(logits[:, :4], truth[:, :4], zero, ids, convention)
        assert seen == short
    truth, three = torch.tensor([[0, 0, 1, 1, 2, 2]]), torch.tensor([[0, 0, 1, 0, 1, 2]])
    seen = bixt3d.metrics.part_miou(
        F.one_hot(three, 3).float(), truth, zero, [[0, 1, 2]], "pointnet2", ignore=[2]
    )
    assert seen["instance_miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    with pytest.raises(ValueError, match="parts: expected parts of each shape's own category"):
        bixt3d.metrics.part_miou(logits, torch.full((1, 6), -1), zero, ids, "pointnet2")


def test_a_shape_without_a_label_is_no_shape() -> None:
    truth = torch.tensor([[0, 1], [-1, -1]])
    logits = F.one_hot(torch.tensor([[0, 1], [0, 0]]), 2).float()
    seen = bixt3d.metrics.part_miou(
        logits, truth, torch.zeros(2, dtype=torch.int64), [[0, 1]], "pointmlp", ignore=-1
    )
    assert seen["instance_miou"] == 1.0


def test_segmentation() -> None:
    confusion = torch.tensor([[4, 1, 0, 0], [2, 3, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]])
    seen = bixt3d.metrics.segmentation(confusion)
    assert seen["oa"] == pytest.approx(7 / 12)
    assert seen["macc"] == pytest.approx((4 / 5 + 3 / 5 + 0) / 3)
    assert seen["per_class"] == pytest.approx([4 / 7, 3 / 6, 0.0, 0.0])
    assert seen["miou"] == pytest.approx((4 / 7 + 1 / 2) / 4)
    absent = bixt3d.metrics.segmentation(torch.tensor([[2, 0], [0, 0]]))
    assert absent["miou"] == 1.0 and math.isnan(absent["per_class"][1])  # type: ignore[index]
    with pytest.raises(ValueError, match=r"confusion: expected counts \(K, K\)"):
        bixt3d.metrics.segmentation(torch.zeros(2, 3))


def test_confusion_without_ignored_labels() -> None:
    label, seen = torch.tensor([0, -1, 1, 2]), torch.tensor([0, 1, 0, 2])
    counts = bixt3d.metrics.confusion_matrix(seen, label, 3, ignore=(-1, 2))
    assert counts.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert bixt3d.metrics.confusion_matrix(seen, label, 3, ignore=-1).sum() == 3
    with pytest.raises(ValueError, match="got -1 to 2"):
        bixt3d.metrics.confusion_matrix(seen, label, 3)


def test_ignored_labels_that_are_none_are_told(caplog: pytest.LogCaptureFixture) -> None:
    note_ignored((-1, 0, 2), 3)
    assert not caplog.messages
    note_ignored((-1, 3, 7), 3)
    assert caplog.messages == ["loss.ignore: expected labels from 0 to 2, got 3, 7: nothing has them"]
