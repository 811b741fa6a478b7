"""Batches of a split that lies on the device: no workers, no copies but the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from bixt3d.datasets.augment import draw_points
from bixt3d.datasets.mapped import Mapped, derive, reorder
from bixt3d.datasets.split import Split
from bixt3d.ops import farthest_point_sample, gather_points
from bixt3d.progress import progress

ORDERS = ("stored", "fps", "random")


@dataclass
class Batch:
    """Clouds on the device: points (B, N, C), label (B,), and for part data parts (B, N), category (B,).

    ``count`` (B,) says how many points each cloud has of its own, its rows from there on repeating them; None
    if all count. Where clouds are mixed, the ``share`` (B,) of a cloud's points is of its ``label`` and the
    rest of its ``other_label`` (B,). Of clouds that ``lies`` (B,), bool, names, a model is to be unsure.
    """

    points: Tensor
    label: Tensor
    parts: Tensor | None = None
    category: Tensor | None = None
    count: Tensor | None = None
    other_label: Tensor | None = None
    share: Tensor | None = None
    lies: Tensor | None = None

    def pick(self, index: Tensor, keep_count: bool = False) -> Batch:
        """Return the batch with the points at ``index`` (B, n), all of which count.

        With ``keep_count`` those that are a cloud's own come first, each once, in their order, and ``count``
        says how many they are; the rest repeat them.
        """
        count = None
        if keep_count and self.count is not None:
            ordered, place = index.sort(dim=1, stable=True)
            again = torch.zeros_like(index, dtype=torch.bool)
            again.scatter_(1, place[:, 1:], ordered[:, 1:] == ordered[:, :-1])  # (B, n)
            own = (index < self.count[:, None]) & ~again  # (B, n)
            index = index.gather(1, (~own).byte().argsort(dim=1, stable=True))
            count = own.sum(1).clamp_min(1)  # where all picked rows are repeats, the first stands for them
        parts = None if self.parts is None else self.parts.gather(1, index)  # (B, n)
        return replace(self, points=gather_points(self.points, index), parts=parts, count=count)


def arrange(
    points: Tensor,
    num_points: int,
    order: str = "stored",
    chunk: int = 256,
    count: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Choose and order the points of every cloud: (S, N, C) -> indices (S, num_points).

    Args:
        points: Clouds (S, N, C).
        num_points: Points to keep of each.
        order: ``"stored"``: the first ones, as they stand. ``"fps"``: farthest-point order, in which the
            first n points are the farthest-point sample of size n, for every n. ``"random"``: a draw that is
            always the same.
        chunk: Clouds handled at a time.
        count: Points that each cloud has of its own (S,), which a draw takes first.
        generator: Of the draw, where the clouds are a part of a split's.

    Raises:
        ValueError: For more points than there are, or an unknown order.
    """
    if order not in ORDERS:
        raise ValueError(f"order: expected one of {', '.join(ORDERS)}, got {order!r}")
    if not 1 <= num_points <= points.shape[1]:
        raise ValueError(f"num_points: expected 1 to {points.shape[1]}, as each cloud has, got {num_points}")
    if order == "stored":
        return torch.arange(num_points, device=points.device).expand(points.shape[0], -1)
    if order == "random":
        generator = generator or Generator(points.device).manual_seed(0)
        return draw_points(points, count, num_points, generator)
    found = []
    with progress("ordering points", len(points)) as done:
        for part in torch.split(points[..., :3], chunk):
            found.append(farthest_point_sample(part, num_points))
            done(len(part))
    chosen = torch.cat(found)  # (S, num_points)
    if count is None:
        return chosen
    # A cloud all of whose own points are taken begins again, instead of with its first point over and over.
    return chosen.gather(1, torch.arange(num_points, device=points.device) % count[:, None])


def arrange_split(split: Split, num_points: int, order: str = "stored") -> Split:
    """Return the split with `num_points` points a cloud, chosen and ordered as by `arrange`."""
    points, parts = split.points, split.parts
    if not isinstance(points, Mapped):
        index = arrange(points, num_points, order, count=split.count)
        points, parts = gather_points(points, index), None if parts is None else parts.gather(1, index)
    elif order == "stored":
        return split if num_points == split.num_points else split.first_points(num_points)
    else:
        points, parts = _arrange_mapped(split, points, num_points, order)
    short = split.count is not None and bool((split.count < num_points).any())
    count = split.count.clamp(max=num_points) if short and split.count is not None else None
    return replace(split, points=points, parts=parts, count=count)


def _arrange_mapped(
    split: Split, points: Mapped, num_points: int, order: str
) -> tuple[Tensor, Tensor | None]:
    """Return points and parts that stay in files, in an order that is found once and kept beside them."""
    generator, count = Generator(points.device).manual_seed(0), split.count

    def choose(first: int, part: Tensor) -> Tensor:
        own = None if count is None else count[first : first + len(part)]
        return arrange(part, num_points, order, count=own, generator=generator).int()

    index = derive(points, f"{order}-{num_points}", choose, "ordering points")  # (S, num_points)
    return reorder(points, index), None if split.parts is None else reorder(split.parts, index)


class CloudLoader:
    """Iterate over a split in batches on its device.

    The order of an epoch follows from the seed and the epoch's number alone, so a run can start again at
    any epoch. With several processes each takes every ``world_size``-th cloud of the same order.

    Args:
        split: The clouds.
        batch_size: Clouds in a batch of this process.
        shuffle: Draw a new order every epoch.
        groups: Of each cloud (S,), such as its class: an order draws as many clouds of each, those of small
            groups several times. None: every cloud once.
        repeats: How many times an epoch shows each cloud, one order after another.
        drop_last: Leave out a last batch that is not full.
        choose: ``choose(points, generator, count) -> indices (B, n)`` of the points that a batch takes, or
            None for all.
        mix: ``mix(points, generator) -> points, other (B,), share (B,)``, such as `mix_clouds`, after that;
            all points of a cloud then count.
        lay: ``lay(points, generator) -> points, lies (B,)``, such as `lay_down`, after that.
        keep_count: Put the chosen points that are a cloud's own first, and say in ``batch.count`` how many.
        augment: ``augment(points, generator) -> points``, applied to every batch after that.
        seed: Seed of order and augmentation.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ValueError: For sizes below 1, fewer clouds than one full batch when ``drop_last``, or clouds to be
            mixed whose points have labels.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        shuffle: bool = False,
        groups: Tensor | None = None,
        repeats: int = 1,
        drop_last: bool = False,
        choose: Callable[[Tensor, Generator, Tensor | None], Tensor | None] | None = None,
        mix: Callable[[Tensor, Generator], tuple[Tensor, Tensor, Tensor]] | None = None,
        lay: Callable[[Tensor, Generator], tuple[Tensor, Tensor]] | None = None,
        keep_count: bool = False,
        augment: Callable[[Tensor, Generator], Tensor] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Keep the settings; nothing is copied."""
        if batch_size < 1 or world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                "expected batch_size, world_size >= 1 and 0 <= rank < world_size, got "
                f"batch_size={batch_size}, rank={rank}, world_size={world_size}"
            )
        if drop_last and len(split) * repeats // world_size < batch_size:
            raise ValueError(
                f"batch_size: {len(split) * repeats} clouds over {world_size} processes do not fill one "
                f"batch of {batch_size}; use a smaller batch"
            )
        if mix is not None and split.parts is not None:
            raise ValueError("mix: expected clouds without parts, whose points would bring their own labels")
        self.groups, self.repeats, self.keep_count = groups, repeats, keep_count
        self.split, self.batch_size, self.shuffle, self.drop_last = split, batch_size, shuffle, drop_last
        self.choose, self.mix, self.lay, self.augment, self.seed = choose, mix, lay, augment, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        total = len(self.split) * self.repeats
        if self.drop_last:
            return total // self.world_size // self.batch_size
        return -(-len(range(self.rank, total, self.world_size)) // self.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of epoch ``number``."""
        split, device = self.split, self.split.points.device
        generator = Generator(device=device)
        if self.shuffle:
            generator.manual_seed(_mix(self.seed, number, 0))
            orders = []
            for _ in range(self.repeats):
                order = torch.randperm(len(split), generator=generator, device=device)  # (S,)
                if self.groups is not None:
                    order = draw_evenly(order, self.groups, generator)
                orders.append(order)
            order = torch.cat(orders)  # (S * repeats,)
        else:
            order = torch.arange(len(split), device=device).repeat(self.repeats)  # (S * repeats,)
        # Another stream for each process, so that no two change their clouds alike.
        generator.manual_seed(_mix(self.seed, number, 1 + self.rank))
        order = order[self.rank :: self.world_size]
        parts = torch.split(order, self.batch_size)[: len(self)]
        for batch in (
            _ahead(self._read, parts) if isinstance(split.points, Mapped) else map(self._read, parts)
        ):
            if self.choose is not None:
                chosen = self.choose(batch.points, generator, batch.count)
                batch = batch if chosen is None else batch.pick(chosen, self.keep_count)
            if self.mix is not None:
                points, other, share = self.mix(batch.points, generator)
                label = batch.label[other]
                batch = replace(batch, points=points, count=None, other_label=label, share=share)
            if self.lay is not None:
                batch.points, batch.lies = self.lay(batch.points, generator)
            if self.augment is not None:
                batch.points = self.augment(batch.points, generator)
            yield batch

    def _read(self, index: Tensor) -> Batch:
        """Return the clouds at ``index`` (B,) as they are stored."""
        split = self.split
        return Batch(
            split.points[index],
            split.label[index],
            None if split.parts is None else split.parts[index],
            None if split.category is None else split.category[index],
            None if split.count is None else split.count[index],
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of epoch 0."""
        return self.epoch(0)


def _ahead(read: Callable[[Tensor], Batch], parts: Sequence[Tensor]) -> Iterator[Batch]:
    """Read one batch ahead in a thread, while the batch before is used."""
    with ThreadPoolExecutor(1, "batch") as thread:
        due = thread.submit(read, parts[0]) if parts else None
        for following in (*parts[1:], None):
            assert due is not None
            batch = due.result()
            due = None if following is None else thread.submit(read, following)
            yield batch


def draw_evenly(order: Tensor, groups: Tensor, generator: Generator) -> Tensor:
    """Return as many clouds as there are (S,), equally many of each group but for one.

    Args:
        order: The clouds in a random order (S,); those of a group follow one another in it, round and round.
        groups: Of each cloud (S,), int64.
        generator: Draws in which order the groups take turns.
    """
    order = order[groups[order].argsort(stable=True)]  # (S,), the groups one after the other
    size = torch.unique(groups, return_counts=True)[1]  # (G,)
    start = size.cumsum(0) - size
    # Which group has one more than another is drawn too.
    turn = torch.randperm(len(size), generator=generator, device=order.device)  # (G,)
    slot = torch.arange(len(order), device=order.device)  # (S,)
    group = turn[slot % len(size)]  # (S,)
    drawn = order[start[group] + (slot // len(size)) % size[group]]  # (S,)
    return drawn[torch.randperm(len(drawn), generator=generator, device=order.device)]


def _mix(seed: int, epoch: int, stream: int) -> int:
    # Odd multipliers keep (seed, epoch, stream) apart for any sizes that occur.
    return (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB) % (1 << 63)
