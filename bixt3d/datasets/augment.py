"""Random changes to a batch of clouds: pure functions with an explicit generator.

Points are (B, N, 3 + F): xyz, y up, and the features that ``features`` names. There are three kinds, in the
order in which they are applied. `choose_points` and what it is made of say which points a batch takes, as
indices, so that labels of points go with them. `mix_clouds` puts points of one cloud into another.
`augment` and what it is made of say where the points go. Normals follow their surface: they turn with a
rotation and scale inversely under an anisotropic scale. Other features stay as they are, but for noise and
dropping of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from bixt3d.datasets.features import columns_of, name_of
from bixt3d.ops import gather_points

# Names of what stands beside xyz; None: the normals, where points have six channels.
Features = Sequence[str] | None


def _uniform(points: Tensor, shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    drawn = torch.rand(shape, generator=generator, device=points.device, dtype=points.dtype)
    return low + (high - low) * drawn


def scale(points: Tensor, low: float, high: float, generator: Generator, features: Features = None) -> Tensor:
    """Scale each axis of each cloud by a factor from U(low, high) (PointMLP's training script)."""
    factor = _uniform(points, (points.shape[0], 1, 3), low, high, generator)  # (B, 1, 3)
    # A surface stretched along an axis turns its normals away from it. Normals of zero stay zero.
    return change(
        points, features, lambda xyz: xyz * factor, lambda normal: F.normalize(normal / factor, dim=-1)
    )


def shift(points: Tensor, reach: float, generator: Generator) -> Tensor:
    """Move each cloud along each axis by a distance from U(-reach, reach)."""
    offset = _uniform(points, (points.shape[0], 1, 3), -reach, reach, generator)  # (B, 1, 3)
    return torch.cat([points[..., :3] + offset, points[..., 3:]], -1)


def jitter(points: Tensor, std: float, clip: float, generator: Generator) -> Tensor:
    """Move each point by normal noise of the given deviation, cut at ``clip`` (PointNet, section 5.1)."""
    xyz = points[..., :3]
    noise = torch.randn(xyz.shape, generator=generator, device=points.device, dtype=points.dtype)
    return torch.cat([xyz + (std * noise).clamp(-clip, clip), points[..., 3:]], -1)


def turn_by(points: Tensor, rows: Tensor, features: Features = None) -> Tensor:
    """Turn clouds and their normals, each by a matrix of its own (B, 3, 3)."""

    def turn(vectors: Tensor) -> Tensor:
        return torch.einsum("bij,bnj->bni", rows, vectors)  # (B, N, 3)

    return change(points, features, turn, turn)


def rotate_up(
    points: Tensor, degrees: float, generator: Generator, features: Features = None, turned: float = 1.0
) -> Tensor:
    """Turn each cloud about the up axis y by an angle from U(-degrees, degrees), or, not ``turned``, not."""
    reach = math.radians(degrees)
    angle = _uniform(points, (points.shape[0],), -reach, reach, generator)  # (B,)
    if turned < 1:
        angle = angle * (_uniform(points, (points.shape[0],), 0.0, 1.0, generator) < turned)
    sin, cos, zero, one = angle.sin(), angle.cos(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], -1).view(-1, 3, 3)  # (B, 3, 3)
    return turn_by(points, rows, features)


def parallel_turns(up: bool = False) -> Tensor:
    """Return the turns that leave axes parallel, none first: (24, 3, 3), or with y ``up`` (4, 3, 3)."""
    eye = torch.eye(3)
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            rows = torch.tensor(signs)[:, None] * eye[list(order)]  # (3, 3)
            if torch.linalg.det(rows) > 0 and (not up or float(rows[1, 1]) == 1):
                found.append(rows)
    return torch.stack(found)


def turn_parallel(
    points: Tensor, up: bool, generator: Generator, features: Features = None, turned: float = 1.0
) -> Tensor:
    """Turn each cloud to one of `parallel_turns`, drawn, with the probability ``turned``."""
    rows = parallel_turns(up).to(points)
    which = torch.randint(len(rows), (len(points),), generator=generator, device=points.device)  # (B,)
    if turned < 1:
        which = which * (_uniform(points, (len(points),), 0.0, 1.0, generator) < turned)
    return turn_by(points, rows[which], features)


def lay_down(
    points: Tensor, generator: Generator, *, probability: float, features: Features = None
) -> tuple[Tensor, Tensor]:
    """Turn some clouds so that y is no longer up, to one of the 20 of `parallel_turns` that do so.

    Returns:
        Points (B, N, 3 + F), and which clouds lie (B,), bool.
    """
    rows = parallel_turns()
    rows = rows[rows[:, 1, 1] < 0.5].to(points)  # (20, 3, 3), chosen before a GPU would be waited for
    which = torch.randint(len(rows), (len(points),), generator=generator, device=points.device)  # (B,)
    lies = _uniform(points, (len(points),), 0.0, 1.0, generator) < probability  # (B,)
    whole = torch.eye(3, dtype=points.dtype, device=points.device)
    return turn_by(points, torch.where(lies[:, None, None], rows[which], whole), features), lies


def mirror(points: Tensor, probability: float, generator: Generator, features: Features = None) -> Tensor:
    """Mirror each cloud along x, and apart from that along z, each with the given probability."""
    flipped = _uniform(points, (points.shape[0], 1, 2), 0.0, 1.0, generator) < probability  # (B, 1, 2)
    sign = 1.0 - 2.0 * flipped.to(points.dtype)
    signs = torch.stack([sign[..., 0], torch.ones_like(sign[..., 0]), sign[..., 1]], -1)  # (B, 1, 3)
    return change(points, features, lambda xyz: xyz * signs, lambda normal: normal * signs)


def drop_feature(
    points: Tensor, feature: str, probability: float, generator: Generator, features: Features = None
) -> Tensor:
    """Set a feature of a whole cloud to zero with the given probability (PointNeXt, section 3.1)."""
    column = _columns(points, features).get(feature)
    if column is None:
        return points
    kept = _uniform(points, (points.shape[0], 1, 1), 0.0, 1.0, generator) >= probability  # (B, 1, 1)
    return _put(points, column, points[..., column] * kept)


def jitter_feature(
    points: Tensor, feature: str, std: float, generator: Generator, features: Features = None
) -> Tensor:
    """Change a feature of each point by normal noise of the given deviation; colours stay in 0 to 1."""
    column = _columns(points, features).get(feature)
    if column is None:
        return points
    values = points[..., column]
    noise = torch.randn(values.shape, generator=generator, device=points.device, dtype=points.dtype)
    values = values + std * noise
    return _put(points, column, values.clamp(0.0, 1.0) if feature == "color" else values)


def _columns(points: Tensor, features: Features) -> dict[str, slice]:
    """Return where the features stand; six channels of which nothing is said are xyz and normal."""
    if features is None:
        features = ("normal",) if points.shape[-1] == 6 else ()
    return columns_of(features)


def _put(points: Tensor, column: slice, values: Tensor) -> Tensor:
    return torch.cat([points[..., : column.start], values, points[..., column.stop :]], -1)


def change(
    points: Tensor,
    features: Features,
    move: Callable[[Tensor], Tensor],
    turn: Callable[[Tensor], Tensor],
) -> Tensor:
    """Move the xyz of points (B, N, C), turn their normals, and leave other features as they are."""
    moved = torch.cat([move(points[..., :3]), points[..., 3:]], -1)
    column = _columns(points, features).get("normal")
    return moved if column is None else _put(moved, column, turn(points[..., column]))


def draw_points(points: Tensor, count: Tensor | None, num_points: int, generator: Generator) -> Tensor:
    """Draw ``num_points`` of each cloud (B, N, C), none twice while it has others: indices (B, num_points).

    A cloud's own points are its first ``count``; its rows from there on repeat them. Clouds with fewer rows
    than ``num_points`` take theirs more than once.
    """
    order = _uniform(points, points.shape[:2], 0.0, 1.0, generator)  # (B, N)
    if count is not None:
        order = order + (torch.arange(points.shape[1], device=points.device) >= count[:, None])
    wrapped = torch.arange(num_points, device=points.device) % points.shape[1]
    return order.argsort(1)[:, wrapped]


def thin_points(points: Tensor, num_points: int, most: float, generator: Generator) -> Tensor:
    """Keep ``num_points`` of each cloud (B, N, C), others every time: indices (B, num_points).

    Each point is passed over with a probability from U(0, most), one a cloud; the first ``num_points`` that
    are left stay, in their order: points of farthest-point order stay spread out, but are no longer a
    farthest-point sample. Where too few are left, the first of those passed over follow.
    """
    batch, count, _ = points.shape
    rate = _uniform(points, (batch, 1), 0.0, most, generator)  # (B, 1)
    gone = _uniform(points, (batch, count), 0.0, 1.0, generator) < rate  # (B, N)
    place = gone * count + torch.arange(count, device=points.device)  # (B, N)
    return place.argsort(1)[:, :num_points]


def drop_points(points: Tensor, most: float, generator: Generator) -> Tensor:
    """Put each point onto its cloud's first with a probability from U(0, most), one a cloud (PointNet++).

    Returns:
        Indices (B, N), zero for the points that go.
    """
    batch, count, _ = points.shape
    rate = _uniform(points, (batch, 1), 0.0, most, generator)  # (B, 1)
    gone = _uniform(points, (batch, count), 0.0, 1.0, generator) < rate  # (B, N)
    return torch.arange(count, device=points.device).expand(batch, -1).masked_fill(gone, 0)


def shuffle_order(points: Tensor, generator: Generator) -> Tensor:
    """Draw one order of the points for the whole batch (B, N, C): indices (B, N)."""
    order = torch.randperm(points.shape[1], generator=generator, device=points.device)  # (N,)
    return order.expand(points.shape[0], -1)


def without_lost(order: Tensor, lost: Tensor, num_points: int) -> Tensor:
    """Return the first ``num_points`` of an order (B, N) that are not ``lost`` (B, N), again and again."""
    kept = order.gather(1, lost.gather(1, order).byte().argsort(dim=1, stable=True))  # (B, N)
    own = (~lost).sum(1, keepdim=True)  # (B, 1)
    return kept.gather(1, torch.arange(num_points, device=order.device) % own)


def choose_points(
    points: Tensor,
    generator: Generator,
    count: Tensor | None = None,
    *,
    num_points: int | None = None,
    draw: bool = False,
    thin: float = 0.0,
    dropout: float = 0.0,
    shuffle: bool = False,
    lose: Callable[[Tensor, Generator], Tensor] | None = None,
) -> Tensor | None:
    """Choose the points of a batch (B, N, C), by whatever is switched on, in a fixed order.

    With ``num_points`` that many points of each cloud are kept: with ``draw`` by `draw_points`, else by
    `thin_points`. ``count`` (B,) says how many points each cloud has of its own.

    Returns:
        Indices (B, num_points), or (B, N); None if all points stay as they are.
    """
    index = None
    if lose is not None:
        order = torch.arange(points.shape[1], device=points.device).expand(len(points), -1)  # (B, N)
        if draw:
            order = draw_points(points, count, points.shape[1], generator)
        elif thin:
            order = thin_points(points, points.shape[1], thin, generator)
        index = without_lost(order, lose(points, generator), num_points or points.shape[1])
    elif num_points is not None and draw:
        index = draw_points(points, count, num_points, generator)
    elif num_points is not None:
        index = thin_points(points, num_points, thin, generator)
    kept = points if index is None else gather_points(points, index)
    if dropout:
        gone = drop_points(kept, dropout, generator)
        index = gone if index is None else index.gather(1, gone)
    if shuffle:
        order = shuffle_order(kept, generator)
        index = order if index is None else index.gather(1, order)
    return index


def mix_clouds(points: Tensor, generator: Generator, *, probability: float) -> tuple[Tensor, Tensor, Tensor]:
    """Replace points of some clouds by those at the same places of another (PointCutMix-R).

    A cloud is mixed with the given probability. Each of its points then goes with a probability from U(0, 1),
    one a cloud, so that any number of them is as likely as any other. Points keep their places: where clouds
    were in farthest-point order, the first points still spread better than a random choice, if not as well
    as before. The paper (Zhang et al., 2022) first assigns the points of both clouds to each other.

    It comes before `augment`: two clouds then share one scale, shift and rotation. After it, as in the
    paper's script, those would tell whose a point is, as would normals that one has lost.

    Returns:
        Points (B, N, C), for each cloud the other one (B,) whose points it has, and the share of its points
        that are its own (B,), float32, 1 where nothing was mixed.
    """
    batch, count, _ = points.shape
    # In a ring of random order each takes from the one before it, so none from itself.
    ring = torch.randperm(batch, generator=generator, device=points.device)  # (B,)
    other = ring.roll(1)[ring.argsort()]  # (B,)
    mixed = _uniform(points, (batch, 1), 0.0, 1.0, generator) < probability  # (B, 1)
    rate = _uniform(points, (batch, 1), 0.0, 1.0, generator)  # (B, 1)
    own = ~mixed | (_uniform(points, (batch, count), 0.0, 1.0, generator) >= rate)  # (B, N)
    return torch.where(own[..., None], points, points[other]), other, own.float().mean(1)


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
    turn: str = "none",
    turned: float = 1.0,
    mirror_probability: float = 0.0,
    normal_dropout: float = 0.0,
    feature_dropout: Mapping[str, float] | None = None,
    feature_jitter: Mapping[str, float] | None = None,
    features: Features = None,
) -> Tensor:
    """Apply the changes that are switched on, in a fixed order, to points (B, N, 3 + F).

    Raises:
        ValueError: If the points have another shape, or lack a feature that is to be changed.
    """
    width = points.shape[-1] if points.ndim == 3 else 0
    if width < 3 or (features is None and width not in (3, 6)):
        raise ValueError(
            f"points: expected (B, N, 3) or (B, N, 6), or names of features, got {tuple(points.shape)}"
        )
    if mirror_probability:
        points = mirror(points, mirror_probability, generator, features)
    if rotate_degrees:
        points = rotate_up(points, rotate_degrees, generator, features, turned)
    if turn != "none":
        points = turn_parallel(points, turn == "quarter", generator, features, turned)
    if (scale_low, scale_high) != (1.0, 1.0):
        points = scale(points, scale_low, scale_high, generator, features)
    if shift_reach:
        points = shift(points, shift_reach, generator)
    if jitter_std:
        points = jitter(points, jitter_std, jitter_clip, generator)
    if normal_dropout:
        points = drop_feature(points, "normal", normal_dropout, generator, features)
    for name, std in sorted((feature_jitter or {}).items()):
        points = jitter_feature(points, name, std, generator, features)
    for name, probability in sorted((feature_dropout or {}).items()):
        points = drop_feature(points, name, probability, generator, features)
    return points


def check_changes(changes: Mapping[str, float], features: Sequence[str], key: str) -> None:
    """Raise ValueError for a change of a feature that points do not have, or, as noise, of normals."""
    known = [name_of(feature) for feature in features]
    for name in changes:
        if name not in known:
            raise ValueError(
                f"{key}: expected features of the data ({', '.join(known) or 'xyz alone'}), got {name!r}"
            )
        if name == "normal" and key.endswith("jitter"):
            raise ValueError(f"{key}: normals have length 1 and no noise; expected another feature")
