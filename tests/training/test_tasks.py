from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bixt3d.datasets.loader import Batch
from bixt3d.datasets.split import Split
from bixt3d.training import ClassificationTask, evaluate
from bixt3d.training.report import class_rows, text_table, write_confusion


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


class Reader(nn.Module):
    """Logits that can be read off a cloud's first point; it notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, points: Tensor) -> Tensor:
        self.seen.append(points)
        self.modes.append(self.training)
        assert not torch.is_grad_enabled()
        return self.dropout(points[:, 0])


def uneven() -> Split:
    points = torch.randn(23, 2, 3)
    points[:, 1] = torch.arange(23.0)[:, None]
    return Split(points, torch.arange(23) % 3, ("a", "b", "c"))


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 64])
def test_every_cloud_counts_once_whatever_the_batch(batch_size: int) -> None:
    split, model, task = uneven(), Reader(), ClassificationTask("abc", 0.2)
    seen = evaluate(model, split, task, batch_size)
    assert torch.cat(model.seen)[:, 1, 0].tolist() == list(range(23))
    assert int(seen.counts.sum()) == 23
    logits = split.points[:, 0]
    assert seen.loss == pytest.approx(smoothed_loss(logits.double(), split.label, 0.2), rel=1e-5)
    right = (logits.argmax(1) == split.label).float()
    assert seen.metrics["oa"] == pytest.approx(float(right.mean()))
    per_class = [float(right[split.label == n].mean()) for n in range(3)]
    assert seen.metrics["macc"] == pytest.approx(sum(per_class) / 3)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_statistics_are_left_as_they_were(training: bool) -> None:
    model = Reader().train(training)
    evaluate(model, uneven(), ClassificationTask("abc"), 10)
    assert model.modes == [False] * 3
    assert model.training is training and model.dropout.training is training
    assert model.norm.num_batches_tracked == 0


def test_frozen_part_of_a_model_stays_in_its_mode() -> None:
    model = Reader().train()
    model.norm.eval()
    evaluate(model, uneven(), ClassificationTask("abc"), 10)
    assert model.training and model.dropout.training
    assert not model.norm.training


def test_mode_is_restored_when_the_model_fails() -> None:
    class Broken(Reader):
        def forward(self, points: Tensor) -> Tensor:
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, uneven(), ClassificationTask("abc"), 10)
    assert model.training


@pytest.mark.parametrize("fast", [True, False])
def test_amp_autocasts_where_the_device_is_faster_with_it(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bixt3d.training.device.has_bfloat16", lambda device: fast)

    class Dtype(nn.Linear):
        def forward(self, points: Tensor) -> Tensor:
            out = super().forward(points[:, 0])
            self.dtype = out.dtype
            return out

    model = Dtype(3, 3)
    evaluate(model, uneven(), ClassificationTask("abc"), 8)
    assert model.dtype == torch.float32
    evaluate(model, uneven(), ClassificationTask("abc"), 8, amp=True)
    assert model.dtype == (torch.bfloat16 if fast else torch.float32)


def test_reports(tmp_path) -> None:  # type: ignore[no-untyped-def]
    counts = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    table = text_table(class_rows(counts, ("cup", "flower pot", "lamp"))).splitlines()
    assert [line.split() for line in table[1:]] == [
        ["cup", "4", "75.0%", "flower", "pot", "(1)"],
        ["flower", "pot", "4", "100.0%", "-"],
        ["lamp", "0", "-", "-"],
    ]
    write_confusion(counts, ("cup", "flower, pot", "lamp"), tmp_path / "confusion.csv")
    import csv

    with open(tmp_path / "confusion.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["cup", "flower, pot", "lamp"]
    assert rows[1:] == [["cup", "3", "1", "0"], ["flower, pot", "0", "4", "0"], ["lamp", "0", "0", "0"]]
