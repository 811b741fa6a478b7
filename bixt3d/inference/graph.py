"""A model with its preprocessing as one module of plain tensor operations, which exports as one graph."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d.datasets.preprocess import Preprocess, scatter_keys
from bixt3d.datasets.strays import kept_rows, stray_points
from bixt3d.ops import farthest_point_sample, gather_points


class RawModel(nn.Module):
    """A model that takes clouds as they are in a file, and does itself what `Predictor` does before it.

    Clouds are turned, centred and scaled to the unit sphere in double precision. A model of whole clouds then
    sees the points that `Preprocess.choose` takes, in their order; one that labels points sees them all in
    passes of as many as in training, and its logits are in the order of the input.

    Args:
        model: The model.
        preprocess: What was done to clouds in training.
        per_point: Whether it labels points.

    Raises:
        ValueError: For a model of all points of clouds whose stray ones are left out: how many is not known.
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess, per_point: bool) -> None:
        """Keep the parts."""
        super().__init__()
        if preprocess.normalization == "robust" and preprocess.num_points is None and not per_point:
            raise ValueError(
                "normalization: robust: expected num_points for an export, got a model of all points"
            )
        self.model, self.preprocess, self.per_point = model, preprocess, per_point
        self.takes_count = "count" in inspect.signature(model.forward).parameters

    def forward(self, points: Tensor, *told: Tensor) -> Tensor:
        """Map points (B, N, 3 + F), and a category (B,) where the model is told it, to logits."""
        seen = self.preprocess.normalize(points.double())  # (B, N, C)
        known = getattr(self.model, "num_categories", 0)
        if known:  # -1 would be the last category: a number that is none is refused
            told = tuple(torch.where(one < 0, known, one) for one in told)
        if self.per_point:
            return self._label(seen, told)
        chosen, own = self._choose(seen)  # (B, n, C), (B,) or (1,)
        logits: Tensor = self.model(chosen, *told, **self._told_count(own, chosen))
        return logits

    def _told_count(self, own: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """Return the argument ``count`` of a model that takes it: rows of `seen` that are a cloud's own."""
        return {"count": own.clamp_max(seen.shape[1]).expand(len(seen))} if self.takes_count else {}

    def _choose(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `Preprocess.choose` does of each cloud, for any N: (B, N, C) -> (B, n, C).

        Also return how many points a cloud has of its own, (B,), or (1,) for all alike.
        """
        own, order, wanted = points.shape[1], self.preprocess.order, self.preprocess.num_points
        row = torch.arange(own, device=points.device)  # (N,)
        count = row[-1:] + 1  # N as a tensor: comparing the number would bind the graph to the answer
        if wanted is None:
            if order == "stored":
                return points, count
            return gather_points(points, farthest_point_sample(points[..., :3], own, validate=False)), count
        stored = max(self.preprocess.stored_points, wanted)
        if order == "fps":
            draws = count > stored
        else:
            draws = (count > wanted) & (count != (stored if order == "stored" else 0))
        _, drawn = torch.where(draws, scatter_keys(row), row).topk(own, largest=False, sorted=True)  # (N,)
        if self.preprocess.normalization == "robust":
            points = points[:, drawn[torch.arange(stored, device=points.device) % count]]  # (B, stored, C)
            again = torch.arange(stored, device=points.device) >= count  # (stored,)
            stray = stray_points(points[..., :3])
            index, kept = kept_rows(stray | again)
            points = gather_points(points, index)  # (B, stored, C)
            place = torch.arange(wanted, device=points.device) % kept[:, None]  # (B, n)
            if order == "fps":
                chosen = farthest_point_sample(points[..., :3], wanted, validate=False)  # (B, n)
                place = chosen.gather(1, place)
            return gather_points(points, place), kept
        if order != "fps":
            return points[:, drawn[torch.arange(wanted, device=points.device) % count]], count  # (B, n, C)
        # Rows that repeat others are at distance 0, so they are chosen after all others.
        points = points[:, drawn[torch.arange(stored, device=points.device) % count]]  # (B, stored, C)
        chosen = farthest_point_sample(points[..., :3], wanted, validate=False)  # (B, n)
        return gather_points(points, chosen[:, torch.arange(wanted, device=points.device) % count]), count

    def _label(self, points: Tensor, told: tuple[Tensor, ...]) -> Tensor:
        """Return logits (B, N, P), as `bixt3d.models.segmenter.segment_all_points` makes its passes."""
        size = self.preprocess.num_points
        if size is None:
            all_own = torch.arange(points.shape[1], device=points.device)[-1:] + 1  # (1,)
            whole: Tensor = self.model(points, *told, **self._told_count(all_own, points))
            return whole
        batch, own, _ = points.shape
        passes = (own + size - 1) // size  # of each cloud; the last reaches back for points of the one before
        row = torch.arange(own, device=points.device)  # (N,)
        _, drawn = scatter_keys(row).topk(own, largest=False, sorted=True)  # (N,)
        count = row[-1:] + 1  # N as a tensor
        last = (count - size).clamp_min(0)  # where the last pass begins
        number = torch.arange(batch * passes, device=points.device)  # (B * passes,)
        each = (count + size - 1) // size  # passes as a tensor
        cloud, begin = number // each, torch.minimum(number % each * size, last)
        place = begin[:, None] + torch.arange(size, device=points.device)  # (B * passes, n)
        index = cloud[:, None] * own + drawn[place % count]  # (B * passes, n)
        seen = F.embedding(index, points.flatten(0, 1))  # (B * passes, n, C)
        of_pass = (one[cloud] for one in told)
        logits = self.model(seen, *of_pass, **self._told_count(count, seen)).flatten(
            0, 1
        )  # (B * passes * n, P)
        _, rank = drawn.topk(own, largest=False, sorted=True)  # (N,), where each point was drawn
        chunk = rank // size * size
        answer = chunk + rank - torch.minimum(chunk, last)  # (N,)
        first = torch.arange(batch, device=points.device)[:, None] * passes * size  # (B, 1)
        return F.embedding(first + answer, logits)  # (B, N, P)


def least_points(model: Any, preprocess: Preprocess) -> int:
    """Return the fewest points of a cloud that a `RawModel` takes: two where it repeats what is missing."""
    return 2 if preprocess.num_points is not None else int(getattr(model, "least_points", 2))
