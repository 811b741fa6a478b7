"""Geometric affine grouping of neighbourhoods (PointMLP, section 3.2)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.amp import is_autocast_available
from torch.nn import functional as F

from bixt3d.ops.backends import installed
from bixt3d.ops.linear import linear_map
from bixt3d.ops.neighbors import gather_points, knn, reduce_points
from bixt3d.ops.sampling import farthest_point_sample
from bixt3d.ops.tracing import is_exporting, is_transformed
from bixt3d.ops.validate import check_count, check_points, check_same, describe

EPSILON = 1e-5
CENTERS = ("anchor", "center")
LEAST_COMPILED = 1 << 16  # numbers gathered for groups that loading numba is worth


def affine_group(
    xyz: Tensor,
    features: Tensor,
    num_groups: int,
    k: int,
    alpha: Tensor,
    beta: Tensor,
    center: str = "anchor",
    use_xyz: bool = False,
    validate: bool = True,
) -> tuple[Tensor, Tensor]:
    """Group neighbours around sampled anchors and normalise them (PointMLP, section 3.2, equation 3).

    Anchors are farthest-point samples from index 0. The difference of each neighbour to its anchor (or
    to the neighbourhood's mean) is divided by one standard deviation per cloud, over all groups,
    neighbours and channels, then scaled by ``alpha`` and shifted by ``beta``; the anchor's own features
    are appended.

    Args:
        xyz: Points (B, N, 3).
        features: Their features (B, N, C).
        num_groups: Number of anchors S, at most N.
        k: Neighbours per anchor, at most N.
        alpha: Scale (C,), or (C + 3,) with ``use_xyz``; any shape with as many elements.
        beta: Shift, shaped as ``alpha``.
        center: Subtract the ``"anchor"`` or the neighbourhood's mean, ``"center"``.
        use_xyz: Append the neighbours' xyz to their features before normalising.
        validate: Look for NaN and infinity as well; on a GPU this waits for the device.

    Returns:
        Anchors (B, S, 3) and groups (B, S, k, 2C), or (B, S, k, 2C + 3) with ``use_xyz``: normalised
        neighbour, then anchor features; neighbours nearest first.

    Raises:
        ValueError: For wrong shape, dtype or values, too few points, or an unknown ``center``.
    """
    check_points(xyz, "xyz", (3,), finite=validate)
    check_points(features, "features", (), finite=validate)
    check_same(xyz, "xyz", features, "features", dims=2)
    count = xyz.shape[1]
    check_count(num_groups, "num_groups", count, f"each cloud has {count} points")
    check_count(k, "k", count, f"each cloud has {count} points")
    _check_affine(alpha, beta, features.shape[-1] + (3 if use_xyz else 0))
    _check_center(center)
    anchors = farthest_point_sample(xyz, num_groups, validate=False)
    new_xyz = gather_points(xyz, anchors)  # (B, S, 3)
    index = knn(new_xyz, xyz, k, validate=False)
    source = torch.cat([features, xyz.to(features.dtype)], -1) if use_xyz else features
    return new_xyz, group_neighbors(source, features, anchors, index, alpha, beta, center)


def group_neighbors(
    source: Tensor,
    features: Tensor,
    anchors: Tensor,
    index: Tensor,
    alpha: Tensor,
    beta: Tensor,
    center: str = "anchor",
) -> Tensor:
    """Return what `affine_group` does, (B, S, k, channels of source + C), for neighbours that are known.

    Arguments and errors are those of `linear_of_affine_group`.
    """
    _check_affine(alpha, beta, source.shape[-1])
    _check_center(center)
    neighbors = gather_points(source, index)  # (B, S, k, C)
    if center == "anchor":
        middle = gather_points(source, anchors)[:, :, None]  # (B, S, 1, C)
    else:
        middle = neighbors.mean(2, keepdim=True)  # (B, S, 1, C)
    offset = neighbors - middle
    sigma = offset.flatten(1).std(1)[:, None, None, None]  # (B, 1, 1, 1)
    normalized = alpha.flatten() * (offset / (sigma + EPSILON)) + beta.flatten()
    anchor = gather_points(features, anchors)[:, :, None].expand(-1, -1, index.shape[-1], -1)
    return torch.cat([normalized, anchor], -1)  # (B, S, k, channels of source + C)


def linear_of_affine_group(
    source: Tensor,
    features: Tensor,
    anchors: Tensor,
    index: Tensor,
    alpha: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    center: str = "anchor",
    pool: bool = False,
    at_anchors: Tensor | None = None,
    fused: bool = True,
) -> Tensor:
    """Apply a linear map to affine groups without building them.

    A linear map commutes with the gather, with the subtraction of the anchor and with the division by
    one number per cloud, so it is applied once a point (N rows) and once an anchor (S rows) instead of
    once a neighbour (S k rows). ``fused=False`` is the plain twin: group, then map.

    Args:
        source: What the neighbours are taken from (B, N, C), or (B, N, C + 3) with xyz appended.
        features: What the anchor part is taken from (B, N, C).
        anchors: Indices of the anchors (B, S).
        index: Indices of the neighbours (B, S, k).
        alpha: Scale of the affine map, as many elements as ``source`` has channels.
        beta: Shift of the affine map, likewise.
        weight: Linear weight (D, channels of source + C).
        bias: Linear bias (D,).
        center: ``"anchor"`` or ``"center"``.
        pool: Take the maximum over each group's neighbours; what is the same for all of them is then added
            once a group, and no tensor with an entry per neighbour is kept.
        at_anchors: ``features`` at the anchors (B, S, C), if they are gathered already.
        fused: Take the short way.

    Returns:
        Mapped groups (B, S, k, D), or (B, S, D) with ``pool``.

    Raises:
        ValueError: For an unknown ``center`` or affine parameters of the wrong size.
    """
    _check_affine(alpha, beta, source.shape[-1])
    _check_center(center)
    if not fused:
        groups = group_neighbors(source, features, anchors, index, alpha, beta, center)
        groups = F.linear(groups, weight, bias)  # (B, S, k, D)
        return groups.max(2).values if pool else groups
    affine = source, features, anchors, index, alpha, beta, weight, bias
    mapped, constant, inverse = _map_affine(*affine, center, at_anchors)
    if pool:
        # The largest before the division is the largest after it.
        largest = largest_offset(mapped, anchors, index, center)  # (B, S, D)
        return (largest * inverse.to(largest.dtype)[:, None, None]).to(constant.dtype) + constant
    scaled, offset = _scale_affine(mapped, constant, inverse, anchors, index, center)
    return gather_points(scaled, index) + offset[:, :, None]


def parts_of_affine_group(
    source: Tensor,
    features: Tensor,
    anchors: Tensor,
    index: Tensor,
    alpha: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    center: str = "anchor",
    at_anchors: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `linear_of_affine_group` adds up for each neighbour, for callers that do so in pieces.

    Returns:
        A row a point (B, N, D) and a row a group (B, S, D): a mapped neighbour is the sum of its point's and
        of its group's.
    """
    affine = source, features, anchors, index, alpha, beta, weight, bias
    return _scale_affine(*_map_affine(*affine, center, at_anchors), anchors, index, center)


def _map_affine(
    source: Tensor,
    features: Tensor,
    anchors: Tensor,
    index: Tensor,
    alpha: Tensor,
    beta: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    center: str,
    at_anchors: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mapped points (B, N, D), what is the same within a group (B, S, D), and 1 / sigma (B,)."""
    channels = source.shape[-1]
    of_neighbor, of_anchor = weight[:, :channels], weight[:, channels:]
    shift = of_neighbor @ beta.flatten() if bias is None else of_neighbor @ beta.flatten() + bias
    # Only differences of sources count; without their mean, half precision keeps more of them. A shift of all
    # points changes nothing, so the mean has no gradient.
    source = source - source.detach().mean(1, keepdim=True)
    mapped = linear_map(source, of_neighbor * alpha.flatten())  # (B, N, D)
    of_anchors = gather_points(features, anchors) if at_anchors is None else at_anchors  # (B, S, C)
    constant = linear_map(of_anchors, of_anchor, shift.to(of_anchor.dtype))  # (B, S, D)
    return mapped, constant, 1.0 / (group_spread(source, anchors, index, center) + EPSILON)


def _scale_affine(
    mapped: Tensor, constant: Tensor, inverse: Tensor, anchors: Tensor, index: Tensor, center: str
) -> tuple[Tensor, Tensor]:
    # Scaled once a point, so that the only work per neighbour is one gather and one sum.
    scaled = mapped * inverse.to(mapped.dtype)[:, None, None]  # (B, N, D)
    middle = gather_points(scaled, anchors) if center == "anchor" else reduce_points(scaled, index, "mean")
    return scaled, constant - middle  # (B, N, D), (B, S, D)


def is_compiled_for(features: Tensor, index: Tensor) -> bool:
    """Whether `bixt3d.ops.pooling` may take features (B, N, C) and groups of theirs (B, S, k): see there.

    Its loops are worth loading numba for from `LEAST_COMPILED` numbers on; no tracer sees what they do.
    """
    if type(features) not in (Tensor, torch.nn.Parameter) or features.device.type != "cpu":
        return False
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or tracing:
        return False
    return (
        features.dtype in (torch.float32, torch.float64)
        and index.numel() * features.shape[-1] >= LEAST_COMPILED
        and not is_transformed()
        and installed("numba")
    )


def largest_offset(
    features: Tensor, anchors: Tensor, index: Tensor, center: str = "anchor", fused: bool = True
) -> Tensor:
    """Return the maximum of each group's features less those of its centre, (B, S, C).

    Args:
        features: What the neighbours are taken from (B, N, C).
        anchors: Indices of the anchors (B, S).
        index: Indices of the neighbours (B, S, k).
        center: ``"anchor"`` or ``"center"``.
        fused: Take the compiled loops where they can be, in float32 at least; False is the plain twin.
    """
    wide = features.to(torch.promote_types(features.dtype, torch.float32)) if fused else features
    if fused and center == "anchor" and is_compiled_for(wide, index):
        from bixt3d.ops import pooling

        return pooling.largest_offset(wide, anchors, index)
    neighbors = reduce_points(features, index, "max")  # (B, S, C)
    at_anchor = center == "anchor"
    return neighbors - (
        gather_points(features, anchors) if at_anchor else reduce_points(features, index, "mean")
    )


def group_spread(
    source: Tensor, anchors: Tensor, index: Tensor, center: str = "anchor", fused: bool = True
) -> Tensor:
    """Return the standard deviation (B,) of neighbours less their centres, over groups and channels.

    Args:
        source: What the neighbours are taken from (B, N, C), of mean 0 a cloud.
        anchors: Indices of the anchors (B, S).
        index: Indices of the neighbours (B, S, k).
        center: ``"anchor"`` or ``"center"``.
        fused: Take the compiled loops where they can be; False is the plain twin.
    """
    # The variance needs sums over groups, neighbours and channels of x and x^2 only. With x = f_j - f_i
    # both follow from per-point sums and from inner products of anchors and points. The mean of all points
    # is 0 here, or the squares would cancel badly.
    source = source.float() if source.dtype in (torch.float16, torch.bfloat16) else source
    if fused and center == "anchor" and is_compiled_for(source, index):
        from bixt3d.ops import pooling

        return pooling.spread(source, anchors, index)
    batch, groups, k = index.shape
    channels = source.shape[-1]
    n = groups * k * channels
    # The products with all N points are cheaper than a gather until N outgrows a neighbourhood's size.
    # An exported program has to choose once for any N.
    exporting = is_exporting()
    if center == "center" or exporting or source.shape[1] > k * channels:
        neighbors = gather_points(source, index)
        middle = neighbors.mean(2) if center == "center" else gather_points(source, anchors)
        return (neighbors - middle[:, :, None]).flatten(1).std(1)
    anchor = gather_points(source, anchors)  # (B, S, C)
    kind = source.device.type
    exact = torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()
    with exact:
        inner = (anchor @ source.transpose(1, 2)).gather(2, index)  # (B, S, k)
    per_point = torch.stack([source.sum(-1), source.square().sum(-1)], -1)  # (B, N, 2)
    of_neighbors = gather_points(per_point, index).sum((1, 2))  # (B, 2)
    of_anchors = gather_points(per_point, anchors).sum(1) * k  # (B, 2)
    total = of_neighbors[:, 0] - of_anchors[:, 0]
    squares = of_neighbors[:, 1] + of_anchors[:, 1] - 2.0 * inner.sum((1, 2))
    variance = (squares - total.square() / n).clamp_min(0.0) / (n - 1)
    return variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()


def _check_center(center: str) -> None:
    if center not in CENTERS:
        raise ValueError(f"center: expected one of {', '.join(CENTERS)}, got {center!r}")


def _check_affine(alpha: Tensor, beta: Tensor, channels: int) -> None:
    if not all(isinstance(value, Tensor) and value.numel() == channels for value in (alpha, beta)):
        raise ValueError(
            f"alpha and beta: expected {channels} elements each, one per channel that is normalised, got "
            f"{describe(alpha)} and {describe(beta)}"
        )
