"""One split of a data set as whole tensors, and how a val split is cut where a data set has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "val", "test", "trainval")
SMALLEST = 1e-150  # extent of a cloud; its square would vanish


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """A whole split in memory: one row per shape, every shape with the same number of points.

    Attributes:
        points: (S, N, 3) xyz or (S, N, 6) xyz and normal, float32.
        label: (S,) int64, an index into `classes`.
        classes: Names of the classes.
        parts: (S, N) int64 part of each point; part data only.
        category: (S,) int64, an index into `categories`; part data only.
        categories: Names of the categories; part data only.
        parts_of_category: For each category the part ids that it may hold; part data only.
        part_names: Name of each part id, for ids 0..P-1; part data only.
        count: (S,) int64 points that each shape has of its own, where shapes differ in that: its rows from
            there on repeat them. None: all are its own.
        names: Id of each shape where the files hold one, else empty.

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
    part_names: tuple[str, ...] = ()
    count: Tensor | None = None

    def __post_init__(self) -> None:
        tensors = (self.points, self.label, self.parts, self.category, self.count)
        devices = {str(value.device) for value in tensors if isinstance(value, Tensor)}
        if len(devices) > 1:
            raise ValueError(f"expected all tensors on one device, came {', '.join(sorted(devices))}")
        _check_points(self.points)
        shapes, num_points = self.points.shape[:2]
        _check_names("classes", self.classes)
        _check_index("label", self.label, (shapes,), len(self.classes), "classes")
        if self.names and len(self.names) != shapes:
            raise ValueError(
                f"names: expected one for each of the {shapes} shapes, or none, came {len(self.names)}"
            )
        if self.count is not None:
            _check_index("count", self.count, (shapes,), num_points + 1, "points and none")
            if int(self.count.min()) < 1:
                raise ValueError("count: expected at least one point of its own for each shape, came 0")
        part_fields = (self.parts is not None, self.category is not None, bool(self.categories))
        if any(part_fields) or self.parts_of_category:
            if self.parts is None or self.category is None or not self.categories:
                raise ValueError(
                    "part data needs parts, category, categories and parts_of_category together, came "
                    f"parts: {part_fields[0]}, category: {part_fields[1]}, categories: {part_fields[2]}"
                )
            _check_names("categories", self.categories)
            _check_part_table(self.categories, self.parts_of_category)
            _check_index("category", self.category, (shapes,), len(self.categories), "categories")
            _check_index("parts", self.parts, (shapes, num_points), self.num_parts, "part ids")
            if self.part_names and len(self.part_names) != self.num_parts:
                raise ValueError(
                    f"part_names: expected {self.num_parts} names, one a part id, came {len(self.part_names)}"
                )

    def __len__(self) -> int:
        return self.points.shape[0]

    def __repr__(self) -> str:
        kind = (
            f"{len(self.classes)} classes"
            if self.parts is None
            else f"{len(self.categories)} categories with parts"
        )
        return f"Split({len(self)} shapes, points {tuple(self.points.shape)} on {self.points.device}, {kind})"

    @property
    def num_points(self) -> int:
        """Points per shape."""
        return self.points.shape[1]

    @property
    def channels(self) -> int:
        """3 for xyz, 6 for xyz and normal."""
        return self.points.shape[2]

    @property
    def num_parts(self) -> int:
        """Number P of part ids, over all categories; 0 for data without parts."""
        return 1 + max((max(ids) for ids in self.parts_of_category), default=-1)

    def to(self, device: torch.device | str) -> Split:
        """Returns the split with all its tensors on `device`."""
        return replace(
            self,
            points=self.points.to(device),
            label=self.label.to(device),
            parts=None if self.parts is None else self.parts.to(device),
            category=None if self.category is None else self.category.to(device),
            count=None if self.count is None else self.count.to(device),
        )

    def select(self, index: Tensor | Sequence[int]) -> Split:
        """Returns the shapes at `index`, in its order.

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
                f"came {tuple(index.shape)} {index.dtype}"
            )
        _check_index("index", index, (index.numel(),), len(self), "shapes")
        positions = index.tolist()
        return replace(
            self,
            points=self.points[index],
            label=self.label[index],
            parts=None if self.parts is None else self.parts[index],
            category=None if self.category is None else self.category[index],
            count=None if self.count is None else self.count[index],
            names=tuple(self.names[i] for i in positions) if self.names else (),
        )


def hold_out(label: Tensor, fraction: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cuts shapes into train and val, class by class, the same way every time.

    The draw uses NumPy's frozen legacy stream, so it depends on `label`, `fraction` and `seed` alone: not on
    global random state, and not on the version of a library.

    Args:
        label: (S,) int64 class of each shape.
        fraction: Share of each class that goes to val; at least one shape of each class that has two or more.
        seed: Another seed gives another cut.

    Returns:
        Train and val positions, int64, each sorted; together every position in 0..S-1 once.

    Raises:
        ValueError: `label` is not an (S,) int64 tensor, or `fraction` is not between 0 and 1.
    """
    if not isinstance(label, Tensor) or label.ndim != 1 or label.dtype != torch.int64 or label.numel() == 0:
        raise ValueError(f"label: expected a tensor (S,) int64, came {_describe(label)}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: expected a number between 0 and 1, came {fraction}")
    draw = np.random.RandomState(seed)
    labels = label.cpu().numpy()
    held = np.zeros(len(labels), dtype=bool)
    for one_class in np.unique(labels):
        members = np.flatnonzero(labels == one_class)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[draw.permutation(members)[:count]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def cut_train(whole: Split, split: str) -> Split:
    """Cuts train or val from an official train set that has no val split of its own; "trainval" is all of it.

    Raises:
        ValueError: `split` is another name, or no class has the two shapes that a val split needs.
    """
    if split == "trainval":
        return whole
    if split not in ("train", "val"):
        raise ValueError(f"split: expected train, val or trainval, came {split!r}")
    train_index, val_index = hold_out(whole.label)
    if val_index.numel() == 0:
        raise ValueError("cannot cut a val split: no class has two or more shapes; ask for split='trainval'")
    return whole.select(train_index if split == "train" else val_index)


def unit_sphere(points: Tensor) -> Tensor:
    """Centres each cloud on the mean of its points and scales it so that the farthest point is at distance 1.

    Args:
        points: (..., N, 3) float xyz; a cloud whose points all coincide becomes zeros.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: `points` is not a float tensor (..., N, 3) with at least one point.
    """
    if not isinstance(points, Tensor) or points.ndim < 2 or points.shape[-1] != 3 or points.shape[-2] == 0:
        raise ValueError(f"points: expected a float tensor (..., N, 3), came {_describe(points)}")
    if not points.is_floating_point():
        raise ValueError(f"points: expected a float tensor, came {points.dtype}")
    centred = points - points.mean(dim=-2, keepdim=True)
    # the mean of equal numbers is another one by rounding, and that would become the radius
    one_place = (points.amax(dim=-2) == points.amin(dim=-2)).all(dim=-1)[..., None, None]  # (..., 1, 1)
    centred = centred.masked_fill(one_place, 0.0)
    radius = centred.norm(dim=-1).amax(dim=-1)[..., None, None]  # (..., 1, 1)
    return centred / torch.where(radius > 0, radius, 1.0)


def check_extent(points: Tensor) -> None:
    """Checks that a cloud has a shape: two points that are apart by more than rounding.

    Args:
        points: (N, 3) float64 xyz.

    Raises:
        ValueError: All points coincide.
    """
    low, high = points.amin(dim=0), points.amax(dim=0)
    rounding = 8 * torch.finfo(torch.float64).eps * float(torch.maximum(low.abs(), high.abs()).max())
    if float((high - low).max()) <= max(rounding, SMALLEST):
        raise ValueError(f"expected points at two places at least, came {len(points)} at one")


def check_request(split: str, num_points: int | None) -> None:
    """Checks what every reader is asked for.

    Raises:
        ValueError: `split` is not one of `SPLITS`, or `num_points` neither None nor a whole number above 0.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, came {split!r}")
    if num_points is not None and (
        not isinstance(num_points, int) or isinstance(num_points, bool) or num_points < 1
    ):
        raise ValueError(
            f"num_points: expected a whole number above 0, or None for all stored points, came {num_points!r}"
        )


def _check_points(points: Tensor) -> None:
    if (
        not isinstance(points, Tensor)
        or points.ndim != 3
        or points.shape[2] not in (3, 6)
        or points.dtype != torch.float32
    ):
        raise ValueError(f"points: expected (S, N, 3) or (S, N, 6) float32, came {_describe(points)}")
    if points.numel() == 0:
        raise ValueError(
            f"points: expected at least one shape with at least one point, came {_describe(points)}"
        )
    # aminmax passes NaN on and needs no second array the size of the split
    if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(points)):
        bad = (~torch.isfinite(points)).flatten(1).any(dim=1).nonzero().squeeze(1)  # (bad,)
        raise ValueError(
            f"points: expected finite numbers, came NaN or infinity in {len(bad)} shapes, first {int(bad[0])}"
        )


def _check_index(what: str, value: Tensor | None, shape: tuple[int, ...], count: int, of: str) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != torch.int64:
        raise ValueError(f"{what}: expected {shape} int64, came {_describe(value)}")
    low, high = (int(extreme) for extreme in torch.aminmax(value))
    if low < 0 or high >= count:
        raise ValueError(f"{what}: expected values in 0..{count - 1} ({count} {of}), came {low}..{high}")


def _check_names(what: str, names: tuple[str, ...]) -> None:
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what}: expected a tuple of names, came {names!r}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: expected each name once, came {', '.join(twice)} more than once")


def _check_part_table(categories: tuple[str, ...], table: tuple[tuple[int, ...], ...]) -> None:
    if len(table) != len(categories) or not all(table):
        raise ValueError(
            f"parts_of_category: expected part ids for each of {len(categories)} categories, came {table!r}"
        )
    if min(min(ids) for ids in table) < 0:
        raise ValueError(f"parts_of_category: expected part ids from 0 up, came {table!r}")


def _describe(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
