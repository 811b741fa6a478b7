"""Clouds to look at, one after another, labelled by a model when they are looked at."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from bixt3d.datasets import Split
from bixt3d.datasets.features import columns_of
from bixt3d.inference.loading import check_groups
from bixt3d.inference.predictor import Predictor
from bixt3d.metrics import is_labelled
from bixt3d.visualize.figure import writable
from bixt3d.visualize.scene import LabelledCloud, joined


class Clouds(Sequence[LabelledCloud]):
    """Clouds that are made when they are looked at; only the latest one is kept.

    Args:
        titles: Name of each cloud.
        categories: Name of each one's category or class; "" where it is not known.

    Raises:
        ValueError: If there are no clouds.
    """

    def __init__(self, titles: Sequence[str], categories: Sequence[str]) -> None:
        """Keep the names."""
        if not len(titles):
            raise ValueError("no clouds to look at: give at least one")
        self.titles, self.categories = tuple(map(writable, titles)), tuple(categories)
        self._latest: tuple[int, LabelledCloud] | None = None

    def __len__(self) -> int:
        return len(self.titles)

    @overload
    def __getitem__(self, index: int) -> LabelledCloud: ...

    @overload
    def __getitem__(self, index: slice) -> list[LabelledCloud]: ...

    def __getitem__(self, index: int | slice) -> LabelledCloud | list[LabelledCloud]:
        """Make a cloud.

        Raises:
            IndexError: If there is no such cloud.
            ValueError: If its file is damaged.
            FileNotFoundError: If its file is missing.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if self._latest is None or self._latest[0] != index:
            self._latest = (index, self._label(index))
        return self._latest[1]

    def quality(self, index: int) -> float | None:
        """Return how good the prediction for a cloud is, from 0 to 1; None where nothing says it."""
        return self[index].quality

    @abstractmethod
    def _label(self, index: int) -> LabelledCloud: ...


class Gallery(Clouds):
    """What a model says of clouds, one after another.

    A segmenter gives parts, a classifier the class of the whole cloud, and both give attention.

    Args:
        predictor: The model.
        clouds: Arrays (N, C), or files.
        titles: Name of each cloud.
        categories: Name of each one's category or class; "" where it is not known.
        truths: True part of each point of each cloud (N,), or None where it is not known; none are if empty.
        attention: Look at the attention, too, which takes M numbers a point and layer.

    Raises:
        ValueError: If there are no clouds, or the lists differ in length.
    """

    def __init__(
        self,
        predictor: Predictor,
        clouds: Sequence[Any],
        titles: Sequence[str],
        categories: Sequence[str],
        truths: Sequence[Any] = (),
        attention: bool = True,
    ) -> None:
        """Keep the clouds; nothing is computed yet."""
        alike = len(clouds) == len(titles) == len(categories) and len(truths) in (0, len(clouds))
        if len(clouds) and not alike:
            raise ValueError(
                f"expected a title and a category for each of {len(clouds)} clouds, and true parts of all or "
                f"none, got {len(titles)}, {len(categories)} and {len(truths)}"
            )
        super().__init__(titles if len(clouds) else (), categories)
        self.predictor, self.truths = predictor, truths or [None] * len(clouds)
        self._clouds, self._attention = clouds, attention

    @classmethod
    def of_split(
        cls,
        predictor: Predictor,
        split: Split,
        shapes: Sequence[int] | None = None,
        attention: bool = True,
    ) -> Gallery:
        """Return the gallery of some shapes of a split, all if None; their true parts are those of the split.

        Raises:
            ValueError: If the model labels parts and the split has none, or other categories than the model.
        """
        task = predictor.task
        split = split.to("cpu").with_features(predictor.preprocess.features)
        check_groups(predictor, split)
        names, number = task.groups(split)
        point_labels = task.point_labels(split)
        if point_labels is not None:  # those that do not count in evaluation are no truth here, either
            point_labels = torch.where(is_labelled(point_labels, task.ignore), point_labels, -1)  # (S, N)
        chosen = range(len(split)) if shapes is None else shapes
        clouds, titles, categories, truths = [], [], [], []
        for shape in chosen:
            own = slice(None if split.count is None else int(split.count[shape]))
            clouds.append(split.points[shape, own].numpy())  # (N, C)
            titles.append(split.names[shape] if split.names else f"shape {shape}")
            categories.append(names[int(number[shape])])
            truths.append(None if point_labels is None else point_labels[shape, own].numpy())
        return cls(predictor, clouds, titles, categories, truths, attention)

    @classmethod
    def of_files(
        cls, predictor: Predictor, files: Sequence[str | Path], category: str = "", attention: bool = True
    ) -> Gallery:
        """Return the gallery of files, without true parts; ``category`` is that of all of them.

        Raises:
            ValueError: If a segmenter needs the category, and it is missing or unknown.
        """
        predictor.category_number(category or None)
        titles = [Path(file).name for file in files]
        return cls(predictor, list(files), titles, [category] * len(titles), (), attention)

    def quality(self, index: int) -> float | None:
        """Return how good the prediction for a cloud is; its attention is not looked at."""
        return self._answered(index).quality

    def _answered(self, index: int) -> LabelledCloud:
        cloud, category, task = self._clouds[index], self.categories[index], self.predictor.task
        answer = self.predictor.answer(cloud, category or None)
        points = getattr(answer, "points", None) if task.per_point else None
        points = self.predictor.read(cloud) if points is None else points
        up = getattr(answer, "up", None) or self.predictor.preprocess.up
        about = {"points": points[:, :3], "up": up, **task.view(answer, self.truths[index])}
        color = columns_of(self.predictor.preprocess.features).get("color")
        lacking = "color" in self.predictor.preprocess.optional and not np.any(points[:, color])
        if color is not None and not lacking and len(about["points"]) == len(points):  # of all points
            about["color"] = np.clip(points[:, color], 0, 1)
        return LabelledCloud(self.titles[index], category=category, **about)

    def _label(self, index: int) -> LabelledCloud:
        seen, whole = self._answered(index), self.predictor.task.reach(self.predictor.preprocess) is None
        if not self._attention or not whole or not hasattr(self.predictor.model, "located_attention"):
            return seen
        try:
            category = self.categories[index] or None
            found: dict[str, Any] = {"up": seen.up} if self.predictor.auto_up else {}  # not asked for again
            maps = self.predictor.attention(self._clouds[index], category, **found).maps
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return replace(seen, verdict=joined(seen.verdict, "too large for its attention"))
        shown: Any = slice(None)
        if maps and len(seen.points) < maps[0].shape[-1]:  # the points that have a truth
            shown = np.asarray(self.truths[index]) >= 0  # (N,)
        return replace(seen, attention=tuple(layer.mean(axis=0)[:, shown] for layer in maps))  # (M, N) each


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be had, on the CPU or on a GPU."""
    said = any(words in str(error) for words in ("can't allocate memory", "out of memory"))
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))
