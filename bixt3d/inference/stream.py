"""Labels for the points of LAS and LAZ files of any size, read, labelled and written in pieces."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bixt3d.datasets.orientation import turn
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.readers.las import cloud_of, largest_color, open_las
from bixt3d.ops.precision import place_of_float64
from bixt3d.progress import progress

CHUNK = 1_000_000  # points that are read at a time
BLOCK = 2_000_000  # points that are labelled at a time, and those around them; more where they lie dense
MOST_LABELS = 256  # of a classification, a byte
MOST_CELLS = 1000  # on each side of the grid by which points are sorted
COPC = "copc"  # user id of the records that make a LAZ file a COPC file
NARROW, LEGACY = 31, 5  # the largest classification of LAS point formats up to this one
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FileLabels:
    """What was said of a file's points.

    Attributes:
        points: How many points it has.
        counts: Points of each label (K,).
        confidence: Mean probability of each label among its points (K,), NaN without points.
        path: Where the labels are; None if they were not written.
    """

    points: int
    counts: Array
    confidence: Array
    path: Path | None


def label_las(predictor: Any, source: str | Path, target: str | Path | None = None) -> FileLabels:
    """Label every point of a LAS or LAZ file, and write it again with the labels as classification.

    Where the training's files say labels by other numbers, as the ``map`` of a ``labels.yaml`` has them, the
    classification is those.

    The file is never in memory as a whole: its points are sorted into the cells of a grid, in a file beside
    the target, and labelled block by block, each with the points around it that its labels depend on; so
    labels are those of the whole file at once. Coordinates, scales, offsets and all other values stay as they
    are. A COPC file becomes a plain one.

    Args:
        predictor: A `bixt3d.inference.Predictor` whose task has a reach, as scene segmentation has.
        source: The file.
        target: The file to write, .las or .laz; None: only count.

    Raises:
        ValueError: If the file is damaged or lacks a feature, the task looks at whole clouds, or the file's
            kind of points has no room for the labels.
        FileNotFoundError: If there is no such file.
        ImportError: If laspy is not installed.
    """
    source, target = Path(source).expanduser(), None if target is None else Path(target).expanduser()
    reach = predictor.task.reach(predictor.preprocess)
    if reach is None:
        raise ValueError(f"expected a model that labels scenes, got one for {predictor.task.name}")
    if not source.is_file():
        raise FileNotFoundError(f"no file {source}")
    if target is not None and target.resolve() == source.resolve():
        raise ValueError(f"{target}: expected another file than the one that is read")
    state = _state(source)
    place = Path(tempfile.gettempdir()) if target is None else target.parent
    place.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".bixt3d-", dir=place) as folder:
            cells = Cells(source, Path(folder), predictor.preprocess, reach)
            labels = np.memmap(Path(folder) / "labels", np.uint8, "w+", shape=(cells.total,))
            counts, sums = _label(predictor, cells, labels)
            if _state(source) != state:
                raise ValueError("it has changed while it was read: label it again")
            if target is not None:
                codes = np.arange(MOST_LABELS)
                said = getattr(predictor.task, "part_codes", ())
                codes[: len(said)] = said
                _check_room(source, codes[counts.nonzero()])
                _write(source, target, codes, labels)
            del labels
    except ValueError as error:
        raise ValueError(str(error) if str(source) in str(error) else f"{source}: {error}") from None
    with np.errstate(invalid="ignore"):
        return FileLabels(cells.total, counts, sums / counts, target)


class Cells:
    """A file's points sorted into the squares of a horizontal grid, on disk.

    Attributes:
        total: How many points there are.
        counts: Points of each cell (A, B).
        extent: The least and the largest coordinates (2, 3).
    """

    def __init__(self, source: Path, folder: Path, preprocess: Preprocess, reach: float) -> None:
        """Read the file twice: to count, and to sort.

        Args:
            source: The LAS or LAZ file.
            folder: Where the sorted points go.
            preprocess: Names the features and the axis that points up.
            reach: The least width of a cell.
        """
        turned = turn(torch.eye(3, dtype=torch.float64), preprocess.up)  # where x, y and z go
        self.axes = [int(turned[:, axis].abs().argmax()) for axis in (0, 2)]
        with open_las(source) as file:
            low, high = (
                np.asarray(corner, np.float64)[self.axes] for corner in (file.header.mins, file.header.maxs)
            )
        extent = np.nan_to_num(high - low, posinf=0.0).clip(
            0
        )  # what the header says; points beyond count as edge
        self.low, self.side = np.nan_to_num(low), max(reach, float(extent.max()) / MOST_CELLS)
        self.shape = tuple(int(number) + 1 for number in extent / self.side)
        counts, largest = np.zeros(self.shape, np.int64).ravel(), 0
        self.extent = np.array([[np.inf] * 3, [-np.inf] * 3])
        for points in _pieces(source):
            largest, xyz = max(largest, largest_color(points)), _xyz(points)
            counts += np.bincount(self._cell(xyz), minlength=len(counts))
            self.extent[0] = np.minimum(self.extent[0], xyz.min(0))
            self.extent[1] = np.maximum(self.extent[1], xyz.max(0))
        self.total, self.counts = int(counts.sum()), counts.reshape(self.shape)
        self._begins = np.append(0, counts.cumsum())  # (A * B + 1,)
        self._row = np.dtype([("points", "<f8", (preprocess.channels,)), ("place", "<i8")])
        self._path = folder / "points"
        self._sort(source, preprocess.features, largest)

    def _cell(self, xyz: Array) -> Array:
        """Return the number of each point's cell (N,)."""
        place = np.floor((xyz[:, self.axes] - self.low) / self.side).clip(0, np.array(self.shape) - 1)
        cell: Array = np.ravel_multi_index(tuple(place.astype(np.int64).T), self.shape)
        return cell

    def _sort(self, source: Path, features: tuple[str, ...], largest: int) -> None:
        free, done = self._begins.copy(), 0
        with self._path.open("wb") as out:
            for points in _pieces(source):
                cloud = cloud_of(points, largest)
                rows = np.empty(len(points), self._row)
                rows["points"] = cloud.take(features, source)
                rows["place"] = np.arange(done, done + len(points))
                done += len(points)
                cell = self._cell(rows["points"][:, :3])
                order = cell.argsort(kind="stable")
                rows, held, begins = rows[order], *np.unique(cell[order], return_index=True)
                for number, block in zip(held.tolist(), np.split(rows, begins[1:]), strict=True):
                    out.seek(int(free[number]) * self._row.itemsize)
                    out.write(block.tobytes())
                    free[number] += len(block)

    def blocks(self, most: int) -> list[tuple[slice, slice]]:
        """Return rectangles of cells, with at most so many points each where one cell has no more."""
        found, waiting = [], [(slice(0, self.shape[0]), slice(0, self.shape[1]))]
        while waiting:
            block = waiting.pop()
            sides = [one.stop - one.start for one in block]
            count = int(self.counts[block].sum())
            if count > most and max(sides) > 1:
                axis = int(sides[1] > sides[0])
                middle = (block[axis].start + block[axis].stop) // 2
                for part in (slice(middle, block[axis].stop), slice(block[axis].start, middle)):
                    waiting.append((part, block[1]) if axis == 0 else (block[0], part))
            elif count:
                found.append(block)
        return found

    def read(self, block: tuple[slice, slice]) -> tuple[Array, Array, Array]:
        """Return the points of a block and of the cells around it.

        Returns:
            points (N, C) in the order of the file, their places in it (N,), and which are the block's (N,).
        """
        rows, columns = (
            slice(max(one.start - 1, 0), min(one.stop + 1, most))
            for one, most in zip(block, self.shape, strict=True)
        )
        read = []
        with self._path.open("rb") as file:
            for row in range(rows.start, rows.stop):
                begin, end = (
                    int(self._begins[row * self.shape[1] + at]) for at in (columns.start, columns.stop)
                )
                file.seek(begin * self._row.itemsize)
                read.append(np.fromfile(file, self._row, end - begin))
        held = np.concatenate(read)
        held = held[held["place"].argsort()]
        cell = np.unravel_index(self._cell(held["points"][:, :3]), self.shape)
        own = [(one.start <= at) & (at < one.stop) for one, at in zip(block, cell, strict=True)]
        return held["points"], held["place"], own[0] & own[1]


def _label(predictor: Any, cells: Cells, labels: Array) -> tuple[Array, Array]:
    """Label the points of a file into an array (N,); return each label's points, and their shares' sum."""
    task, preprocess = predictor.task, predictor.preprocess
    counts, sums = np.zeros(MOST_LABELS, np.int64), np.zeros(MOST_LABELS)
    with progress("labelling", cells.total, "points") as done, torch.no_grad():
        for block in cells.blocks(BLOCK):
            points, places, own = cells.read(block)
            told = _Told(done, int(own.sum()))
            given = torch.from_numpy(points).to(place_of_float64(predictor.device))
            answer = task.predict(
                *(predictor.model, given, preprocess),
                wanted=torch.from_numpy(own),
                done=told.more,
                extent=torch.from_numpy(cells.extent),
            )
            found, share = answer.parts[own], answer.probabilities[own]
            if found.max() >= MOST_LABELS:
                raise ValueError(
                    f"expected labels up to {MOST_LABELS - 1}, as LAS files hold, got {found.max()}"
                )
            labels[places[own]] = found
            counts += np.bincount(found, minlength=MOST_LABELS)
            sums += np.bincount(found, share, MOST_LABELS)
            told.rest()
    return counts, sums


class _Told:
    """What a block adds to the progress: as many points as are its own, whatever its columns say."""

    def __init__(self, done: Callable[[int], None], count: int) -> None:
        self.done, self.left = done, count

    def more(self, count: int) -> None:
        now = min(count, self.left)
        self.left -= now
        self.done(now)

    def rest(self) -> None:
        self.done(self.left)


def _write(source: Path, target: Path, codes: Array, labels: Array) -> None:
    """Write a file again, with the codes of labels as classification."""
    import laspy

    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open_las(source, read_evlrs=True) as file:
            pack, done = target.suffix.lower() == ".laz", 0
            for records in (file.header.vlrs, file.evlrs or []):
                # an index by the bytes of this file: laspy refuses to write it, and of another it is wrong
                records[:] = [one for one in records if one.user_id.lower() != COPC]
            with laspy.open(temporary, mode="w", header=file.header, do_compress=pack) as out:
                for points in file.chunk_iterator(CHUNK):
                    points["classification"] = codes[labels[done : done + len(points)]]
                    done += len(points)
                    out.write_points(points)
                if file.evlrs:
                    out.write_evlrs(file.evlrs)
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _state(source: Path) -> tuple[int, int]:
    status = source.stat()
    return status.st_size, status.st_mtime_ns


def _check_room(source: Path, codes: Array) -> None:
    with open_las(source) as file:
        kind, largest = file.header.point_format.id, int(codes.max())
    if largest >= MOST_LABELS:
        raise ValueError(
            f"expected labels up to {MOST_LABELS - 1}, as LAS files hold, got {largest}: write ply"
        )
    if kind <= LEGACY and largest > NARROW:
        raise ValueError(
            f"its points, of format {kind}, hold labels up to {NARROW}, got {largest}: convert it to format "
            "6 or above, or write ply"
        )


def _pieces(source: Path) -> Iterator[Any]:
    """Yield a file's points in pieces, all that it announces."""
    with open_las(source) as file:
        held = 0
        for points in file.chunk_iterator(CHUNK):
            held += len(points)
            yield points
        if held != file.header.point_count:
            raise ValueError(f"it announces {file.header.point_count} points, and holds {held}")


def _xyz(points: Any) -> Array:
    return np.stack([np.asarray(points[axis], np.float64) for axis in "xyz"], axis=1)
