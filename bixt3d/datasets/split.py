"""One split of a data set as tensors, which may come from one's own arrays, or stay in files."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from bixt3d.datasets.checks import (
    as_clouds,
    check_index,
    check_names,
    check_part_table,
    check_points,
    float_points,
    repeat_labels,
    whole_numbers,
)
from bixt3d.datasets.features import assumed_features, columns_of, mend_features, name_of, parse_features
from bixt3d.datasets.mapped import Mapped, each_cloud, select_rows, to_device
from bixt3d.datasets.spheres import add_heights, check_extent, unit_sphere
from bixt3d.suggest import nearest

_WHOLE = ("label", "parts", "category", "count")  # fields of whole numbers


class Cloud(NamedTuple):
    """One shape of a split: points (N, C), and label, a number."""

    points: Tensor
    label: Tensor


class PartCloud(NamedTuple):
    """One shape with parts: points (N, C), label, parts (N,), category, and how many points are its own."""

    points: Tensor
    label: Tensor
    parts: Tensor
    category: Tensor
    own: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A whole split: one row per shape, every shape with the same number of points.

    Points and parts of data sets that do not fit into memory are `bixt3d.datasets.mapped.Mapped`: tensors
    whose rows are read from a file when they are asked for.

    NumPy arrays are taken as well as tensors, and lists of names. Points in double precision become float32;
    clouds whose shape that would lose, as on a map, are first moved to their centre. Colours up to 255 are
    divided by it, and normals scaled to length 1, with a line in the log. ``len(split)``, ``split[3]`` and
    iteration work as `torch.utils.data.DataLoader` needs them: a shape is a `Cloud` (points, label), or a
    `PartCloud`.

    Attributes:
        points: (S, N, 3 + F) xyz and the features, float32.
        label: (S,) int64, an index into `classes`, or -1 for a shape without a label.
        classes: Names of the classes.
        parts: (S, N) int64 part of each point, or -1 for one without a label; part data only.
        category: (S,) int64, an index into `categories`; part data only.
        categories: Names of the categories; part data only.
        parts_of_category: For each category the part ids that it may hold; part data only.
        part_names: Name of each part id, for ids 0..P-1; part data only.
        part_codes: The number by which files say each part id, where it is another; part data only.
        count: (S,) int64 points that each shape has of its own, where shapes differ in that: its rows from
            there on repeat them. None: all are its own.
        names: Id of each shape where the files hold one, else empty.
        digests: What tells the file of each shape from others, equal for copies; empty where none is known.
        moments: Of each shape, what `bixt3d.datasets.survey.moments_of` says of the whole cloud that its
            points were drawn from; empty where none is known.
        features: Names of what stands beside xyz, in order: `normal` (3), `color` (3), `intensity` (1),
            `height` (1), or others, with `name:width` where they are wider than 1. Six channels that nothing
            is said of are xyz and normal, if they can be.
        normalized: Whether every cloud is centred and scaled to the unit sphere already, as models take
            them; a training does it otherwise.

    Raises:
        ValueError: A field has another shape or dtype, an index is out of range, points are not finite, or
            there are none.
    """

    points: Tensor
    label: Tensor
    classes: tuple[str, ...]
    parts: Tensor | None = None
    category: Tensor | None = None
    categories: tuple[str, ...] = ()
    parts_of_category: tuple[tuple[int, ...], ...] = ()
    names: tuple[str, ...] = ()
    digests: tuple[str, ...] = field(default=(), kw_only=True)
    moments: tuple[tuple[float, ...], ...] = field(default=(), kw_only=True)
    part_codes: tuple[int, ...] = field(default=(), kw_only=True)
    part_names: tuple[str, ...] = ()
    count: Tensor | None = None
    features: tuple[str, ...] = ()
    normalized: bool = False

    def __post_init__(self) -> None:
        self._convert()
        tensors = (self.points, self.label, self.parts, self.category, self.count)
        devices = {str(value.device) for value in tensors if isinstance(value, Tensor)}
        if len(devices) > 1:
            raise ValueError(f"expected all tensors on one device, got {', '.join(sorted(devices))}")
        check_points(self.points)
        features = parse_features(self.features, self.points.shape[2] if self.features else None)
        if features and not isinstance(self.points, Mapped):
            object.__setattr__(self, "points", mend_features(self.points, features, "points"))
        object.__setattr__(self, "features", features or assumed_features(self.points))
        shapes, num_points = self.points.shape[:2]
        check_names("classes", self.classes)
        check_index("label", self.label, (shapes,), len(self.classes), "classes", least=-1)
        for key, values in self._of_each().items():
            if values and len(values) != shapes:
                raise ValueError(
                    f"{key}: expected one for each of the {shapes} shapes, or none, got {len(values)}"
                )
        if self.count is not None:
            check_index("count", self.count, (shapes,), num_points + 1, "points and none")
            if int(self.count.min()) < 1:
                raise ValueError("count: expected at least one point of its own for each shape, got 0")
        self._check_parts()

    def _check_parts(self) -> None:
        """Raise ValueError unless the fields of part data are all there and fit, or none is."""
        given = (self.parts is not None, self.category is not None, bool(self.categories))
        if not any(given) and not self.parts_of_category:
            return
        if not all(given):
            raise ValueError(
                "part data needs parts, category, categories and parts_of_category together, got "
                f"parts: {given[0]}, category: {given[1]}, categories: {given[2]}"
            )
        check_names("categories", self.categories)
        check_part_table(self.categories, self.parts_of_category)
        check_index("category", self.category, (len(self),), len(self.categories), "categories")
        check_index("parts", self.parts, tuple(self.points.shape[:2]), self.num_parts, "part ids", least=-1)
        for key, values in (("part_names", self.part_names), ("part_codes", self.part_codes)):
            if values and len(values) != self.num_parts:
                raise ValueError(f"{key}: expected {self.num_parts}, one a part id, got {len(values)}")

    def _convert(self) -> None:
        """Take arrays of NumPy for tensors, and lists for tuples."""
        object.__setattr__(self, "points", float_points(self.points))
        for name in _WHOLE:
            object.__setattr__(self, name, whole_numbers(getattr(self, name)))
        for name in ("classes", "categories", "names", "part_names", "features"):
            value = getattr(self, name)
            if isinstance(value, (list, np.ndarray)):
                object.__setattr__(self, name, tuple(str(v) if isinstance(v, np.str_) else v for v in value))
        table = self.parts_of_category
        if isinstance(table, (list, tuple)) and any(isinstance(ids, list) for ids in (table, *table)):
            ids = (tuple(ids) if isinstance(ids, list) else ids for ids in table)
            object.__setattr__(self, "parts_of_category", tuple(ids))

    @classmethod
    def from_clouds(
        cls,
        clouds: Sequence[Any],
        label: Any,
        classes: Sequence[str],
        parts: Sequence[Any] = (),
        **fields: Any,
    ) -> Split:
        """Build a split of clouds that differ in their number of points.

        Each cloud is centred and scaled to the unit sphere in double precision; those with fewer points than
        the largest repeat theirs, and `count` says how many are their own.

        Args:
            clouds: Arrays or tensors (N_i, C).
            label: (S,) class of each.
            classes: Their names.
            parts: Part of each point, (N_i,) each; part data only.
            **fields: Other attributes, such as ``features`` and ``parts_of_category``.

        Raises:
            ValueError: For no clouds, one without points or at one place, or as `Split`.
        """
        read = as_clouds(clouds)
        rows = [len(cloud) for cloud in read]
        most = max(rows)
        points = []
        for at, cloud in enumerate(read):
            check_extent(cloud[:, :3], f"cloud {at}")
            cloud = torch.cat([unit_sphere(cloud[:, :3]), cloud[:, 3:]], -1).float()
            points.append(cloud[torch.arange(most) % len(cloud)])  # (N, C)
        if len(parts):
            fields["parts"] = repeat_labels(parts, rows)  # (S, N)
            fields.setdefault("category", label)
            fields.setdefault("categories", tuple(classes))
        count = torch.tensor(rows) if min(rows) < most else None
        fields = {"count": count, "normalized": True, **fields}
        return cls(torch.stack(points), label, tuple(classes), **fields)

    def __len__(self) -> int:
        return self.points.shape[0]

    @overload
    def __getitem__(self, index: int) -> Cloud | PartCloud: ...

    @overload
    def __getitem__(self, index: slice) -> Split: ...

    def __getitem__(self, index: int | slice) -> Cloud | PartCloud | Split:
        """Return one shape, or the split of a slice.

        Raises:
            IndexError: If there is no such shape.
            ValueError: If the slice is empty.
        """
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        place = range(len(self))[operator.index(index)]
        if self.parts is None or self.category is None:
            return Cloud(self.points[place], self.label[place])
        own = self.label.new_tensor(self.num_points) if self.count is None else self.count[place]
        return PartCloud(self.points[place], self.label[place], self.parts[place], self.category[place], own)

    def with_features(self, features: Sequence[str]) -> Split:
        """Return the split with these features alone, in this order.

        ``height`` is computed where there is none: the distance above a cloud's lowest point along y, in its
        radii.

        Raises:
            ValueError: If it lacks another.
        """
        wanted, columns = parse_features(features), columns_of(self.features)
        if "height" in wanted and "height" not in columns:
            points = each_cloud(self.points, add_heights, self.count, channels=self.channels + 1)
            return replace(self, points=points, features=(*self.features, "height")).with_features(wanted)
        missing = [name_of(feature) for feature in wanted if name_of(feature) not in columns]
        if missing:
            raise ValueError(
                f"features: expected {', '.join(wanted)}, got {', '.join(self.features) or 'xyz alone'}"
                f"{nearest(missing[0], columns)}"
            )
        if wanted == self.features:
            return self
        places = [slice(0, 3), *(columns[name_of(name)] for name in wanted)]
        chosen = [channel for place in places for channel in range(place.start, place.stop)]
        points = each_cloud(self.points, partial(_pick, channels=chosen), channels=len(chosen))
        return replace(self, points=points, features=wanted)

    def first_points(self, num_points: int) -> Split:
        """Return the split with the first so many points of each shape.

        Raises:
            ValueError: If it stores fewer.
        """
        if not 1 <= num_points <= self.num_points:
            raise ValueError(
                f"num_points: expected 1 to {self.num_points}, as each shape stores, got {num_points}"
            )
        return replace(
            self,
            points=self.points[:, :num_points].contiguous(),
            parts=None if self.parts is None else self.parts[:, :num_points].contiguous(),
            count=None if self.count is None else self.count.clamp(max=num_points),
        )

    def without_parts(self) -> Split:
        """Return the split without its parts and their tables."""
        tables: dict[str, Any] = dict.fromkeys(
            ("categories", "parts_of_category", "part_names", "part_codes"), ()
        )
        return replace(self, parts=None, category=None, **tables)

    def __repr__(self) -> str:
        parts = f"{len(self.categories)} categories with parts"
        kind = f"{len(self.classes)} classes" if self.parts is None else parts
        return f"Split({len(self)} shapes, points {tuple(self.points.shape)} on {self.points.device}, {kind})"

    @property
    def num_points(self) -> int:
        """Points per shape."""
        return self.points.shape[1]

    @property
    def channels(self) -> int:
        """Channels of a point: 3 for xyz, and the widths of the features."""
        return self.points.shape[2]

    @property
    def num_parts(self) -> int:
        """Number P of part ids, over all categories; 0 for data without parts."""
        return 1 + max((max(ids) for ids in self.parts_of_category), default=-1)

    def to(self, device: torch.device | str) -> Split:
        """Return the split with all its tensors on `device`."""
        return self._change(lambda tensor: to_device(tensor, device))

    def select(self, index: Tensor | Sequence[int]) -> Split:
        """Return the shapes at `index`, in its order.

        Args:
            index: (K,) int64 positions in 0..S-1, or an (S,) bool mask.

        Raises:
            ValueError: The index has another shape or dtype, points outside the split, or picks nothing.
        """
        index = torch.as_tensor(index, device=self.points.device)
        if index.dtype == torch.bool and tuple(index.shape) == (len(self),):
            index = index.nonzero().squeeze(1)  # (K,)
        if index.ndim != 1 or index.numel() == 0:
            raise ValueError(
                f"index: expected at least one position, (K,) int64 or an ({len(self)},) bool mask, "
                f"got {tuple(index.shape)} {index.dtype}"
            )
        check_index("index", index, (index.numel(),), len(self), "shapes")
        kept = {
            key: tuple(values[place] for place in index.tolist()) if values else ()
            for key, values in self._of_each().items()
        }
        return self._change(lambda tensor: select_rows(tensor, index), **kept)

    def _of_each(self) -> dict[str, tuple[Any, ...]]:
        """Return the fields with an entry a shape, or none, beside the tensors."""
        return {"names": self.names, "digests": self.digests, "moments": self.moments}

    def _change(self, change: Callable[[Tensor], Tensor], **fields: Any) -> Split:
        """Return the split with its tensors changed alike."""
        values = {name: getattr(self, name) for name in ("points", *_WHOLE)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if value is not None}
        return replace(self, **changed, **fields)


def _pick(points: Tensor, _: Tensor | None, channels: list[int]) -> Tensor:
    return points[..., channels].contiguous()
