"""The caller's model is taken over without a change: modes, devices, pruned and tied weights, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from bixt3d.inference.loading import open_model, take_over
from bixt3d.models import create_model
from tests.training.tiny import NAIVE, awaken

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


@pytest.mark.parametrize("share", [False, True])
def test_modes_of_a_partly_frozen_model_stay(share: bool) -> None:
    model = network().train()
    model[1].eval()  # as in a fine-tuning
    before = [(id(module), module.training) for module in model.modules()]
    taken = take_over(model, CPU, share)
    taken(torch.randn(5, 3))
    assert [(id(module), module.training) for module in model.modules()] == before
    assert not any(module.training for module in taken.modules())
    assert not {id(module) for module in taken.modules()} & {id(module) for module in model.modules()}


def test_shared_weights_take_no_memory() -> None:
    model = network()
    shared, copied = take_over(model, CPU, share=True), take_over(model, CPU)
    own = {value.data_ptr() for value in model.state_dict().values()}
    assert {value.data_ptr() for value in shared.state_dict().values()} == own
    assert not {value.data_ptr() for value in copied.state_dict().values()} & own


def test_gradients_are_not_copied() -> None:
    model = network().eval()
    model(torch.randn(4, 3)).sum().backward()
    assert all(value.grad is None for value in take_over(model, CPU).parameters())
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize("share", [False, True])
def test_tied_weights_stay_tied(share: bool) -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    taken: Any = take_over(model, CPU, share)
    assert taken[0].weight is taken[1].weight
    moved: Any = take_over(model, torch.device("meta"), share)
    assert moved[0].weight is moved[1].weight and moved[0].weight.is_meta
    assert isinstance(moved[0].weight, nn.Parameter) and not model[0].weight.is_meta


@pytest.mark.parametrize("share", [False, True])
def test_pruned_model(share: bool) -> None:
    model = network().eval()
    prune.l1_unstructured(model[0], "weight", 0.5)
    model(torch.randn(2, 3))
    points = torch.randn(6, 3)
    torch.testing.assert_close(take_over(model, CPU, share)(points), model(points))


def test_bare_model_and_its_points() -> None:
    model = awaken(create_model("bixt_ti_cls", num_classes=4, **NAIVE))
    loaded = open_model(model, CPU, num_points=20)
    assert loaded.classes is None and loaded.task.name == "classification"
    assert loaded.preprocess.num_points == loaded.preprocess.stored_points == 20
    assert open_model(model, CPU, classes=list("abcd")).classes == tuple("abcd")
    odd = create_model("bixt_ti_cls", num_classes=4, in_dims=7, **NAIVE)
    with pytest.raises(ValueError, match="names the features of 7 channels"):
        open_model(odd, CPU)


def test_too_few_points_for_a_layer_are_told_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"num_points: expected 256 or more, for this model's layers, got 255"
    ):
        open_model("modelnet40_cpu", CPU, num_points=255)
    opened = open_model("modelnet40_cpu", CPU, num_points=256)
    assert opened.preprocess.num_points == 256 == opened.model.least_points
