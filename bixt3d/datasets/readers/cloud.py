"""What a file holds of a cloud: xyz, the features and labels that it names, and columns that it does not."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bixt3d.datasets.features import (
    LENGTH_OFF,
    FeatureError,
    is_count,
    mend_features,
    name_of,
    parse_features,
    width_of,
)
from bixt3d.datasets.readers.misfits import CHANNELS, MOST_LEFT, of_three_axes, too_wide
from bixt3d.datasets.readers.names import ALIASES, LABEL_NAMES, LABELS, POINTS
from bixt3d.suggest import counted

logger = logging.getLogger(__name__)

TEXT, LABEL_KINDS = "US", "biufUS"  # kinds of dtypes
AS_TEXT = "it holds text such as {!r:.40}: expected a number for each point"


@dataclass
class FileCloud:
    """A cloud as a file holds it.

    Attributes:
        xyz: (N, 3).
        named: Features and other values by the file's names, (N, width) or (N,) each; labels may be words.
        columns: Numbers beside xyz that the file does not name (N, K), as of text; None if there are none.
        remarks: What to say of a feature or label, by its name, where it is asked for: how its numbers were
            taken, or why it is left out.
    """

    xyz: NDArray[Any]
    named: dict[str, NDArray[Any]] = field(default_factory=dict)
    columns: NDArray[Any] | None = None
    remarks: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_array(cls, points: NDArray[Any], path: Path) -> FileCloud:
        """Make a cloud of an array (N, 3 or more); the columns after xyz have no names.

        Raises:
            ValueError: If the array has another shape; the message names the file.
        """
        shape = points.shape
        if points.ndim == 3 and 0 not in shape:
            raise ValueError(f"{path}: expected points (N, 3), got {of_three_axes(*shape)}")
        if points.ndim != 2 or shape[0] == 0 or shape[1] < 3:
            raise ValueError(f"{path}: expected points (N, 3), got an array {shape}")
        if shape[0] <= CHANNELS and shape[1] > (CHANNELS if shape[0] == 3 else 8 * CHANNELS):
            raise ValueError(f"{path}: expected points (N, 3), got {shape}: transpose it")
        if shape[1] > 3 and is_count(points[points[:, 0] == points[:, 0], 0]):  # of rows that have one
            logger.warning("%s: its first column counts the points; xyz are the next three", path)
            points = points[:, 1:]
        return cls(points[:, :3], {}, points[:, 3:] if points.shape[1] > 3 else None)

    @classmethod
    def of_names(cls, values: Mapping[str, NDArray[Any]]) -> FileCloud:
        """Make a cloud of values (N, ...) by name; those named x, y and z, or points and such, are xyz.

        Values of another length than xyz are left out, with a remark.

        Raises:
            ValueError: If none are, or x, y and z are not equally many; the message says what there is.
        """
        actual = {name.lower(): name for name in reversed(list(values)) if values[name].ndim}
        for names in POINTS:
            used = [actual[name] for name in names if name in actual]
            if len(used) == len(names) and sum(_columns(values[name]).shape[1] for name in used) == 3:
                counts = [len(values[name]) for name in used]
                if len({*counts}) > 1:
                    got = ", ".join(map(str, counts))
                    raise ValueError(f"expected as many numbers in each of {', '.join(used)}, got {got}")
                if not counts[0]:
                    raise ValueError("it holds no points")
                xyz = np.concatenate([_columns(values[name]) for name in used], axis=1)  # (N, 3)
                return cls(xyz).beside({name: one for name, one in values.items() if name not in used})
            if len(used) == len(names) == 3:
                shapes = ", ".join(str(values[name].shape) for name in used)
                what = f"one number a point in each of {', '.join(used)}"
                raise ValueError(f"expected {what}, got {shapes}: save them as (N,)")
        raise ValueError(f"expected x, y and z among its names, got {', '.join(values) or 'none'}")

    def beside(self, values: Mapping[str, NDArray[Any]]) -> FileCloud:
        """Return the cloud with more values by name; those of another length are left out, with a remark."""
        count = len(self.xyz)
        fits = {name: value for name, value in values.items() if value.shape[:1] == (count,)}
        remarks = {
            name: f"expected {count} rows, one a point, got an array {value.shape}"
            for name, value in values.items()
            if name not in fits
        }
        return replace(self, named={**self.named, **fits}, remarks={**self.remarks, **remarks})

    def narrowed(self) -> FileCloud:
        """Return the cloud with colours in 8 bits where its file has such in 16 bits, with a remark."""
        for names in [("color",), *ALIASES["color"], ("scalar_color",)]:
            held = {key: self.named[key] for key in map(self._key, names) if key is not None}
            if len(held) < len(names) or sum(_columns(one).shape[1] for one in held.values()) not in (3, 4):
                continue
            if not all(one.dtype.kind == "u" and one.dtype.itemsize == 2 for one in held.values()):
                break
            largest = max(int(one.max(initial=0)) for one in held.values())
            if not 0 < largest <= 255:
                break
            named = {**self.named, **{key: one.astype(np.uint8) for key, one in held.items()}}
            said = f"colours up to {largest} in 16 bits are divided by 255"
            return replace(self, named=named, remarks={**self.remarks, "color": said})
        return self

    def remark(self, feature: str) -> str | None:
        """Return what is to be said of a feature or label, by its name or another; None for nothing."""
        name = name_of(feature)
        known = {one for names in ALIASES.get(name, ()) for one in names} | {name, f"scalar_{name}"}
        return next((said for one, said in self.remarks.items() if one.lower() in known), None)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The label of each point (N,) int64, such as a LAS file's classification; None if it has none.

        Raises:
            ValueError: If what the file names so are not whole numbers.
        """
        name, values = self._first_labels()
        if values is None or values.dtype.kind in TEXT:
            return None
        values = values.astype(np.int64) if values.dtype.kind == "b" else values
        held = np.abs(values) < np.float64(2**63)  # by int64; not NaN and infinity
        odd = ~held | (values != np.round(values))
        if not odd.any():
            return values.astype(np.int64)
        at = int(odd.argmax())
        raise ValueError(f"expected whole numbers for labels, got {values[at]:.9g} in {name}, point {at + 1}")

    @property
    def words(self) -> NDArray[np.str_] | None:
        """The label of each point (N,) where labels are words, "" for none; None if they are not."""
        _, values = self._first_labels()
        if values is None or values.dtype.kind not in TEXT:
            return None
        if values.dtype.kind == "U":
            return np.char.strip(values)
        try:
            return np.char.strip(np.char.decode(values, "utf-8"))
        except UnicodeDecodeError:  # with a mark for what is none, words that differ would be one
            return np.char.strip(np.char.decode(values, "latin-1"))

    @property
    def unfit_labels(self) -> str | None:
        """Why what the file names as labels cannot be it; None where nothing is named so."""
        said = (self.remark(name) for name in LABELS)
        held = (self.named[key] for key in filter(None, map(self._key, LABEL_NAMES)))
        shapes = (f"expected one number a point, got an array {one.shape} of {one.dtype}" for one in held)
        return next(filter(None, said), None) or next(shapes, None)

    def _first_labels(self) -> tuple[str, NDArray[Any] | None]:
        """Return what comes first of what may be labels, numbers or words (N,), and its name."""
        for name in LABEL_NAMES:
            key = self._key(name)
            values = None if key is None else self.named[key]
            if values is not None and values.size == len(self.xyz) and values.dtype.kind in LABEL_KINDS:
                return name, values.reshape(-1)
        return "", None

    def feature(self, feature: str) -> NDArray[Any] | None:
        """Return a feature that the file names, by our name for it or another (N, width); None without it.

        One that is wider than 1 may also be properties ``name_0``, ``name_1`` and so on.
        """
        name, width = name_of(feature), width_of(feature)
        numbered = tuple(f"{name}_{number}" for number in range(width if width > 1 else 0))
        for names in [(name,), *ALIASES.get(name, ()), (f"scalar_{name}",), numbered or (name,)]:
            found = [_columns(one) for one in map(self._find, names) if one is not None]
            if len(found) == len(names):
                values = np.concatenate(found, axis=1)
                if values.shape[1] == width or (name == "color" and values.shape[1] == 4):
                    return _colors(values[:, :width]) if name == "color" else values[:, :width]
        return None

    def has_normals(self) -> bool:
        """Whether it has normals, by name, or as its first columns that have no name.

        Columns without a name are normals where all are of length 1, or 0 where unknown. Vectors that are
        named so may have any length, but not be zero all of them, nor positive all of them, as colours are.
        """
        values, columns = self.feature("normal"), self.columns
        named = values is not None
        if values is None and columns is not None and columns.shape[1] >= 3:
            values = columns[:, :3]
        if values is None or values.dtype.kind not in "fiu":
            return False
        with np.errstate(over="ignore"):  # infinity and NaN are no unit lengths
            length = np.linalg.norm(values.astype(np.float64), axis=1)  # (N,)
        unit = np.abs(length - 1) <= LENGTH_OFF
        if unit.any() and (unit | (length == 0)).all():
            return True
        return named and bool(np.isfinite(length).all() and length.any() and (values < 0).any())

    def measured(self, path: Path, notes: list[str] | None = None) -> FileCloud:
        """Return the cloud without its points of which x, y or z is NaN, as where a scanner saw nothing.

        Raises:
            ValueError: If they are more than nine in ten; depth cameras leave up to half. The message names
                the file.
        """
        lost = np.isnan(self.xyz).any(axis=1) if self.xyz.dtype.kind == "f" else np.zeros(1, bool)  # (N,)
        if not lost.any():
            return self
        count = int(lost.sum())
        if count > 0.9 * len(lost):
            raise ValueError(
                f"{path}: expected finite numbers, got {count} of {len(lost)} points that are NaN, the first "
                f"in row {int(lost.argmax()) + 1}: remove them if the others are a shape"
            )
        _note(notes, f"{path}: {count} of {len(lost)} points are NaN and left out")
        columns = None if self.columns is None else self.columns[~lost]
        named = {name: one[~lost] for name, one in self.named.items()}
        return FileCloud(self.xyz[~lost], named, columns, self.remarks)

    def take(
        self, features: Sequence[str], path: Path, notes: list[str] | None = None
    ) -> NDArray[np.float64]:
        """Return xyz and the named features, (N, 3 + F) float64.

        Columns without names are taken in the order of the features. ``height`` is computed where the file
        has none: the distance above the lowest point along y, in radii of the cloud.

        Raises:
            ValueError: If it lacks one, or its numbers cannot be it; the message names file and feature.
        """
        wanted = parse_features(features)
        parts, begin = {"xyz": self.xyz}, 0
        unnamed = []
        for feature in wanted:
            values, width, remark = self.feature(feature), width_of(feature), self.remark(feature)
            if values is not None and remark:
                _note(notes, f"{path}: {remark}")
            if values is None and self.columns is not None:
                columns = self.columns[:, begin : begin + width]
                if columns.shape[1] == width:
                    values = columns
                    last = f" to {begin + 3 + width}" if width > 1 else ""
                    unnamed.append(f"{name_of(feature)} is column {begin + 4}{last}")
                begin += width
            if values is None and feature == "height" and not remark:
                values = _heights(np.asarray(self.xyz, dtype=np.float64))
            if values is None:
                why = f"feature {name_of(feature)}: {remark}" if remark else ""
                lacks = FeatureError(
                    f"{path}: {why or f'it has no feature {name_of(feature)}; {self._has()}'}"
                )
                lacks.missing = feature
                raise lacks
            parts[name_of(feature)] = values
        left = 0 if self.columns is None else self.columns.shape[1] - begin
        if left > MOST_LEFT:
            raise ValueError(f"{path}: {too_wide(left)}")
        if left > 0:
            after = f"{counted(left, 'column')} after {', '.join(wanted if begin else ('xyz',))}"
            _note(notes, f"{path}: {after} {'is' if left == 1 else 'are'} left out")
        for name, part in parts.items():
            if part.dtype.kind not in "fiu":
                raise ValueError(f"{path}: expected finite numbers, got {part.dtype} for {name}")
            bad = ~np.isfinite(part).all(axis=1)  # (N,)
            if bad.any():
                row = int(bad.argmax())
                shown = " ".join(map(str, part[row].tolist()))
                raise ValueError(
                    f"{path}: expected finite numbers, got {shown} for {name} of point {row + 1}"
                )
        points = np.ascontiguousarray(np.concatenate(list(parts.values()), axis=1), dtype=np.float64)
        if not wanted:
            return points
        try:
            return mend_features(points, wanted, str(path), notes)
        except FeatureError as error:
            raise error.within("", f" ({', '.join(unnamed)})" if unnamed else "") from None

    def _find(self, name: str) -> NDArray[Any] | None:
        """Numbers by their name, or by one that differs in case alone."""
        key = self._key(name)
        return None if key is None or self.named[key].dtype.kind in TEXT else self.named[key]

    def _key(self, name: str) -> str | None:
        """The file's name for it, which may differ in case."""
        if name in self.named:
            return name
        return next((key for key in self.named if key.lower() == name.lower()), None)

    def _has(self) -> str:
        ours = ("normal", "color", "intensity", "height")
        known = [name for name in ours if self.feature(name) is not None]
        aliases = {one for names in ALIASES.values() for each in names for one in each} | {*ours}
        aliases |= {f"scalar_{name}" for name in ours}
        known += [name for name in self.named if name.lower() not in aliases]
        held = ", ".join(known) or "xyz alone"
        if self.columns is not None and self.columns.shape[1]:
            held += f", and {self.columns.shape[1]} columns without names beside xyz"
        return f"expected a file with it, or a model and data.features without it; this one has {held}"


def _note(notes: list[str] | None, text: str) -> None:
    logger.warning(text) if notes is None else notes.append(text)


def _columns(values: NDArray[Any]) -> NDArray[Any]:
    """A feature (N, ...) as columns, (N, width); the width may be 0."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _heights(xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each point is above the lowest along y, in radii: `spheres.heights` without torch, (N, 1)."""
    with np.errstate(all="ignore"):  # what is not finite is refused afterwards, by its row
        radius = np.linalg.norm(xyz - xyz.mean(axis=0), axis=1).max()
        above: NDArray[np.float64] = (xyz[:, 1:2] - xyz[:, 1].min()) / (radius or 1.0)
    return above


def _colors(values: NDArray[Any]) -> NDArray[Any]:
    """Colours from 0 to 1: whole numbers of a file count to the most that their type holds, 255 or 65,535.

    Those of 8 bits in 16 are `narrowed` before, as all of a file say so.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return values / np.iinfo(values.dtype).max
    return values
