"""Stages of local aggregation: the plain twin, formulas, what they are blind to, errors; the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bixt3d import create_model
from bixt3d.models.aggregation import AggregationStage, LocalLayer, RelativePosition
from bixt3d.ops import gather_points, knn
from tests.models.randomize import randomize


def clouds(count: int = 40, channels: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(3, count, 3).double(), torch.randn(3, count, channels).double()


def stage(**args: Any) -> AggregationStage:
    made = AggregationStage(6, 10, **{"neighbors": 5, "hidden": 8, "depth": 3, **args}).double()
    randomize(made)
    return made


@pytest.mark.parametrize("reduction", [1, 4])
@pytest.mark.parametrize("training", [False, True])
def test_fused_against_plain(reduction: int, training: bool) -> None:
    """In values, gradients and running statistics."""
    fused, plain = (stage(reduction=reduction, fused=fused).train(training) for fused in (True, False))
    plain.load_state_dict(fused.state_dict())
    xyz, tokens = clouds()
    pull = torch.randn(3, 40 // reduction, 10).double()
    found: list[list[Tensor]] = []
    for made in (fused, plain):
        given = tokens.clone().requires_grad_()
        out = made(xyz, given)[1]
        out.backward(pull)
        assert given.grad is not None
        gradients = [value.grad for value in made.parameters()]
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
        statistics = [value for value in made.buffers() if value.is_floating_point()]
        found.append([out.detach(), given.grad, *gradients, *statistics])  # type: ignore[list-item]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


def test_a_local_layer_is_the_largest_difference() -> None:
    layer = LocalLayer(6, 4, 1.0).double().eval()
    randomize(layer)
    xyz, tokens = clouds(12)
    anchors, index = torch.arange(3).expand(3, -1), knn(xyz[:, :3], xyz, 4)  # (B, 3), (B, 3, 4)
    found = layer(tokens, anchors, index)
    norm = layer.norm
    assert norm.running_mean is not None and norm.running_var is not None
    for cloud in range(3):
        for group in range(3):
            differences = tokens[cloud, index[cloud, group]] - tokens[cloud, group]  # (4, 6)
            most = (differences @ layer.linear.weight.T).max(0).values
            most = (most - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
            torch.testing.assert_close(found[cloud, group], most * norm.weight + norm.bias)


def test_relative_position_is_blind_to_place_size_and_order() -> None:
    made = RelativePosition(7, 8, 1.0).double().eval()
    randomize(made)
    xyz, _ = clouds()
    index = knn(xyz, xyz, 5)
    expected = made(xyz, index)
    torch.testing.assert_close(made(3.0 * xyz + 0.7, index.flip(-1)), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(made(xyz.flip(-1), index), expected)  # but not to where the axes point


def test_relative_position_of_points_at_one_place_has_gradients() -> None:
    made = RelativePosition(7, 8, 1.0)
    xyz = torch.zeros(2, 6, 3, requires_grad=True)
    made(xyz, torch.zeros(2, 6, 3, dtype=torch.int64)).square().sum().backward()
    assert xyz.grad is not None and xyz.grad.isfinite().all()


def test_a_later_stage_uses_the_neighbours_of_an_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    first = AggregationStage(6, 10, neighbors=5).double()
    second = AggregationStage(10, 12, neighbors=5, reduction=2).double()
    xyz, tokens = clouds()
    places, refined, near = first(xyz, tokens)
    assert places is xyz and refined.shape == (3, 40, 10)
    torch.testing.assert_close(near.index, knn(xyz, xyz, 5))
    expected = second(xyz, refined)
    sizes: list[int] = []

    def count(query: Tensor, *args: Any, **more: Any) -> Tensor:
        sizes.append(query.shape[1])
        return knn(query, *args, **more)

    monkeypatch.setattr("bixt3d.models.aggregation.knn", count)
    kept, found, near = second(xyz, refined, near)
    assert sizes == [20] and near.index.shape == (3, 20, 5)
    torch.testing.assert_close(found, expected[1])
    assert all((place == xyz[0]).all(-1).any() for place in kept[0])


def test_prefix_takes_the_first_points() -> None:
    xyz, tokens = clouds()
    places, refined, near = stage(reduction=4, sampling="prefix")(xyz, tokens)
    torch.testing.assert_close(places, xyz[:, :10])
    assert refined.shape == (3, 10, 10)
    torch.testing.assert_close(gather_points(places, near.anchors), places)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampling": "best"}, "sampling: expected one of fps, prefix, grid, random, got 'best'"),
        ({"neighbors": 0}, "sizes of at least 1.*neighbors=0"),
        ({"hidden": 0}, "sizes of at least 1.*hidden=0"),
        ({"depth": -1}, "sizes of at least 1.*depth=-1"),
    ],
)
def test_errors(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AggregationStage(6, 10, **changed)


def test_a_hooked_map_is_called() -> None:
    made = stage().eval()
    xyz, tokens = clouds()
    expected, seen = made(xyz, tokens)[1], []
    layer = made.layers[0]
    assert isinstance(layer, LocalLayer) and isinstance(layer.linear, nn.Linear)
    layer.linear.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(made(xyz, tokens)[1], expected)
    assert seen


class TestModel:
    def test_sizes_that_do_not_fit(self) -> None:
        with pytest.raises(ValueError, match="depths: expected one of each a layer, got 3, 3 and 2"):
            create_model("bixt_nano_cls_local", depths=(1, 2))

    def test_clouds_that_are_too_small(self) -> None:
        """16 neighbours are looked for among the 1 in 16 points of the last stage."""
        model: Any = create_model("bixt_nano_cls_local")
        assert model.least_points == 256
        model.check_points(256)
        with pytest.raises(ValueError, match="num_points=200 leaves 12 points .*neighbors is 16.* of 256 or"):
            model.check_points(200)

    def test_it_does_not_move_with_the_order_of_points(self) -> None:
        """But for the first, at which farthest-point sampling starts."""
        model = create_model("bixt_nano_cls_local").eval()
        randomize(model)
        points = torch.randn(2, 256, 3)
        other = torch.cat([points[:, :1], points[:, 1:][:, torch.randperm(255)]], 1)
        with torch.no_grad():
            torch.testing.assert_close(model(points), model(other), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("name", ["bixt_nano_cls_local", "bixt_nano_partseg_local"])
    def test_stages_take_the_mlps_ratio_and_points_have_xyz(self, name: str) -> None:
        wide: Any = create_model(name, mlp_ratio=3.0)
        for width, stage in zip(wide.encoder.trunk.token_dims, wide.encoder.stages.values(), strict=True):
            assert stage.mlp.fc1.out_features == 3 * width
        with pytest.raises(ValueError, match="in_dims: expected 3 for xyz.* got 2"):
            create_model(name, in_dims=2)
