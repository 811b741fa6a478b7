"""Features of points by name: what stands beside xyz, how wide it is, and whether numbers can be it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bixt3d.suggest import counted

if TYPE_CHECKING:
    from torch import Tensor

    # Points may be either: what is done to them is written for both, so that files are read without PyTorch.
    Points = TypeVar("Points", Tensor, np.ndarray[Any, Any])

logger = logging.getLogger(__name__)

# Unit vectors; red, green and blue from 0 to 1; the strength of a scanner's echo; the distance above a
# cloud's lowest point. A feature of another name has the width that it states, `name:width`, or 1.
WIDTHS = {"normal": 3, "color": 3, "intensity": 1, "height": 1}
FIXED = ("normal", "color")  # whose range is known
LENGTH_OFF = 0.05  # a unit normal printed with two digits is off by 0.01


class FeatureError(ValueError):
    """Points lack a feature that is asked for, or hold numbers that cannot be it.

    Attributes:
        missing: The feature, where points lack it.
        reason: What is wrong.
        such: Features that the numbers may be, to be asked for instead; none if empty.
        otherwise: What else may be done; empty: take xyz alone.
    """

    missing: str | None = None

    def __init__(self, reason: str, such: Sequence[str] = (), otherwise: str = "") -> None:
        """Make the message, which names the setting of a training."""
        self.reason, self.such, self.otherwise = reason, tuple(such), otherwise
        setting = f"data.features=[{','.join(self.such)}] of a training"
        super().__init__(self.advise(setting, "take data.features=[] for xyz alone"))

    def advise(self, setting: str, alone: str) -> str:
        """Return the message with another name for the setting, and for how to take xyz alone."""
        if not self.such:
            return self.reason
        return f"{self.reason}; name what they are, such as {setting}, or {self.otherwise or alone}"

    def within(self, before: str, after: str = "") -> FeatureError:
        """Return the same error with text around what is wrong."""
        error = FeatureError(f"{before}{self.reason}{after}", self.such, self.otherwise)
        error.missing = self.missing
        return error


def parse_features(features: Iterable[Any], channels: int | None = None) -> tuple[str, ...]:
    """Return features as they are written everywhere: their name, or ``name:width`` for a width of their own.

    Args:
        features: Names, ``"name:width"``, or (name, width).
        channels: Channels of the points that they describe, from which the width of a single unknown one
            follows; None if there are no points yet.

    Raises:
        ValueError: For a name that cannot be one, a name twice, a wrong width, or channels that do not fit.
    """
    if isinstance(features, str):
        features = [features]
    if not isinstance(features, Iterable):
        raise ValueError(f"features: expected names, got {features!r}")
    stated = [_split(feature) for feature in features]
    names = [name for name, _ in stated]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"features: expected each name once, got {', '.join(twice)} more than once")
    unknown = [name for name, width in stated if width is None]
    if channels is not None and len(unknown) == 1:
        left = channels - 3 - sum(width for _, width in stated if width is not None)
        stated = [(name, max(left, 1) if width is None else width) for name, width in stated]
    written = tuple(_write(name, width or 1) for name, width in stated)
    if channels is not None and channel_count(written) != channels:
        wide = ", ".join(f"{name_of(feature)} {width_of(feature)}" for feature in written)
        raise ValueError(
            f"features: expected {channel_count(written)} channels (xyz 3{', ' + wide if wide else ''}), got "
            f"{channels}; name what stands beside xyz: {', '.join(WIDTHS)}, or name:width"
        )
    return written


def name_of(feature: str) -> str:
    """Return a feature's name without its width."""
    return feature.partition(":")[0]


def width_of(feature: str) -> int:
    """Return how many numbers a point has of a feature."""
    name, _, width = feature.partition(":")
    return int(width) if width else WIDTHS.get(name, 1)


def channel_count(features: Sequence[str]) -> int:
    """Return the channels of a point: 3 for xyz, and the widths of its features."""
    return 3 + sum(map(width_of, features))


def columns_of(features: Sequence[str]) -> dict[str, slice]:
    """Return where each feature stands among the channels of a point, by its name without width."""
    columns, begin = {}, 3
    for feature in features:
        columns[name_of(feature)] = slice(begin, begin + width_of(feature))
        begin += width_of(feature)
    return columns


def assumed_features(points: Points) -> tuple[str, ...]:
    """Return the features of points (..., C) of which none are named: normals, where six channels hold them.

    Raises:
        ValueError: For other channels, or numbers that are no unit vectors.
    """
    if points.shape[-1] == 3:
        return ()
    if points.shape[-1] == 6 and _unit(points[..., 3:]):
        return ("normal",)
    raise ValueError(
        f"features: expected the names of what stands beside xyz in {points.shape[-1]} channels, such as "
        f"features=('color',), got none{_unlike(points[..., 3:6])}"
    )


def is_count(column: Points) -> bool:
    """Tell whether a column (N,) counts its rows from 0 or 1: an index, as tables have, and no coordinate."""
    number = len(column)
    if number < 3 or float(column[0]) not in (0.0, 1.0) or float(column[-1]) != float(column[0]) + number - 1:
        return False
    return bool((column[1:] - column[:-1] == 1).all())


def check_features(points: Points, features: Sequence[str], where: str) -> None:
    """Check that numbers can be the features that they are said to be.

    Args:
        points: (..., C), xyz and the features.
        features: Their names.
        where: What errors call the points.

    Raises:
        FeatureError: For normals that are neither of length 1 nor 0, or colours outside of 0 to 1.
    """
    columns = columns_of(features)
    if "normal" in columns and not _unit(points[..., columns["normal"]]):
        raise FeatureError(
            f"{where}: feature normal: expected vectors of length 1 (or 0, where unknown)"
            f"{_unlike(points[..., columns['normal']])}",
            ("color",),
            "x,y,z,r,g,b in the first line of a text",
        )
    if "color" in columns:
        low, high = _range(points[..., columns["color"]])
        if low < 0 or high > 1 + 1e-6:
            raise FeatureError(
                f"{where}: feature color: expected red, green and blue from 0 to 1, got {low:g} to {high:g}"
                f"{'; divide them by 255' if low >= 0 and 1 < high <= 255 else ''}"
            )


def mend_features(
    points: Points, features: Sequence[str], where: str, notes: list[str] | None = None
) -> Points:
    """Return points (N, C) of a file whose features are in their usual range.

    Normals of another length are scaled to length 1 where they can be normals at all, which a cloud of
    numbers that are all positive, as colours are, cannot. Colours up to 255 are divided by it.

    Args:
        points: The points.
        features: Their features.
        where: What errors and notes call the points.
        notes: Receives what was changed; it is logged if None.

    Raises:
        FeatureError: As `check_features`.
    """
    columns = columns_of(features)
    normal, color = columns.get("normal"), columns.get("color")
    said: list[str] = [] if notes is None else notes
    if normal is not None and not _unit(points[..., normal]) and bool((points[..., normal] < 0).any()):
        points = deepcopy(points)
        length = _length(points[..., normal])[..., None]
        points[..., normal] /= length + (length == 0)
        said.append(f"{where}: normals of other lengths are scaled to length 1")
    if color is not None:
        low, high = _range(points[..., color])
        if low >= 0 and 2 < high <= 255:
            if bool((points[..., color] != points[..., color].round()).any()):
                raise FeatureError(
                    f"{where}: feature color: expected numbers from 0 to 1, or whole ones up to 255, got "
                    f"fractions up to {high:g}: are the features in the order of the columns?"
                )
            points = deepcopy(points)
            points[..., color] /= 255
            said.append(f"{where}: colours up to {high:g} are divided by 255")
    check_features(points, features, where)
    for note in said if notes is None else ():
        logger.warning(note)
    return points


def check_divide(divide: Mapping[str, float], features: Sequence[str]) -> None:
    """Check what features are to be divided by, by name.

    Raises:
        ValueError: For a number that is not more than 0, or a feature that points do not have, or whose range
            is fixed: normal and color.
    """
    for name, by in divide.items():
        if isinstance(by, bool) or not isinstance(by, (int, float)) or not 0 < by < math.inf:
            raise ValueError(f"divide: {name}: expected a number of more than 0, got {by!r}")
        if name in FIXED:
            raise ValueError(f"divide: expected features other than {' and '.join(FIXED)}, got {name}")
        if name not in map(name_of, features):
            known = ", ".join(map(name_of, features)) or "none"
            raise ValueError(
                f"divide: expected features of the points, {known}, got {name}; add it to the features"
            )


def divide_features(points: Tensor, features: Sequence[str], divide: Mapping[str, float]) -> Tensor:
    """Return points (..., 3 + F) with features divided by numbers, by name: `Preprocess.divide`."""
    if not divide:
        return points
    by = [1.0] * 3
    for feature in features:
        by += [divide.get(name_of(feature), 1.0)] * width_of(feature)
    return points / points.new_tensor(by)


def log_notes(notes: Sequence[str]) -> None:
    """Log notes of many files, each ``FILE: what``: of each kind the first, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(re.sub(r"[\d.,]+", "", note.rpartition(": ")[2]), []).append(note)
    for first, *more in kinds.values():
        logger.warning("%s%s", first, f" (and {counted(len(more), 'more file')})" if more else "")


def _length(vectors: Any) -> Any:
    """Return the lengths of vectors (..., 3): (...)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (vectors * vectors).sum(-1) ** 0.5


def _range(values: Any) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _unit(vectors: Any) -> bool:
    """Tell whether vectors (..., 3) are of length 1, some perhaps 0 where they are not known."""
    length = _length(vectors)
    return bool(((abs(length - 1) <= LENGTH_OFF) | (length == 0)).all())


def _unlike(vectors: Any) -> str:
    """Name the first vector (..., 3) that is of another length than 1 and 0, for an error."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    length = _length(flat)
    bad = (abs(length - 1) > LENGTH_OFF) & (length != 0)
    if vectors.shape[-1] != 3 or not bool(bad.any()):
        return ""
    first = int((bad * 1).argmax())
    numbers = ", ".join(f"{value:g}" for value in flat[first].tolist())
    positive = " as colours have" if bool((vectors >= 0).all()) else ""
    return f", got numbers such as ({numbers}),{positive} of length {float(length[first]):.3g}"


def _split(feature: Any) -> tuple[str, int | None]:
    name, width = feature if isinstance(feature, tuple) and len(feature) == 2 else (feature, None)
    if isinstance(name, str) and width is None and ":" in name:
        name, _, text = name.partition(":")
        width = int(text) if text.isdecimal() else text
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"features: expected names such as color, or name:width, got {feature!r}")
    if name == "xyz":
        raise ValueError("features: expected names of what stands beside xyz, which is always there, got xyz")
    if width is None:
        return name, WIDTHS.get(name)
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"features: {name}: expected a width of at least 1, got {width!r}")
    if WIDTHS.get(name, width) != width:
        raise ValueError(f"features: {name}: expected the width {WIDTHS[name]}, got {width}")
    return name, width


def _write(name: str, width: int) -> str:
    return name if width == WIDTHS.get(name, 1) else f"{name}:{width}"
