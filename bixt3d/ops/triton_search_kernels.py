"""Triton kernels of `bixt3d.ops.triton_search`; imported by it alone, when they are to run.

Keys stand for distances and indices at once: the bits of a float from 0 up, read as an integer, rise with its
value and make the high half; the index, in the low half, settles ties.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def farthest_key(nearest, number):
    """Keys whose largest is the largest distance, and the lowest number among equal ones."""
    return (nearest.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (0x7FFFFFFF - number)


@triton.jit
def squared_distance(x, y, z, to_x, to_y, to_z):
    """As in the reference: summed from left to right; launched without fusion, each operation rounds."""
    dx, dy, dz = x - to_x, y - to_y, z - to_z
    return dx * dx + dy * dy + dz * dz


@triton.jit
def fps_on_chip(rows, first, index, count, num_samples, BLOCK: tl.constexpr):
    """Sample one cloud (3, N) whose coordinates and distances stay in registers."""
    cloud = tl.program_id(0).to(tl.int64)
    row_x = rows + cloud * 3 * count
    row_y = row_x + count
    row_z = row_y + count
    number = tl.arange(0, BLOCK)
    inside = number < count
    x = tl.load(row_x + number, mask=inside, other=0.0)
    y = tl.load(row_y + number, mask=inside, other=0.0)
    z = tl.load(row_z + number, mask=inside, other=0.0)
    nearest = tl.where(inside, float("inf"), -1.0)  # below every distance: what is outside is never chosen
    current = tl.load(first + cloud).to(tl.int32)
    for sample in range(num_samples):
        tl.store(index + cloud * num_samples + sample, current.to(tl.int64))
        to_x, to_y, to_z = tl.load(row_x + current), tl.load(row_y + current), tl.load(row_z + current)
        nearest = tl.minimum(nearest, squared_distance(x, y, z, to_x, to_y, to_z))
        best = tl.max(farthest_key(nearest, number), 0)
        current = (0x7FFFFFFF - (best & 0x7FFFFFFF)).to(tl.int32)


@triton.jit
def fps_by_tiles(rows, first, distance, index, count, num_samples, TILE: tl.constexpr):
    """Sample one cloud (3, N) of any size; `distance` (N,) holds what `nearest` is in `fps_on_chip`."""
    cloud = tl.program_id(0).to(tl.int64)
    row_x = rows + cloud * 3 * count
    row_y = row_x + count
    row_z = row_y + count
    kept = distance + cloud * count
    current = tl.load(first + cloud).to(tl.int32)
    for sample in range(num_samples):
        tl.store(index + cloud * num_samples + sample, current.to(tl.int64))
        to_x, to_y, to_z = tl.load(row_x + current), tl.load(row_y + current), tl.load(row_z + current)
        best = tl.full((TILE,), -1, tl.int64)  # below every key
        for start in range(0, count, TILE):
            number = start + tl.arange(0, TILE)
            inside = number < count
            x = tl.load(row_x + number, mask=inside, other=0.0)
            y = tl.load(row_y + number, mask=inside, other=0.0)
            z = tl.load(row_z + number, mask=inside, other=0.0)
            nearest = tl.load(kept + number, mask=inside, other=-1.0)
            nearest = tl.minimum(nearest, squared_distance(x, y, z, to_x, to_y, to_z))
            tl.store(kept + number, nearest, mask=inside)
            best = tl.maximum(best, farthest_key(nearest, number))
        tl.debug_barrier()  # the next sample reads what this one wrote, perhaps in other threads
        current = (0x7FFFFFFF - (tl.max(best, 0) & 0x7FFFFFFF)).to(tl.int32)


@triton.jit
def knn_by_tiles(
    query,
    rows,
    index,
    num_query,
    count,
    k,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """Find the neighbours of some queries (S, 3) of one cloud (3, N); SLOTS is a power of two, at least k.

    A list of k keys per query is kept. While a tile holds a point nearer than the farthest of the list, the
    nearest such point takes its place: k rounds for the first tile, ever fewer for the ones after it.
    """
    tiles = tl.cdiv(num_query, QUERIES)
    cloud = (tl.program_id(0) // tiles).to(tl.int64)
    asking = (tl.program_id(0) % tiles) * QUERIES + tl.arange(0, QUERIES)
    asked = asking < num_query
    place = cloud * num_query + asking  # (QUERIES,)
    to_x = tl.load(query + place * 3, mask=asked, other=0.0)[:, None]
    to_y = tl.load(query + place * 3 + 1, mask=asked, other=0.0)[:, None]
    to_z = tl.load(query + place * 3 + 2, mask=asked, other=0.0)[:, None]
    row_x = rows + cloud * 3 * count
    row_y = row_x + count
    row_z = row_y + count
    far = tl.full((QUERIES, TILE), 0x7FFFFFFFFFFFFFFF, tl.int64)  # above every key
    # The first k slots hold keys to replace, above all others and each its own; the rest keep one below all.
    slot = tl.arange(0, SLOTS).to(tl.int64)
    found = tl.where(slot < k, 0x7FFFFFFFFFFFFFFF - slot, -1)
    found = tl.broadcast_to(found[None, :], (QUERIES, SLOTS))
    for start in range(0, count, TILE):
        number = start + tl.arange(0, TILE)
        inside = number < count
        x = tl.load(row_x + number, mask=inside, other=0.0)[None, :]
        y = tl.load(row_y + number, mask=inside, other=0.0)[None, :]
        z = tl.load(row_z + number, mask=inside, other=0.0)[None, :]
        squared = squared_distance(x, y, z, to_x, to_y, to_z)  # (QUERIES, TILE)
        key = (squared.to(tl.int32, bitcast=True).to(tl.int64) << 32) | number[None, :]
        key = tl.where(inside[None, :], key, far)
        nearest, farthest = tl.min(key, 1), tl.max(found, 1)
        while tl.max((nearest < farthest).to(tl.int32), 0) > 0:
            takes_its_place = (nearest < farthest)[:, None] & (found == farthest[:, None])
            found = tl.where(takes_its_place, nearest[:, None], found)
            key = tl.where(key == nearest[:, None], far, key)
            nearest, farthest = tl.min(key, 1), tl.max(found, 1)
    found = tl.sort(found, 1)  # the slots that hold no neighbour come first
    order = slot - (SLOTS - k)
    out = index + place[:, None] * k + order[None, :]
    tl.store(out, found & 0x7FFFFFFF, mask=asked[:, None] & (order >= 0)[None, :])


@triton.jit
def box_key(low, high, stride, box, inside, to_x, to_y, to_z):
    """Keys of some boxes: the least distance that a point of the box may round to, and the box's number."""
    squared = tl.zeros_like(box).to(tl.float32)
    for axis in tl.static_range(3):
        to = to_x if axis == 0 else (to_y if axis == 1 else to_z)
        below = tl.load(low + axis * stride + box, mask=inside, other=0.0) - to
        above = to - tl.load(high + axis * stride + box, mask=inside, other=0.0)
        gap = tl.maximum(tl.maximum(below, above), 0.0)
        squared += gap * gap
    key = (squared.to(tl.int32, bitcast=True).to(tl.int64) << 32) | box
    return tl.where(inside, key, 0x7FFFFFFFFFFFFFFF)


@triton.jit
def may_hold(box, farthest):
    """Whether a box may hold a point that comes before a key; equally far ones may, by a lower number."""
    return (box != 0x7FFFFFFFFFFFFFFF) & ((box >> 32 << 32) < farthest)


@triton.jit
def knn_by_boxes(
    query,
    rows,
    order,
    tile_low,
    tile_high,
    group_low,
    group_high,
    index,
    num_query,
    count,
    k,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """Find the neighbours of one query (3,) of one cloud (3, N), whose points have the numbers `order` (N,).

    The list of keys is that of `knn_by_tiles`. Groups of tiles are visited nearest first, so are the tiles of
    each, until the nearest that is left is farther than the farthest of the list.
    """
    far: tl.constexpr = 0x7FFFFFFFFFFFFFFF  # above every key
    place = tl.program_id(0).to(tl.int64)
    cloud = place // num_query
    to_x, to_y, to_z = (
        tl.load(query + place * 3),
        tl.load(query + place * 3 + 1),
        tl.load(query + place * 3 + 2),
    )
    row_x = rows + cloud * 3 * count
    row_y = row_x + count
    row_z = row_y + count
    tiles = tl.cdiv(count, TILE)
    groups = tl.cdiv(tiles, GROUP)
    slot = tl.arange(0, SLOTS).to(tl.int64)
    found = tl.where(slot < k, far - slot, -1)
    farthest = tl.max(found, 0)
    for start in range(0, groups, GROUP):
        group = start + tl.arange(0, GROUP)
        shift = cloud * 3 * groups
        near_groups = box_key(
            group_low + shift, group_high + shift, groups, group, group < groups, to_x, to_y, to_z
        )
        near_group = tl.min(near_groups, 0)
        while may_hold(near_group, farthest):
            near_groups = tl.where(near_groups == near_group, far, near_groups)
            tile = (near_group & 0x7FFFFFFF).to(tl.int32) * GROUP + tl.arange(0, GROUP)
            shift = cloud * 3 * tiles
            near_tiles = box_key(
                tile_low + shift, tile_high + shift, tiles, tile, tile < tiles, to_x, to_y, to_z
            )
            near_tile = tl.min(near_tiles, 0)
            while may_hold(near_tile, farthest):
                near_tiles = tl.where(near_tiles == near_tile, far, near_tiles)
                row = (near_tile & 0x7FFFFFFF).to(tl.int32) * TILE + tl.arange(0, TILE)
                inside = row < count
                x = tl.load(row_x + row, mask=inside, other=0.0)
                y = tl.load(row_y + row, mask=inside, other=0.0)
                z = tl.load(row_z + row, mask=inside, other=0.0)
                number = tl.load(order + cloud * count + row, mask=inside, other=0)
                squared = squared_distance(x, y, z, to_x, to_y, to_z)  # (TILE,)
                key = (squared.to(tl.int32, bitcast=True).to(tl.int64) << 32) | number
                key = tl.where(inside, key, far)
                nearest = tl.min(key, 0)
                while nearest < farthest:
                    found = tl.where(found == farthest, nearest, found)
                    key = tl.where(key == nearest, far, key)
                    nearest, farthest = tl.min(key, 0), tl.max(found, 0)
                near_tile = tl.min(near_tiles, 0)
            near_group = tl.min(near_groups, 0)
    found = tl.sort(found, 0)  # the slots that hold no neighbour come first
    place_of = slot - (SLOTS - k)
    tl.store(index + place * k + place_of, found & 0x7FFFFFFF, mask=place_of >= 0)
