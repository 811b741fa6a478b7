"""Every model on torch's meta device, which has shapes and no values, as a stand-in for a GPU.

What a model makes has to be where its input is, and it may look at no value: on a GPU it would wait.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.invariants.cases import CASES, NAMES, categories, clouds, small


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
