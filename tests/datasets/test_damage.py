"""Random damage to training batches: each kind by its definition, what stays whole, and its settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from bixt3d.config import Config, override
from bixt3d.datasets.augment import choose_points, parallel_turns, rotate_up, turn_parallel, without_lost
from bixt3d.datasets.damage import PLACES, add_noise, add_strays, bend, damage, lost_points, tilt
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.tasks.changes import configured_changes


def seeded(seed: int = 5) -> Generator:
    return Generator().manual_seed(seed)


def clouds(batch: int = 40, count: int = 64, channels: int = 3) -> Tensor:
    points = torch.randn(batch, count, 6, generator=seeded(1))
    return torch.cat([unit_sphere(points[..., :3]), F.normalize(points[..., 3:], dim=-1)], -1)[..., :channels]


KINDS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "tilt": lambda points, generator: tilt(points, 30, 0.5, generator),
    "bend": lambda points, generator: bend(points, 0.5, 0.5, generator),
    "noise": lambda points, generator: add_noise(points, 0.05, 0.5, generator),
    "strays": lambda points, generator: add_strays(
        points, generator, strays=0.3, clusters=0.0, probability=0.5
    ),
    "clusters": lambda points, generator: add_strays(
        points, generator, strays=0.0, clusters=0.3, probability=0.5
    ),
    "axes": lambda points, generator: turn_parallel(points, False, generator, turned=0.5),
    "rotate_up": lambda points, generator: rotate_up(points, 180, generator, turned=0.5),
}


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_pure_and_by_the_generator_alone(kind: Callable[..., Tensor], channels: int) -> None:
    points = clouds(channels=channels)
    before, state = points.clone(), torch.random.get_rng_state()
    once = kind(points, seeded())
    assert points.equal(before) and torch.random.get_rng_state().equal(state)
    assert once.equal(kind(points, seeded())) and not once.equal(kind(points, seeded(6)))
    assert once.shape == points.shape and once.dtype == points.dtype
    if channels == 6:
        torch.testing.assert_close(once[..., 3:].norm(dim=-1), torch.ones(once.shape[:2]))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_about_every_second_cloud_stays_whole(kind: Callable[..., Tensor]) -> None:
    points = clouds(400)
    same = torch.isclose(kind(points, seeded()), points, atol=1e-6).all(2).all(1)
    assert 0.38 < float(same.float().mean()) < 0.62


def test_tilt_turns_up_to_its_degrees() -> None:
    points = clouds(300)
    turned = tilt(points, 20, 1.0, seeded())
    rows = torch.linalg.lstsq(points, turned).solution.transpose(1, 2)  # (B, 3, 3)
    torch.testing.assert_close(
        rows @ rows.transpose(1, 2), torch.eye(3).expand(300, -1, -1), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(torch.linalg.det(rows), torch.ones(300), atol=1e-4, rtol=0)
    # Rz Ry Rx: y's angle is in the lowest left corner, and those of x and z beside it
    about_y = -rows[:, 2, 0].asin().rad2deg()
    about_x = torch.atan2(rows[:, 2, 1], rows[:, 2, 2]).rad2deg()
    about_z = torch.atan2(rows[:, 1, 0], rows[:, 0, 0]).rad2deg()
    for angle in (about_x, about_y, about_z):
        assert 15 < float(angle.abs().max()) <= 20.01 and abs(float(angle.mean())) < 2


def test_bends_keep_lengths_within_their_share_and_normals_upright() -> None:
    points, step = clouds(50, 100, 6).double(), 1e-6
    normal = points[..., 3:]
    along = F.normalize(
        torch.linalg.cross(normal, torch.randn(normal.shape, generator=seeded(3)).double()), dim=-1
    )
    bent = bend(points, 0.9, 1.0, seeded())
    beside = bend(torch.cat([points[..., :3] + step * along, normal], -1), 0.9, 1.0, seeded())
    moved = (beside - bent)[..., :3] / step  # (B, N, 3), what becomes of the step along the surface
    length = moved.norm(dim=-1)
    assert 0.1 < float(length.min()) < 0.7 and 1.3 < float(length.max()) < 1.9
    assert float((moved * bent[..., 3:]).sum(-1).abs().max()) < 1e-5
    assert float((bent[..., 3:] * normal).sum(-1).min()) > 0  # none is turned inside out
    unknown = torch.cat([points[..., :3], torch.zeros_like(normal)], -1)
    assert bend(unknown, 0.9, 1.0, seeded()).equal(torch.cat([bent[..., :3], torch.zeros_like(normal)], -1))


def test_noise_is_of_a_deviation_a_cloud() -> None:
    points = clouds(200, 500)
    std = (add_noise(points, 0.05, 1.0, seeded()) - points).std(dim=(1, 2))
    assert float(std.max()) < 0.053 and float(std.min()) < 0.004 and 0.02 < float(std.mean()) < 0.03


def test_missing_points_are_anywhere() -> None:
    points = clouds(300, 200)
    lost = lost_points(points, seeded(), missing=0.6, holes=0.0, probability=1.0).float().mean(1)
    assert 0.27 < float(lost.mean()) < 0.33 and 0.5 < float(lost.max()) < 0.72


def test_holes_are_the_nearest_of_few_points() -> None:
    points = clouds(60, 200)
    lost = lost_points(points, seeded(), missing=0.0, holes=0.5, probability=1.0)
    share = lost.float().mean(1)
    assert 0.2 < float(share.mean()) < 0.3 and float(share.max()) <= 0.5
    apart = torch.cdist(points, points)
    for cloud, gone in zip(apart, lost, strict=True):
        left = (~gone).nonzero().flatten()
        # the largest balls about a point without any that stays cover what is lost
        radius = cloud[:, left].amin(1)  # (N,), of each point to the nearest that stays
        covered, holes = torch.zeros_like(gone), 0
        while not covered[gone].all() and holes <= 4 * PLACES:
            ball = (cloud < radius[:, None]) & gone & ~covered
            covered, holes = covered | ball[ball.sum(1).argmax()], holes + 1
        assert holes <= 4 * PLACES
    sizes = [int(gone.sum()) for gone in lost]
    assert len(set(sizes)) > 20


def test_a_point_stays_in_any_case() -> None:
    lost = lost_points(clouds(50, 2), seeded(), missing=0.99, holes=0.99, probability=1.0)
    assert not lost.all(1).any()


def test_what_is_left_begins_again() -> None:
    order = torch.tensor([[3, 1, 0, 2]])
    lost = torch.tensor([[False, True, False, False]])
    assert without_lost(order, lost, 7).tolist() == [[3, 0, 2, 3, 0, 2, 3]]
    points = clouds(2, 50)
    index = choose_points(
        points, seeded(), num_points=40, lose=lambda given, generator: torch.arange(50).expand(2, -1) >= 30
    )
    assert index is not None and index.tolist() == [[*range(30), *range(10)]] * 2


def test_clusters_are_about_points_of_the_cloud() -> None:
    points = clouds(100, 400)
    changed = add_strays(points, seeded(), strays=0.0, clusters=0.4, probability=1.0)
    moved = (changed != points).any(2)
    assert 0.17 < float(moved.float().mean()) < 0.23 and float(moved.float().mean(1).max()) < 0.47
    assert changed[~moved].equal(points[~moved])
    apart = torch.cdist(changed, points).amin(2)[moved]
    assert 0.02 < float(apart.mean()) < 0.15


def test_strays_are_even_in_the_ball() -> None:
    points = 3 * clouds(100, 400)
    changed = add_strays(points, seeded(), strays=0.4, clusters=0.0, probability=1.0)
    radius = changed.norm(dim=-1)[(changed != points).any(2)] / 3
    assert float(radius.max()) <= 1 + 1e-6
    torch.testing.assert_close(radius.pow(3).mean(), torch.tensor(0.5), atol=0.02, rtol=0)


def test_parallel_turns_are_the_24() -> None:
    turns = parallel_turns()
    assert len({tuple(rows.flatten().tolist()) for rows in turns}) == len(turns) == 24
    assert turns[0].equal(torch.eye(3)) and set(turns.unique().tolist()) == {-1.0, 0.0, 1.0}
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(24))
    quarter = parallel_turns(up=True)
    assert len(quarter) == 4 and (quarter @ torch.tensor([0.0, 1, 0])).equal(torch.tensor([[0.0, 1, 0]] * 4))


def test_every_parallel_turn_is_drawn_and_takes_normals() -> None:
    points = clouds(2000, 5, 6)
    turned = turn_parallel(points, False, seeded())
    fits = torch.isclose(
        torch.einsum("tij,bnj->btni", parallel_turns(), points[..., :3]), turned[:, None, :, :3]
    )
    which = fits.all(3).all(2).float().argmax(1)
    counts = which.bincount(minlength=24)
    assert int(counts.min()) > 50 and int(counts.max()) < 120
    normals = torch.einsum("bij,bnj->bni", parallel_turns()[which], points[..., 3:])
    torch.testing.assert_close(turned[..., 3:], normals)


def test_refit_comes_before_noise_and_strays() -> None:
    points = 2 * clouds() + 1
    torch.testing.assert_close(damage(points, seeded(), refit=True), unit_sphere(points))
    assert damage(points, seeded()) is points
    noisy = damage(points, seeded(), refit=True, noise=0.05)
    assert float((noisy - unit_sphere(points)).abs().max()) < 0.3


def test_settings_switch_each_kind_on() -> None:
    points = clouds()
    off = {"scale_low": 1, "scale_high": 1, "shift": 0}
    assert configured_changes(override(Config(), augment=off), ())(points, seeded()).equal(points)
    changes = {"tilt": 20, "bend": 0.5, "noise": 0.1, "strays": 0.2, "clusters": 0.2, "refit": True}
    for name, value in [*changes.items(), ("turn", "axes"), ("turn", "quarter")]:
        config = override(Config(), augment={**off, name: value})
        assert not configured_changes(config, ())(2 * points, seeded()).equal(2 * points), name
    with pytest.raises(ValueError, match=r"augment.holes: expected 0 <= value < 1, got 1"):
        override(Config(), augment={"holes": 1})
    with pytest.raises(ValueError, match=r"augment.turned: expected 0 <= value <= 1, got 2"):
        override(Config(), augment={"turned": 2})
    with pytest.raises(ValueError, match=r"augment.turn: expected one of none, quarter, axes, got 'all'"):
        override(Config(), augment={"turn": "all"})
