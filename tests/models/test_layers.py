"""Layers: numpy twins, stochastic depth, batch norm and its folding, and which layers are plain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from bixt3d.models.layers import (
    BatchNorm,
    DropPath,
    FeedForward,
    Mlp,
    ResidualMlp,
    evaluating,
    fold,
    is_foldable,
    is_plain,
    linear_norm,
)
from tests.models import twins
from tests.models.randomize import randomize
from tests.models.test_attention import close


class TestFeedForward:
    def test_feed_forward(self) -> None:
        block = FeedForward(8, 2.5, 0.0).double()
        assert block.mlp.fc1.out_features == 20
        randomize(block)
        x = torch.randn(2, 5, 8).double()
        close(block(x), twins.feed_forward(twins.weights_of(block), x.numpy()))

    @pytest.mark.parametrize("rows", [1, 4, 9, 10, 11])
    def test_feed_forward_in_evaluation_by_rows(self, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bixt3d.models.layers.ROWS", {"cpu": rows, "cuda": rows})
        block = FeedForward(8, 2.0, 0.5).double().eval()
        randomize(block)
        seen: list[int] = []
        forward = Mlp.forward

        def counted(self: Mlp, x: Tensor) -> Tensor:
            seen.append(x.numel() // 8)
            return forward(self, x)

        monkeypatch.setattr(Mlp, "forward", counted)
        x = torch.randn(2, 5, 8).double()
        with torch.no_grad():
            found = block(x)
        assert sum(seen) == 10 and max(seen) <= rows
        close(found, twins.feed_forward(twins.weights_of(block), x.numpy()))
        seen.clear()
        block.train()(x)  # a cloud's branch is dropped as a whole
        block.eval()(x).sum().backward()
        assert seen == [10, 10]

    @pytest.mark.parametrize("part", ["norm", "mlp", "mlp.fc1", "mlp.fc2", "drop_path"])
    @torch.no_grad()
    def test_what_has_a_hook_sees_all_rows_at_once(self, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bixt3d.models.layers.ROWS", {"cpu": 4, "cuda": 4})
        block, seen = FeedForward(8, 2.0, 0.0).eval(), []
        block.get_submodule(part).register_forward_hook(lambda module, given, out: seen.append(out.shape[:2]))
        block(torch.randn(2, 5, 8))
        assert seen == [(2, 5)]

    @pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated:DeprecationWarning")
    def test_feed_forward_traced_with_many_rows_maps_any_number(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bixt3d.models.layers.ROWS", {"cpu": 4, "cuda": 4})
        block = FeedForward(8, 2.0, 0.0).eval()
        with torch.no_grad():
            traced = torch.jit.trace(block, torch.randn(2, 5, 8))
            for rows in (1, 5, 20):
                x = torch.randn(2, rows, 8)
                torch.testing.assert_close(traced(x), block(x))


class TestDropPath:
    def test_nothing_is_dropped_in_eval(self) -> None:
        x = torch.randn(64, 3, 2)
        assert DropPath(0.9).eval()(x).equal(x)

    def test_nothing_is_dropped_at_rate_zero(self) -> None:
        x = torch.randn(64, 3, 2)
        assert DropPath(0.0).train()(x).equal(x)

    def test_a_sample_is_dropped_as_a_whole_or_scaled(self) -> None:
        x = torch.rand(64, 3, 2) + 1
        out = DropPath(0.25).train()(x)
        dropped = (out == 0).flatten(1)
        assert dropped.all(1).equal(dropped.any(1))
        kept = ~dropped.any(1)
        assert 0 < kept.sum() < 64
        torch.testing.assert_close(out[kept], x[kept] / 0.75)

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
    def test_the_expectation_is_the_input(self, rate: float) -> None:
        out = DropPath(rate).train()(torch.ones(20_000, 1))
        deviation = (rate / (1 - rate) / 20_000) ** 0.5
        assert abs(out.mean().item() - 1) < 5 * deviation
        assert abs((out == 0).float().mean().item() - rate) < 0.02

    def test_dtype_is_kept(self) -> None:
        assert DropPath(0.5).train()(torch.ones(8, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


class TestBatchNorm:
    @pytest.mark.parametrize("shape", [(7, 4), (2, 7, 4), (2, 3, 5, 4)])
    def test_normalises_the_last_axis(self, shape: tuple[int, ...]) -> None:
        norm, x = BatchNorm(4).train(), torch.randn(shape) * 3 + 1
        randomize(norm)
        rows = x.reshape(-1, 4).numpy()
        unit = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
        expected = unit * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        np.testing.assert_allclose(norm(x).detach().reshape(-1, 4).numpy(), expected, rtol=1e-4, atol=1e-5)

    def test_statistics_and_names_are_those_of_torch(self) -> None:
        ours, theirs = BatchNorm(4), nn.BatchNorm1d(4)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        x = torch.randn(2, 7, 4) * 3 + 1
        ours(x), theirs(x.flatten(0, 1))
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value)


def test_residual_mlp_formula() -> None:
    block = ResidualMlp(6, 0.5).double().eval()
    randomize(block)

    def normalised(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias

    x = torch.randn(2, 3, 4, 6).double()
    hidden = normalised(block.norm1, x @ block.fc1.weight.T).relu()
    assert hidden.shape[-1] == 3
    expected = (x + normalised(block.norm2, hidden @ block.fc2.weight.T)).relu()
    torch.testing.assert_close(block(x), expected)


class TestLinearNorm:
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("training", [False, True])
    def test_map_then_norm(self, bias: bool, training: bool) -> None:
        linear, norm = nn.Linear(4, 6, bias=bias).double(), BatchNorm(6).double().train(training)
        randomize(linear)
        randomize(norm)
        learned = [*linear.parameters(), *norm.parameters()]
        x = torch.randn(2, 5, 4).double()
        results = []
        for out in (linear_norm(x, linear, norm), norm(linear(x))):
            results.append([out, *torch.autograd.grad(out.cos().sum(), learned)])
        for found, wanted in zip(*results, strict=True):
            torch.testing.assert_close(found, wanted)

    @torch.no_grad()
    def test_residual_block_in_evaluation_is_the_one_of_training(self) -> None:
        """With the statistics of the rows themselves both normalise alike."""
        block = ResidualMlp(6, 1.5).double()
        randomize(block)
        x = torch.randn(50, 6).double()
        hidden = block.fc1(x)
        block.norm1.running_mean, block.norm1.running_var = hidden.mean(0), hidden.var(0, unbiased=False)
        mapped = block.fc2(torch.relu(block.norm1.eval()(hidden)))
        block.norm2.running_mean, block.norm2.running_var = mapped.mean(0), mapped.var(0, unbiased=False)
        evaluated = block.eval()(x)
        torch.testing.assert_close(block.train()(x), evaluated)

    def test_half_precision_is_rounded_once(self) -> None:
        linear, norm = nn.Linear(40, 60), BatchNorm(60).eval()
        randomize(linear)
        randomize(norm)
        linear.bfloat16()
        norm.bfloat16()
        found = fold(norm, linear)
        exact = fold(norm.double(), linear.double())
        for one, wanted in zip(found, exact, strict=True):
            assert one.dtype == torch.bfloat16 and wanted.dtype == torch.float64
            torch.testing.assert_close(one.double(), wanted, rtol=2**-8, atol=0)

    @pytest.mark.parametrize("hooked", ["linear", "norm"])
    @pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
    def test_modules_with_a_hook_are_called(self, kind: str, hooked: str) -> None:
        modules = {"linear": nn.Linear(4, 6), "norm": BatchNorm(6).eval()}
        assert is_foldable(*modules.values())
        called: list[str] = []
        register = getattr(modules[hooked], f"register_{kind}_hook")
        hook = register(lambda module, *given: called.append(kind))
        x = torch.randn(5, 4, requires_grad=True)
        linear_norm(x, **modules).sum().backward()
        assert called == [kind]
        hook.remove()
        assert is_foldable(*modules.values())

    @pytest.mark.parametrize(
        "norm", [nn.LayerNorm(6), nn.Identity(), nn.BatchNorm1d(6, affine=False), BatchNorm(6).train()]
    )
    def test_other_norms_are_called(self, norm: nn.Module) -> None:
        norm.train(isinstance(norm, BatchNorm))
        linear, x = nn.Linear(4, 6), torch.randn(5, 4)
        torch.testing.assert_close(linear_norm(x, linear, norm), norm(linear(x)))

    def test_a_norm_of_the_batch_s_own_statistics_is_called(self) -> None:
        linear, x = nn.Linear(4, 6), torch.randn(5, 4)
        norm = nn.BatchNorm1d(6, track_running_stats=False).eval()
        torch.testing.assert_close(linear_norm(x, linear, norm), norm(linear(x)))

    def test_outputs_that_a_hook_keeps_are_not_overwritten(self) -> None:
        block, kept = ResidualMlp(6, 1.0).eval(), []
        randomize(block)
        block.norm1.register_forward_hook(lambda module, given, out: kept.append(out))
        block(torch.randn(50, 6))
        assert (kept[0] < 0).any()


class Doubled(nn.Linear):
    """Its weight says half of what it does."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class TestIsPlain:
    @pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
    def test_not_with_a_hook(self, kind: str) -> None:
        layer = nn.Linear(4, 6)
        assert is_plain(layer)
        hook = getattr(layer, f"register_{kind}_hook")(lambda *given: None)
        assert not is_plain(layer)
        hook.remove()
        assert is_plain(layer, layer)

    @pytest.mark.parametrize(
        "change",
        [
            lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
            lambda layer: parametrizations.weight_norm(layer),
            lambda layer: parametrizations.spectral_norm(layer),
            lambda layer: parametrize.register_parametrization(layer, "weight", nn.Identity()),
            lambda layer: setattr(layer, "forward", lambda x: x),
        ],
    )
    def test_not_when_changed(self, change: Any) -> None:
        layer = nn.Linear(4, 6)
        change(layer)
        assert not is_plain(layer) and not is_plain(nn.Linear(4, 6), layer)
        assert not is_foldable(layer, BatchNorm(6).eval())

    def test_not_with_a_weight_made_of_other_tensors(self) -> None:
        layer = nn.Linear(4, 6)
        layer.weight = nn.Parameter(Packed(torch.randn(6, 4)), requires_grad=False)
        assert not is_plain(layer)

    @pytest.mark.parametrize("layer", [Doubled(4, 6), nn.Sequential(nn.Linear(4, 6)), nn.Identity()])
    def test_not_another_class(self, layer: nn.Module) -> None:
        assert not is_plain(layer)
        norm, x = BatchNorm(6 if not isinstance(layer, nn.Identity) else 4).eval(), torch.randn(5, 4)
        assert linear_norm(x, layer, norm).equal(norm(layer(x)))

    def test_a_pruned_layer_is_plain_again_when_it_is_made_permanent(self) -> None:
        layer = nn.Linear(4, 6)
        prune.l1_unstructured(layer, "weight", amount=0.5)
        prune.remove(layer, "weight")
        assert is_plain(layer)


class Packed(Tensor):
    """As quantisation libraries keep weights."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Packed:
        made: Packed = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    inner: Tensor

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Packed(
            func(*(arg.inner if isinstance(arg, Packed) else arg for arg in args), **(kwargs or {}))
        )


def test_evaluating_leaves_every_mode_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.Dropout())
    model.train()
    model[1].eval()
    model[1][0].train()
    modes = [module.training for module in model.modules()]
    assert set(modes) == {True, False}
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == modes
