"""Batches of a training: clouds mixed with others, however the run is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bixt3d.datasets.loader import Batch
from bixt3d.training.distributed import Workers
from bixt3d.training.guards import Stopped
from bixt3d.training.splits import training_loader
from tests.training.test_train_step import LOOKS, Watch, make_state
from tests.training.tiny import (
    assert_same,
    make_config,
    make_split,
    make_task,
    make_trainer,
    rows_of,
    signal_at,
    weights,
)


def mixed_batches(*settings: str, epoch: int = 0) -> list[Batch]:
    config = make_config("augment.mix=0.5", *settings)
    return list(training_loader(config, make_task(config), make_split(), Workers()).epoch(epoch))


def test_training_batches_are_mixed_only_where_asked() -> None:
    for batch in mixed_batches():
        assert batch.share is not None and 0 < int((batch.share < 1).sum()) < 16
    plain = mixed_batches("augment.mix=0")
    assert all(batch.share is None and batch.other_label is None for batch in plain)
    # Nothing is drawn for it: these are the batches of a loader that knows nothing of mixing.
    twin = training_loader(make_config(), make_task(make_config()), make_split(), Workers())
    twin.mix = None
    for batch, same in zip(plain, twin.epoch(0), strict=True):
        assert torch.equal(batch.points, same.points) and torch.equal(batch.label, same.label)


def test_training_batches_lie_only_where_asked() -> None:
    def batches(*settings: str) -> list[Batch]:
        config = make_config(*settings)
        return list(training_loader(config, make_task(config), make_split(), Workers()).epoch(0))

    plain = ["augment.scale_low=1", "augment.scale_high=1", "augment.shift=0"]
    lies = [batch.lies for batch in batches("augment.lying=0.5", *plain)]
    assert all(one is not None and 0 < int(one.sum()) < 16 for one in lies)
    assert all(batch.lies is None for batch in batches())
    for upright, lying in zip(batches(*plain), batches("augment.lying=0.999999", *plain), strict=True):
        assert torch.equal(upright.label, lying.label)
        assert not torch.equal(upright.points, lying.points)


def test_one_cloud_cannot_be_mixed() -> None:
    message = r"augment\.mix: .* expected train\.batch_size of {} or more, got {}"
    with pytest.raises(ValueError, match=message.format(2, 1)):
        mixed_batches("train.batch_size=1")
    with pytest.raises(ValueError, match=message.format(8, 4)):
        config = make_config("augment.mix=1", "train.batch_size=4")
        training_loader(config, make_task(config), make_split(), Workers(0, 4))
    assert mixed_batches("train.batch_size=2")[0].share is not None


def test_mixing_looks_at_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the confusion matrix, which checks its labels on a CPU."""
    monkeypatch.setattr("bixt3d.metrics.confusion_matrix", lambda seen, label, *others: label)
    state = make_state("augment.mix=0.5")
    loader = training_loader(state.config, make_task(state.config), make_split(), Workers())
    seen: list[str] = []
    with Watch(lambda name, out: seen.append(name)):
        for batch in loader.epoch(1):
            logits = torch.zeros(16, 4, requires_grad=True)
            state.task.loss(logits, batch).backward()  # type: ignore[no-untyped-call]
            state.task.count(logits, batch)
    assert {"where", "roll"} <= set(seen)
    assert not [name for name in seen if name in LOOKS]


def test_mixed_batches_are_compiled_once() -> None:
    state, graphs = make_state(), []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(state._forward, backend=backend, fullgraph=True, dynamic=False)
    for batch in mixed_batches():
        torch.manual_seed(1)
        loss, logits = compiled(batch)
        torch.manual_seed(1)
        expected, _ = state._forward(batch)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(loss, state.task.loss(logits, batch))
    assert len(graphs) == 1


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
