"""Columns of scenes: every point is in one, each holds what is within its radius, draws repeat themselves."""

from __future__ import annotations

import pytest
import torch

from bixt3d.datasets.columns import columns_over, draw_column, place_column


@pytest.mark.parametrize(("radius", "step"), [(7.0, 1.0), (3.0, 1.4), (5.0, 0.4), (500.0, 1.0)])
def test_columns_hold_all_within_their_radius_and_every_point_is_in_one(radius: float, step: float) -> None:
    xyz = torch.rand(800, 3, dtype=torch.float64) * torch.tensor([60.0, 9.0, 40.0]) - 20
    seen, owned = torch.zeros(800, dtype=torch.int64), 0
    for index, own in columns_over(xyz, radius, step):
        assert len(index.unique()) == len(index)
        owned += own
        seen[index] += 1
        # the axis is the middle of a square: it is where all points of the column are near, and no others
        side = step * radius
        middles = (xyz[index][:, [0, 2]] / side).floor().unique(dim=0) * side + side / 2
        fits = [
            set(index.tolist())
            == set(((xyz[:, [0, 2]] - middle).square().sum(1) <= radius**2).nonzero()[:, 0].tolist())
            for middle in middles
        ]
        assert any(fits)
    assert owned == 800 and int(seen.min()) >= 1
    if (radius, step) == (7.0, 1.0):
        assert 2.2 < seen.double().mean() < 3.2  # pi, but for the scene's edges


def test_columns_depend_on_what_is_within_their_reach_alone() -> None:
    xyz = torch.rand(500, 3, dtype=torch.float64) * 50
    corners = torch.tensor([[10.0, 0.0, 10.0], [20.0, 50.0, 20.0]])
    near = (xyz[:, [0, 2]] >= 10 - 8).all(1) & (xyz[:, [0, 2]] <= 20 + 8).all(1)
    kept = near.nonzero()[:, 0]
    whole = [set(index.tolist()) for index, _ in columns_over(xyz, 4.0, 1.0, corners)]
    part = [set(kept[index].tolist()) for index, _ in columns_over(xyz[kept], 4.0, 1.0, corners)]
    assert whole == part and 12 < len(whole) < 30
    inside = ((xyz[:, [0, 2]] >= 10) & (xyz[:, [0, 2]] <= 20)).all(1).nonzero()[:, 0].tolist()
    of_all = [index for index, _ in columns_over(xyz, 4.0, 1.0)]
    for point in inside:  # no column of theirs is left out
        assert sum(point in one for one in whole) == sum(point in one.tolist() for one in of_all)


def test_drawn_columns_have_own_points_each_once_while_there_are_others() -> None:
    points = torch.rand(4, 300, 5) * 30
    own = torch.tensor([300, 120, 7, 300])
    generator = torch.Generator().manual_seed(3)
    index = draw_column(points, own, 6.0, 40, generator)
    assert torch.equal(index, draw_column(points, own, 6.0, 40, torch.Generator().manual_seed(3)))
    for row, count in enumerate(own.tolist()):
        xz = points[row, index[row]][:, [0, 2]]
        assert index[row].max() < count and torch.cdist(xz, xz).max() <= 12.0
        assert len(index[row].unique()) in (min(len(index[row]), 40), len(set(index[row].tolist())))
    middle = torch.tensor([[15.0, 15.0]])
    index = draw_column(points[:1], None, 9.0, 300, generator, middle)[0]
    inside = (points[0][:, [0, 2]] - 15).square().sum(1) <= 81
    assert set(index.tolist()) == set(inside.nonzero()[:, 0].tolist())
    counts = index.bincount(minlength=300)[inside]
    assert counts.max() - counts.min() <= 1  # repeated alike
    middle = torch.tensor([[900.0, 900.0]])
    assert len(draw_column(points[:1], None, 9.0, 20, generator, middle)[0].unique()) == 20


def test_places_are_in_radii_above_the_ground() -> None:
    points = torch.rand(2, 200, 4) * torch.tensor([8.0, 3.0, 8.0, 1.0]) + torch.tensor(
        [100.0, 50.0, -70.0, 0.0]
    )
    points[:, 0, 1] = -500.0  # an echo from below the ground
    placed = place_column(points, 4.0, ("height",))
    assert placed[..., [0, 2]].mean(1).abs().max() < 1e-4
    assert torch.allclose(placed[:, 1:, 1], (points[:, 1:, 1] - 50) / 4, atol=0.05)
    assert torch.equal(placed[..., 3], placed[..., 1])
    assert torch.equal(place_column(points, 4.0, ("intensity",))[..., 3], points[..., 3])


def test_columns_on_a_map_stand_where_those_at_the_origin_do() -> None:
    xyz = torch.rand(400, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 60
    moved = xyz + torch.tensor([4.0, 0.0, 4.0], dtype=torch.float64) * 2**27
    here, there = (list(columns_over(one, 4.0, 1.0)) for one in (xyz, moved))
    assert len(here) == len(there)
    for (index, held), (other, same) in zip(here, there, strict=True):
        assert torch.equal(index, other) and held == same
