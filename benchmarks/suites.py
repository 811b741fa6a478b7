"""ModelNet-C and ModelNet40-C: the corruptions of both suites at five levels, by their published definitions.

ModelNet-C is of Ren et al. (2022), ModelNet40-C of Sun et al. (2022). Each corruption is a pure function of
xyz (B, N, 3), the level 1 to 5 and an explicit generator; all clouds of a batch end with as many points.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from bixt3d.datasets.spheres import unit_sphere
from bixt3d.ops import gather_points

Damage = Callable[[Tensor, int, Generator], Tensor]
LEVELS = (1, 2, 3, 4, 5)
MOST_CLUSTERS = 7  # of ModelNet-C's local corruptions


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _signs(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator) - 1.0


def _draw(points: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw different points of each cloud: indices (B, count)."""
    return torch.rand(points.shape[:2], generator=generator).argsort(dim=1, stable=True)[:, :count]


def _clouds(points: Tensor, matrices: Tensor) -> Tensor:
    """Multiply rows (B, N, 3) by a matrix of each cloud (B, 3, 3)."""
    return torch.einsum("bni,bij->bnj", points, matrices)


def turns(angles: Tensor) -> Tensor:
    """Return Rz Ry Rx of angles (B, 3) about x, y and z in radians: (B, 3, 3)."""
    sin, cos, zero, one = angles.sin(), angles.cos(), torch.zeros(len(angles)), torch.ones(len(angles))
    (sx, sy, sz), (cx, cy, cz) = sin.unbind(1), cos.unbind(1)
    about_x = torch.stack([one, zero, zero, zero, cx, -sx, zero, sx, cx], -1).view(-1, 3, 3)
    about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).view(-1, 3, 3)
    about_z = torch.stack([cz, -sz, zero, sz, cz, zero, zero, zero, one], -1).view(-1, 3, 3)
    return about_z @ about_y @ about_x


def in_box(points: Tensor) -> Tensor:
    """Centre clouds on their bounding box, and scale its longest edge to 2 (ModelNet40-C)."""
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)  # (B, 1, 3)
    return (points - (low + high) / 2) * (2 / (high - low).amax(-1, keepdim=True))


def _cluster_sizes(batch: int, total: int, generator: Generator) -> Tensor:
    """Share ``total`` points among 1 to 7 clusters a cloud, each point as likely in any: (B, 7)."""
    clusters = torch.randint(1, MOST_CLUSTERS + 1, (batch, 1), generator=generator)  # (B, 1)
    which = (torch.rand(batch, total, generator=generator) * clusters).long()  # (B, total)
    return torch.zeros(batch, MOST_CLUSTERS, dtype=torch.int64).scatter_add_(1, which, torch.ones_like(which))


def without_clusters(points: Tensor, sizes: Tensor, generator: Generator, kept: float = 0.0) -> Tensor:
    """Delete the points nearest to a drawn one, cluster after cluster, ``sizes`` (B, c): (B, M, 3).

    ``kept``: the share of a cluster's points that stay, drawn; the sizes must then be alike.
    """
    alive = torch.ones(points.shape[:2], dtype=torch.bool)  # (B, N)
    for size in sizes.unbind(1):
        drawn = torch.rand(points.shape[:2], generator=generator).masked_fill(~alive, -1)
        centre = gather_points(points, drawn.argmax(1, keepdim=True))  # (B, 1, 3)
        apart = (points - centre).norm(dim=-1).masked_fill(~alive, math.inf)  # (B, N)
        place = apart.argsort(dim=1, stable=True).argsort(dim=1)  # (B, N), how many are nearer
        gone = place < size[:, None]
        if kept:
            lot = torch.rand(points.shape[:2], generator=generator).masked_fill(~gone, math.inf)
            gone &= lot.argsort(dim=1).argsort(dim=1) < int((1 - kept) * size[0])
        alive &= ~gone
    own = int(alive[0].sum())
    return gather_points(points, (~alive).byte().argsort(dim=1, stable=True)[:, :own])


# ModelNet-C


def stretch(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Scale each axis by U(1/s, s), s = 1.6 to 2, and move the cloud into the unit sphere again."""
    most = 1.5 + 0.1 * level
    return unit_sphere(points * _uniform((len(points), 1, 3), 1 / most, most, generator))


def jitter(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move points by normal noise of deviation 0.01 to 0.05."""
    return points + 0.01 * level * torch.randn(points.shape, generator=generator)


def rotate(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Turn about x, y and z by angles up to 6 to 30 degrees."""
    reach = math.pi / 30 * level
    return _clouds(points, turns(_uniform((len(points), 3), -reach, reach, generator)))


def drop_global(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Leave out 25 to 75 % of the points."""
    own = points.shape[1]
    return gather_points(points, _draw(points, int(own * (1 - (0.125 + 0.125 * level))), generator))


def drop_local(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Leave out 100 to 500 points in 1 to 7 clusters."""
    return without_clusters(points, _cluster_sizes(len(points), 100 * level, generator), generator)


def add_global(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add 10 to 50 points, even in the unit ball."""
    stray = torch.randn(len(points), 10 * level, 3, generator=generator)
    radius = torch.rand(len(points), 10 * level, 1, generator=generator) ** (1 / 3)
    return torch.cat([points, radius * stray / stray.norm(dim=-1, keepdim=True)], 1)


def add_local(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add 100 to 500 points in 1 to 7 normal clusters about points of the cloud, deviation 0.075 to 0.125."""
    batch, total = len(points), 100 * level
    sizes = _cluster_sizes(batch, total, generator)  # (B, 7)
    centres = gather_points(points, _draw(points, MOST_CLUSTERS, generator))  # (B, 7, 3)
    spread = _uniform((batch, MOST_CLUSTERS), 0.075, 0.125, generator)  # (B, 7)
    which = torch.searchsorted(
        sizes.cumsum(1), torch.arange(total).expand(batch, -1).contiguous(), right=True
    )
    noise = torch.randn(batch, total, 3, generator=generator)
    added = gather_points(centres, which) + spread.gather(1, which)[..., None] * noise  # (B, total, 3)
    square = added.square().sum(-1, keepdim=True)
    return torch.cat([points, torch.where(square > 1, added / square, added)], 1)


# ModelNet40-C


def _of(values: tuple[float, ...], level: int) -> float:
    return values[level - 1]


def uniform(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move each coordinate by U(-c, c), c = 0.01 to 0.05."""
    return in_box(points + _uniform(tuple(points.shape), -0.01 * level, 0.01 * level, generator))


def gaussian(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move points by normal noise of deviation 0.01 to 0.03, cut to -1..1."""
    deviation = 0.005 + 0.005 * level
    return (points + deviation * torch.randn(points.shape, generator=generator)).clamp(-1, 1)


def background(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add N/45 to N/20 points, even in the cube -1..1."""
    count = points.shape[1] // int(_of((45, 40, 35, 30, 20), level))
    return in_box(torch.cat([points, _uniform((len(points), count, 3), -1, 1, generator)], 1))


def impulse(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move N/30 to N/10 points by 0.1 along each axis, forwards or backwards."""
    count = points.shape[1] // int(_of((30, 25, 20, 15, 10), level))
    index = _draw(points, count, generator)[..., None].expand(-1, -1, 3)
    return in_box(points.scatter_add(1, index, 0.1 * _signs((len(points), count, 3), generator)))


def upsampling(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add N/5 to N points, each within 0.05 of one of the cloud along each axis."""
    count = points.shape[1] // int(_of((5, 4, 3, 2, 1), level))
    added = gather_points(points, _draw(points, count, generator))
    return in_box(torch.cat([points, added + _uniform(tuple(added.shape), -0.05, 0.05, generator)], 1))


def cutout(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Leave out 2 to 10 clusters of 30 points."""
    clusters = int(_of((2, 3, 5, 7, 10), level))
    return without_clusters(points, torch.full((len(points), clusters), 30), generator)


def density_dec(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Leave out three quarters of the points in each of 1 to 5 clusters of 100."""
    return without_clusters(points, torch.full((len(points), level), 100), generator, kept=0.25)


def density_inc(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Keep 1 to 5 clusters of 100 points, and fill up with drawn ones of the rest, N (or 1,024) in all."""
    batch, own, _ = points.shape
    alive, dense = torch.ones(batch, own, dtype=torch.bool), []
    for _ in range(level):
        drawn = torch.rand(batch, own, generator=generator).masked_fill(~alive, -1)
        centre = gather_points(points, drawn.argmax(1, keepdim=True))
        apart = (points - centre).norm(dim=-1).masked_fill(~alive, math.inf)
        dense.append(apart.argsort(dim=1, stable=True)[:, :100])  # (B, 100)
        alive.scatter_(1, dense[-1], False)
    rest = (~alive).byte().argsort(dim=1, stable=True)  # (B, N), those that are left first
    place = torch.randint(own - 100 * level, (batch, min(own, 1024) - 100 * level), generator=generator)
    return gather_points(points, torch.cat([*dense, rest.gather(1, place)], 1))


def tilt(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Turn about x, y and z by angles within 2.5 degrees of 2.5 to 15, forwards or backwards."""
    middle = _of((2.5, 5, 7.5, 10, 15), level)
    shape = (len(points), 3)
    angles = _uniform(shape, middle - 2.5, middle + 2.5, generator) * _signs(shape, generator)
    return in_box(_clouds(points, turns(angles.deg2rad()).transpose(1, 2)))


def shear(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add to x, y and z a share of z, x and (to x) z of 0.05 to 0.25, give or take 0.05."""
    middle = 0.05 * level
    shape = (len(points), 3)
    share = _uniform(shape, middle - 0.05, middle + 0.05, generator) * _signs(shape, generator)
    matrix = torch.eye(3).repeat(len(points), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 0], matrix[:, 2, 0] = share.unbind(1)
    return in_box(_clouds(points, matrix))


def _bernstein(at: Tensor, degree: int) -> Tensor:
    ways = torch.tensor([float(math.comb(degree, i)) for i in range(degree + 1)])
    i = torch.arange(degree + 1)
    return ways * at[..., None] ** i * (1 - at[..., None]) ** (degree - i)


def free_form(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move the 5 x 5 x 5 control points of a free-form deformation of the cube -1..1 by U(-c, c) edges."""
    reach = 0.1 * level  # of the cube's edge, 2
    moved = 2 * _uniform((len(points), 5, 5, 5, 3), -reach, reach, generator)
    x, y, z = (_bernstein((points[..., axis] + 1) / 2, 4) for axis in range(3))  # (B, N, 5)
    shift = torch.einsum("bni,bnj,bnk,bijkc->bnc", x, y, z, moved)
    inside = (points.abs() <= 1).all(-1, keepdim=True)
    return in_box(torch.where(inside, points + shift, points))


def _radial(points: Tensor, level: int, generator: Generator, inverse: bool) -> Tensor:
    """Move a 5 x 5 x 5 grid of -1..1 by 0.025 to 0.125, and points by radial functions between."""
    line = torch.linspace(-1, 1, 5, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line, line)  # (125, 3)
    alpha, gamma = _uniform((2, len(points), 125), -math.pi, math.pi, generator).double()
    direction = torch.stack([alpha.cos() * gamma.sin(), alpha.sin() * gamma.sin(), gamma.cos()], -1)
    moved = 0.025 * level * direction  # (B, 125, 3)

    def terms(xyz: Tensor) -> Tensor:
        """Return the radial functions about the grid, and 1, x, y, z: (..., 129)."""
        apart = (torch.cdist(xyz, grid).square() + 0.5**2).sqrt()
        return torch.cat([1 / apart if inverse else apart, torch.ones_like(xyz[..., :1]), xyz], -1)

    system = torch.zeros(129, 129, dtype=torch.float64)
    system[:125] = terms(grid)
    system[125:, :125] = system[:125, 125:].T
    wanted = torch.cat([moved, torch.zeros(len(points), 4, 3, dtype=torch.float64)], 1)  # (B, 129, 3)
    weights = torch.linalg.solve(system, wanted)  # (B, 129, 3)
    return in_box((points.double() + terms(points.double()) @ weights).float())


def radial(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Deform by multiquadric functions between the moved points of a grid."""
    return _radial(points, level, generator, inverse=False)


def radial_inverse(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Deform by inverse multiquadric functions between the moved points of a grid."""
    return _radial(points, level, generator, inverse=True)


def _viewpoints(
    batch: int, level: int, height: tuple[float, float], far: float, generator: Generator
) -> Tensor:
    """Return where one looks from, y up: a level has its fifth of the compass, heights are in degrees."""
    turn = (72.0 * level + _uniform((batch,), -36, 36, generator)).deg2rad()
    up = _uniform((batch,), *height, generator).deg2rad()
    return far * torch.stack([up.cos() * turn.sin(), up.sin(), up.cos() * turn.cos()], -1)  # (B, 3)


def _seen(cloud: Tensor, viewpoint: Tensor) -> Tensor:
    """Return the indices of the points (N, 3) that are seen from a place (Katz et al. 2007)."""
    from scipy.spatial import ConvexHull

    rays = (cloud - viewpoint).double().numpy()
    length = np.linalg.norm(rays, axis=1, keepdims=True)
    flipped = rays + 2 * (10**1.6 * length.max() - length) * rays / length
    hull = ConvexHull(np.vstack([flipped, np.zeros((1, 3))])).vertices
    return torch.from_numpy(np.sort(hull[hull < len(cloud)])).long()


def _view(
    points: Tensor, level: int, height: tuple[float, float], far: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return what is seen of clouds in the cube -1..1 from a place: as many points, drawn, and the place."""
    points = in_box(points)
    places = _viewpoints(len(points), level, height, far, generator)
    seen = []
    for cloud, place in zip(points, places, strict=True):
        index = _seen(cloud, place)
        again = torch.randint(len(index), (len(cloud) - len(index),), generator=generator)
        seen.append(cloud[torch.cat([index, index[again]])])
    return torch.stack(seen), places


def occlusion(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Keep what is seen from 3 away and 30 to 60 degrees above, from another side each level."""
    return in_box(_view(points, level, (30, 60), 3, generator)[0])


def lidar(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Keep what is seen from 5 away and 22.5 degrees above, on rings a degree apart: 768 points, drawn."""
    seen, places = _view(points, level, (22.5, 22.5), 5, generator)
    away = seen - places[:, None]
    flat, turn = away[..., [0, 2]].norm(dim=-1), torch.atan2(away[..., 2], away[..., 0])
    angle = torch.atan2(flat, away[..., 1]).rad2deg()  # (B, N), from the up axis
    lowest = angle.amin(1, keepdim=True)
    ring = (angle - lowest).floor()
    kept = ((angle - lowest - ring) >= 0.25) & ((angle - lowest - ring) < 0.75)  # (B, N)
    angle = (lowest + ring + 0.5).deg2rad()
    length = away.norm(dim=-1)
    ringed = torch.stack(
        [length * angle.sin() * turn.cos(), length * angle.cos(), length * angle.sin() * turn.sin()], -1
    )
    order = (~kept).byte().argsort(dim=1, stable=True)  # (B, N), those that are kept first
    count = kept.sum(1, keepdim=True).clamp_min(1)  # (B, 1)
    place = (torch.rand(len(points), 768, generator=generator) * count).long()
    return in_box(gather_points(ringed + places[:, None], order.gather(1, place)))


@dataclass(frozen=True)
class Suite:
    """Corruptions by name; ``references``: what DGCNN scores on each, where an mCE is published."""

    title: str
    corruptions: Mapping[str, Damage]
    references: Mapping[str, float] | None = None
    differs: str = ""  # what a page says of the differences

    def damage(self, points: Tensor, name: str, level: int) -> Tensor:
        """Damage xyz (B, N, 3) of the unit sphere on the CPU: (B, M, 3), the same every time."""
        generator = Generator().manual_seed(zlib.crc32(f"{self.title} {name} {level}".encode()))
        # in parts, as tables of distances would be large
        return torch.cat([self.corruptions[name](part, level, generator) for part in points.split(256)])


SUITES = {
    "modelnet-c": Suite(
        "ModelNet-C",
        {
            "scale": stretch,
            "jitter": jitter,
            "rotate": rotate,
            "drop-global": drop_global,
            "drop-local": drop_local,
            "add-global": add_global,
            "add-local": add_local,
        },
        {
            "scale": 0.906,
            "jitter": 0.684,
            "rotate": 0.785,
            "drop-global": 0.752,
            "drop-local": 0.793,
            "add-global": 0.705,
            "add-local": 0.725,
        },
    ),
    "modelnet40-c": Suite(
        "ModelNet40-C",
        {
            "occlusion": occlusion,
            "lidar": lidar,
            "density-inc": density_inc,
            "density-dec": density_dec,
            "cutout": cutout,
            "uniform": uniform,
            "gaussian": gaussian,
            "impulse": impulse,
            "upsampling": upsampling,
            "background": background,
            "rotation": tilt,
            "shear": shear,
            "free-form": free_form,
            "radial": radial,
            "radial-inverse": radial_inverse,
        },
        differs="Occlusion and lidar are published as views of the meshes; here they are what is seen of the "
        "points, by hidden-point removal. Density-inc is published from twice as many points.",
    ),
}
