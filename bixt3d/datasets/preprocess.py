"""What is done to a cloud before a model sees it: the same for training, prediction and export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from bixt3d.datasets.features import channel_count, check_divide, divide_features, parse_features
from bixt3d.datasets.loader import ORDERS, arrange
from bixt3d.datasets.orientation import check_up, turn
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.datasets.strays import NORMALIZATIONS, robust_sphere, stray_points
from bixt3d.ops import gather_points

STORED_POINTS = 2048  # as many as ModelNet40 stores of a shape
MIX = (1540483477, 668265263, 374761393)  # odd, and below 2^31, so that products fit an int64


def scatter_keys(index: Tensor) -> Tensor:
    """Return a number for each index below 2^32, no two alike, whose order is that of a draw.

    Whole-number arithmetic alone, so that an exported graph draws what `Preprocess.choose` does.
    """
    key = index
    for factor in MIX:
        key = (key * factor + 12345) % (1 << 32)
        key = key ^ (key // (1 << 16))
    return key


@dataclass(frozen=True)
class Preprocess:
    """How clouds become what a model takes: turned, centred, scaled to the unit sphere, ordered and cut.

    Attributes:
        num_points: Points of a cloud; None for all of them.
        order: ``"stored"``, ``"fps"`` or ``"random"``, as `bixt3d.datasets.loader.arrange`.
        stored_points: Points that a mesh is sampled to, or that are drawn from a larger cloud, before that.
        features: Names of what stands beside xyz, in order.
        up: The clouds' axis that points up, of which y is made; None for clouds that stay as they are.
        estimate_normals: Estimate normals where a cloud has none.
        normalization: ``"max"``: centred on the mean, the farthest point at distance 1. ``"robust"``: so of
            the points that are not astray, which alone a model of whole clouds sees.
        optional: Features that a cloud may lack, as clouds of the training have lost them
            (`augment.normal_dropout`, `augment.feature_dropout`): zeros take their place. A checkpoint's
            config says which.
        divide: What features are divided by, by name; the others stay as they are.

    Raises:
        ValueError: For a number of points below 1, an unknown order, feature, axis or normalization, or a
            divisor that is not more than 0 or not of a feature.
    """

    num_points: int | None = None
    order: str = "stored"
    stored_points: int = STORED_POINTS
    features: tuple[str, ...] = ()
    up: str | None = None
    estimate_normals: bool = False
    normalization: str = "max"
    optional: tuple[str, ...] = field(default=(), compare=False)
    divide: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("num_points", "stored_points"):
            value = getattr(self, name)
            optional = name == "num_points" and value is None
            if not optional and (type(value) is not int or value < 1):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if self.order not in ORDERS:
            raise ValueError(f"order: expected one of {', '.join(ORDERS)}, got {self.order!r}")
        object.__setattr__(self, "features", parse_features(self.features))
        check_up(self.up)
        if self.normalization not in NORMALIZATIONS:
            known = ", ".join(NORMALIZATIONS)
            raise ValueError(f"normalization: expected one of {known}, got {self.normalization!r}")
        check_divide(self.divide, self.features)

    @property
    def channels(self) -> int:
        """Channels of a point: 3 for xyz, and the widths of the features."""
        return channel_count(self.features)

    def prepare(self, points: Tensor) -> Tensor:
        """Return points (..., N, C) with y up and features divided, in their own unit and place."""
        return divide_features(turn(points, self.up, self.features), self.features, self.divide)

    def normalize(self, points: Tensor) -> Tensor:
        """Return points (..., N, C) prepared, and xyz moved into the unit sphere, float32."""
        points = self.prepare(points)
        # In double precision: coordinates of a map lose their shape in single precision.
        xyz = points[..., :3]
        if self.normalization == "robust":
            clouds = xyz.flatten(0, -3) if xyz.ndim > 2 else xyz[None]  # (B, N, 3)
            # Of a larger cloud a draw of the points that a training stores is judged.
            drawn = self.drawn(xyz.shape[-2], xyz.device)  # (M,)
            judged = clouds[:, drawn]  # (B, M, 3)
            again = torch.arange(len(drawn), device=xyz.device) >= xyz.shape[-2]  # (M,)
            xyz = robust_sphere(clouds, judged, stray_points(judged) | again).reshape(xyz.shape)
        else:
            xyz = unit_sphere(xyz)
        return torch.cat([xyz, points[..., 3:]], -1).float()

    def drawn(self, own: int, device: torch.device) -> Tensor:
        """Return which of ``own`` points stand for the cloud, as many as a training stores: all, or a draw.

        Of fewer points all, again and again, so that an exported graph has one size.
        """
        stored = max(self.stored_points, self.num_points or 1)
        row = torch.arange(own, device=device)
        count = row[-1:] + 1  # as a tensor: comparing the number would bind an exported graph to the answer
        _, order = torch.where(count > stored, scatter_keys(row), row).topk(own, largest=False, sorted=True)
        return order[torch.arange(stored, device=device) % count]

    def choose(self, points: Tensor) -> Tensor:
        """Return the points (n, C) that a model of whole clouds sees, of normalised ones (N, C).

        Of a cloud with more points than a training stores a draw of so many is looked at; one with fewer than
        the model takes repeats them.
        """
        points = self._kept(points)
        own = len(points)
        wanted = self.num_points or own
        count = None
        if own < wanted:  # as `folder` stores them
            points = points[torch.arange(wanted, device=points.device) % own]
            count = torch.tensor([own], device=points.device)
        index = arrange(points[None], wanted, self.order, count=count)
        return gather_points(points[None], index)[0]  # (n, C)

    def count(self, points: Tensor) -> int:
        """Return how many of the points that `choose` returns are the cloud's own: the others repeat them."""
        own = len(points) if self.normalization == "max" else len(self._kept(points))
        return min(own, self.num_points or own)

    def _kept(self, points: Tensor) -> Tensor:
        """Return the points that `choose` chooses among: a draw of a large cloud, none of them astray."""
        own = len(points)
        wanted = self.num_points or own
        stored = max(self.stored_points, wanted)
        if own > stored or (self.order == "stored" and stored > own > wanted):
            # A scan may be stored line by line, and its first points be one corner of it; and training chose
            # the farthest ones among so many, not among millions.
            drawn = scatter_keys(torch.arange(own, device=points.device)).argsort()  # (N,)
            points = points[drawn[:stored]]
        if self.normalization == "robust":
            points = points[~stray_points(points[None, :, :3])[0]]
        return points

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's own kinds."""
        stated = {**asdict(self), "features": list(self.features), "channels": self.channels}
        del stated["optional"]
        if not self.divide:  # as checkpoints had it that knew no divisors
            del stated["divide"]
        return stated

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> Preprocess:
        """Return what a checkpoint states; of one that names no features six channels are xyz and normal.

        Raises:
            ValueError: If something of it is missing or damaged.
        """
        try:
            features = stated.get("features")
            if features is None:
                features = {3: (), 6: ("normal",)}[stated.get("channels", 3)]
            if not isinstance(features, (list, tuple)):
                raise TypeError(f"features: {features!r}")
            made = cls(
                stated["num_points"],
                stated["order"],
                stated["stored_points"],
                tuple(features),
                stated.get("up"),
                bool(stated.get("estimate_normals", False)),
                stated.get("normalization", "max"),
                divide=dict(stated.get("divide") or {}),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"preprocess: expected its settings, got {stated!r:.80} ({error!r})") from None
        if stated.get("channels", made.channels) != made.channels:
            raise ValueError(
                f"preprocess: expected {made.channels} channels for {', '.join(('xyz', *made.features))}, "
                f"got {stated['channels']!r}"
            )
        return made
