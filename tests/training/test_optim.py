from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from bixt3d.config import OptimConfig
from bixt3d.models import create_model
from bixt3d.training.optim import Muon, build_optimizers, learning_rate
from tests.training.tiny import HIERARCHY, NAIVE


def groups_of(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    return [group for optimizer in build_optimizers(model, config) for group in optimizer.param_groups]


def rates(config: OptimConfig, epochs: int, steps_per_epoch: int) -> list[float]:
    return [learning_rate(step, config, epochs, steps_per_epoch) for step in range(epochs * steps_per_epoch)]


def test_warm_up_rises_evenly_and_ends_at_the_full_rate() -> None:
    config = OptimConfig(lr=1.0, min_lr=0.0, warmup_epochs=2.0)
    values = rates(config, epochs=10, steps_per_epoch=5)
    assert values[10] == max(values) == 1.0
    rise = [b - a for a, b in zip(values[:10], values[1:11], strict=True)]
    assert rise == pytest.approx([1 / 11] * 10)
    assert values[0] == pytest.approx(1 / 11)  # the first step already learns


def test_half_a_cosine_falls_to_the_smallest_rate() -> None:
    config = OptimConfig(lr=0.5, min_lr=0.1, warmup_epochs=1.0)
    values = rates(config, epochs=9, steps_per_epoch=4)
    assert all(a > b for a, b in zip(values[4:], values[5:], strict=False))
    assert learning_rate(4 + 16, config, 9, 4) == pytest.approx(0.3)  # half way down
    assert learning_rate(4 + 8, config, 9, 4) == pytest.approx(0.1 + 0.2 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(36, config, 9, 4) == pytest.approx(0.1)
    assert learning_rate(1000, config, 9, 4) == pytest.approx(0.1)  # and stays there
    assert values[-1] == pytest.approx(0.1, abs=2e-3)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert rates(OptimConfig(lr=0.2, warmup_epochs=0.0), 3, 4)[0] == pytest.approx(0.2)


def test_fraction_of_an_epoch_warms_up() -> None:
    values = rates(OptimConfig(lr=1.0, min_lr=0.0, warmup_epochs=0.5), 4, 8)
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_epoch_unit_is_torchs_cosine_annealing() -> None:
    """PointMLP steps torch's scheduler once an epoch."""
    config = OptimConfig(lr=0.1, min_lr=0.005, warmup_epochs=0.0, schedule_unit="epoch")
    values = rates(config, epochs=12, steps_per_epoch=3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12, eta_min=0.005)
    for epoch in range(12):
        assert values[3 * epoch : 3 * epoch + 3] == pytest.approx([scheduler.get_last_lr()[0]] * 3)
        optimizer.step()
        scheduler.step()


def test_epoch_unit_warms_up_by_epochs() -> None:
    values = rates(OptimConfig(lr=1.0, warmup_epochs=3.0, schedule_unit="epoch"), 8, 2)
    assert values[:8:2] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert values[::2] == values[1::2]


def test_steps_halve_the_rate_and_stop_at_the_smallest() -> None:
    config = OptimConfig(
        lr=0.8, min_lr=0.15, warmup_epochs=0.0, schedule="step", step_epochs=2, schedule_unit="epoch"
    )
    values = rates(config, epochs=8, steps_per_epoch=3)
    assert values == pytest.approx([0.8] * 6 + [0.4] * 6 + [0.2] * 6 + [0.15] * 6)


def test_warm_up_longer_than_the_run_only_rises() -> None:
    values = rates(OptimConfig(lr=1.0, warmup_epochs=10.0), 2, 3)
    assert all(0 < a < b < 1 for a, b in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("name", ["bixt_ti_cls", "bixt_ti_cls_hierarchy"])
def test_decay_spares_vectors_and_latents(name: str) -> None:
    model = create_model(name, num_classes=4, **(NAIVE if name == "bixt_ti_cls" else HIERARCHY))
    groups = groups_of(model, OptimConfig(weight_decay=0.3))
    names = {id(value): name for name, value in model.named_parameters()}
    decayed = {names[id(v)] for g in groups if g["weight_decay"] == 0.3 for v in g["params"]}
    spared = {names[id(v)] for g in groups if g["weight_decay"] == 0.0 for v in g["params"]}
    assert len(decayed) + len(spared) == len(names) == sum(len(g["params"]) for g in groups)
    assert decayed | spared == set(names.values())
    assert "encoder.trunk.latents" in spared and "head.linear.weight" in decayed
    assert all(model.get_parameter(name).ndim == 2 for name in decayed)
    matrices = {name for name in spared if model.get_parameter(name).ndim > 1}
    assert matrices == {"encoder.trunk.latents"}


def test_decay_all_decays_everything() -> None:
    model = create_model("bixt_ti_cls", **NAIVE)
    groups = groups_of(model, OptimConfig(weight_decay=0.3, decay_all=True))
    assert [group["weight_decay"] for group in groups] == [0.3]
    assert len(groups[0]["params"]) == len(list(model.parameters()))


def test_models_without_a_list_of_their_own_spare_vectors() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    groups = groups_of(model, OptimConfig(weight_decay=0.1))
    assert [len(group["params"]) for group in groups] == [1, 3]


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    model[0].requires_grad_(False)
    groups = groups_of(model, OptimConfig())
    assert [value for group in groups for value in group["params"]] == [model[1].weight]


def test_names_choose_the_optimizer() -> None:
    model = nn.Linear(2, 2)
    (sgd,) = build_optimizers(model, OptimConfig(name="sgd", lr=0.3, momentum=0.7))
    assert isinstance(sgd, torch.optim.SGD)
    assert all(group["momentum"] == 0.7 and group["lr"] == 0.3 for group in sgd.param_groups)
    (adam,) = build_optimizers(model, OptimConfig(name="adam", lr=0.1, weight_decay=0.0))
    assert type(adam) is torch.optim.Adam
    (adamw,) = build_optimizers(model, OptimConfig(name="adamw", lr=0.2))
    assert isinstance(adamw, torch.optim.AdamW)
    assert all(group["lr"] == 0.2 for group in adamw.param_groups)


@pytest.mark.parametrize("name", ["bixt_ti_cls", "bixt_ti_cls_hierarchy"])
def test_muon_takes_the_hidden_matrices(name: str) -> None:
    model = create_model(name, num_classes=4, **(NAIVE if name == "bixt_ti_cls" else HIERARCHY))
    muon, adamw = build_optimizers(model, OptimConfig(name="muon", lr=0.1, weight_decay=0.3))
    names = {id(value): name for name, value in model.named_parameters()}
    matrices = {names[id(v)] for group in muon.param_groups for v in group["params"]}
    rest = {names[id(v)] for group in adamw.param_groups for v in group["params"]}
    assert matrices | rest == set(names.values()) and not matrices & rest
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    assert all(model.get_parameter(name).ndim == 2 for name in matrices)
    left = {name for name in rest if model.get_parameter(name).ndim == 2}
    assert left == {"head.linear.weight", "encoder.tokenizer.project.weight"}
    assert all(group["weight_decay"] == 0.3 for group in muon.param_groups)


def test_muon_moves_a_matrix_as_far_as_adamw_would() -> None:
    """An orthogonal update: every direction of a gradient moves alike, at AdamW's root mean square."""
    model = nn.Linear(24, 16)
    before = model.weight.detach().clone()
    optimizer, _ = build_optimizers(model, OptimConfig(name="muon", lr=0.01, weight_decay=0.0))
    model.weight.grad = torch.randn(16, 24) @ torch.diag(torch.logspace(-1, 1, 24))
    optimizer.step()
    update = (model.weight.detach() - before) / 0.01
    values = torch.linalg.svdvals(update)
    before = torch.linalg.svdvals(model.weight.grad)
    assert before.max() / before.min() > 15 and values.max() / values.min() < 3
    assert update.pow(2).mean().sqrt() == pytest.approx(0.2, rel=0.3)


def test_matrices_of_one_shape_together_are_torchs_muon_one_by_one() -> None:
    """Values after several steps; torch's iterates in bfloat16, so they agree to its precision."""
    shapes = [(16, 24), (24, 16), (16, 24), (8, 8)]
    mine = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(value.detach().clone()) for value in mine]
    settings: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.3}
    twin_settings = {**settings, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = (Muon(mine, **settings), torch.optim.Muon(theirs, **twin_settings))
    before = [value.detach().clone() for value in mine]
    for _ in range(4):
        for ours, twin in zip(mine, theirs, strict=True):
            ours.grad = torch.randn_like(ours)
            twin.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for ours, twin, start in zip(mine, theirs, before, strict=True):
        moved = twin - start
        assert (ours - twin).norm() < 0.02 * moved.norm() and moved.norm() > 0
    first, second = (optimizer.state_dict() for optimizer in optimizers)
    for index, state in second["state"].items():
        assert torch.equal(first["state"][index]["momentum_buffer"], state["momentum_buffer"])


def test_muon_passes_over_what_has_no_gradient() -> None:
    values = [nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))]
    optimizer = Muon(values, lr=0.1, weight_decay=0.5)
    values[0].grad = torch.eye(3)
    optimizer.step()
    assert torch.equal(values[1], torch.ones(3, 3)) and not torch.equal(values[0], torch.ones(3, 3))
