"""PointMLP, the model BiXT is compared with: its size, its gradients, and its independence of the batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.peers.pointmlp import PointMLP, pointmlp, pointmlp_elite


def clouds(batch: int, num_points: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, num_points, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("build", "expected"), [(pointmlp, 13_238_504), (pointmlp_elite, 716_232)])
def test_parameter_count_is_the_published_one(build: Callable[[int], PointMLP], expected: int) -> None:
    assert sum(parameter.numel() for parameter in build(40).parameters()) == expected


@pytest.mark.parametrize("build", [pointmlp, pointmlp_elite])
def test_every_parameter_gets_a_finite_gradient(build: Callable[[int], PointMLP]) -> None:
    torch.manual_seed(0)
    model = build(7)
    logits = model(clouds(4, 192))
    assert logits.shape == (4, 7)
    assert logits.isfinite().all()
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_eval_logits_do_not_depend_on_the_rest_of_the_batch() -> None:
    torch.manual_seed(0)
    model = pointmlp_elite(5)
    model(clouds(4, 192, seed=1))  # moves the running statistics of the batch norms away from their start
    model.eval()
    points = clouds(4, 192)
    points[1] *= 100  # a spread shared over the batch would change every other cloud's normalisation
    with torch.no_grad():
        together = model(points)
        alone = torch.cat([model(cloud[None]) for cloud in points])
        reversed_order = model(points.flip(0)).flip(0)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, reversed_order, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[2]).abs().max() > 1e-3  # the logits do depend on the cloud


def test_each_stage_halves_the_points_and_widens_the_features() -> None:
    torch.manual_seed(0)
    model = pointmlp_elite(5).eval()
    xyz, features = clouds(2, 256), torch.rand(2, 256, 32)
    shapes = []
    for stage in model.stages:
        xyz, features = stage(xyz, features)
        assert xyz.shape[:2] == features.shape[:2]
        shapes.append(tuple(features.shape))
    assert shapes == [(2, 128, 64), (2, 64, 128), (2, 32, 256), (2, 16, 256)]


def test_values_are_not_looked_at_stage_by_stage() -> None:
    """On a GPU every look waits for it, and the models that it is compared with do without."""
    points = clouds(2, 192)
    points[1, 5] = float("nan")
    with torch.no_grad():
        logits = pointmlp_elite(5).eval()(points)
    assert logits[0].isfinite().all() and logits[1].isnan().any()


@pytest.mark.parametrize("shape", [(2, 192, 6), (192, 3), (2, 3, 192)])
def test_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, N, 3\), got"):
        pointmlp_elite(5)(torch.zeros(shape))


def test_too_few_points_names_the_stage() -> None:
    with pytest.raises(ValueError, match=r"191 points .* too few: stage 4 groups 24 neighbours, and only 23"):
        pointmlp_elite(5)(clouds(2, 191))


def test_stage_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry per stage each, got 4, 3, 4, 4"):
        PointMLP(pre_blocks=(1, 1, 1))
