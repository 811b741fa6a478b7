"""Retrieval: how well the vectors of clouds find others of their class, as mean average precision."""

from __future__ import annotations

import torch
from torch import Tensor

from bixt3d.ops.precision import widest
from bixt3d.ops.validate import describe


def retrieval(vectors: Tensor, label: Tensor, chunk: int = 256) -> dict[str, float]:
    """Compute how well each cloud finds those of its class among all others, by cosine.

    Args:
        vectors: One of each cloud (S, D), such as `bixt3d.Predictor.embed` returns.
        label: (S,) int64.
        chunk: Clouds that search at a time.

    Returns:
        ``map``: the mean over clouds of the average precision of the whole ranking; ``nearest``: the share
        whose nearest other cloud is of their class. Clouds without another of their class do not search.

    Raises:
        ValueError: If no class has two clouds, or the two differ in length.
    """
    if vectors.ndim != 2 or label.shape != vectors.shape[:1]:
        raise ValueError(
            f"vectors and label: expected (S, D), (S,), got {describe(vectors)}, {describe(label)}"
        )
    unit = torch.nn.functional.normalize(vectors.float(), dim=1)  # (S, D)
    precision, nearest = [], []
    for rows in torch.split(torch.arange(len(unit), device=unit.device), chunk):
        near = unit[rows] @ unit.T  # (s, S)
        near[torch.arange(len(rows)), rows] = -torch.inf  # itself comes last
        order = near.argsort(dim=1, descending=True, stable=True)[:, :-1]
        same = (label[order] == label[rows, None]).to(widest(unit.device))  # (s, S - 1)
        rank = torch.arange(1, same.shape[1] + 1, device=unit.device)
        found = same.sum(1)
        each = (same * same.cumsum(1) / rank).sum(1) / found.clamp_min(1)  # (s,)
        precision.append(each[found > 0])
        nearest.append(same[found > 0, :1].flatten())
    if not sum(map(len, precision)):
        raise ValueError("retrieval: expected a class of two clouds or more, got none")
    return {"map": float(torch.cat(precision).mean()), "nearest": float(torch.cat(nearest).mean())}
