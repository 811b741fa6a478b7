"""The grouping stage: the plain twin, sampling, reduction, a neighbourhood used again, clear errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bixt3d.models import grouping
from bixt3d.models.decoder import PropagationStage
from bixt3d.models.grouping import GroupingStage
from bixt3d.ops import SearchTree, affine_group, farthest_point_sample, gather_points, grid_sample, knn
from tests.models.randomize import randomize

MODES = [(center, use_xyz) for center in ("anchor", "center") for use_xyz in (False, True)]


def clouds(count: int = 40, channels: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(3, count, 3).double(), torch.randn(3, count, channels).double()


def stage(in_dim: int = 6, out_dim: int = 10, neighbors: int = 5, **args: Any) -> GroupingStage:
    made = GroupingStage(in_dim, out_dim, neighbors=neighbors, **args).double()
    randomize(made)
    return made


def values_and_gradients(
    module: GroupingStage, xyz: Tensor, tokens: Tensor, pull: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    tokens = tokens.clone().requires_grad_()
    module.zero_grad()
    out = module(xyz, tokens)[1]
    out.backward(pull)
    gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    assert tokens.grad is not None
    assert len(gradients) == len(list(module.parameters()))
    return out.detach(), {"tokens": tokens.grad, **gradients}


class TestFusedAgainstPlain:
    @pytest.mark.parametrize(("center", "use_xyz"), MODES)
    @pytest.mark.parametrize("reduction", [1, 4])
    @pytest.mark.parametrize("blocks", [0, 2])
    @pytest.mark.parametrize("training", [False, True])
    def test_values_and_gradients(
        self, center: str, use_xyz: bool, reduction: int, blocks: int, training: bool
    ) -> None:
        args: dict[str, Any] = {
            "center": center,
            "use_xyz": use_xyz,
            "reduction": reduction,
            "blocks": blocks,
        }
        fused = stage(fused=True, **args).train(training)
        plain = stage(fused=False, **args).train(training)
        plain.load_state_dict(fused.state_dict())
        xyz, tokens = clouds()
        pull = torch.randn(3, 40 // reduction, 10).double()
        out, gradients = values_and_gradients(fused, xyz, tokens, pull)
        expected, wanted = values_and_gradients(plain, xyz, tokens, pull)
        torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-8)
        assert gradients.keys() == wanted.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-8, msg=name)
        for name, value in fused.state_dict().items():  # running statistics after a step in training
            torch.testing.assert_close(value, plain.state_dict()[name])


@pytest.mark.parametrize(("center", "use_xyz"), MODES)
def test_formula(center: str, use_xyz: bool) -> None:
    """Group with the operation, map, take the maximum, normalise: step after step."""
    made = stage(reduction=4, blocks=0, center=center, use_xyz=use_xyz).eval()
    xyz, tokens = clouds()
    new_xyz, grouped = affine_group(xyz, tokens, 10, 5, made.alpha, made.beta, center, use_xyz)
    mapped = grouped @ made.linear.weight.T  # (B, S, k, hidden)
    mean, var = made.norm.running_mean, made.norm.running_var
    assert mean is not None
    assert var is not None
    unit = (mapped.amax(2) - mean) / (var + made.norm.eps).sqrt() * made.norm.weight + made.norm.bias
    anchors = gather_points(tokens, farthest_point_sample(xyz, 10))
    shortcut = made.shortcut(anchors)
    found_xyz, found, _ = made(xyz, tokens)
    assert found_xyz.equal(new_xyz)
    torch.testing.assert_close(found, shortcut + made.out(unit.relu()))


def test_gradients_in_numbers() -> None:
    made = stage(in_dim=2, out_dim=3, neighbors=4, reduction=2, blocks=1).eval()
    xyz = torch.randn(2, 8, 3).double()
    tokens = torch.randn(2, 8, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: made(xyz, x)[1], (tokens,))


class TestShapes:
    @pytest.mark.parametrize(
        ("count", "reduction", "groups"), [(40, 1, 40), (40, 4, 10), (41, 4, 10), (5, 8, 1)]
    )
    @pytest.mark.parametrize("sampling", ["fps", "prefix", "grid", "random"])
    def test_reduction(self, count: int, reduction: int, groups: int, sampling: str) -> None:
        xyz, tokens = clouds(count)
        new_xyz, out, near = stage(reduction=reduction, sampling=sampling)(xyz, tokens)
        assert new_xyz.shape == (3, groups, 3)
        assert out.shape == (3, groups, 10)
        assert (near is None) == (reduction > 1)

    def test_all_points_stay_in_place_without_a_reduction(self) -> None:
        xyz, tokens = clouds()
        assert stage()(xyz, tokens)[0].equal(xyz)

    def test_equal_widths_need_no_shortcut_map(self) -> None:
        assert isinstance(stage(6, 6).shortcut, nn.Identity)
        assert isinstance(stage(6, 10).shortcut, nn.Linear)

    def test_widths_inside(self) -> None:
        made = GroupingStage(6, 10, hidden=8, blocks=1, expansion=0.5, use_xyz=True)
        shapes = {name: tuple(value.shape) for name, value in made.named_parameters()}
        assert shapes["alpha"] == shapes["beta"] == (9,)
        assert shapes["linear.weight"] == (8, 15)
        assert shapes["blocks.0.fc1.weight"] == (4, 8)
        assert shapes["out.weight"] == (10, 8)

    def test_order_of_points_does_not_matter(self) -> None:
        made, (xyz, tokens), order = stage().eval(), clouds(), torch.randperm(40)
        _, out, _ = made(xyz, tokens)
        _, permuted, _ = made(xyz[:, order], tokens[:, order])
        torch.testing.assert_close(permuted, out[:, order])


class TestSampling:
    @pytest.mark.parametrize("reduction", [2, 4])
    def test_prefix_of_a_cloud_in_farthest_point_order(self, reduction: int) -> None:
        xyz, tokens = clouds()
        order = farthest_point_sample(xyz, 40)
        xyz, tokens = gather_points(xyz, order), gather_points(tokens, order)
        by_fps, by_prefix = stage(reduction=reduction), stage(reduction=reduction, sampling="prefix")
        by_prefix.load_state_dict(by_fps.state_dict())
        found, wanted = by_prefix.eval()(xyz, tokens), by_fps.eval()(xyz, tokens)
        assert found[0].equal(wanted[0])
        assert found[1].equal(wanted[1])

    def test_prefix_takes_the_first_points(self) -> None:
        xyz, tokens = clouds()
        assert stage(reduction=4, sampling="prefix")(xyz, tokens)[0].equal(xyz[:, :10])

    def test_fps_does_not(self) -> None:
        xyz, tokens = clouds()
        new_xyz = stage(reduction=4)(xyz, tokens)[0]
        assert new_xyz.equal(gather_points(xyz, farthest_point_sample(xyz, 10)))
        assert not new_xyz.equal(xyz[:, :10])

    def test_grid(self) -> None:
        xyz, tokens = clouds()
        new_xyz = stage(reduction=4, sampling="grid")(xyz, tokens)[0]
        assert new_xyz.equal(gather_points(xyz, grid_sample(xyz, 10)))

    def test_random_draws_in_training_alone(self) -> None:
        (xyz, tokens), made = clouds(), stage(reduction=4, sampling="random")
        drawn = [made(xyz, tokens)[0] for _ in range(2)]
        assert not drawn[0].equal(drawn[1])
        assert made.eval()(xyz, tokens)[0].equal(xyz[:, ::4])


class TestNeighbourhood:
    def test_of_the_anchors(self) -> None:
        xyz, _ = clouds()
        near = stage(reduction=4).find(xyz)
        assert near.anchors.equal(farthest_point_sample(xyz, 10))
        assert near.index.equal(knn(gather_points(xyz, near.anchors), xyz, 5))

    def test_by_the_trees_of_others(self) -> None:
        xyz = torch.randn(2, 2100, 3)  # too many to be scanned
        made, trees = stage(reduction=4), SearchTree(xyz)
        assert made.find(xyz, trees).index.equal(made.find(xyz).index)
        assert len(trees._trees) == 2

    def test_used_again_gives_the_same(self) -> None:
        xyz, tokens = clouds()
        first, second = stage(6, 6).eval(), stage(6, 10).eval()
        _, middle, near = first(xyz, tokens)
        assert near is not None
        _, reused, again = second(xyz, middle, near)
        assert reused.equal(second(xyz, middle)[1])
        assert again is near

    def test_is_not_searched_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        xyz, tokens = clouds()
        first, second = stage(6, 6), stage(6, 10)
        _, middle, near = first(xyz, tokens)
        monkeypatch.setattr(grouping, "knn", None)
        second(xyz, middle, near)
        with pytest.raises(TypeError):
            second(xyz, middle)

    @pytest.mark.parametrize("changed", [{"neighbors": 4}, {"reduction": 2}])
    def test_that_does_not_hold_is_searched_anew(self, changed: dict[str, int]) -> None:
        xyz, tokens = clouds()
        near = stage(6, 6)(xyz, tokens)[2]
        other = stage(**changed).eval()
        assert other(xyz, tokens, near)[1].equal(other(xyz, tokens)[1])


class TestErrors:
    def test_too_few_points_name_k(self) -> None:
        xyz, tokens = clouds(4)
        with pytest.raises(ValueError, match=r"k: expected 1 to 4 \(each cloud has 4 points\), got 5"):
            stage()(xyz, tokens)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"center": "centre"}, "center: expected one of anchor, center, got 'centre'"),
            ({"sampling": "first"}, "sampling: expected one of fps, prefix, grid, random, got 'first'"),
            ({"neighbors": 0}, "sizes of at least 1.*neighbors=0"),
            ({"reduction": 0}, "sizes of at least 1.*reduction=0"),
            ({"in_dim": 0}, "sizes of at least 1.*in_dim=0"),
            ({"out_dim": 0}, "sizes of at least 1.*out_dim=0"),
            ({"blocks": -1}, "sizes of at least 1.*blocks=-1"),
            ({"hidden": 0}, "hidden"),
        ],
    )
    def test_arguments(self, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            GroupingStage(**{"in_dim": 6, "out_dim": 10, **changed})


def test_norms_in_float32_of_a_model_in_half_precision() -> None:
    made = GroupingStage(6, 10, neighbors=5).eval().bfloat16()
    made.norm.float()
    for block in made.blocks:
        block.norm1.float()
        block.norm2.float()
    with torch.no_grad():
        tokens = made(torch.randn(2, 20, 3), torch.randn(2, 20, 6).bfloat16())[1]
    assert tokens.dtype == torch.bfloat16 and bool(tokens.isfinite().all())


@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
@pytest.mark.parametrize("made", [GroupingStage(6, 10, neighbors=5), PropagationStage(6, 8, 10, 1)])
@torch.no_grad()
def test_a_norm_of_a_stage_with_a_hook_is_called(made: GroupingStage | PropagationStage, kind: str) -> None:
    made.eval()
    xyz, skip, tokens = torch.randn(2, 20, 3), torch.randn(2, 20, 6), torch.randn(2, 5, 8)
    given = (xyz, skip) if isinstance(made, GroupingStage) else ((xyz, skip), (xyz[:, :5], tokens))
    folded = made(*given)[1]
    called: list[str] = []
    hook = getattr(made.norm, f"register_{kind}_hook")(lambda *given: called.append(kind))
    torch.testing.assert_close(made(*given)[1], folded)
    hook.remove()
    assert called == [kind]


@pytest.mark.parametrize("center", ["anchor", "center"])
@pytest.mark.parametrize("reduction", [1, 3])
def test_evaluation_in_pieces_agrees_with_the_whole(
    center: str, reduction: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stage(reduction=reduction, center=center, blocks=2).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    xyz, tokens = clouds()
    whole = made(xyz, tokens)[1].detach()  # with gradients nothing goes in pieces
    calls = []
    in_pieces = GroupingStage._pool_in_pieces
    monkeypatch.setattr(GroupingStage, "_pool_in_pieces", lambda *args: calls.append(1) or in_pieces(*args))
    monkeypatch.setattr("bixt3d.models.layers.ROWS", {"cpu": 12, "cuda": 12})
    with torch.no_grad():
        torch.testing.assert_close(made(xyz, tokens)[1], whole, rtol=1e-4, atol=1e-5)
        assert calls
        seen = []
        made.blocks[0].register_forward_hook(lambda *_: seen.append(1))  # what is hooked is called
        torch.testing.assert_close(made(xyz, tokens)[1], whole, rtol=1e-4, atol=1e-5)
    assert seen and len(calls) == 1


class Wrapped(nn.Module):
    """A map around another, without weights of its own name, as an adapter is."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x)


@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize("training", [False, True])
def test_a_wrapped_map_is_called(blocks: int, training: bool) -> None:
    made = stage(blocks=blocks).train(training)
    given = clouds()
    expected = made(*given)[1]
    made.linear = Wrapped(made.linear)
    torch.testing.assert_close(made(*given)[1], expected, rtol=1e-4, atol=1e-5)
    assert made.linear.calls == 1


@torch.no_grad()
def test_a_hook_on_all_blocks_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bixt3d.models.layers.ROWS", {"cpu": 12, "cuda": 12})
    made, seen = stage(blocks=2).eval(), []
    made.blocks.register_forward_hook(lambda *_: seen.append(1))
    made(*clouds())
    assert seen == [1]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("least", [0, 1 << 62])
def test_half_precision_stays_in_a_stage_without_blocks(
    training: bool, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bixt3d.ops.grouping.LEAST_COMPILED", least)
    made = stage(blocks=0).train(training).bfloat16()
    xyz, tokens = clouds()
    assert made(xyz, tokens.bfloat16())[1].dtype == torch.bfloat16


def test_shift_alone_learns() -> None:
    made = stage().eval()
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or name == "beta")
    made(*clouds())[1].square().sum().backward()
    assert all(one.grad is not None for one in made.parameters() if one.requires_grad)
