"""Random changes to a batch of clouds: pure functions with an explicit generator.

Points are (B, N, 3) xyz or (B, N, 6) xyz and unit normal, y up. Normals follow their surface: they turn
with a rotation and scale inversely under an anisotropic scale.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def _uniform(points: Tensor, shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    drawn = torch.rand(shape, generator=generator, device=points.device, dtype=points.dtype)
    return low + (high - low) * drawn


def scale(points: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    """Scale each axis of each cloud by a factor from U(low, high) (PointMLP's training script)."""
    factor = _uniform(points, (points.shape[0], 1, 3), low, high, generator)  # (B, 1, 3)
    xyz = points[..., :3] * factor
    if points.shape[-1] == 3:
        return xyz
    # A surface stretched along an axis turns its normals away from it. Normals of zero stay zero.
    return torch.cat([xyz, F.normalize(points[..., 3:] / factor, dim=-1)], -1)


def shift(points: Tensor, reach: float, generator: Generator) -> Tensor:
    """Move each cloud along each axis by a distance from U(-reach, reach)."""
    offset = _uniform(points, (points.shape[0], 1, 3), -reach, reach, generator)  # (B, 1, 3)
    return torch.cat([points[..., :3] + offset, points[..., 3:]], -1)


def jitter(points: Tensor, std: float, clip: float, generator: Generator) -> Tensor:
    """Move each point by normal noise of the given deviation, cut at ``clip`` (PointNet, section 5.1)."""
    xyz = points[..., :3]
    noise = torch.randn(xyz.shape, generator=generator, device=points.device, dtype=points.dtype)
    return torch.cat([xyz + (std * noise).clamp(-clip, clip), points[..., 3:]], -1)


def rotate_up(points: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Turn each cloud about the up axis y by an angle from U(-degrees, degrees)."""
    reach = math.radians(degrees)
    angle = _uniform(points, (points.shape[0],), -reach, reach, generator)  # (B,)
    sin, cos, zero, one = angle.sin(), angle.cos(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], -1).view(-1, 3, 3)  # (B, 3, 3)
    vectors = points.reshape(*points.shape[:2], -1, 3)  # (B, N, 1 or 2, 3)
    return torch.einsum("bij,bnvj->bnvi", rows, vectors).flatten(2)  # (B, N, 3 or 6)


def drop_points(points: Tensor, most: float, generator: Generator) -> Tensor:
    """Put each point onto its cloud's first with a probability from U(0, most), one a cloud (PointNet++)."""
    batch, count, _ = points.shape
    rate = _uniform(points, (batch, 1), 0.0, most, generator)  # (B, 1)
    gone = _uniform(points, (batch, count), 0.0, 1.0, generator) < rate  # (B, N)
    return torch.where(gone[..., None], points[:, :1], points)


def thin_points(points: Tensor, num_points: int, most: float, generator: Generator) -> Tensor:
    """Keep ``num_points`` of each cloud, others every time: (B, N, C) -> (B, num_points, C).

    Each point is passed over with a probability from U(0, most), one a cloud; the first ``num_points`` that
    are left stay, in their order, so that farthest-point order remains nearly that. Where too few are left,
    the first of those passed over follow.
    """
    batch, count, channels = points.shape
    rate = _uniform(points, (batch, 1), 0.0, most, generator)  # (B, 1)
    gone = _uniform(points, (batch, count), 0.0, 1.0, generator) < rate  # (B, N)
    place = gone * count + torch.arange(count, device=points.device)  # (B, N)
    index = place.sort(1).indices[:, :num_points]
    return points.gather(1, index[..., None].expand(-1, -1, channels))  # (B, num_points, C)


def shuffle_order(points: Tensor, generator: Generator) -> Tensor:
    """Return the batch with one random order of the points."""
    order = torch.randperm(points.shape[1], generator=generator, device=points.device)  # (N,)
    return points[:, order]


def augment(
    points: Tensor,
    generator: Generator,
    *,
    scale_low: float = 1.0,
    scale_high: float = 1.0,
    shift_reach: float = 0.0,
    jitter_std: float = 0.0,
    jitter_clip: float = 0.05,
    rotate_degrees: float = 0.0,
    dropout: float = 0.0,
    shuffle: bool = False,
    thin: float = 0.0,
    num_points: int | None = None,
) -> Tensor:
    """Apply the changes that are switched on, in a fixed order, to points (B, N, 3) or (B, N, 6).

    With ``num_points`` that many points of each cloud are kept, by `thin_points`.

    Raises:
        ValueError: If the points have another shape.
    """
    if points.ndim != 3 or points.shape[-1] not in (3, 6):
        raise ValueError(f"points: expected (B, N, 3) or (B, N, 6), got {tuple(points.shape)}")
    if num_points is not None:
        points = thin_points(points, num_points, thin, generator)
    if rotate_degrees:
        points = rotate_up(points, rotate_degrees, generator)
    if (scale_low, scale_high) != (1.0, 1.0):
        points = scale(points, scale_low, scale_high, generator)
    if shift_reach:
        points = shift(points, shift_reach, generator)
    if jitter_std:
        points = jitter(points, jitter_std, jitter_clip, generator)
    if dropout:
        points = drop_points(points, dropout, generator)
    if shuffle:
        points = shuffle_order(points, generator)
    return points
