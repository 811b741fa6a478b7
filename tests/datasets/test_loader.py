from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from bixt3d.datasets.augment import mix_clouds
from bixt3d.datasets.loader import CloudLoader, arrange, arrange_split
from bixt3d.datasets.split import Split
from bixt3d.ops import farthest_point_sample, gather_points


def numbered(count: int, points: int = 4, part_data: bool = False) -> Split:
    """Clouds that carry their number in every coordinate, label, part and category."""
    number = torch.arange(count)
    fields: dict[str, object] = {}
    if part_data:
        fields = {
            "parts": number[:, None].expand(-1, points).contiguous(),
            "category": number,
            "categories": tuple(f"category {n}" for n in range(count)),
            "parts_of_category": tuple((n,) for n in range(count)),
        }
    values = number.float()[:, None, None].expand(-1, points, 3).contiguous()
    return Split(values, number, tuple(f"class {n}" for n in range(count)), **fields)  # type: ignore[arg-type]


def order_of(loader: CloudLoader, epoch: int = 0) -> list[int]:
    return [int(n) for batch in loader.epoch(epoch) for n in batch.label]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("count", "size"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_every_cloud_comes_once_an_epoch(count: int, size: int, shuffle: bool) -> None:
    loader = CloudLoader(numbered(count), size, shuffle=shuffle)
    for epoch in range(3):
        batches = list(loader.epoch(epoch))
        assert len(batches) == len(loader) == -(-count // size)
        assert all(len(batch.label) == size for batch in batches[:-1])
        assert sorted(n for batch in batches for n in batch.label.tolist()) == list(range(count))


def test_stored_order_without_shuffle() -> None:
    loader = CloudLoader(numbered(7), 3)
    assert order_of(loader) == order_of(loader, 5) == list(range(7))


def test_order_follows_from_seed_and_epoch_alone() -> None:
    split = numbered(40)
    loader = CloudLoader(split, 8, shuffle=True, seed=3)
    fifth = order_of(loader, 5)
    torch.manual_seed(9)
    list(loader.epoch(1))
    assert order_of(loader, 5) == fifth
    assert order_of(CloudLoader(split, 8, shuffle=True, seed=3), 5) == fifth
    assert order_of(CloudLoader(split, 5, shuffle=True, seed=3), 5) == fifth  # whatever the batch
    others = [order_of(loader, 4), order_of(CloudLoader(split, 8, shuffle=True, seed=4), 5)]
    assert fifth not in others and fifth != sorted(fifth)


def test_neighbouring_seeds_and_epochs_have_orders_of_their_own() -> None:
    split = numbered(30)
    orders = {
        tuple(order_of(CloudLoader(split, 30, shuffle=True, seed=seed), epoch))
        for seed in range(12)
        for epoch in range(12)
    }
    assert len(orders) == 144


def test_global_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    order_of(CloudLoader(numbered(8), 3, shuffle=True))
    assert torch.equal(state, torch.get_rng_state())


def test_iteration_is_epoch_zero() -> None:
    loader = CloudLoader(numbered(20), 6, shuffle=True)
    assert [int(n) for batch in loader for n in batch.label] == order_of(loader, 0)


@pytest.mark.parametrize(("count", "size", "full"), [(10, 3, 3), (9, 3, 3), (5, 5, 1)])
def test_drop_last_leaves_full_batches_only(count: int, size: int, full: int) -> None:
    loader = CloudLoader(numbered(count), size, drop_last=True, shuffle=True)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == full
    assert all(len(batch.label) == size for batch in batches)
    seen = [n for batch in batches for n in batch.label.tolist()]
    assert len(set(seen)) == full * size


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("count", "world"), [(12, 3), (13, 3), (2, 4)])
def test_processes_share_every_cloud_once(count: int, world: int, shuffle: bool) -> None:
    split = numbered(count)
    shards = []
    for rank in range(world):
        loader = CloudLoader(split, 2, shuffle=shuffle, rank=rank, world_size=world)
        assert len(list(loader.epoch(1))) == len(loader)
        shards.append(order_of(loader, 1))
    assert sorted(n for shard in shards for n in shard) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_processes_together_see_the_batches_of_one() -> None:
    split = numbered(23)
    alone = CloudLoader(split, 6, shuffle=True, drop_last=True, seed=2)
    shards = [
        CloudLoader(split, 3, shuffle=True, drop_last=True, seed=2, rank=r, world_size=2) for r in (0, 1)
    ]
    assert len(alone) == len(shards[0]) == len(shards[1]) == 3
    for whole, *halves in zip(alone.epoch(4), *(shard.epoch(4) for shard in shards), strict=True):
        assert sorted(torch.cat([half.label for half in halves]).tolist()) == sorted(whole.label.tolist())


def test_everything_of_a_cloud_travels_along() -> None:
    split = numbered(11, points=4, part_data=True)
    for batch in CloudLoader(split, 4, shuffle=True).epoch(2):
        assert batch.parts is not None and batch.category is not None
        assert torch.equal(batch.points, batch.label.float()[:, None, None].expand(-1, 4, 3))
        assert torch.equal(batch.parts, batch.label[:, None].expand(-1, 4))
        assert torch.equal(batch.category, batch.label)
    plain = next(iter(CloudLoader(numbered(3), 2)))
    assert plain.parts is None and plain.category is None and plain.count is None
    assert plain.other_label is None and plain.share is None


def noise(points: Tensor, generator: Generator) -> Tensor:
    return points + torch.rand(points.shape, generator=generator)


def test_augmentation_is_seeded_and_leaves_the_split_as_it_is() -> None:
    split = numbered(12)
    before = split.points.clone()

    def run(seed: int, epoch: int, rank: int = 0) -> Tensor:
        loader = CloudLoader(split, 2, augment=noise, seed=seed, rank=rank, world_size=2)
        return torch.cat([batch.points - batch.label[:, None, None] for batch in loader.epoch(epoch)])

    assert torch.equal(run(1, 1), run(1, 1))
    drawn = [run(1, 1), run(1, 2), run(2, 1), run(1, 1, rank=1)]
    assert all(not torch.allclose(drawn[i], drawn[j], atol=1e-3) for i in range(4) for j in range(i))
    assert not torch.allclose(drawn[0][:2], drawn[0][2:4], atol=1e-3)  # batches go on drawing
    assert torch.equal(split.points, before)


def test_clouds_are_mixed_after_the_choice_and_before_augmentation() -> None:
    """Clouds carry their label in every coordinate, and the augmentation adds a half."""

    def choose(points: Tensor, generator: Generator, count: Tensor | None) -> Tensor:
        return torch.randint(20, (len(points), 7), generator=generator)

    def mix(points: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        assert points.shape[1] == 7 and torch.equal(points, points.round())
        return mix_clouds(points, generator, probability=0.8)

    loader = CloudLoader(
        numbered(32, 20), 8, shuffle=True, choose=choose, mix=mix, augment=lambda points, _: points + 0.5
    )
    shares = []
    for batch in loader.epoch(3):
        assert batch.other_label is not None and batch.share is not None
        assert sorted(batch.other_label.tolist()) == sorted(batch.label.tolist())
        value = batch.points[..., 0] - 0.5  # (B, 7)
        own, given = value == batch.label[:, None], value == batch.other_label[:, None]
        assert bool((own ^ given).all())
        torch.testing.assert_close(batch.share, own.float().mean(1))
        shares.append(batch.share)
    assert 0.1 < torch.cat(shares).mean() < 0.9


def test_mixing_follows_from_seed_epoch_and_process() -> None:
    def run(seed: int, epoch: int, rank: int = 0) -> Tensor:
        mix = partial(mix_clouds, probability=1.0)
        loader = CloudLoader(numbered(24, 30), 6, mix=mix, seed=seed, rank=rank, world_size=2)
        return torch.stack([batch.share for batch in loader.epoch(epoch) if batch.share is not None])

    assert torch.equal(run(1, 1), run(1, 1))
    drawn = [run(1, 1), run(1, 2), run(2, 1), run(1, 1, rank=1)]
    assert all(not torch.equal(drawn[i], drawn[j]) for i in range(4) for j in range(i))


def test_clouds_with_labels_of_points_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="mix: expected clouds without parts"):
        CloudLoader(numbered(4, part_data=True), 2, mix=partial(mix_clouds, probability=0.5))


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": -2},
        {"batch_size": 2, "rank": 2, "world_size": 2},
        {"batch_size": 2, "rank": -1},
        {"batch_size": 2, "world_size": 0},
    ],
)
def test_loader_refuses(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected batch_size, world_size >= 1"):
        CloudLoader(numbered(4), **arguments)  # type: ignore[arg-type]


def test_loader_refuses_to_drop_everything() -> None:
    with pytest.raises(ValueError, match="5 clouds over 2 processes do not fill one batch of 3"):
        CloudLoader(numbered(5), 3, drop_last=True, world_size=2)
    CloudLoader(numbered(6), 3, drop_last=True, world_size=2)


def test_arrange_stored_keeps_the_first() -> None:
    index = arrange(torch.rand(3, 10, 3), 4)
    assert torch.equal(index, torch.arange(4).expand(3, -1))


def test_arrange_fps_begins_with_every_smaller_sample() -> None:
    points = torch.rand(5, 60, 6, generator=Generator().manual_seed(0))
    index = arrange(points, 32, "fps")
    assert index.shape == (5, 32) and index.dtype == torch.int64
    for size in (1, 2, 8, 31, 32):
        assert torch.equal(index[:, :size], farthest_point_sample(points[..., :3], size))
    assert torch.equal(arrange(points, 60, "fps").sort(1).values, torch.arange(60).expand(5, -1))
    assert torch.equal(arrange(points, 32, "fps", chunk=2), index)


def test_arrange_split_takes_parts_along() -> None:
    count, points = 6, 20
    generator = Generator().manual_seed(3)
    xyz = torch.rand(count, points, 3, generator=generator)
    parts = (xyz[..., 0] * 8).long()  # each point's part can be read off its place
    split = Split(
        xyz,
        torch.arange(count) % 2,
        ("a", "b"),
        parts,
        torch.arange(count) % 2,
        ("A", "B"),
        ((0, 1, 2, 3), (4, 5, 6, 7)),
        tuple("uvwxyz"),
    )
    for order in ("stored", "fps"):
        chosen = arrange_split(split, 12, order)
        assert chosen.points.shape == (count, 12, 3)
        assert chosen.parts is not None
        assert torch.equal(chosen.parts, (chosen.points[..., 0] * 8).long())
        index = arrange(split.points, 12, order)
        assert torch.equal(chosen.points, gather_points(split.points, index))
        kept = ("label", "classes", "category", "categories", "parts_of_category", "names")
        assert all(getattr(chosen, name) is getattr(split, name) for name in kept)
    assert arrange_split(numbered(3), 2).parts is None


def test_arrange_refuses() -> None:
    points = torch.rand(2, 5, 3)
    with pytest.raises(ValueError, match="expected 1 to 5, as each cloud has, got 6"):
        arrange(points, 6)
    with pytest.raises(ValueError, match="got 0"):
        arrange(points, 0, "fps")
    with pytest.raises(ValueError, match="order: expected one of stored, fps, random, got 'randomly'"):
        arrange(points, 2, "randomly")


def test_random_order_is_one_draw_that_stays() -> None:
    points = torch.rand(4, 30, 3)
    index = arrange(points, 12, "random")
    assert index.shape == (4, 12) and torch.equal(index, arrange(points, 12, "random"))
    assert all(len(set(row.tolist())) == 12 for row in index)
    assert not torch.equal(index, arrange(points, 12))
    own = arrange(points, 12, "random", count=torch.tensor([5, 12, 20, 30]))
    assert [int((row < 5).sum()) for row in own][0] == 5 and bool((own[1] < 12).all())


def test_labels_of_points_follow_what_is_chosen() -> None:
    """Points carry their number, and so do their parts."""
    number = torch.arange(20).repeat(6, 1)
    split = Split(
        number[..., None].float().expand(-1, -1, 3).contiguous(),
        torch.zeros(6, dtype=torch.int64),
        ("thing",),
        number,
        torch.zeros(6, dtype=torch.int64),
        ("thing",),
        (tuple(range(20)),),
    )

    def choose(points: Tensor, generator: Generator, count: Tensor | None) -> Tensor:
        return torch.randint(20, (len(points), 7), generator=generator)

    loader = CloudLoader(split, 4, choose=choose, augment=lambda points, _: points + 0.25, seed=3)
    for batch in loader.epoch(1):
        assert batch.parts is not None and batch.points.shape[1] == 7
        assert torch.equal(batch.points[..., 0], batch.parts + 0.25)


def test_farthest_points_of_a_cloud_with_fewer_points_begin_again() -> None:
    own = torch.rand(1, 10, 3)
    points = torch.cat([own, own, own[:, :4]], 1)  # (1, 24, 3), as a ragged split stores it
    index = arrange(points, 24, "fps", count=torch.tensor([10]))[0]
    chosen = points[0, index]
    assert len(chosen[:10].unique(dim=0)) == 10
    torch.testing.assert_close(chosen[10:20], chosen[:10])
    torch.testing.assert_close(chosen[20:], chosen[:4])
