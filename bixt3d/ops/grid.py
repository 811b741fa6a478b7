"""Sampling by the cells of ever finer grids, and the Morton curve that goes through them."""

from __future__ import annotations

import torch
from torch import Tensor

from bixt3d.ops.tracing import is_exporting
from bixt3d.ops.validate import check_count, check_points

LEVELS = 21  # halvings of a cloud's cube: three axes of 21 bits fit an int64
# Five steps that pull the 21 bits of a number apart, two empty bits after each.
SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_codes(xyz: Tensor) -> Tensor:
    """Number the cells of each cloud's bounding cube along a Morton curve: (B, N, 3) -> (B, N), int64.

    The highest three bits say in which half of the cube a point is on each axis, the next three in which half
    of that half, and so on, so that points with alike codes are near to each other.
    """
    xyz = xyz.detach().to(torch.promote_types(xyz.dtype, torch.float32))
    low = xyz.amin(1, keepdim=True)
    side = (xyz.amax(1, keepdim=True) - low).amax(2, keepdim=True).clamp_min(torch.finfo(xyz.dtype).tiny)
    place = ((xyz - low) / side).nan_to_num(0.0).clamp(0, 1)  # where numbers overflow, any place will do
    code = (place * ((1 << LEVELS) - 1)).long()  # (B, N, 3)
    for shift, mask in SPREAD:
        code = (code | (code << shift)) & mask
    x, y, z = code.unbind(-1)
    return x | (y << 1) | (z << 2)


@torch.no_grad()
def grid_sample(xyz: Tensor, num_samples: int, validate: bool = True) -> Tensor:
    """Choose points evenly in space, at the cost of two sorts: for clouds beyond farthest point sampling.

    The cloud's cube is halved into ever finer grids. Of the finest one with at most S cells that hold points,
    each such cell gives one point, the first on the Morton curve. The rest come from cells of the next grid
    that have none yet, evenly spaced along the curve. Points of coarse grids come first.

    Args:
        xyz: Points (B, N, 3).
        num_samples: S, at most N.
        validate: Look for NaN and infinity as well; on a GPU this waits for the device.

    Returns:
        Indices (B, S), int64, each point once; the same for the same cloud on every device.

    Raises:
        ValueError: For wrong shape, dtype or values, or too few points.
    """
    check_points(xyz, "xyz", (3,), finite=validate)
    count = xyz.shape[1]
    check_count(num_samples, "num_samples", count, f"each cloud has {count} points")
    code, along = _sort(morton_codes(xyz))  # 2 x (B, N)
    # The grid in which a point leaves the cell of the one before it: 1 halves the cube once, and 22 is none.
    differs = code[:, 1:] ^ code[:, :-1]
    bounds = 8 ** torch.arange(LEVELS, device=xyz.device)
    level = LEVELS + 1 - torch.bucketize(differs, bounds, right=True)  # (B, N - 1)
    level = torch.cat([torch.zeros_like(code[:, :1]), level], 1)  # (B, N)
    key, by_level = _sort(level * count + torch.arange(count, device=xyz.device))  # no two keys alike
    level = key // count  # (B, N)
    last = level[:, num_samples - 1 : num_samples]  # (B, 1), the grid that is not used up
    before, members = (level < last).sum(1, keepdim=True), (level == last).sum(1, keepdim=True)  # (B, 1)
    slot = torch.arange(num_samples, device=xyz.device)
    spaced = before + (slot - before) * members // (num_samples - before)  # (B, S)
    return along.gather(1, by_level.gather(1, torch.where(slot < before, slot, spaced)))


def _sort(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sort rows (B, N), equal ones by their index, and return the indices as well."""
    if is_exporting():  # ONNX has no other sort
        return values.topk(values.shape[1], dim=1, largest=False, sorted=True)
    return values.sort(dim=1, stable=True)
