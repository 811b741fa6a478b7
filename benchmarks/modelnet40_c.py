"""ModelNet40-C (Sun et al. 2022): its fifteen corruptions by their published definitions.

Each is a function as those of `benchmarks.modelnet_c`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from benchmarks.modelnet_c import draw, even, multiply, signs, turns, without_clusters
from bixt3d.ops import gather_points


def in_box(points: Tensor) -> Tensor:
    """Centre clouds on their bounding box, and scale its longest edge to 2 (ModelNet40-C)."""
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)  # (B, 1, 3)
    return (points - (low + high) / 2) * (2 / (high - low).amax(-1, keepdim=True))


def _of(values: tuple[float, ...], level: int) -> float:
    return values[level - 1]


def uniform(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move each coordinate by U(-c, c), c = 0.01 to 0.05."""
    return in_box(points + even(tuple(points.shape), -0.01 * level, 0.01 * level, generator))


def gaussian(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move points by normal noise of deviation 0.01 to 0.03, cut to -1..1."""
    deviation = 0.005 + 0.005 * level
    return (points + deviation * torch.randn(points.shape, generator=generator)).clamp(-1, 1)


def background(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add N/45 to N/20 points, even in the cube -1..1."""
    count = points.shape[1] // int(_of((45, 40, 35, 30, 20), level))
    return in_box(torch.cat([points, even((len(points), count, 3), -1, 1, generator)], 1))


def impulse(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move N/30 to N/10 points by 0.1 along each axis, forwards or backwards."""
    count = points.shape[1] // int(_of((30, 25, 20, 15, 10), level))
    index = draw(points, count, generator)[..., None].expand(-1, -1, 3)
    return in_box(points.scatter_add(1, index, 0.1 * signs((len(points), count, 3), generator)))


def upsampling(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add N/5 to N points, each within 0.05 of one of the cloud along each axis."""
    count = points.shape[1] // int(_of((5, 4, 3, 2, 1), level))
    added = gather_points(points, draw(points, count, generator))
    return in_box(torch.cat([points, added + even(tuple(added.shape), -0.05, 0.05, generator)], 1))


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
    angles = even(shape, middle - 2.5, middle + 2.5, generator) * signs(shape, generator)
    return in_box(multiply(points, turns(angles.deg2rad()).transpose(1, 2)))


def shear(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Add to x, y and z a share of z, x and (to x) z of 0.05 to 0.25, give or take 0.05."""
    middle = 0.05 * level
    shape = (len(points), 3)
    share = even(shape, middle - 0.05, middle + 0.05, generator) * signs(shape, generator)
    matrix = torch.eye(3).repeat(len(points), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 0], matrix[:, 2, 0] = share.unbind(1)
    return in_box(multiply(points, matrix))


def _bernstein(at: Tensor, degree: int) -> Tensor:
    ways = torch.tensor([float(math.comb(degree, i)) for i in range(degree + 1)])
    i = torch.arange(degree + 1)
    return ways * at[..., None] ** i * (1 - at[..., None]) ** (degree - i)


def free_form(points: Tensor, level: int, generator: Generator) -> Tensor:
    """Move the 5 x 5 x 5 control points of a free-form deformation of the cube -1..1 by U(-c, c) edges."""
    reach = 0.1 * level  # of the cube's edge, 2
    moved = 2 * even((len(points), 5, 5, 5, 3), -reach, reach, generator)
    x, y, z = (_bernstein((points[..., axis] + 1) / 2, 4) for axis in range(3))  # (B, N, 5)
    shift = torch.einsum("bni,bnj,bnk,bijkc->bnc", x, y, z, moved)
    inside = (points.abs() <= 1).all(-1, keepdim=True)
    return in_box(torch.where(inside, points + shift, points))


def _radial(points: Tensor, level: int, generator: Generator, inverse: bool) -> Tensor:
    """Move a 5 x 5 x 5 grid of -1..1 by 0.025 to 0.125, and points by radial functions between."""
    line = torch.linspace(-1, 1, 5, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line, line)  # (125, 3)
    alpha, gamma = even((2, len(points), 125), -math.pi, math.pi, generator).double()
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
    turn = (72.0 * level + even((batch,), -36, 36, generator)).deg2rad()
    up = even((batch,), *height, generator).deg2rad()
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
