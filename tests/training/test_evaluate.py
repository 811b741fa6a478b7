"""Evaluation: every cloud once, whatever the batch, and the model as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bixt3d.datasets.split import Split
from bixt3d.training import ClassificationTask, evaluate
from tests.tasks.test_classification import smoothed_loss


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
