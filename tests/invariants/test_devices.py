"""Every model on torch's meta device, which has shapes and no values, as a stand-in for a GPU.

What a model makes has to be where its input is, and it may look at no value: on a GPU it would wait.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bixt3d.config import config_from
from bixt3d.datasets.loader import Batch
from bixt3d.models.segmenter import segment_all_points
from bixt3d.training.distributed import Workers
from bixt3d.training.trainer import TrainState
from tests.invariants.cases import CASES, KINDS, NAMES, ONE_EACH, categories, clouds, small
from tests.invariants.test_numbers import batch_of


class OneDevice(TorchDispatchMode):
    """Refuses tensors that are made elsewhere, float64, copies between devices, and looking at values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and (made.device.type != "meta" or made.dtype == torch.float64):
                raise AssertionError(f"{func} made {made.dtype} {tuple(made.shape)} on {made.device}")
        return out


def ask_there(model: Any, count: int = 128) -> Tensor:
    category = categories(model, 2)
    told = () if category is None else (category.to("meta"),)
    points = clouds(model, 2, count).to("meta")
    with OneDevice():
        logits: Tensor = model(points, *told)
        maps = model.attention_maps(points, *told)
    assert {weights.device.type for weights in maps} == {"meta"}
    return logits


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", NAMES)
def test_forward_and_backward_stay_where_the_input_is(case: str, training: bool) -> None:
    model = small(case).to("meta").train(training)
    logits = ask_there(model)
    assert logits.device.type == "meta" and logits.shape[0] == 2 and logits.shape[-1] == 7
    with OneDevice():
        logits.float().sum().backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []


@pytest.mark.parametrize("case", [case for case in NAMES if CASES[case][0] != "bixt_ti_cls"])
def test_the_watcher_sees_what_is_made_elsewhere(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor on the CPU, and a number that is looked at, in the middle of a model."""
    model = small(case).to("meta")
    forward = model.encoder.trunk.step

    def elsewhere(index: int, latents: Tensor, tokens: Tensor) -> Any:
        return forward(index, latents + torch.zeros(1), tokens)

    def looking(index: int, latents: Tensor, tokens: Tensor) -> Any:
        return forward(index, latents * float(latents.max()), tokens)

    monkeypatch.setattr(model.encoder.trunk, "step", elsewhere)
    with pytest.raises(AssertionError, match="made torch.float32 .* on cpu"):
        ask_there(model)
    monkeypatch.setattr(model.encoder.trunk, "step", looking)
    with pytest.raises(RuntimeError, match="meta"):
        ask_there(model)


class Made(NamedTuple):
    name: str
    device: str
    dtype: torch.dtype
    numel: int


class Record(TorchDispatchMode):
    """Remembers every tensor that an operation makes; those elsewhere are what is copied to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Made] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [value for value in tree_leaves(out) if isinstance(value, Tensor)]
        self.made += [Made(func.name(), value.device.type, value.dtype, value.numel()) for value in made]
        return out


def there(batch: Batch) -> Batch:
    held = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: v.to("meta") for name, v in held.items() if isinstance(v, Tensor)})


@pytest.mark.parametrize("kind", KINDS)
def test_steps_copy_nothing_and_compute_in_single_precision(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step of a training, whose tables are on the device by then, and a batch's evaluation.

    The optimisers are torch's and know no meta device. In double precision are only the sums of intersections
    over unions, a few for each cloud.
    """
    model = small(ONE_EACH[kind]).train()
    batch, task = batch_of(model, 4)
    points = batch.points.numel()
    batch = there(batch)
    with monkeypatch.context() as patched:
        patched.setattr(
            Tensor, "__bool__", lambda value: True
        )  # the guard looks at buffers, once at the start
        state = TrainState(config_from({}), model.to("meta"), task, torch.device("cpu"), Workers())
    state.device, state.optimizers = torch.device("meta"), []
    state.train_step(iter([batch]), 0)
    with Record() as training:
        state.train_step(iter([batch]), 1)
    with torch.no_grad(), Record() as evaluation:
        logits = task.forward(model.eval(), batch)
        task.loss(logits, batch), task.count(logits, batch)
    for record, least in ((training, 500), (evaluation, 100)):
        assert len(record.made) > least
        assert [made for made in record.made if made.device != "meta"] == []
        assert [made for made in record.made if made.dtype == torch.float64 and made.numel > points / 8] == []


@pytest.mark.parametrize("case", [case for case in NAMES if "partseg" in CASES[case][0]])
@torch.no_grad()
def test_labels_of_all_points_cost_one_copy(case: str) -> None:
    """The order of the points is drawn on the CPU, so that it is the same on every device."""
    model = small(case).to("meta")
    points, category = clouds(model, 2, 150).to("meta"), categories(model, 2)
    told = None if category is None else category.to("meta")
    with Record() as record:
        logits = segment_all_points(model, points, told, 64)
    assert logits.shape == (2, 150, 7) and logits.device.type == "meta"
    elsewhere = [made for made in record.made if made.device != "meta"]
    assert elsewhere and {made.numel for made in elsewhere} == {150}
    assert {made.name.partition(".")[0] for made in elsewhere} <= {
        "aten::rand",
        "aten::uniform_",
        "aten::empty",
    }
