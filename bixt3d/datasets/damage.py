"""Random damage to training batches: tilts, bends, noise, lost points, holes, strays and clusters.

Pure functions of points (B, N, 3 + F) with an explicit generator. Each kind hits a cloud with a probability,
by a strength from U(0, worst).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from bixt3d.datasets.augment import Features, change, turn_by
from bixt3d.datasets.features import columns_of
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.ops import gather_points

PLACES = 5  # holes, or clusters, of a cloud at most
SPREAD = (0.05, 0.15)  # deviation of a cluster
WAVES = 4  # that bend a cloud
LENGTHS = (1.0, 3.0)  # their radians per unit length: half a wave is at least half a cloud


def _strength(points: Tensor, worst: float, probability: float, generator: Generator) -> Tensor:
    """Draw how badly each cloud is hit: (B, 1), 0 for those that are not."""
    drawn = torch.rand(2, len(points), 1, generator=generator, device=points.device)
    return worst * drawn[0] * (drawn[1] < probability)


def tilt(
    points: Tensor, degrees: float, probability: float, generator: Generator, features: Features = None
) -> Tensor:
    """Turn clouds about x, y and z, each by an angle of up to ``degrees``."""
    reach = math.radians(degrees) * _strength(points, 1.0, probability, generator)  # (B, 1)
    angles = reach * (2 * torch.rand(len(points), 3, generator=generator, device=points.device) - 1)  # (B, 3)
    cross = torch.linalg.cross(
        torch.eye(3, device=points.device)[None], torch.eye(3, device=points.device)[:, None]
    )
    about = [torch.linalg.matrix_exp(angles[:, axis, None, None] * cross[axis]) for axis in range(3)]
    return turn_by(points, (about[2] @ about[1] @ about[0]).to(points.dtype), features)


def bend(
    points: Tensor, most: float, probability: float, generator: Generator, features: Features = None
) -> Tensor:
    """Bend clouds smoothly, as limbs take another pose: no length changes by more than the share ``most``.

    A few long waves of random directions move the points: x + sum of a sin(w x + p). Normals stay upright on
    the surface; those of zero stay zero.
    """
    batch, device = len(points), points.device
    drawn = torch.randn(2, batch, WAVES, 3, generator=generator, device=device)
    along, across = F.normalize(drawn, dim=-1).to(points.dtype)  # (B, WAVES, 3) each
    length, phase, share = torch.rand(3, batch, WAVES, 1, generator=generator, device=device).to(points.dtype)
    waves = (LENGTHS[0] + (LENGTHS[1] - LENGTHS[0]) * length) * along  # (B, WAVES, 3)
    # A wave's height times its radians per unit length; they add up to the strength.
    steep = share / share.sum(1, keepdim=True).clamp_min(1e-6)  # (B, WAVES, 1)
    steep = steep * _strength(points, most, probability, generator)[..., None].to(points.dtype)
    heights = across * steep / waves.norm(dim=-1, keepdim=True)  # (B, WAVES, 3)
    angle = torch.einsum("bni,bwi->bnw", points[..., :3], waves) + 2 * math.pi * phase.mT  # (B, N, WAVES)

    def move(xyz: Tensor) -> Tensor:
        return xyz + torch.einsum("bnw,bwi->bni", angle.sin(), heights)  # (B, N, 3)

    def turn(normal: Tensor) -> Tensor:
        slopes = torch.einsum("bnw,bwi,bwj->bnij", angle.cos(), waves, heights)
        whole, cross = torch.eye(3, device=device, dtype=points.dtype), torch.linalg.cross
        x, y, z = (whole + slopes).unbind(2)  # (B, N, 3) each, where the axes go
        planes = torch.stack([cross(y, z), cross(z, x), cross(x, y)], -1)  # (B, N, 3, 3)
        return F.normalize(torch.einsum("bnij,bnj->bni", planes, normal), dim=-1)  # (B, N, 3)

    return change(points, features, move, turn)


def add_noise(points: Tensor, std: float, probability: float, generator: Generator) -> Tensor:
    """Move points by normal noise, of a deviation of up to ``std``, one a cloud."""
    deviation = _strength(points, std, probability, generator)[..., None]  # (B, 1, 1)
    noise = torch.randn(*points.shape[:2], 3, generator=generator, device=points.device)
    return torch.cat([points[..., :3] + (deviation * noise).to(points.dtype), points[..., 3:]], -1)


def lost_points(
    points: Tensor, generator: Generator, *, missing: float, holes: float, probability: float
) -> Tensor:
    """Say which points of clouds (B, N, C) are lost: (B, N) bool; at least one of each stays.

    Args:
        points: The clouds.
        generator: Draws.
        missing: The largest share that is lost anywhere.
        holes: The largest share that is lost in 1 to `PLACES` holes, each the nearest points of one.
        probability: Of a cloud to suffer either.
    """
    batch, count, _ = points.shape
    lost = torch.zeros(batch, count, dtype=torch.bool, device=points.device)
    if missing:
        share = _strength(points, missing, probability, generator)
        lost |= torch.rand(batch, count, generator=generator, device=points.device) < share
    if holes:
        share = _strength(points, holes, probability, generator)  # (B, 1)
        sizes = torch.rand(batch, PLACES, generator=generator, device=points.device)
        number = torch.randint(1, PLACES + 1, (batch, 1), generator=generator, device=points.device)
        sizes = sizes * (torch.arange(PLACES, device=points.device) < number)
        sizes = (share * count * sizes / sizes.sum(1, keepdim=True).clamp_min(1e-6)).long()  # (B, PLACES)
        centre = torch.randint(count, (batch, PLACES), generator=generator, device=points.device)
        xyz = points[..., :3]
        for place in range(PLACES):
            apart = (xyz - gather_points(xyz, centre[:, place, None])).square().sum(-1)  # (B, N)
            apart = apart.masked_fill(lost, torch.inf)
            lost |= apart < apart.sort(1).values.gather(1, sizes[:, place, None].clamp(max=count - 1))
    lost[:, 0] &= ~lost.all(1)
    return lost


def add_strays(
    points: Tensor,
    generator: Generator,
    *,
    strays: float,
    clusters: float,
    probability: float,
    features: Features = None,
) -> Tensor:
    """Put points of clouds elsewhere, at drawn places of their order; normals there are drawn too.

    Args:
        points: The clouds, about the origin.
        generator: Draws.
        strays: The largest share that is put anywhere in the cloud's ball.
        clusters: The largest share that is put in 1 to `PLACES` normal clusters about points of the cloud.
        probability: Of a cloud to suffer either.
        features: Names of what stands beside xyz.
    """
    batch, count, _ = points.shape
    xyz, device = points[..., :3], points.device
    hit = torch.zeros(batch, count, dtype=torch.bool, device=device)
    noise = torch.randn(batch, count, 3, generator=generator, device=device)
    if clusters:
        chosen = torch.rand(batch, count, generator=generator, device=device)
        chosen = chosen < _strength(points, clusters, probability, generator)  # (B, N)
        number = torch.randint(1, PLACES + 1, (batch, 1), generator=generator, device=device)
        which = (torch.rand(batch, count, generator=generator, device=device) * number).long()  # (B, N)
        centre = gather_points(xyz, torch.randint(count, (batch, PLACES), generator=generator, device=device))
        low, high = SPREAD
        spread = low + (high - low) * torch.rand(batch, PLACES, generator=generator, device=device)
        moved = gather_points(centre, which) + spread.gather(1, which)[..., None] * noise
        xyz, hit = torch.where(chosen[..., None], moved.to(xyz.dtype), xyz), hit | chosen
    if strays:
        chosen = torch.rand(batch, count, generator=generator, device=device)
        chosen = chosen < _strength(points, strays, probability, generator)  # (B, N)
        radius = torch.rand(batch, count, 1, generator=generator, device=device) ** (1 / 3)
        ball = points[..., :3].norm(dim=-1).amax(1)[:, None, None] * radius * F.normalize(noise, dim=-1)
        xyz, hit = torch.where(chosen[..., None], ball.to(xyz.dtype), xyz), hit | chosen
    changed = torch.cat([xyz, points[..., 3:]], -1)
    if features is None:
        features = ("normal",) if points.shape[-1] == 6 else ()
    column = columns_of(features).get("normal")
    if column is not None:
        drawn = torch.randn(batch, count, 3, generator=generator, device=device)
        normal = torch.where(hit[..., None], F.normalize(drawn, dim=-1).to(points.dtype), points[..., column])
        changed = torch.cat([changed[..., : column.start], normal, changed[..., column.stop :]], -1)
    return changed


def damage(
    points: Tensor,
    generator: Generator,
    *,
    probability: float = 1.0,
    tilt_degrees: float = 0.0,
    most_bent: float = 0.0,
    refit: bool = False,
    noise: float = 0.0,
    strays: float = 0.0,
    clusters: float = 0.0,
    features: Features = None,
) -> Tensor:
    """Apply the kinds that are switched on, in a fixed order; ``refit`` moves clouds into the unit sphere."""
    if most_bent:
        points = bend(points, most_bent, probability, generator, features)
    if tilt_degrees:
        points = tilt(points, tilt_degrees, probability, generator, features)
    if refit:
        points = torch.cat([unit_sphere(points[..., :3]), points[..., 3:]], -1)
    if noise:
        points = add_noise(points, noise, probability, generator)
    if strays or clusters:
        points = add_strays(
            points, generator, strays=strays, clusters=clusters, probability=probability, features=features
        )
    return points
