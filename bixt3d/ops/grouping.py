"""Geometric affine grouping of neighbourhoods (PointMLP, section 3.2)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.amp import is_autocast_available
from torch.nn import functional as F

from bixt3d.ops.neighbors import gather_points, knn, reduce_points
from bixt3d.ops.sampling import farthest_point_sample
from bixt3d.ops.tracing import is_exporting
from bixt3d.ops.validate import check_count, check_points, check_same, describe

EPSILON = 1e-5
CENTERS = ("anchor", "center")


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
        fused: Take the short way.

    Returns:
        Mapped groups (B, S, k, D), or (B, S, D) with ``pool``.

    Raises:
        ValueError: For an unknown ``center`` or affine parameters of the wrong size.
    """
    channels = source.shape[-1]
    _check_affine(alpha, beta, channels)
    _check_center(center)
    if not fused:
        groups = group_neighbors(source, features, anchors, index, alpha, beta, center)
        groups = F.linear(groups, weight, bias)  # (B, S, k, D)
        return groups.max(2).values if pool else groups
    of_neighbor, of_anchor = weight[:, :channels], weight[:, channels:]
    shift = of_neighbor @ beta.flatten() if bias is None else of_neighbor @ beta.flatten() + bias
    # Only differences of sources count; without their mean, half precision keeps more of them.
    source = source - source.mean(1, keepdim=True)
    mapped = F.linear(source, of_neighbor * alpha.flatten())  # (B, N, D)
    constant = F.linear(gather_points(features, anchors), of_anchor, shift.to(of_anchor.dtype))  # (B, S, D)
    inverse = 1.0 / (_sigma(source, anchors, index, center) + EPSILON)  # (B,)
    inverse = inverse.to(mapped.dtype)[:, None, None]  # (B, 1, 1)
    # Scaled once a point, so that the only work per neighbour is one gather and one sum.
    mapped = mapped * inverse
    if pool:
        neighbors = reduce_points(mapped, index, "max")  # (B, S, D)
        at_anchor = center == "anchor"
        middle = gather_points(mapped, anchors) if at_anchor else reduce_points(mapped, index, "mean")
        return neighbors + (constant - middle)
    neighbors = gather_points(mapped, index)  # (B, S, k, D)
    middle = gather_points(mapped, anchors) if center == "anchor" else neighbors.mean(2)  # (B, S, D)
    return neighbors + (constant - middle)[:, :, None]


def _sigma(source: Tensor, anchors: Tensor, index: Tensor, center: str) -> Tensor:
    # The variance needs sums over groups, neighbours and channels of x and x^2 only. With x = f_j - f_i
    # both follow from per-point sums and from inner products of anchors and points. The mean of all points
    # is 0 here, or the squares would cancel badly.
    source = source.float() if source.dtype in (torch.float16, torch.bfloat16) else source
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
