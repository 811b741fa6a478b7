"""PointNet: its size, what it is blind to, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.peers.pointnet import TransformNet, pointnet


def clouds(batch: int, num_points: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, num_points, 3, generator=torch.Generator().manual_seed(seed))


def size_of_mlp(*widths: int) -> int:
    return sum(a * b + b + 2 * b for a, b in zip(widths, widths[1:], strict=False))  # map, bias, batch norm


def test_parameter_count_is_that_of_the_paper_s_layers() -> None:
    def transform(dim: int) -> int:
        return size_of_mlp(dim, 64, 128, 1024) + size_of_mlp(1024, 512, 256) + 256 * dim**2 + dim**2

    expected = transform(3) + size_of_mlp(3, 64, 64) + transform(64) + size_of_mlp(64, 64, 128, 1024)
    expected += size_of_mlp(1024, 512, 256) + 256 * 40 + 40
    found = sum(parameter.numel() for parameter in pointnet(40).parameters())
    assert found == expected == 3_480_049


def test_order_and_repetition_of_points_make_no_difference_in_evaluation() -> None:
    model = pointnet(5)
    learn_transforms(model)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)):
        norm.momentum = 1.0
    model(clouds(4, 64, seed=1))  # its statistics become those of evaluation
    model.eval()
    points = clouds(3, 64)
    with torch.no_grad():
        logits = model(points)
        shuffled = model(points[:, torch.randperm(64)])
        repeated = model(torch.cat([points, points[:, :10]], 1))
    torch.testing.assert_close(shuffled, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(repeated, logits, rtol=1e-4, atol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3  # the logits do depend on the cloud


def test_transforms_start_at_the_identity_and_are_applied() -> None:
    for dim in (3, 64):
        matrix = TransformNet(dim).eval()(torch.randn(2, 16, dim))
        torch.testing.assert_close(matrix, torch.eye(dim).expand(2, dim, dim))
    model = pointnet(5).eval()
    points = clouds(2, 32)
    turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    with torch.no_grad():
        turned = model(points @ turn)
        model.align_points.matrix.bias.copy_(turn.flatten())
        torch.testing.assert_close(model(points), turned, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_finite_gradient() -> None:
    model = pointnet(7)
    learn_transforms(model)
    logits = model(clouds(4, 64))
    assert logits.shape == (4, 7)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        last = name.startswith(("head.2", "align_points.matrix", "align_features.matrix"))
        weight = parameter.ndim > 1 or last  # a batch norm takes a bias before it away
        assert not weight or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("shape", [(2, 64, 6), (64, 3), (2, 3, 64), (2, 0, 3)])
def test_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"points: expected .*\(B, N, 3\).* got"):
        pointnet(5)(torch.zeros(shape))


def learn_transforms(model: torch.nn.Module) -> None:
    """Move the transforms away from the identity, where nothing flows back through them."""
    for transform in (model.align_points, model.align_features):
        torch.nn.init.normal_(transform.matrix.weight, std=0.01)
