"""Damaged clouds: pure functions with an explicit generator, and the list of corruptions made of them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from bixt3d.datasets import augment
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.ops import gather_points

Change = Callable[[Tensor, float, Generator], Tensor]


def noise(points: Tensor, std: float, generator: Generator) -> Tensor:
    """Move each point (B, N, C) by normal noise, and cut coordinates to -1..1."""
    moved = augment.jitter(points, std, math.inf, generator)
    return torch.cat([moved[..., :3].clamp(-1, 1), moved[..., 3:]], -1)


def missing(points: Tensor, share: float, generator: Generator) -> Tensor:
    """Leave out a share of the points (B, N, C), each as likely; the others keep their order: (B, M, C)."""
    batch, count, _ = points.shape
    drawn = torch.rand(batch, count, generator=generator).argsort(dim=1, stable=True)  # (B, N)
    return gather_points(points, drawn[:, round(share * count) :].sort(1).values)


def missing_region(points: Tensor, share: float, generator: Generator) -> Tensor:
    """Leave out a drawn point and those nearest to it, a share of (B, N, C); the others keep their order."""
    batch, count, _ = points.shape
    centre = torch.randint(count, (batch, 1), generator=generator)  # (B, 1)
    xyz = points[..., :3]
    order = (xyz - gather_points(xyz, centre)).norm(dim=-1).argsort(dim=1, stable=True)  # (B, N)
    return gather_points(points, order[:, round(share * count) :].sort(1).values)


def outliers(points: Tensor, share: float, generator: Generator) -> Tensor:
    """Put a share of the points (B, N, C) somewhere in the unit ball, evenly; normals there are drawn too."""
    batch, count, channels = points.shape
    drawn = torch.rand(batch, count, generator=generator).argsort(dim=1, stable=True)  # (B, N)
    chosen = drawn[:, : round(share * count)]  # (B, k)
    directions = F.normalize(torch.randn(*chosen.shape, 6, generator=generator).view(batch, -1, 2, 3), dim=-1)
    radius = torch.rand(*chosen.shape, 1, generator=generator) ** (1 / 3)  # (B, k, 1)
    stray = torch.cat([radius * directions[:, :, 0], directions[:, :, 1]], -1)[..., :channels]  # (B, k, C)
    return points.scatter(1, chosen[..., None].expand_as(stray), stray)


def rotate(points: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Turn each cloud (B, N, C) about an axis drawn evenly, by an angle from U(-degrees, degrees)."""
    axis = F.normalize(torch.randn(len(points), 3, generator=generator), dim=-1)  # (B, 3)
    reach = math.radians(degrees)
    angle = reach * (2 * torch.rand(len(points), 1, generator=generator) - 1)  # (B, 1)
    cross = torch.linalg.cross(torch.eye(3)[None], (angle * axis)[:, None])  # (B, 3, 3), of the cross product
    turn = torch.linalg.matrix_exp(cross)  # (B, 3, 3)
    vectors = points.reshape(*points.shape[:2], -1, 3)  # (B, N, 1 or 2, 3)
    return torch.einsum("bij,bnvj->bnvi", turn, vectors).flatten(2)  # (B, N, C)


def stretch(points: Tensor, factor: float, generator: Generator) -> Tensor:
    """Scale each axis of each cloud (B, N, C) by a factor from U(1 / factor, factor)."""
    return augment.scale(points, 1 / factor, factor, generator)


@dataclass(frozen=True)
class Corruption:
    """One kind of damage; `change` is None where a model is given fewer points instead.

    `normalized`: clouds are moved back into the unit sphere afterwards. `shown` formats a severity.
    """

    name: str
    severities: tuple[float, ...]
    shown: Callable[[float], str]
    says: str
    change: Change | None = None
    normalized: bool = False
    repeated: bool = False

    def apply(self, points: Tensor, severity: float) -> Tensor:
        """Damage clouds (B, N, C) on the CPU: (B, M, C), the same every time."""
        assert self.change is not None
        # A seed of its own, so that a corruption or severity more changes none of the others.
        generator = Generator().manual_seed(zlib.crc32(f"{self.name} {severity:g}".encode()))
        changed = self.change(points, severity, generator)
        if not self.normalized:
            return changed
        return torch.cat([unit_sphere(changed[..., :3]), changed[..., 3:]], -1)


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def angle(degrees: float) -> str:
    return f"{degrees:g}°"


def number(value: float) -> str:
    return f"{value:g}"


CORRUPTIONS = (
    Corruption(
        "noise",
        (0.01, 0.02, 0.04, 0.08),
        number,
        "normal noise of this deviation on each coordinate, which is then cut to -1..1 (ModelNet40-C's "
        "gaussian, there 0.01 to 0.03; PointCloud-C's jitter, 0.01 to 0.05 and not cut)",
        noise,
    ),
    Corruption(
        "missing points",
        (0.25, 0.5, 0.75),
        percent,
        "this share of the points is left out, each as likely (PointCloud-C's drop global, the same range)",
        missing,
    ),
    Corruption(
        "missing region",
        (0.25, 0.5),
        percent,
        "a drawn point and those nearest to it are left out, this share of all, one hole (PointCloud-C's "
        "drop local leaves out 10 to 49 % in 1 to 7 holes, ModelNet40-C's cutout 6 to 29 % in 2 to 10)",
        missing_region,
    ),
    Corruption(
        "outliers",
        (0.01, 0.05, 0.1),
        percent,
        "this share of the points is replaced by points drawn evenly in the unit ball (PointCloud-C's add "
        "global adds 1 to 5 % to the cloud, ModelNet40-C's background 2 to 5 % in a cube; here they replace, "
        "at drawn places, as a model that takes the first points would not see what is appended)",
        outliers,
        normalized=True,
    ),
    Corruption(
        "rotation about y",
        (15, 45, 180),
        angle,
        "a turn about the up axis by an angle drawn evenly between minus and plus this one",
        augment.rotate_up,
        normalized=True,
    ),
    Corruption(
        "rotation about any axis",
        (15, 30),
        angle,
        "a turn about an axis drawn evenly, by an angle drawn evenly between minus and plus this one "
        "(PointCloud-C draws a turn about each of x, y and z up to 6 to 30°, ModelNet40-C up to 5 to 17.5°)",
        rotate,
        normalized=True,
    ),
    Corruption(
        "stretching",
        (1.5, 2),
        number,
        "each axis is scaled by a factor drawn evenly between 1 / this and this (PointCloud-C's scale, there "
        "1.6 to 2)",
        stretch,
        normalized=True,
    ),
    Corruption(
        "number of points",
        (1024, 512, 256, 128),
        number,
        "the model is given so many points, chosen in its own order, whatever it was trained with",
    ),
    Corruption(
        "few points, repeated",
        (512, 256, 128),
        number,
        "so many points, chosen as before, are all that the cloud has; a model that was trained with more "
        "sees them repeated, as `Predictor` does it",
        repeated=True,
    ),
)
