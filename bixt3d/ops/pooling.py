"""Maximum over neighbours and spread of neighbourhoods on CPUs, forward and backward in one pass (numba).

Their plain twins are in `bixt3d.ops.grouping`, which imports this where it may be taken; needs numba.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bixt3d.ops.backends import in_shares
from bixt3d.ops.bucket import compiled
from bixt3d.ops.neighbors import gather_points


def largest_offset(features: Tensor, anchors: Tensor, index: Tensor) -> Tensor:
    """Return the maximum of each group's features, less its anchor's: (B, S, C).

    Args:
        features: Points' features (B, N, C), float32 or float64, on the CPU.
        anchors: Rows of the anchors (B, S), int64.
        index: Rows of their neighbours (B, S, k), int64.

    Raises:
        ValueError: If shapes do not fit together, or rows are outside the clouds.
    """
    _check(features, anchors, index)
    out: Tensor = _LargestOffset.apply(features, anchors, index)
    return out


def spread(source: Tensor, anchors: Tensor, index: Tensor) -> Tensor:
    """Return the standard deviation of neighbours less their anchor, one a cloud.

    Args:
        source: Points' features (B, N, C), float32 or float64, on the CPU.
        anchors: Rows of the anchors (B, S), int64.
        index: Rows of their neighbours (B, S, k), int64.

    Returns:
        Deviations (B,) over groups, neighbours and channels.

    Raises:
        ValueError: If shapes do not fit together, or rows are outside the clouds.
    """
    _check(source, anchors, index)
    out: Tensor = _Spread.apply(source, anchors, index)
    return out


def _check(features: Tensor, anchors: Tensor, index: Tensor) -> None:
    """Raise ValueError for rows that are not there: compiled loops do not look, and would read anything."""
    if len(features) != len(index) or anchors.shape != index.shape[:2]:
        raise ValueError(
            f"expected features (B, N, C), anchors (B, S) and index (B, S, k), got {tuple(features.shape)}, "
            f"{tuple(anchors.shape)} and {tuple(index.shape)}"
        )
    for name, rows in (("anchors", anchors), ("index", index)):
        least, most = (int(one) for one in rows.aminmax())
        if least < 0 or most >= features.shape[1]:
            raise ValueError(f"{name}: expected rows 0 to {features.shape[1] - 1}, got {least} to {most}")


class _LargestOffset(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, anchors: Tensor, index: Tensor) -> Tensor:
        features, anchors, index = features.detach().contiguous(), anchors.contiguous(), index.contiguous()
        batch, groups, _ = index.shape
        out = features.new_empty(batch, groups, features.shape[-1])
        winners = torch.empty(out.shape, dtype=torch.int32)
        arrays = [one.numpy() for one in (features, anchors, index, out, winners)]
        in_shares(lambda *share: _largest(*arrays, *share), batch * groups, index.numel() * out.shape[-1])
        ctx.save_for_backward(anchors, winners)
        ctx.count = features.shape[1]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        back = grad.new_empty(grad.shape[0], ctx.count, grad.shape[2])
        arrays = [one.numpy() for one in (grad.contiguous(), *ctx.saved_tensors, back)]
        in_shares(lambda *share: _largest_backward(*arrays, *share), len(back), 8 * grad.numel())
        return back, None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, anchors: Tensor, index: Tensor) -> Tensor:
        given = source
        source, anchors, index = source.detach().contiguous(), anchors.contiguous(), index.contiguous()
        sums = torch.empty(source.shape[0], 2, dtype=torch.float64)
        arrays = source.numpy(), anchors.numpy(), index.numpy(), sums.numpy()
        in_shares(lambda *share: _sums(*arrays, *share), len(source), index.numel() * source.shape[-1])
        number = index.shape[1] * index.shape[2] * source.shape[2]
        mean = sums[:, 0] / number
        variance = (sums[:, 1] - mean * sums[:, 0]).clamp_min(0.0) / (number - 1)
        deviation = variance.clamp_min(torch.finfo(source.dtype).tiny).sqrt()
        ctx.save_for_backward(given, anchors, index, mean, deviation)
        ctx.number = number
        return deviation.to(source.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        source, anchors, index, mean, deviation = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            offset = gather_points(source, index) - gather_points(source, anchors)[:, :, None]
            (back,) = torch.autograd.grad(offset.flatten(1).std(1), source, grad, create_graph=True)
            return back, None, None
        source = source.contiguous()
        factor = grad.double() / ((ctx.number - 1) * deviation)
        back = torch.empty_like(source)
        scalars = mean.to(source.dtype).numpy(), factor.to(source.dtype).numpy()
        arrays = source.numpy(), anchors.numpy(), index.numpy(), *scalars, back.numpy()
        in_shares(lambda *share: _sums_backward(*arrays, *share), len(source), 2 * ctx.number * len(source))
        return back, None, None


@compiled
def _largest(features, anchors, index, out, winners, begin, end):
    groups, k = index.shape[1], index.shape[2]
    for place in range(begin, end):
        cloud, group = place // groups, place % groups
        near, best, winner = index[cloud, group], out[cloud, group], winners[cloud, group]
        best[:] = features[cloud, near[0]]
        winner[:] = near[0]
        for neighbor in range(1, k):
            row = np.int32(near[neighbor])
            values = features[cloud, row]
            for c in range(len(values)):
                better = values[c] > best[c]
                best[c] = values[c] if better else best[c]
                winner[c] = row if better else winner[c]
        anchor = features[cloud, anchors[cloud, group]]
        for c in range(len(anchor)):
            best[c] -= anchor[c]


@compiled
def _largest_backward(grad, anchors, winners, back, begin, end):
    for cloud in range(begin, end):
        back[cloud] = 0
        for group in range(grad.shape[1]):
            given, winner, anchor = grad[cloud, group], winners[cloud, group], anchors[cloud, group]
            for c in range(grad.shape[2]):
                back[cloud, winner[c], c] += given[c]
                back[cloud, anchor, c] -= given[c]


@compiled
def _sums(source, anchors, index, sums, begin, end):
    channels = source.shape[2]
    once, squared = np.empty(channels, source.dtype), np.empty(channels, source.dtype)
    total, squares = np.empty(channels, np.float64), np.empty(channels, np.float64)
    for cloud in range(begin, end):
        total[:] = 0
        squares[:] = 0
        for group in range(index.shape[1]):
            anchor = source[cloud, anchors[cloud, group]]
            once[:] = 0
            squared[:] = 0
            for neighbor in range(index.shape[2]):
                values = source[cloud, index[cloud, group, neighbor]]
                for c in range(channels):
                    offset = values[c] - anchor[c]
                    once[c] += offset
                    squared[c] += offset * offset
            for c in range(channels):
                total[c] += once[c]
                squares[c] += squared[c]
        sums[cloud, 0], sums[cloud, 1] = total.sum(), squares.sum()


@compiled
def _sums_backward(source, anchors, index, mean, factor, back, begin, end):
    channels = source.shape[2]
    moved = np.empty(channels, source.dtype)
    for cloud in range(begin, end):
        middle, scale = mean[cloud], factor[cloud]
        back[cloud] = 0
        for group in range(index.shape[1]):
            row = anchors[cloud, group]
            anchor, of_anchor = source[cloud, row], back[cloud, row]
            moved[:] = 0
            for neighbor in range(index.shape[2]):
                near = index[cloud, group, neighbor]
                values, of_near = source[cloud, near], back[cloud, near]
                for c in range(channels):
                    change = (values[c] - anchor[c] - middle) * scale
                    of_near[c] += change
                    moved[c] += change
            for c in range(channels):
                of_anchor[c] -= moved[c]
