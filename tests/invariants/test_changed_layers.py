"""Models whose layers a user has changed: quantised, adapted, pruned, normalised, hooked; and their modes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from bixt3d.models.encoder import PointModel
from tests.invariants.cases import KINDS, NAMES, ONE_EACH, ask, categories, clouds, small

CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)  # that may be empty


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


class Adapter(nn.Module):
    """LoRA: a frozen map, and a learned one of rank 2 beside it. It has none of a linear map's attributes."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, base.in_features) * 0.3)
        self.up = nn.Parameter(torch.randn(base.out_features, 2) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.down.T @ self.up.T
        return out


@torch.no_grad()
def test_quantized_dynamically(case: str) -> None:
    model = small(case)
    points = clouds(model, 2, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that another package quantises as well
        quantized: Any = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert not linears(quantized) and linears(model)
    exact, found = ask(model, points), ask(quantized, points)
    assert found.shape == exact.shape
    assert 0 < (found - exact).norm() < 0.1 * exact.norm()  # weights and inputs of 8 bits
    maps = quantized.attention_maps(points, categories(model, len(points)))
    assert len(maps) == model.encoder.trunk.depth
    assert quantized.num_outputs == model.num_outputs


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_learns_and_counts(kind: str, training: bool) -> None:
    model = small(ONE_EACH[kind]).train(training)
    points = clouds(model, 2, 64)
    before = ask(model, points).detach()
    for name, layer in linears(model).items():
        replace(model, name, Adapter(layer))
    logits = ask(model, points)
    (logits * torch.randn_like(logits)).sum().backward()
    adapters = {name: part for name, part in model.named_modules() if isinstance(part, Adapter)}
    for name, adapter in adapters.items():
        assert adapter.up.grad is not None and adapter.up.grad.isfinite().all() and adapter.up.grad.any(), (
            name
        )
    with torch.no_grad():
        for adapter in adapters.values():
            adapter.up.zero_()
        torch.testing.assert_close(ask(model, points), before, rtol=1e-3, atol=1e-3)
        ours = [name for name in adapters if "trunk" not in name]  # tokenizer, stages, decoder, head
        for name in [*ours, *list(adapters)[:: len(adapters) // 3]]:
            adapters[name].up.normal_()
            assert not ask(model, points).allclose(before, rtol=1e-3, atol=1e-3), name
            adapters[name].up.zero_()


@pytest.mark.parametrize("training", [False, True])
def test_every_hook_is_called(case: str, training: bool) -> None:
    model = small(case).train(training)
    points = clouds(model, 2, 64)
    expected = ask(copy.deepcopy(model), points)
    called: set[str] = set()
    watched = {n: part for n, part in model.named_modules() if not list(part.children()) and n}
    watched = {n: part for n, part in watched.items() if not isinstance(part, CONTAINERS)}
    for name, part in watched.items():
        part.register_forward_hook(lambda module, given, out, name=name: called.add(name))
    torch.testing.assert_close(ask(model, points), expected, rtol=1e-4, atol=1e-4)
    assert called == set(watched)


def prune_half(layer: nn.Linear) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.5)


@pytest.mark.parametrize(
    ("change", "training"), [(prune_half, False), (prune_half, True), (parametrizations.spectral_norm, False)]
)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_changed_weights_count_in_every_layer(kind: str, training: bool, change: Any) -> None:
    """As hard-wired weights of the same values do, also after they have changed."""
    model = small(ONE_EACH[kind]).train(training)
    points = clouds(model, 2, 64)
    before = ask(copy.deepcopy(model), points)
    for layer in linears(model).values():
        change(layer)
    wired = small(ONE_EACH[kind]).train(training)
    wired.load_state_dict({n: v for n, v in effective(model)}, strict=True)
    found, expected = ask(model, points), ask(wired, points)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert not found.allclose(before, rtol=1e-2)


def effective(model: PointModel) -> Iterator[tuple[str, Tensor]]:
    """What a model's layers compute with, under the names of an unchanged one."""
    own = linears(model)
    for name, value in model.state_dict().items():
        parent, _, last = name.rpartition(".")
        if parent in own or "parametrizations" in name:
            continue
        yield name, value
    for name, layer in own.items():
        yield f"{name}.weight", layer.weight
        if layer.bias is not None:
            yield f"{name}.bias", layer.bias


def test_nothing_but_its_owner_changes_a_mode(case: str) -> None:
    model = small(case).train()
    model.encoder.eval()
    model.encoder.trunk.train()
    points = clouds(model, 2, 64)
    category = categories(model, 2)
    modes = {name: part.training for name, part in model.named_modules()}
    assert len(set(modes.values())) == 2
    model.attention_maps(points, category)
    model.located_attention(points, category)
    model.attention_symmetry(points, category)
    ask(model, points).sum().backward()
    model.zero_grad()
    assert {name: part.training for name, part in model.named_modules()} == modes
    model.head.eval()
    model.reset_classifier(4)  # type: ignore[operator]
    assert not any(part.training for part in model.head.modules())
