"""Clouds to look at, labelled by a model when they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from bixt3d.datasets import Split, open_dataset
from bixt3d.inference.predictor import Predictor
from bixt3d.mistakes import is_mistake
from bixt3d.visualize.figure import writable
from bixt3d.visualize.scene import LabelledCloud


class Gallery(Sequence[LabelledCloud]):
    """What a model says of clouds, one after another; only the latest one is kept.

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
        if not len(clouds):
            raise ValueError("no clouds to look at: give at least one")
        if not len(clouds) == len(titles) == len(categories) or len(truths) not in (0, len(clouds)):
            raise ValueError(
                f"expected a title and a category for each of {len(clouds)} clouds, and true parts of all or "
                f"none, got {len(titles)}, {len(categories)} and {len(truths)}"
            )
        self.predictor = predictor
        self.titles, self.categories = tuple(map(writable, titles)), tuple(categories)
        self._clouds, self._truths = clouds, truths or [None] * len(clouds)
        self._attention = attention
        self._latest: tuple[int, LabelledCloud] | None = None

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
        known = predictor.classes or ()
        names, number = task.groups(split)
        point_labels = task.point_labels(split)
        if known and tuple(known) != tuple(names):
            raise ValueError(f"the model knows {', '.join(known)}; the data set has {', '.join(names)}")
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

    def __len__(self) -> int:
        return len(self._clouds)

    @overload
    def __getitem__(self, index: int) -> LabelledCloud: ...

    @overload
    def __getitem__(self, index: slice) -> list[LabelledCloud]: ...

    def __getitem__(self, index: int | slice) -> LabelledCloud | list[LabelledCloud]:
        """Label a cloud.

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

    def next_category(self, index: int) -> int:
        """Return the next cloud of another category than that at ``index``, or ``index`` if there is none."""
        return next_category(self.categories, index)

    def _label(self, index: int) -> LabelledCloud:
        cloud, category, truth = self._clouds[index], self.categories[index], self._truths[index]
        told = category or None
        answer = self.predictor.answer(cloud, told)
        points = getattr(answer, "points", None) if self.predictor.task.per_point else None
        points = self.predictor.read(cloud) if points is None else points
        about = {"points": points[:, :3], **self.predictor.task.view(answer, truth)}
        if self._attention and hasattr(self.predictor.model, "located_attention"):
            maps = self.predictor.attention(cloud, told).maps
            about["attention"] = tuple(layer.mean(axis=0) for layer in maps)  # (M, N) each
        return LabelledCloud(self.titles[index], category=category, **about)


def is_told(clouds: Sequence[LabelledCloud], error: Exception) -> bool:
    """Return whether a cloud that cannot be had is only told of, rather than the end of all.

    What a model or a task of one's own gets wrong in a `Gallery` is a bug; in another sequence nothing is.
    """
    return not isinstance(clouds, Gallery) or is_mistake(error)


def next_category(categories: Sequence[str], index: int) -> int:
    """Return the next place with another category than that at ``index``, or ``index`` if there is none."""
    for step in range(1, len(categories)):
        other = (index + step) % len(categories)
        if categories[other] != categories[index]:
            return other
    return index


def training_split(predictor: Predictor, split: str, root: str | Path | None = None) -> Split:
    """Open a split of the data that a model was trained on, with all stored points, as its checkpoint says.

    Args:
        predictor: The model.
        split: Which split.
        root: The data folder; that of the training if None.

    Raises:
        ValueError: If the model does not come from a checkpoint that says it, or the data are damaged.
        FileNotFoundError: If the data are not there.
    """
    description = getattr(predictor.model, "description", None)
    about = {} if description is None else description.config.get("data", {})
    if not {"name", "root"} <= set(about):
        raise ValueError("the checkpoint does not say what data it was trained on: give files instead")
    return open_dataset(about["name"], root or about["root"], split, features=predictor.preprocess.features)
