"""PointNet++: its balls against a search by hand, its size, what it is blind to, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.peers.pointnet2 import ball_query, pointnet2_ssg


def clouds(batch: int, num_points: int, seed: int = 0) -> Tensor:
    points = torch.randn(batch, num_points, 3, generator=torch.Generator().manual_seed(seed))
    return points / points.norm(dim=-1, keepdim=True).amax(1, keepdim=True)


def test_balls_hold_the_nearest_points_within_the_radius_and_repeat_the_nearest() -> None:
    points = clouds(2, 60)
    centers = points[:, [5, 17, 40]]
    radius, k = 0.35, 8
    found = ball_query(centers, points, radius, k)
    assert found.shape == (2, 3, k)
    full = short = 0
    for b in range(2):
        for s in range(3):
            distance = (points[b] - centers[b, s]).norm(dim=-1)
            inside = [i for i in distance.argsort().tolist() if distance[i] <= radius][:k]
            full, short = full + (len(inside) == k), short + (len(inside) < k)
            assert found[b, s].tolist() == inside + [inside[0]] * (k - len(inside))
    assert full and short  # both kinds of balls were looked at


def test_parameter_count_is_that_of_the_paper_s_layers() -> None:
    def mlp(*widths: int) -> int:
        return sum(a * b + b + 2 * b for a, b in zip(widths, widths[1:], strict=False))  # map, bias, norm

    expected = mlp(3, 64, 64, 128) + mlp(3 + 128, 128, 128, 256) + mlp(3 + 256, 256, 512, 1024)
    expected += mlp(1024, 512, 256) + 256 * 40 + 40
    found = sum(parameter.numel() for parameter in pointnet2_ssg(40).parameters())
    assert found == expected == 1_475_688


def test_order_of_points_after_the_first_makes_no_difference_in_evaluation() -> None:
    model = pointnet2_ssg(5)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)):
        norm.momentum = 1.0
    model(clouds(4, 520, seed=1))  # its statistics become those of evaluation
    model.eval()
    points = clouds(2, 520)
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(519)])  # sampling begins at 0
    with torch.no_grad():
        logits = model(points)
        torch.testing.assert_close(model(points[:, order]), logits, rtol=1e-4, atol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3  # the logits do depend on the cloud


def test_balls_see_where_points_lie_only_relative_to_their_centre() -> None:
    layer = pointnet2_ssg(5).eval().first
    points = clouds(2, 520)
    with torch.no_grad():
        xyz, features = layer(points, None)
        moved, same = layer(points + 0.25, None)
    assert xyz.shape == (2, 512, 3) and features.shape == (2, 512, 128)
    torch.testing.assert_close(moved, xyz + 0.25)
    torch.testing.assert_close(same, features, rtol=1e-3, atol=1e-4)


def test_every_parameter_gets_a_finite_gradient() -> None:
    model = pointnet2_ssg(7)
    logits = model(clouds(4, 512))
    assert logits.shape == (4, 7)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        weight = parameter.ndim > 1 or name.startswith("head.4")  # a batch norm takes a bias before it away
        assert not weight or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("shape", [(2, 600, 6), (600, 3), (2, 3, 600)])
def test_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"points: expected .*\(B, N, 3\).* got"):
        pointnet2_ssg(5)(torch.zeros(shape))


def test_too_few_points_are_named() -> None:
    with pytest.raises(ValueError, match="511 points a cloud are too few: the first layer samples 512"):
        pointnet2_ssg(5)(clouds(2, 511))
