"""ModelNet-C and ModelNet40-C: each corruption by its published definition, and the scores made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import Generator, Tensor

from benchmarks import modelnet40_c, suite_scores, suites
from benchmarks.modelnet_c import without_clusters
from benchmarks.suites import LEVELS, SUITES
from bixt3d.datasets.spheres import unit_sphere

C, C40 = SUITES["modelnet-c"], SUITES["modelnet40-c"]
COUNTS = {  # points that clouds of 1,024 end with, at levels 1 to 5
    "drop-global": [768, 640, 512, 384, 256],
    "drop-local": [924, 824, 724, 624, 524],
    "add-global": [1034, 1044, 1054, 1064, 1074],
    "add-local": [1124, 1224, 1324, 1424, 1524],
    "background": [1024 + n for n in (22, 25, 29, 34, 51)],
    "upsampling": [1024 + n for n in (204, 256, 341, 512, 1024)],
    "cutout": [964, 934, 874, 814, 724],
    "density-dec": [949, 874, 799, 724, 649],
    "lidar": [768] * 5,
}


@pytest.fixture(scope="module")
def clouds() -> Tensor:
    return unit_sphere(torch.randn(24, 1024, 3, generator=Generator().manual_seed(0)).clamp(-2, 2))


def changed(suite: suites.Suite, clouds: Tensor, name: str, level: int) -> Tensor:
    return suite.damage(clouds, name, level) - clouds


@pytest.mark.parametrize("suite", [C, C40], ids=["modelnet-c", "modelnet40-c"])
def test_the_same_every_time_pure_and_of_so_many_points(suite: suites.Suite, clouds: Tensor) -> None:
    few, before = clouds[:3], clouds[:3].clone()
    assert len(suite.corruptions) == {7: 7, 15: 15}[len(suite.corruptions)]
    for name in suite.corruptions:
        for level in LEVELS:
            torch.manual_seed(level)
            once = suite.damage(few, name, level)
            assert once.shape == (3, COUNTS.get(name, [1024] * 5)[level - 1], 3), name
            assert torch.isfinite(once).all() and once.dtype == torch.float32
            torch.manual_seed(level + 1)
            assert once.equal(suite.damage(few, name, level)) and few.equal(before)


def test_scale_is_anisotropic_and_in_the_unit_sphere_again(clouds: Tensor) -> None:
    found = C.damage(clouds, "scale", 5)
    torch.testing.assert_close(found.norm(dim=-1).amax(1), torch.ones(24))
    factors = torch.linalg.lstsq(clouds, found).solution
    shape = torch.diagonal(factors, dim1=1, dim2=2)
    ratio = shape.amax(1) / shape.amin(1)
    assert float(ratio.max()) <= 4.01 and float(ratio.max()) > 2


@pytest.mark.parametrize("level", LEVELS)
def test_jitter_and_gaussian_are_normal_noise(clouds: Tensor, level: int) -> None:
    assert float(changed(C, clouds, "jitter", level).std()) == pytest.approx(0.01 * level, rel=0.02)
    inner = 0.5 * clouds
    moved = C40.damage(inner, "gaussian", level) - inner
    assert float(moved.std()) == pytest.approx(0.005 + 0.005 * level, rel=0.02)
    assert float(C40.damage(clouds, "gaussian", level).abs().max()) <= 1


@pytest.mark.parametrize(("suite", "name"), [(C, "rotate"), (C40, "rotation")], ids=["rotate", "rotation"])
def test_turns_are_of_three_axes(clouds: Tensor, suite: suites.Suite, name: str) -> None:
    angles = []
    for level in LEVELS:
        found = suite.damage(clouds, name, level)
        found, own = found - found.mean(1, keepdim=True), clouds - clouds.mean(1, keepdim=True)
        rows = torch.linalg.lstsq(own, found).solution
        rows = rows / torch.linalg.det(rows).abs()[:, None, None] ** (1 / 3)
        torch.testing.assert_close(rows @ rows.mT, torch.eye(3).expand(24, -1, -1), atol=1e-3, rtol=0)
        assert bool((torch.linalg.det(rows) > 0).all())
        cosine = (torch.diagonal(rows, dim1=1, dim2=2).sum(1) - 1) / 2
        angles.append(cosine.clamp(-1, 1).acos().rad2deg())
    if name == "rotate":  # each up to 6 to 30 degrees
        assert all(
            float(angle.max()) <= 6 * level * 3**0.5 + 1 for angle, level in zip(angles, LEVELS, strict=True)
        )
        assert float(angles[4].mean()) > 3.5 * float(angles[0].mean())
    else:  # each 12.5 to 17.5 degrees at the last
        assert float(angles[4].min()) > 12.5 and float(angles[4].max()) < 17.5 * 3**0.5 + 1
        assert float(angles[0].max()) < 5 * 3**0.5 + 1


def test_dropped_points_are_gone_and_the_rest_as_it_was(clouds: Tensor) -> None:
    for suite, name in ((C, "drop-global"), (C, "drop-local"), (C40, "cutout"), (C40, "density-dec")):
        found = suite.damage(clouds[:4], name, 3)
        for cloud, own in zip(found.tolist(), clouds.tolist(), strict=False):
            assert len({*map(tuple, cloud)}) == len(cloud) and {*map(tuple, cloud)} <= {*map(tuple, own)}


def test_a_cluster_is_the_nearest_points() -> None:
    cloud = torch.rand(1, 200, 3, generator=Generator().manual_seed(1))
    found = without_clusters(cloud, torch.tensor([[30]]), Generator().manual_seed(2))[0]
    gone = torch.stack([point for point in cloud[0] if not (found == point).all(1).any()])
    assert len(gone) == 30
    # one of them is the centre: its 29 nearest are the others
    apart = torch.cdist(gone, cloud[0])
    assert (
        any(
            {*apart[i].topk(30, largest=False).values.tolist()} == {*torch.cdist(gone, gone)[i].tolist()}
            for i in range(30)
        )
        or min(
            float(apart[i].topk(30, largest=False).values[-1] - torch.cdist(gone, gone)[i].max())
            for i in range(30)
        )
        > -1e-5
    )
    part = without_clusters(cloud, torch.tensor([[40]]), Generator().manual_seed(2), kept=0.25)
    assert part.shape == (1, 170, 3)


def test_added_points_are_in_the_ball(clouds: Tensor) -> None:
    even = C.damage(clouds, "add-global", 5)[:, 1024:]
    assert float(even.norm(dim=-1).max()) <= 1
    assert float(even.norm(dim=-1).pow(3).mean()) == pytest.approx(0.5, abs=0.03)
    near = C.damage(clouds, "add-local", 5)
    assert near[:, :1024].equal(clouds) and float(near[:, 1024:].norm(dim=-1).max()) <= 1 + 1e-6
    # about few places: 500 points fill less of the ball than the cloud's own do
    places = [len(torch.unique((cloud * 4).round(), dim=0)) for cloud in near[:, 1024:]]
    assert np.mean(places) < 150


def test_background_is_even_in_the_cube(clouds: Tensor) -> None:
    flat = 0.5 * clouds  # so that what is added reaches farther than the cloud
    found = C40.damage(flat, "background", 5)
    added = found[:, 1024:]
    assert float(added.abs().amax((1, 2)).min()) > 0.95
    low, high = found.amin(1), found.amax(1)
    torch.testing.assert_close(low + high, torch.zeros(24, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close((high - low).amax(1), torch.full((24,), 2.0))


def test_impulse_moves_some_by_a_tenth_an_axis(clouds: Tensor) -> None:
    found = C40.damage(clouds, "impulse", 5)
    # the box afterwards scales and shifts all alike: most pairs of points, which were not moved, say how
    ratio = (found - found.roll(1, 1)) / (clouds - clouds.roll(1, 1))
    scale = ratio.flatten(1).nanmedian(1).values[:, None, None]
    moved = found / scale - clouds
    moved = moved - moved.median(1, keepdim=True).values
    hit = moved.abs().amax(2) > 0.05  # (B, N)
    assert hit.sum(1).tolist() == [102] * 24
    torch.testing.assert_close(moved[hit].abs(), torch.full((24 * 102, 3), 0.1), atol=2e-3, rtol=0)


def test_density_inc_keeps_dense_clusters(clouds: Tensor) -> None:
    found = C40.damage(clouds, "density-inc", 5)
    for cloud, own in zip(found.tolist(), clouds.tolist(), strict=True):
        assert {*map(tuple, cloud)} <= {*map(tuple, own)}
    first = found[:, :100]
    assert float((first - first[:, :1]).norm(dim=-1).amax(1).mean()) < 0.6 * float(
        (clouds - clouds[:, :1]).norm(dim=-1).mean()
    )


def test_shear_leaves_y_to_x_and_z_to_y(clouds: Tensor) -> None:
    found = C40.damage(clouds, "shear", 5)
    found, own = found - found.mean(1, keepdim=True), clouds - clouds.mean(1, keepdim=True)
    rows = torch.linalg.lstsq(own, found).solution
    rows = rows / rows[:, :1, :1]
    torch.testing.assert_close(torch.diagonal(rows, dim1=1, dim2=2), torch.ones(24, 3), atol=1e-3, rtol=0)
    for place in ((0, 2), (1, 0), (2, 0)):
        share = rows[:, place[0], place[1]].abs()
        assert 0.19 < float(share.min()) and float(share.max()) < 0.31
    for place in ((0, 1), (1, 2), (2, 1)):
        assert float(rows[:, place[0], place[1]].abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("name", "kernel"), [("radial", "multiquadric"), ("radial-inverse", "inverse_multiquadric")]
)
def test_radial_functions_as_scipy_has_them(name: str, kernel: str) -> None:
    points = unit_sphere(torch.randn(1, 60, 3, generator=Generator().manual_seed(4)))
    level, generator = 4, Generator().manual_seed(9)
    alpha, gamma = (2 * torch.rand(2, 1, 125, generator=Generator().manual_seed(9)) - 1) * math.pi
    way = torch.stack([alpha.cos() * gamma.sin(), alpha.sin() * gamma.sin(), gamma.cos()], -1)[0]
    line = np.linspace(-1, 1, 5)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    # scipy's are of epsilon r: sqrt(1 + (2 r)^2) is twice sqrt(0.5^2 + r^2)
    shift = RBFInterpolator(grid, 0.025 * level * way.double().numpy(), kernel=kernel, epsilon=2, degree=1)
    moved = points.double() + torch.from_numpy(shift(points[0].double().numpy()))
    expected = modelnet40_c.in_box(moved.float())
    found = C40.corruptions[name](points, level, generator)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_free_form_is_a_bernstein_polynomial(clouds: Tensor) -> None:
    corner = torch.tensor([[[-1.0, -1, -1], [1, 1, 1], [1, -1, 1], [0, 0, 0]]])
    moved = 2 * (0.6 * torch.rand(1, 5, 5, 5, 3, generator=Generator().manual_seed(3)) - 0.3)
    weight = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    centre = torch.einsum("i,j,k,ijkc->c", weight, weight, weight, moved[0])
    ends = torch.stack([moved[0, 0, 0, 0], moved[0, 4, 4, 4], moved[0, 4, 0, 4], centre])
    expected = modelnet40_c.in_box(corner + ends)
    found = modelnet40_c.free_form(corner, 3, Generator().manual_seed(3))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_is_seen_is_on_this_side() -> None:
    ball = torch.randn(2, 1024, 3, generator=Generator().manual_seed(0))
    ball = ball / ball.norm(dim=-1, keepdim=True)
    for level in LEVELS:
        seen, places = modelnet40_c._view(ball, level, (30, 60), 3, Generator().manual_seed(level))
        torch.testing.assert_close(places.norm(dim=-1), torch.full((2,), 3.0))
        rise = (places[:, 1] / 3).asin().rad2deg()
        assert bool(((rise >= 30) & (rise <= 60)).all())
        # of a ball of radius 1 one sees from 3 away what is above a third of the way
        height = (seen * places[:, None] / 3).sum(-1)
        assert float(height.min()) > 0.15


def test_rings_of_a_scanner() -> None:
    ball = torch.randn(1, 1024, 3, generator=Generator().manual_seed(0))
    ball = ball / ball.norm(dim=-1, keepdim=True)
    found = modelnet40_c.lidar(ball, 2, Generator().manual_seed(1))[0]
    _, places = modelnet40_c._view(ball, 2, (22.5, 22.5), 5, Generator().manual_seed(1))
    assert found.shape == (768, 3) and len(torch.unique(found, dim=0)) < 400
    torch.testing.assert_close(places[0, 1] / 5, torch.tensor(math.sin(math.pi / 8)))


def test_errors_in_units_of_dgcnn() -> None:
    found = {
        name: {"ours": [value] * 5, "perfect": [1.0] * 5} for name, value in (C.references or {}).items()
    }
    assert suite_scores.mean_error(C, found, "ours") == pytest.approx(1)
    assert suite_scores.mean_error(C, found, "perfect") == 0
    rows = suite_scores.table(C, {"ours": 0.926, "perfect": 1.0}, found)
    assert rows[1] == ["none", "92.60", "100.00"] and rows[-1] == ["**mCE**", "1.000", "0.000"]
    other = {name: {"ours": [0.5, 0.6, 0.7, 0.8, 0.9]} for name in C40.corruptions}
    assert suite_scores.mean_error(C40, other, "ours") == pytest.approx(0.3)
    assert suite_scores.table(C40, {"ours": 0.9}, other)[-1] == ["**error**", "30.00"]
    assert suite_scores.levels({"ours": 0.9}, other)[2] == ["occlusion", "1", "50.00"]
