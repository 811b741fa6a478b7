"""Classification: loss, counts, metrics, mixed clouds, and what it says of a cloud."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bixt3d.config import config_from
from bixt3d.datasets import Preprocess, Split
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.tasks import ClassificationTask
from bixt3d.tasks.classification import class_rows
from bixt3d.tasks.results import NotFinite


def smoothed_loss(logits: Tensor, label: Tensor, smoothing: float) -> float:
    """PointMLP's loss, cloud by cloud: 1 - eps on the true class, eps / (K - 1) on each other."""
    total = 0.0
    classes = logits.shape[1]
    for row, truth in zip(logits.tolist(), label.tolist(), strict=True):
        norm = math.log(sum(math.exp(value) for value in row))
        for index, value in enumerate(row):
            share = 1 - smoothing if index == truth else smoothing / (classes - 1)
            total -= share * (value - norm)
    return total / len(label)


@pytest.mark.parametrize("classes", [2, 5, 40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.2, 0.5])
def test_smoothing_is_pointmlps(classes: int, smoothing: float) -> None:
    task = ClassificationTask([f"class {n}" for n in range(classes)], smoothing)
    logits = 3 * torch.randn(7, classes, dtype=torch.float64)
    label = torch.randint(0, classes, (7,))
    loss = task.loss(logits.float(), Batch(torch.zeros(7, 1, 3), label))
    assert loss.ndim == 0
    assert float(loss) == pytest.approx(smoothed_loss(logits, label, smoothing), rel=1e-5)


def test_loss_of_half_precision_logits_is_taken_in_float32() -> None:
    task = ClassificationTask("abc", 0.2)
    logits = torch.randn(4, 3).bfloat16()
    batch = Batch(torch.zeros(4, 1, 3), torch.tensor([0, 1, 2, 0]))
    loss = task.loss(logits, batch)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, task.loss(logits.float(), batch))


def test_one_class_has_no_others() -> None:
    task = ClassificationTask(["only"], 0.2)
    assert task.loss(torch.randn(3, 1), Batch(torch.zeros(3, 1, 3), torch.zeros(3).long())) == 0


def test_counts_are_a_confusion_matrix_that_adds_up() -> None:
    task = ClassificationTask("abc")
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    label = torch.tensor([0, 0, 1, 2])
    counts = task.start(torch.device("cpu")) + task.count(logits, Batch(torch.zeros(4, 1, 3), label))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]  # rows are the truth
    metrics = task.metrics(2 * counts)
    assert metrics == pytest.approx({"oa": 3 / 4, "macc": (0.5 + 1 + 1) / 3})


def mixed_batch(share: Tensor) -> Batch:
    """Clouds without points worth naming, with two labels each."""
    generator = torch.Generator().manual_seed(4)
    label, other = torch.randint(0, 5, (2, len(share)), generator=generator)
    return Batch(torch.zeros(len(share), 1, 3), label, other_label=other, share=share)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_clouds_weigh_both_labels_by_their_share(smoothing: float) -> None:
    task, batch = ClassificationTask("abcde", smoothing), mixed_batch(torch.rand(9))
    assert batch.share is not None and batch.other_label is not None
    logits = 3 * torch.randn(9, 5, dtype=torch.float64)
    expected = 0.0
    for cloud, share in enumerate(batch.share.tolist()):
        here = slice(cloud, cloud + 1)
        expected += share * smoothed_loss(logits[here], batch.label[here], smoothing)
        expected += (1 - share) * smoothed_loss(logits[here], batch.other_label[here], smoothing)
    assert float(task.loss(logits.float(), batch)) == pytest.approx(expected / 9, rel=1e-5)


def test_a_whole_share_is_the_plain_loss() -> None:
    task, logits = ClassificationTask("abcde", 0.2), 3 * torch.randn(9, 5)
    for share in (0.0, 1.0):
        batch = mixed_batch(torch.full((9,), share))
        label = batch.label if share else batch.other_label
        assert label is not None
        plain = Batch(batch.points, label)
        torch.testing.assert_close(task.loss(logits, batch), task.loss(logits, plain))
        assert torch.equal(task.count(logits, batch), task.count(logits, plain))


def test_mixed_clouds_count_by_the_larger_share() -> None:
    task = ClassificationTask("abc")
    label, other = torch.tensor([0, 0, 0]), torch.tensor([1, 1, 1])
    batch = Batch(torch.zeros(3, 1, 3), label, other_label=other, share=torch.tensor([0.75, 0.5, 0.25]))
    counts = task.count(torch.tensor([[9.0, 0.0, 0.0]]).expand(3, -1), batch)
    assert counts.tolist() == [[2, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_of_clouds_that_lie_it_asks_to_be_unsure() -> None:
    task, logits = ClassificationTask("abcde", 0.2), 3 * torch.randn(3, 5)
    batch = Batch(torch.zeros(3, 1, 3), torch.tensor([0, -1, 4]), lies=torch.tensor([False, False, True]))
    upright = smoothed_loss(logits[:1].double(), batch.label[:1], 0.2)
    unsure = float(-logits[2].double().log_softmax(-1).mean())
    assert float(task.loss(logits, batch)) == pytest.approx((upright + unsure) / 2, rel=1e-5)
    assert int(task.count(logits, batch).sum()) == 1  # the one that stands and has a label
    even = torch.zeros(3, 5, requires_grad=True)
    task.loss(even, batch).backward()
    assert even.grad is not None and even.grad[2].abs().max() < 1e-6 < even.grad[0].abs().min()


def test_losses_of_ones_own_are_weighed_mixed_and_left_out() -> None:
    class Own(ClassificationTask):
        def losses(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            assert (label >= 0).all()
            return 1.0 + label.float()

    task, logits = Own("abcde"), torch.zeros(3, 5)
    label = torch.tensor([1, -1, 3])
    assert float(task.loss(logits, Batch(torch.zeros(3, 1, 3), label))) == pytest.approx((2 + 4) / 2)
    lies = torch.tensor([True, False, False])
    lying = Batch(torch.zeros(3, 1, 3), label, lies=lies)
    assert float(task.loss(logits, lying)) == pytest.approx((math.log(5) + 4) / 2)
    other, share = torch.tensor([0, 0, 2]), torch.tensor([0.25, 1.0, 0.5])
    mixed = Batch(torch.zeros(3, 1, 3), torch.tensor([1, 2, 3]), other_label=other, share=share)
    assert float(task.loss(logits, mixed)) == pytest.approx((1.25 + 3 + 3.5) / 3)
    task.class_weights = torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0])
    assert float(task.loss(logits, Batch(torch.zeros(3, 1, 3), label))) == pytest.approx((4 + 2) / 2)


def test_mixed_clouds_may_lie() -> None:
    task, batch = ClassificationTask("abcde", 0.2), mixed_batch(torch.rand(9))
    logits, plain = 3 * torch.randn(9, 5), mixed_batch(torch.rand(9))
    plain.share = batch.share
    batch.lies = torch.zeros(9, dtype=torch.bool)
    torch.testing.assert_close(task.loss(logits, batch), task.loss(logits, plain))
    batch.lies = ~batch.lies
    torch.testing.assert_close(task.loss(logits, batch), -logits.log_softmax(-1).mean())


def test_settings_smooth_where_nothing_was_given() -> None:
    config = config_from({"optim": {"label_smoothing": 0.3}})
    for given, used in ((None, 0.3), (0.0, 0.0), (0.1, 0.1)):
        task = ClassificationTask("abc", given)
        task.configure(config)
        assert task.label_smoothing == used


def test_facts_are_the_classes() -> None:
    points = torch.randn(4, 5, 3)
    parts = torch.zeros(4, 5).long()
    split = Split(points, torch.arange(4) % 2, ("a", "b"), parts, torch.zeros(4).long(), ("c",), ((0,),))
    task = ClassificationTask()
    assert task.facts(split) == {"classes": ["a", "b"]} and task.model_args(split) == {"num_classes": 2}
    task.set_facts(task.facts(split))
    assert task.classes == ("a", "b") and task.num_classes == 2
    assert task.arrange(split).parts is None  # a classifier takes part data, too
    names, number = task.groups(split)
    assert names == ("a", "b") and torch.equal(number, split.label)


def test_outputs_of_another_number_than_classes() -> None:
    task = ClassificationTask("abc")
    head: Any = nn.Identity()
    head.num_outputs = 4
    with pytest.raises(ValueError, match="^classes: expected 4 names, one a logit, got 3$"):
        task.bind_model(head)
    head.num_outputs = 3
    task.bind_model(head)
    ClassificationTask().bind_model(head)  # numbers serve where there are no names
    for shape in ((2, 4), (2,), (2, 3, 1), (1, 3)):
        with pytest.raises(ValueError, match=r"^model: expected logits \(2, 3\), one a class, got \("):
            task.loss(torch.zeros(shape), Batch(torch.zeros(2, 1, 3), torch.zeros(2).long()))


class Widths(nn.Module):
    """Logits that are a cloud's extent along x, y and z."""

    def forward(self, points: Tensor) -> Tensor:
        self.seen = points
        return points.abs().amax(1)


def test_prediction_names_the_most_probable_class() -> None:
    task, model = ClassificationTask("xyz"), Widths()
    cloud = (torch.rand(30, 3, dtype=torch.float64) - 0.5) * torch.tensor([1.0, 9.0, 3.0]) + 1e6
    found = task.predict(model, cloud, Preprocess(20, "stored", 30))
    assert (found.label, found.index) == ("y", 1)
    expected = unit_sphere(cloud)[:20].float()
    torch.testing.assert_close(model.seen[0], expected)
    torch.testing.assert_close(torch.from_numpy(found.points), expected)
    wanted = expected.abs().amax(0).softmax(-1)
    torch.testing.assert_close(torch.from_numpy(found.probabilities), wanted)
    shown = task.view(found)
    assert shown["verdict"] == f"predicted y {float(wanted[1]):.1%}"
    assert shown["scores"] == pytest.approx(dict(zip("xyz", wanted.tolist(), strict=True)))
    assert ClassificationTask().predict(model, cloud, Preprocess(20, "stored", 30)).label == "1"


def test_prediction_of_damaged_weights_is_refused() -> None:
    class Damaged(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return points[:, 0] * math.nan

    with pytest.raises(NotFinite, match="NaN or infinity for it; its weights are damaged"):
        ClassificationTask("xyz").predict(Damaged(), torch.rand(9, 3, dtype=torch.float64), Preprocess())


def test_confusion_is_what_is_counted() -> None:
    task = ClassificationTask(("cup", "lamp"))
    counts = torch.tensor([[3, 1], [0, 4]])
    matrix, names = task.confusion(counts)
    assert matrix is counts and names == ("cup", "lamp")
    assert task.table(counts) == class_rows(counts, ("cup", "lamp"))
    assert task.table(counts)[1] == ["cup", 4, 0.75, "lamp (1)"]
