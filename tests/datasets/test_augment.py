from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import trimesh
from torch import Generator, Tensor

from bixt3d.datasets.augment import (
    augment,
    check_changes,
    choose_points,
    draw_points,
    drop_feature,
    drop_points,
    jitter,
    jitter_feature,
    lay_down,
    mirror,
    mix_clouds,
    rotate_up,
    scale,
    shift,
    shuffle_order,
    thin_points,
)
from bixt3d.ops import farthest_point_sample, gather_points

Change = Callable[[Tensor, Generator], Tensor]


def drop_normals(
    points: Tensor, probability: float, generator: Generator, features: tuple[str, ...] | None = None
) -> Tensor:
    return drop_feature(points, "normal", probability, generator, features)


CHANGES: dict[str, Change] = {
    "scale": lambda points, generator: scale(points, 0.5, 1.5, generator),
    "shift": lambda points, generator: shift(points, 0.2, generator),
    "jitter": lambda points, generator: jitter(points, 0.01, 0.05, generator),
    "rotate_up": lambda points, generator: rotate_up(points, 180.0, generator),
    "mirror": lambda points, generator: mirror(points, 0.5, generator),
    "drop_normals": lambda points, generator: drop_normals(points, 0.5, generator),
    "drop_points": lambda points, generator: gather_points(points, drop_points(points, 0.9, generator)),
    "shuffle_order": lambda points, generator: gather_points(points, shuffle_order(points, generator)),
    "thin_points": lambda points, generator: gather_points(
        points, thin_points(points, points.shape[1], 0.5, generator)
    ),
    "draw_points": lambda points, generator: gather_points(
        points, draw_points(points, None, points.shape[1], generator)
    ),
    "mix_clouds": lambda points, generator: mix_clouds(points, generator, probability=0.9)[0],
    "augment": lambda points, generator: augment(
        points,
        generator,
        scale_low=0.5,
        scale_high=1.5,
        shift_reach=0.2,
        jitter_std=0.01,
        rotate_degrees=180.0,
        normal_dropout=0.5,
    ),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def clouds(batch: int, count: int, channels: int = 3) -> Tensor:
    """Points of norm about 1 that stay away from the axes, with unit normals for six channels."""
    sign = torch.randint(0, 2, (batch, count, channels), generator=seeded(1)) * 2 - 1
    points = sign * (0.2 + torch.rand(batch, count, channels, generator=seeded(2)))  # (B, N, C)
    points[..., 3:] = torch.nn.functional.normalize(points[..., 3:], dim=-1)
    return points


@pytest.mark.parametrize(
    ("name", "channels"), [(name, n) for name in CHANGES for n in (3, 6) if (name, n) != ("drop_normals", 3)]
)
def test_input_and_global_random_state_stay_untouched(name: str, channels: int) -> None:
    change, points = CHANGES[name], clouds(8, 40, channels)
    before, state = points.clone(), torch.get_rng_state()
    out = change(points, seeded())
    assert torch.equal(points, before)
    assert torch.equal(state, torch.get_rng_state())
    assert out.shape == points.shape and out.dtype == points.dtype
    assert not torch.equal(out, points)
    out.zero_()
    assert torch.equal(points, before)


@every_change
def test_generator_alone_decides(change: Change) -> None:
    points = clouds(16, 40, 6)
    torch.manual_seed(1)
    first = change(points, seeded(5))
    torch.manual_seed(2)
    assert torch.equal(first, change(points, seeded(5)))
    assert not torch.equal(first, change(points, seeded(6)))
    running = seeded(5)
    assert torch.equal(first, change(points, running))
    assert not torch.equal(first, change(points, running))


@every_change
def test_double_precision_is_kept(change: Change) -> None:
    assert change(clouds(2, 10, 6).double(), seeded()).dtype == torch.float64


def test_scale_draws_one_factor_for_each_axis_of_each_cloud() -> None:
    points = clouds(400, 7)
    factor = scale(points, 2 / 3, 1.5, seeded()) / points  # (B, N, 3)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    factor = factor[:, 0]  # (B, 3)
    assert factor.min() >= 2 / 3 - 1e-6 and factor.max() <= 1.5 + 1e-6
    assert factor.min() < 0.68 and factor.max() > 1.48  # the whole range is used
    assert factor.mean() == pytest.approx((2 / 3 + 1.5) / 2, abs=0.03)
    correlation = torch.corrcoef(factor.T) - torch.eye(3)
    assert correlation.abs().max() < 0.2  # each axis by itself


def test_shift_moves_a_cloud_as_a_whole() -> None:
    points = clouds(400, 7, 6)
    out = shift(points, 0.2, seeded())
    offset = out[..., :3] - points[..., :3]  # (B, N, 3)
    torch.testing.assert_close(offset, offset[:, :1].expand_as(offset), atol=1e-6, rtol=0)
    offset = offset[:, 0]  # (B, 3)
    assert offset.abs().max() <= 0.2 + 1e-6
    assert offset.min() < -0.19 and offset.max() > 0.19
    assert (torch.corrcoef(offset.T) - torch.eye(3)).abs().max() < 0.2
    assert torch.equal(out[..., 3:], points[..., 3:])


def test_jitter_is_normal_noise_that_is_cut() -> None:
    points = torch.zeros(20, 500, 6)
    points[..., 5] = 1.0
    free = jitter(points, 0.02, 1.0, seeded())
    assert free[..., :3].std() == pytest.approx(0.02, rel=0.03)
    assert abs(free[..., :3].mean()) < 1e-3
    assert torch.equal(free[..., 3:], points[..., 3:])
    cut = jitter(points, 0.02, 0.03, seeded())
    torch.testing.assert_close(cut[..., :3], free[..., :3].clamp(-0.03, 0.03))
    assert cut.min() == pytest.approx(-0.03)


def turn_of(before: Tensor, after: Tensor) -> Tensor:
    """The matrix R with after = before R^T, by least squares: (N, 3), (N, 3) -> (3, 3)."""
    return torch.linalg.lstsq(before, after).solution.T


def test_rotation_is_a_proper_turn_about_y() -> None:
    points = clouds(300, 9, 6).double()
    out = rotate_up(points, 60.0, seeded())
    torch.testing.assert_close(out[..., 1], points[..., 1])
    torch.testing.assert_close(out[..., 4], points[..., 4])
    torch.testing.assert_close(out[..., :3].norm(dim=-1), points[..., :3].norm(dim=-1))
    angles = []
    for before, after in zip(points, out, strict=True):
        turn = turn_of(before[:, :3], after[:, :3])
        torch.testing.assert_close(turn @ turn.T, torch.eye(3).double())
        assert torch.linalg.det(turn) == pytest.approx(1.0)
        torch.testing.assert_close(after[:, 3:], before[:, 3:] @ turn.T)  # normals turn alike
        angles.append(float(torch.rad2deg(torch.atan2(turn[0, 2], turn[0, 0]))))
    assert max(map(abs, angles)) <= 60.0 + 1e-6
    assert min(angles) < -57 and max(angles) > 57


def test_a_full_turn_reaches_every_direction() -> None:
    points = torch.tensor([[[1.0, 0.0, 0.0]]]).expand(400, -1, -1)
    out = rotate_up(points, 180.0, seeded())[:, 0]  # (B, 3)
    quadrant = (out[:, 0] > 0).int() + 2 * (out[:, 2] > 0).int()
    assert torch.bincount(quadrant, minlength=4).min() > 60


@pytest.mark.parametrize("name", ["scale", "rotate_up", "augment"])
def test_normals_are_those_of_the_deformed_surface(name: str) -> None:
    mesh = trimesh.creation.capsule(height=1.0, radius=0.4, count=[16, 16])
    mesh.apply_transform(trimesh.transformations.rotation_matrix(0.7, [1.0, 2.0, 0.5]))
    centres = torch.tensor(mesh.triangles_center)  # (F, 3)
    one = torch.cat([centres, torch.tensor(mesh.face_normals)], -1)  # (F, 6)
    points = one.expand(4, -1, -1)
    changes: dict[str, Change] = {
        **CHANGES,
        "augment": lambda points, generator: augment(
            points, generator, scale_low=0.5, scale_high=2.0, shift_reach=0.3, rotate_degrees=180.0
        ),
    }
    out = changes[name](points, seeded())
    torch.testing.assert_close(out[..., 3:].norm(dim=-1), torch.ones(4, len(one)).double())
    homogeneous = torch.cat([centres, torch.ones(len(one), 1)], -1)  # (F, 4)
    for cloud in out:
        affine = torch.linalg.lstsq(homogeneous, cloud[:, :3]).solution  # (4, 3)
        corners = torch.tensor(mesh.vertices) @ affine[:3] + affine[3]
        deformed = trimesh.Trimesh(corners.numpy(), mesh.faces, process=False)
        torch.testing.assert_close(torch.tensor(deformed.face_normals), cloud[:, 3:])


def test_scale_leaves_missing_normals_zero() -> None:
    points = clouds(2, 5, 6)
    points[..., 3:] = 0.0
    assert torch.equal(scale(points, 0.5, 1.5, seeded())[..., 3:], points[..., 3:])


def test_dropped_points_lie_on_the_first() -> None:
    points = clouds(300, 64, 6)
    out = gather_points(points, drop_points(points, 0.8, seeded()))
    kept = (out == points).all(-1)  # (B, N)
    assert torch.equal(out[~kept], points[:, :1].expand_as(points)[~kept])
    gone = (~kept).float().mean(1)  # (B,)
    assert gone.mean() == pytest.approx(0.4, abs=0.04)
    assert gone.min() < 0.05 and 0.7 < gone.max() < 0.8 + 0.15  # the rate differs from cloud to cloud


def test_shuffle_is_one_permutation() -> None:
    order = shuffle_order(clouds(3, 50), seeded())  # (B, N)
    assert torch.equal(order[0].sort().values, torch.arange(50))
    assert torch.equal(order, order[:1].expand(3, -1)) and not torch.equal(order[0], torch.arange(50))


def test_mirror_flips_x_and_z_of_points_and_normals() -> None:
    points = clouds(400, 6, 6)
    signs = mirror(points, 0.3, seeded()) / points  # (B, N, 6)
    assert torch.equal(signs, signs[:, :1].expand_as(signs)) and set(signs.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(signs[..., :3], signs[..., 3:]) and (signs[..., 1] == 1).all()
    gone = (signs[:, 0, [0, 2]] < 0).float()  # (B, 2)
    torch.testing.assert_close(gone.mean(0), torch.full((2,), 0.3), atol=0.07, rtol=0)
    assert abs(float(torch.corrcoef(gone.T)[0, 1])) < 0.15  # each axis by itself


def test_normals_of_a_cloud_go_together() -> None:
    points = clouds(400, 5, 6)
    out = drop_normals(points, 0.3, seeded())
    assert torch.equal(out[..., :3], points[..., :3])
    gone = (out[..., 3:] == 0).flatten(1).all(1)  # (B,)
    assert torch.equal(out[~gone], points[~gone])
    assert gone.float().mean() == pytest.approx(0.3, abs=0.07)
    assert torch.equal(drop_normals(points[..., :3], 0.99, seeded()), points[..., :3])  # there are none


def test_a_draw_takes_a_clouds_own_points_first() -> None:
    count = torch.tensor([3, 10, 20])
    index = draw_points(clouds(3, 20), count, 8, seeded())
    assert index.shape == (3, 8)
    for row, own in zip(index, count.tolist(), strict=True):
        assert len(set(row.tolist())) == 8  # rows of the cloud, none twice
        assert int((row < own).sum()) == min(own, 8)
    assert not torch.equal(index, draw_points(clouds(3, 20), count, 8, seeded(1)))


def test_a_draw_is_even() -> None:
    index = draw_points(clouds(4000, 10), None, 4, seeded())
    share = torch.bincount(index.flatten(), minlength=10) / 4000
    torch.testing.assert_close(share, torch.full((10,), 0.4), atol=0.04, rtol=0)


def test_choices_follow_each_other() -> None:
    points, count = clouds(5, 30), torch.full((5,), 30)
    settings = {"num_points": 12, "draw": True, "dropout": 0.5, "shuffle": True}
    index = choose_points(points, seeded(), count, **settings)  # type: ignore[arg-type]
    generator = seeded()
    drawn = draw_points(points, count, 12, generator)
    dropped = drop_points(points[:, :12], 0.5, generator)
    order = shuffle_order(points[:, :12], generator)
    expected = drawn.gather(1, dropped).gather(1, order)
    assert index is not None and torch.equal(index, expected)


def test_nothing_to_choose_is_none() -> None:
    generator = seeded()
    before = generator.get_state()
    assert choose_points(clouds(2, 5), generator) is None
    assert torch.equal(generator.get_state(), before)


def test_nothing_switched_on_changes_nothing() -> None:
    points, generator = clouds(2, 5), seeded()
    before = generator.get_state()
    assert torch.equal(augment(points, generator), points)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("settings", "alone"),
    [
        ({"rotate_degrees": 30.0}, lambda p, g: rotate_up(p, 30.0, g)),
        ({"scale_low": 0.5}, lambda p, g: scale(p, 0.5, 1.0, g)),
        ({"scale_high": 1.5}, lambda p, g: scale(p, 1.0, 1.5, g)),
        ({"shift_reach": 0.1}, lambda p, g: shift(p, 0.1, g)),
        ({"jitter_std": 0.1, "jitter_clip": 0.02}, lambda p, g: jitter(p, 0.1, 0.02, g)),
        ({"mirror_probability": 0.5}, lambda p, g: mirror(p, 0.5, g)),
        ({"normal_dropout": 0.5}, lambda p, g: drop_normals(p, 0.5, g)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_setting_switches_its_change_on(settings: dict[str, float], alone: Change) -> None:
    points = clouds(3, 20, 6)
    assert torch.equal(augment(points, seeded(), **settings), alone(points, seeded()))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 4), (2, 5), (2, 2, 5, 3), (3,)])
def test_augment_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, N, 3\) or \(B, N, 6\), .*got \("):
        augment(torch.rand(shape), seeded(), scale_low=0.5)


def test_thinning_keeps_points_of_each_cloud_in_their_order() -> None:
    number = torch.arange(40.0) + 100 * torch.arange(3)[:, None]  # (3, 40)
    points = number[..., None].expand(-1, -1, 3)  # (3, 40, 3)
    kept = gather_points(points, thin_points(points, 16, 0.5, seeded()))
    assert kept.shape == (3, 16, 3)
    steps = kept[:, 1:, 0] - kept[:, :-1, 0]
    assert bool((steps > 0).all())  # in order, none twice
    for cloud in range(3):
        assert set(kept[cloud, :, 0].tolist()) <= set(points[cloud, :, 0].tolist())
    again = gather_points(points, thin_points(points, 16, 0.5, seeded(1)))
    assert not torch.equal(kept, again)


def test_thinning_fills_up_from_those_passed_over() -> None:
    points = torch.randn(4, 10, 3)
    kept = gather_points(points, thin_points(points, 10, 0.99, seeded()))
    torch.testing.assert_close(kept.sort(1).values, points.sort(1).values)


def test_thinning_by_nothing_takes_the_first() -> None:
    index = choose_points(torch.randn(2, 10, 6), seeded(), num_points=4)
    assert index is not None and torch.equal(index, torch.arange(4).expand(2, -1))


def mixed_one_by_one(points: Tensor, probability: float, generator: Generator) -> tuple[Tensor, ...]:
    """What `mix_clouds` does, cloud by cloud and point by point."""
    batch, count, _ = points.shape
    ring = torch.randperm(batch, generator=generator).tolist()
    chance = torch.rand(batch, 1, generator=generator).tolist()
    rate = torch.rand(batch, 1, generator=generator).tolist()
    draw = torch.rand(batch, count, generator=generator).tolist()
    out, other, share = points.clone(), torch.zeros(batch, dtype=torch.int64), torch.ones(batch)
    for place, cloud in enumerate(ring):
        giver = ring[place - 1]
        other[cloud] = giver
        gone = [n for n in range(count) if chance[cloud][0] < probability and draw[cloud][n] < rate[cloud][0]]
        out[cloud, gone] = points[giver, gone]
        share[cloud] = (count - len(gone)) / count
    return out, other, share


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_clouds_are_mixed_as_one_by_one(probability: float, channels: int) -> None:
    points, fast, slow = clouds(9, 21, channels), seeded(7), seeded(7)
    for _ in range(3):
        found = mix_clouds(points, fast, probability=probability)
        wanted = mixed_one_by_one(points, probability, slow)
        for value, expected in zip(found, wanted, strict=True):
            assert value.dtype == expected.dtype and torch.equal(value, expected)
    assert torch.equal(fast.get_state(), slow.get_state())


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_mixed_points_come_from_two_clouds_at_their_own_places(batch: int) -> None:
    number = torch.arange(40.0) + 100 * torch.arange(batch)[:, None]  # (B, 40)
    points = number[..., None] + torch.arange(6.0) / 8  # (B, 40, 6), no value twice
    out, other, share = mix_clouds(points, seeded(), probability=1.0)
    assert sorted(other.tolist()) == list(range(batch))
    assert batch == 1 or not (other == torch.arange(batch)).any()
    own, given = (out == points).all(-1), (out == points[other]).all(-1)  # (B, 40)
    assert bool((own | given).all())
    if batch > 1:
        assert not (own & given).any()
        torch.testing.assert_close(share, own.float().mean(1))
        assert 0 < share.mean() < 1


def test_any_number_of_points_is_as_likely() -> None:
    _, _, share = mix_clouds(clouds(6000, 4), seeded(), probability=0.5)
    counts = torch.bincount((4 * share).round().long(), minlength=5) / 6000
    expected = torch.full((5,), 0.5 / 5)
    expected[4] += 0.5  # those that are not mixed
    torch.testing.assert_close(counts, expected, atol=0.02, rtol=0)
    assert bool((mix_clouds(clouds(50, 4), seeded(), probability=0.0)[2] == 1).all())


def test_every_other_cloud_is_as_likely() -> None:
    generator, met = seeded(), torch.zeros(4, 4)
    for _ in range(1500):
        met[torch.arange(4), mix_clouds(torch.zeros(4, 1, 3), generator, probability=1.0)[1]] += 1 / 1500
    torch.testing.assert_close(met, (1 - torch.eye(4)) / 3, atol=0.05, rtol=0)


def test_first_points_of_mixed_clouds_still_spread() -> None:
    """Not as well as a farthest-point sample, but nearer to that than to a random choice."""
    points = torch.nn.functional.normalize(torch.randn(32, 400, 3, generator=seeded(1)), dim=-1)
    points = points * (0.2 + torch.rand(32, 1, 3, generator=seeded(2)))  # ellipsoids
    ordered = gather_points(points, farthest_point_sample(points, 400))
    mixed, _, _ = mix_clouds(ordered, seeded(), probability=1.0)

    def gap(index: Tensor) -> Tensor:
        return torch.cdist(mixed, gather_points(mixed, index)).amin(2).mean()

    first, best = gap(torch.arange(100).expand(32, -1)), gap(farthest_point_sample(mixed, 100))
    random = gap(torch.rand(32, 400, generator=seeded(3)).argsort(1)[:, :100])
    assert best < first < (best + random) / 2


# Features beside xyz

MIXED = ("color", "normal", "intensity", "own:2")


def mixed(batch: int, count: int) -> Tensor:
    """Clouds (B, N, 12) with the features of `MIXED`; normals stand in the middle."""
    generator = seeded(4)
    beside = [torch.rand(batch, count, 3, generator=generator), clouds(batch, count, 6)[..., 3:]]
    beside += [torch.randn(batch, count, 3, generator=generator) * 30]
    return torch.cat([clouds(batch, count), *beside], -1)


def split_up(points: Tensor) -> tuple[Tensor, Tensor]:
    """xyz and normals (B, N, 6), and everything else, (B, N, 6), of such clouds."""
    return points[..., [0, 1, 2, 6, 7, 8]], points[..., [3, 4, 5, 9, 10, 11]]


MOVES: dict[str, Callable[..., Tensor]] = {
    "scale": lambda points, generator, features: scale(points, 0.5, 1.5, generator, features),
    "rotate_up": lambda points, generator, features: rotate_up(points, 180.0, generator, features),
    "mirror": lambda points, generator, features: mirror(points, 0.5, generator, features),
    "shift": lambda points, generator, features: shift(points, 0.3, generator),
    "jitter": lambda points, generator, features: jitter(points, 0.1, 0.2, generator),
    "augment": lambda points, generator, features: augment(
        points,
        generator,
        scale_low=0.5,
        scale_high=1.5,
        shift_reach=0.2,
        jitter_std=0.01,
        rotate_degrees=180.0,
        mirror_probability=0.5,
        features=features,
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_normals_move_with_their_surface_and_others_stay(name: str) -> None:
    """Wherever they stand, normals change as those of clouds that have nothing else."""
    points = mixed(8, 30)
    before = points.clone()
    found = MOVES[name](points, seeded(5), MIXED)
    assert torch.equal(points, before)
    six, others = split_up(points)
    moved, kept = split_up(found)
    assert torch.equal(kept, others)
    assert torch.equal(moved, MOVES[name](six, seeded(5), ("normal",)))
    assert torch.equal(moved, MOVES[name](six, seeded(5), None))  # six channels of which nothing is said
    assert not torch.equal(moved, six)
    bare = torch.cat([six[..., :3], others], -1)  # without normals the rest is the same
    without = MOVES[name](bare, seeded(5), ("own:6",))
    assert torch.equal(without[..., :3], moved[..., :3]) and torch.equal(without[..., 3:], others)


def test_three_channels_beside_xyz_may_be_colours() -> None:
    """They look like normals by their number, and are not turned."""
    points = torch.cat([clouds(4, 20), torch.rand(4, 20, 3)], -1)
    for name, move in MOVES.items():
        found = move(points, seeded(), ("color",))
        assert torch.equal(found[..., 3:], points[..., 3:]), name
        assert not torch.equal(found[..., :3], points[..., :3])


@pytest.mark.parametrize("feature", ["color", "normal", "intensity", "own"])
def test_a_feature_of_a_cloud_goes_as_a_whole(feature: str) -> None:
    points, columns = (
        mixed(400, 5),
        {"color": [3, 4, 5], "normal": [6, 7, 8], "intensity": [9], "own": [10, 11]},
    )
    out = drop_feature(points, feature, 0.3, seeded(), MIXED)
    others = [column for column in range(12) if column not in columns[feature]]
    assert torch.equal(out[..., others], points[..., others])
    gone = (out[..., columns[feature]] == 0).flatten(1).all(1)  # (B,)
    assert torch.equal(out[~gone], points[~gone])
    assert gone.float().mean() == pytest.approx(0.3, abs=0.07)
    assert drop_feature(points, "height", 0.9, seeded(), MIXED) is points  # there is none
    six = split_up(points)[0]
    assert torch.equal(
        drop_normals(points, 0.3, seeded(), MIXED)[..., 6:9], drop_normals(six, 0.3, seeded())[..., 3:]
    )


def test_noise_of_a_feature() -> None:
    points = mixed(100, 50)
    out = jitter_feature(points, "intensity", 2.0, seeded(), MIXED)
    noise = out[..., 9] - points[..., 9]
    assert noise.std() == pytest.approx(2.0, rel=0.05) and abs(float(noise.mean())) < 0.1
    assert noise[0].std() > 1  # each point has its own
    rest = [column for column in range(12) if column != 9]
    assert torch.equal(out[..., rest], points[..., rest])
    colored = jitter_feature(points, "color", 0.5, seeded(), MIXED)[..., 3:6]
    assert colored.min() == 0 and colored.max() == 1 and not torch.equal(colored, points[..., 3:6])
    wide = jitter_feature(points, "own", 1.0, seeded(), MIXED)[..., 10:] - points[..., 10:]
    assert abs(float(torch.corrcoef(wide.flatten(0, 1).T)[0, 1])) < 0.1  # each number has its own
    assert jitter_feature(points, "height", 1.0, seeded(), MIXED) is points


def test_settings_of_features_are_applied_by_name() -> None:
    points = mixed(200, 10)
    dropped = augment(points, seeded(), feature_dropout={"own": 0.5, "color": 0.5}, features=MIXED)
    gone = {
        name: (dropped[..., place] == 0).flatten(1).all(1)
        for name, place in (("color", [3, 4, 5]), ("own", [10, 11]))
    }
    for share in gone.values():
        assert share.float().mean() == pytest.approx(0.5, abs=0.12)
    assert abs(float(torch.corrcoef(torch.stack([gone["color"], gone["own"]]).float())[0, 1])) < 0.2
    assert torch.equal(dropped[..., [0, 1, 2, 6, 7, 8, 9]], points[..., [0, 1, 2, 6, 7, 8, 9]])
    # The order in which a dictionary names them changes nothing.
    first, second = (
        augment(points, seeded(), feature_jitter=dict(names), features=MIXED)
        for names in ([("own", 1.0), ("color", 0.1)], [("color", 0.1), ("own", 1.0)])
    )
    assert torch.equal(first, second) and not torch.equal(first, points)
    both = augment(
        points,
        seeded(),
        feature_jitter={"intensity": 1.0},
        feature_dropout={"intensity": 0.5},
        features=MIXED,
    )
    lost = (both[..., 9] == 0).all(1)
    assert 0.3 < lost.float().mean() < 0.7  # what is dropped is zero, without noise
    generator = seeded()
    before = generator.get_state()
    assert augment(points, generator, feature_dropout={}, feature_jitter={}, features=MIXED) is points
    assert torch.equal(generator.get_state(), before)


def test_names_of_features_are_needed_where_channels_do_not_tell() -> None:
    points = mixed(2, 5)
    with pytest.raises(ValueError, match=r"or names of features, got \(2, 5, 12\)"):
        augment(points, seeded(), scale_low=0.5)
    assert augment(points, seeded(), scale_low=0.5, features=MIXED).shape == (2, 5, 12)
    four = points[..., [0, 1, 2, 9]]
    assert augment(four, seeded(), rotate_degrees=90.0, features=("intensity",)).shape == (2, 5, 4)


def test_changes_of_features_that_data_do_not_have() -> None:
    check_changes({"color": 0.1, "own": 0.2}, MIXED, "augment.feature_jitter")
    check_changes({"normal": 0.1}, MIXED, "augment.feature_dropout")
    check_changes({}, (), "augment.feature_dropout")
    with pytest.raises(
        ValueError,
        match=r"^augment\.feature_dropout: expected features of the data \(color, .*, own\), got 'colour'",
    ):
        check_changes({"colour": 0.1}, MIXED, "augment.feature_dropout")
    with pytest.raises(
        ValueError, match=r"feature_jitter: expected features of the data \(xyz alone\), got 'color'"
    ):
        check_changes({"color": 0.1}, (), "augment.feature_jitter")
    with pytest.raises(ValueError, match="feature_jitter: normals have length 1 and no noise"):
        check_changes({"normal": 0.1}, MIXED, "augment.feature_jitter")


def test_mixed_and_chosen_points_bring_their_features() -> None:
    number = torch.arange(20.0) + 100 * torch.arange(6)[:, None]  # (6, 20)
    points = number[..., None].expand(-1, -1, 9).contiguous()
    mixture, other, _ = mix_clouds(points, seeded(), probability=1.0)
    assert bool((mixture == mixture[..., :1]).all())  # all channels of a point are of the same cloud
    index = choose_points(points, seeded(), num_points=7, draw=True, dropout=0.5, shuffle=True)
    assert index is not None
    chosen = gather_points(points, index)
    assert chosen.shape == (6, 7, 9) and bool((chosen == chosen[..., :1]).all())


def test_clouds_that_lie_have_another_axis_up() -> None:
    points = torch.randn(400, 6, 6)
    points[:, 0, :3] = torch.tensor([0.0, 2.0, 0.0])  # what is up in each
    points[..., 3:] = points[..., :3]
    moved, lies = lay_down(points, Generator().manual_seed(1), probability=0.7, features=("normal",))
    assert 0.6 < lies.float().mean() < 0.8
    assert torch.equal(moved[~lies], points[~lies])
    up = moved[lies][:, 0, :3] / 2  # (lying, 3)
    expected = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    shares = (up[:, None] == expected).all(-1).float().mean(0)
    assert shares.sum() == pytest.approx(1.0) and (shares > 0.1).all()
    torch.testing.assert_close(moved[..., 3:], moved[..., :3])  # normals turn with their cloud
    torch.testing.assert_close(moved.norm(dim=-1), points.norm(dim=-1))
    assert torch.equal(lay_down(points, Generator(), probability=0.0, features=("normal",))[0], points)
