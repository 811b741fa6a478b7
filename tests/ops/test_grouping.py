"""Affine grouping: a case computed by hand, a numpy twin, published numbers, gradients, clear errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bixt3d.ops import affine_group, farthest_point_sample, gather_points, knn, linear_of_affine_group
from tests.markers import fixtures_dir, needs_cuda, needs_fixtures

MODES = [(center, use_xyz) for center in ("anchor", "center") for use_xyz in (False, True)]

# Three points on a line. Anchors: 0, then 2 (the farthest). Nearest two: {0, 1} of 0 and {2, 1} of 2.
XYZ = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [4, 0, 0]]], dtype=torch.float64)
FEATURES = torch.tensor([[[1.0], [3], [8]]], dtype=torch.float64)


def ones_and_zeros(channels: int, **kind: Any) -> tuple[Tensor, Tensor]:
    return torch.ones(channels, **kind), torch.zeros(channels, **kind)


def twin(
    xyz: NDArray[Any],
    features: NDArray[Any],
    num_groups: int,
    k: int,
    alpha: NDArray[Any],
    beta: NDArray[Any],
    center: str,
    use_xyz: bool,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """One cloud, one group after another."""
    chosen = [0]
    while len(chosen) < num_groups:
        chosen.append(int(((xyz[:, None] - xyz[chosen]) ** 2).sum(-1).min(1).argmax()))
    source = np.concatenate([features, xyz], -1) if use_xyz else features
    offsets, anchors = [], []
    for anchor in chosen:
        members = source[((xyz - xyz[anchor]) ** 2).sum(-1).argsort(kind="stable")[:k]]
        offsets.append(members - (source[anchor] if center == "anchor" else members.mean(0)))
        anchors.append(np.tile(features[anchor], (k, 1)))
    stacked = np.stack(offsets)
    normalised = alpha * stacked / (stacked.std(ddof=1) + 1e-5) + beta
    return xyz[chosen], np.concatenate([normalised, np.stack(anchors)], -1)


@pytest.mark.parametrize(
    ("center", "offsets", "sigma"),
    [
        # the mean of 0, 2, 0, -5 is -0.75; their squared deviations sum to 26.75
        ("anchor", [[0.0, 2.0], [0.0, -5.0]], (26.75 / 3) ** 0.5),
        # the means of the groups are 2 and 5.5; the squares sum to 14.5
        ("center", [[-1.0, 1.0], [2.5, -2.5]], (14.5 / 3) ** 0.5),
    ],
)
def test_computed_by_hand(center: str, offsets: list[list[float]], sigma: float) -> None:
    alpha, beta = torch.tensor([3.0]).double(), torch.tensor([0.25]).double()
    new_xyz, grouped = affine_group(XYZ, FEATURES, 2, 2, alpha, beta, center=center)
    assert new_xyz.tolist() == [[[0, 0, 0], [4, 0, 0]]]
    expected = 3 * torch.tensor(offsets).double() / (sigma + 1e-5) + 0.25
    torch.testing.assert_close(grouped[0, ..., 0], expected)
    assert grouped[0, ..., 1].tolist() == [[1, 1], [8, 8]]


@pytest.mark.parametrize(("center", "use_xyz"), MODES)
@pytest.mark.parametrize(("num_groups", "k"), [(1, 5), (20, 20), (7, 4), (20, 1)])
def test_agrees_with_the_twin(center: str, use_xyz: bool, num_groups: int, k: int) -> None:
    xyz, features = torch.randn(3, 20, 3, dtype=torch.float64), torch.randn(3, 20, 4, dtype=torch.float64)
    alpha, beta = torch.randn(2, 4 + 3 * use_xyz, dtype=torch.float64)
    new_xyz, grouped = affine_group(xyz, features, num_groups, k, alpha, beta, center, use_xyz)
    assert new_xyz.shape == (3, num_groups, 3)
    assert grouped.shape == (3, num_groups, k, 8 + 3 * use_xyz)
    for b in range(3):
        arrays = [tensor.numpy() for tensor in (xyz[b], features[b], alpha, beta)]
        anchors, expected = twin(*arrays[:2], num_groups, k, *arrays[2:], center, use_xyz)
        np.testing.assert_array_equal(new_xyz[b].numpy(), anchors)
        np.testing.assert_allclose(grouped[b].numpy(), expected, rtol=1e-9, atol=1e-9)


@needs_fixtures
@pytest.mark.parametrize(("center", "use_xyz"), MODES)
def test_published_numbers(center: str, use_xyz: bool) -> None:
    mode = f"{center}_{'xyz' if use_xyz else 'noxyz'}"
    with np.load(fixtures_dir() / "pointmlp_grouping.npz") as numbers:
        xyz, features, alpha, beta = (
            torch.from_numpy(numbers[name]) for name in ("xyz", "features", f"{mode}_alpha", f"{mode}_beta")
        )
        groups, k = int(numbers["num_groups"]), int(numbers["k"])
        new_xyz, grouped = affine_group(xyz, features, groups, k, alpha, beta, center=center, use_xyz=use_xyz)
        np.testing.assert_array_equal(new_xyz.numpy(), numbers["new_xyz"])
        np.testing.assert_allclose(grouped.numpy(), numbers[f"{mode}_grouped"], rtol=1e-4, atol=1e-4)


def test_anchor_without_xyz_by_default() -> None:
    xyz, features = torch.randn(2, 30, 3), torch.randn(2, 30, 4)
    plain = affine_group(xyz, features, 8, 5, *ones_and_zeros(4))
    named = affine_group(xyz, features, 8, 5, *ones_and_zeros(4), center="anchor", use_xyz=False)
    assert plain[1].equal(named[1])
    assert plain[1][:, :, 0, :4].abs().max() == 0  # the nearest neighbour of an anchor is the anchor


def test_one_standard_deviation_per_cloud() -> None:
    xyz = torch.randn(3, 50, 3)
    features = torch.randn(3, 50, 6) * torch.tensor([1.0, 100.0, 0.01])[:, None, None]
    new_xyz, grouped = affine_group(xyz, features, 16, 8, *ones_and_zeros(6))
    spread = grouped[..., :6].flatten(1).std(1)
    torch.testing.assert_close(spread, torch.ones(3), rtol=2e-3, atol=0)
    for b in range(3):
        alone = affine_group(xyz[b : b + 1], features[b : b + 1], 16, 8, *ones_and_zeros(6))
        torch.testing.assert_close(new_xyz[b : b + 1], alone[0])
        torch.testing.assert_close(grouped[b : b + 1], alone[1])


def test_alpha_and_beta_may_carry_leading_ones() -> None:
    xyz, features = torch.randn(2, 30, 3), torch.randn(2, 30, 4)
    alpha, beta = torch.randn(2, 4)
    flat = affine_group(xyz, features, 8, 5, alpha, beta)[1]
    shaped = affine_group(xyz, features, 8, 5, alpha.view(1, 1, 1, 4), beta.view(1, 1, 1, 4))[1]
    assert flat.equal(shaped)


@pytest.mark.parametrize(("center", "use_xyz"), MODES)
def test_gradients(center: str, use_xyz: bool) -> None:
    def group(xyz: Tensor, features: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        return affine_group(xyz, features, 3, 4, alpha, beta, center=center, use_xyz=use_xyz)

    channels = 2 + 3 * use_xyz
    shapes = [(2, 7, 3), (2, 7, 2), (channels,), (channels,)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(group, inputs)


@pytest.mark.parametrize("center", ["anchor", "center"])
def test_identical_points_stay_finite(center: str) -> None:
    xyz, features = torch.ones(2, 10, 3), torch.ones(2, 10, 4, requires_grad=True)
    alpha, beta = (tensor.requires_grad_() for tensor in ones_and_zeros(4))
    grouped = affine_group(xyz, features, 4, 3, alpha, beta, center=center)[1]
    assert grouped[..., :4].abs().max() == 0
    grouped.sum().backward()
    for tensor in (features, alpha, beta):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@needs_cuda
@pytest.mark.parametrize(("center", "use_xyz"), MODES)
def test_cuda_agrees_with_the_cpu(center: str, use_xyz: bool) -> None:
    xyz, features = torch.randn(2, 100, 3), torch.randn(2, 100, 8)
    alpha, beta = torch.randn(2, 8 + 3 * use_xyz)
    expected = affine_group(xyz, features, 25, 8, alpha, beta, center, use_xyz)
    found = affine_group(
        *(t.cuda() for t in (xyz, features)), 25, 8, alpha.cuda(), beta.cuda(), center, use_xyz
    )
    for tensor, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor.cpu(), wanted)


class TestErrors:
    def call(self, **changed: Any) -> None:
        given: dict[str, Any] = {
            "xyz": torch.rand(2, 10, 3),
            "features": torch.rand(2, 10, 4),
            "num_groups": 5,
        }
        alpha, beta = ones_and_zeros(4)
        affine_group(**{**given, "k": 3, "alpha": alpha, "beta": beta, **changed})

    def test_the_unchanged_call_is_fine(self) -> None:
        self.call()

    @pytest.mark.parametrize("which", ["xyz", "features"])
    def test_not_clouds(self, which: str) -> None:
        for bad in (torch.rand(10, 3), torch.zeros(2, 10, 3, dtype=torch.int64), torch.rand(2, 0, 3), None):
            with pytest.raises(ValueError, match=f"{which}: expected .*floating-point"):
                self.call(**{which: bad})

    def test_six_channels_are_no_xyz(self) -> None:
        with pytest.raises(ValueError, match=r"xyz: expected .*\(B, N, 3\).*got .*\(2, 10, 6\)"):
            self.call(xyz=torch.rand(2, 10, 6))

    @pytest.mark.parametrize("which", ["xyz", "features"])
    def test_the_cloud_with_a_bad_value_is_named(self, which: str) -> None:
        bad = torch.rand(2, 10, 3 if which == "xyz" else 4)
        bad[1, 5, 0] = float("nan")
        with pytest.raises(ValueError, match=f"{which}: .*cloud 1 of the batch holds NaN or infinity"):
            self.call(**{which: bad})

    @pytest.mark.parametrize("shape", [(2, 9, 4), (1, 10, 4)])
    def test_one_feature_for_each_point(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="xyz and features must agree in their first 2 sizes"):
            self.call(features=torch.rand(shape))

    @pytest.mark.parametrize("num_groups", [0, 11])
    def test_number_of_groups(self, num_groups: int) -> None:
        with pytest.raises(ValueError, match=rf"num_groups: expected 1 to 10 .*, got {num_groups}"):
            self.call(num_groups=num_groups)

    @pytest.mark.parametrize("k", [0, 11])
    def test_number_of_neighbours(self, k: int) -> None:
        with pytest.raises(ValueError, match=rf"k: expected 1 to 10 .*, got {k}"):
            self.call(k=k)

    @pytest.mark.parametrize(("which", "use_xyz"), [("alpha", False), ("beta", False), ("alpha", True)])
    def test_affine_parameters_of_the_wrong_size(self, which: str, use_xyz: bool) -> None:
        wrong = 5 if not use_xyz else 4
        fitting = {"alpha": torch.ones(4 + 3 * use_xyz), "beta": torch.zeros(4 + 3 * use_xyz)}
        with pytest.raises(
            ValueError, match=rf"alpha and beta: expected {4 + 3 * use_xyz} elements.*\({wrong},\)"
        ):
            self.call(**{**fitting, which: torch.ones(wrong)}, use_xyz=use_xyz)

    def test_unknown_center(self) -> None:
        with pytest.raises(ValueError, match="center: expected one of anchor, center, got 'centre'"):
            self.call(center="centre")


class TestLinearOfAffineGroup:
    """The short way to a linear map of the groups equals the long one: group, then map."""

    @pytest.mark.parametrize(("center", "use_xyz"), MODES)
    @pytest.mark.parametrize("with_bias", [False, True])
    def test_equals_grouping_and_mapping(self, center: str, use_xyz: bool, with_bias: bool) -> None:
        xyz, features = torch.randn(2, 40, 3).double(), torch.randn(2, 40, 4).double() + 5
        source = torch.cat([features, xyz], -1) if use_xyz else features
        channels = source.shape[-1]
        alpha, beta = torch.randn(2, channels).double()
        weight = torch.randn(6, channels + 4).double()
        bias = torch.randn(6).double() if with_bias else None
        anchors = farthest_point_sample(xyz, 10)
        index = knn(gather_points(xyz, anchors), xyz, 7)
        grouped = affine_group(xyz, features, 10, 7, alpha, beta, center=center, use_xyz=use_xyz)[1]
        expected = torch.nn.functional.linear(grouped, weight, bias)
        for fused in (False, True):
            found = linear_of_affine_group(
                source, features, anchors, index, alpha, beta, weight, bias, center=center, fused=fused
            )
            torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("center", ["anchor", "center"])
    def test_gradients(self, center: str) -> None:
        anchors = torch.tensor([[0, 3, 5], [1, 2, 6]])
        index = torch.randint(7, (2, 3, 4))

        def mapped(features: Tensor, alpha: Tensor, beta: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return linear_of_affine_group(
                features, features, anchors, index, alpha, beta, weight, bias, center=center
            )

        shapes = [(2, 7, 2), (2,), (2,), (3, 4), (3,)]
        inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        assert torch.autograd.gradcheck(mapped, inputs)
