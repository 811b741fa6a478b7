from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bixt3d.datasets.loader import Batch
from bixt3d.datasets.split import Split
from bixt3d.training import ClassificationTask, evaluate
from bixt3d.training.batches import training_loader
from bixt3d.training.device import Workers
from bixt3d.training.memory import largest_fit
from bixt3d.training.report import class_rows, text_table, write_confusion
from bixt3d.training.stop import Stopped
from tests.training.test_step import LOOKS, Watch, make_learner
from tests.training.tiny import (
    assert_same,
    make_config,
    make_split,
    make_trainer,
    rows_of,
    signal_at,
    weights,
)


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


def mixed_batches(*settings: str, epoch: int = 0) -> list[Batch]:
    config = make_config("augment.mix=0.5", *settings)
    return list(training_loader(config, make_split(), Workers()).epoch(epoch))


def test_training_batches_are_mixed_only_where_asked() -> None:
    for batch in mixed_batches():
        assert batch.share is not None and 0 < int((batch.share < 1).sum()) < 16
    plain = mixed_batches("augment.mix=0")
    assert all(batch.share is None and batch.other_label is None for batch in plain)
    # Nothing is drawn for it: these are the batches of a loader that knows nothing of mixing.
    twin = training_loader(make_config(), make_split(), Workers())
    twin.mix = None
    for batch, same in zip(plain, twin.epoch(0), strict=True):
        assert torch.equal(batch.points, same.points) and torch.equal(batch.label, same.label)


def test_one_cloud_cannot_be_mixed() -> None:
    message = r"augment\.mix: .* expected train\.batch_size of {} or more, got {}"
    with pytest.raises(ValueError, match=message.format(2, 1)):
        mixed_batches("train.batch_size=1")
    with pytest.raises(ValueError, match=message.format(8, 4)):
        training_loader(make_config("augment.mix=1", "train.batch_size=4"), make_split(), Workers(0, 4))
    assert mixed_batches("train.batch_size=2")[0].share is not None


def test_mixing_looks_at_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the confusion matrix, which checks its labels on a CPU."""
    monkeypatch.setattr("bixt3d.metrics.confusion_matrix", lambda prediction, label, classes: label)
    learner = make_learner("augment.mix=0.5")
    loader = training_loader(learner.config, make_split(), Workers())
    seen: list[str] = []
    with Watch(lambda name, out: seen.append(name)):
        for batch in loader.epoch(1):
            logits = torch.zeros(16, 4, requires_grad=True)
            learner.task.loss(logits, batch).backward()  # type: ignore[no-untyped-call]
            learner.task.count(logits, batch)
    assert {"where", "roll"} <= set(seen)
    assert not [name for name in seen if name in LOOKS]


def test_mixed_batches_are_compiled_once() -> None:
    learner, graphs = make_learner(), []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(learner._forward, backend=backend, fullgraph=True, dynamic=False)
    for batch in mixed_batches():
        torch.manual_seed(1)
        loss, logits = compiled(batch)
        torch.manual_seed(1)
        expected, _ = learner._forward(batch)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(loss, learner.task.loss(logits, batch))
    assert len(graphs) == 1


def test_fewer_clouds_keep_their_shares_where_memory_is_short() -> None:
    task = ClassificationTask("abcd", 0.2)

    def work(batch: Batch) -> None:
        if len(batch.label) > 4:
            raise MemoryError
        assert batch.share is not None and batch.share.shape == batch.label.shape
        task.loss(torch.zeros(len(batch.label), 4), batch)

    assert largest_fit(work, mixed_batches()[0]) == 4


def test_training_on_mixed_clouds_resumes_to_the_bit(tmp_path: Path) -> None:
    config = make_config(
        "augment.mix=0.5", "train.epochs=2", "train.batch_size=32", "model.args.depth=1", "train.eval_every=2"
    )
    make_trainer(tmp_path / "straight", config).fit()
    stopped = make_trainer(tmp_path / "stopped", config)
    assert stopped.loader.mix is not None
    signal_at(stopped, 2)
    with pytest.raises(Stopped):
        stopped.fit()
    assert stopped.step == 3  # of 4, within the second epoch
    torch.manual_seed(77)
    make_trainer(tmp_path / "stopped", config, resume=True).fit()
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "straight")
    assert len(rows_of(tmp_path / "straight")) == 2
    last = "last.safetensors"
    assert_same(weights(tmp_path / "stopped" / last), weights(tmp_path / "straight" / last))


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
