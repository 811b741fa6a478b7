"""Part segmentation: one part a point, mean IoU under both conventions."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from bixt3d import metrics
from bixt3d.config import Config
from bixt3d.datasets.augment import draw_points
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.split import Split
from bixt3d.datasets.strays import normalize_as
from bixt3d.models.segmenter import segment_all_points
from bixt3d.ops import gather_points
from bixt3d.ops.precision import widest
from bixt3d.suggest import nearest
from bixt3d.tasks.base import Task, smoothing_of
from bixt3d.tasks.labels import (
    category_metrics,
    category_rows,
    checked_codes,
    checked_table,
    class_weights,
    counted_parts,
    note_ignored,
    own_points,
    part_data,
)
from bixt3d.tasks.results import NoCategory, Segmentation
from bixt3d.tasks.together import label_points, name_parts


class PartSegmentationTask(Task):
    """One part a point: cross-entropy over all parts, part accuracy and mean IoU under both conventions.

    The ending of a metric's name is its convention, as in `bixt3d.metrics.part_iou`: ``_pointnet2`` chooses
    among the parts of a cloud's category, ``_pointmlp`` among all.

    Args:
        categories: Names of the categories; these and the next are those of the data if there are none.
        parts_of_category: For each category the part ids that it may hold.
        num_points: Points that the model takes; clouds with more are labelled in several passes. That of the
            settings if None.
        label_smoothing: Mass moved from the true part, shared by the others; that of the settings if None.
    """

    name = "part_segmentation"
    goal = "class_miou_pointnet2"
    shown: tuple[str, ...] = ("class_miou_pointnet2",)
    titles: ClassVar[Mapping[str, str]] = {
        f"{name}_{convention}": f"{title} ({convention})"
        for convention in metrics.CONVENTIONS
        for name, title in (
            ("accuracy", "part accuracy"),
            ("instance_miou", "instance mIoU"),
            ("class_miou", "class mIoU"),
        )
    }
    per_point = True
    optional_args: ClassVar[Mapping[str, tuple[Any, ...]]] = {"num_categories": (0,)}  # not told the category

    def __init__(
        self,
        categories: Sequence[str] = (),
        parts_of_category: Sequence[Sequence[int]] = (),
        num_points: int | None = None,
        label_smoothing: float | None = None,
    ) -> None:
        """Keep the tables and the smoothing."""
        super().__init__()
        self.categories, self.num_points = tuple(categories), num_points
        self.parts_of_category = tuple(tuple(ids) for ids in parts_of_category)
        self.part_names: tuple[str, ...] = ()
        self.part_codes: tuple[int, ...] = ()
        self.told = self.takes_category = True  # the category: whether the model knows it, and its forward
        self.label_smoothing = label_smoothing

    def configure(self, config: Config) -> None:
        """Take points and smoothing from the settings, unless they were given.

        Raises:
            ValueError: If points are not drawn, or clouds are mixed or laid down.
        """
        super().configure(config)
        if config.data.order != "random":
            raise ValueError(
                "data.order: part segmentation takes other points every epoch and labels all: expected "
                f"random, got {config.data.order}"
            )
        for key, what in (("mix", "mixed"), ("lying", "laid down")):
            if value := getattr(config.augment, key):
                raise ValueError(
                    f"augment.{key}: clouds are {what} for classification: expected 0, got {value}"
                )
        if self.num_points is None:
            self.num_points = config.data.num_points
        if self.label_smoothing is None:
            self.label_smoothing = config.optim.label_smoothing

    def labelled(self, split: Split) -> Tensor:
        """Say which clouds have a point whose part counts: (S,) bool."""
        self._require_parts(split)
        return counted_parts(split, self.ignore).any(1)

    def look_at_training(self, split: Split) -> None:
        """Take what the parts weigh in the loss (``loss.class_weights``), by how many points are of each."""
        if self.config is not None:
            note_ignored(self.ignore, split.num_parts)
            counts = counted_parts(split, self.ignore).sum(0)  # (P,)
            self.class_weights = class_weights(self.config.loss.class_weights, counts, split.part_names)

    def facts(self, split: Split) -> dict[str, Any]:
        """Return categories and parts, with their names and the files' numbers of them."""
        self._require_parts(split)
        codes = {"part_codes": list(split.part_codes)} if split.part_codes else {}
        return {
            "classes": list(split.categories),
            "parts_of_category": [list(ids) for ids in split.parts_of_category],
            "part_names": list(split.part_names),
            **codes,
        }

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Take categories and parts.

        Raises:
            ValueError: If the tables are damaged.
        """
        self.categories = tuple(facts.get("classes", ()))
        self.parts_of_category = checked_table(facts.get("parts_of_category", ()))
        self.part_names = tuple(facts.get("part_names", ()))
        self.part_codes = checked_codes(facts.get("part_codes", ()), len(self.part_names))

    def bind_model(self, model: nn.Module) -> None:
        """Take the number of parts and categories from the model where nothing else has said them.

        Raises:
            ValueError: If the tables are those of another model.
        """
        super().bind_model(model)
        known = 1 + max((max(ids) for ids in self.parts_of_category), default=-1)
        parts = getattr(model, "num_outputs", len(self.part_names) or known)
        self.takes_category = len(inspect.signature(model.forward).parameters) > 1 + self.takes_count
        count = getattr(model, "num_categories", len(self.categories) if self.takes_category else 0)
        self.told = count > 0
        self.part_names = self.part_names or tuple(f"part {part}" for part in range(parts))
        self.parts_of_category = self.parts_of_category or (tuple(range(parts)),) * count
        if self.categories and count and len(self.categories) != count:
            raise ValueError(f"classes: expected {count} names, one a category, got {len(self.categories)}")
        named = len(self.part_names) == parts and all(isinstance(name, str) for name in self.part_names)
        if not named or (count and len(self.parts_of_category) != count):
            raise ValueError(
                f"checkpoint: expected the names of {parts} parts and the parts of {count} categories, got "
                f"{len(self.part_names)} names, and parts of {len(self.parts_of_category)}"
            )
        wrong = [ids for ids in self.parts_of_category if max(ids) >= parts]
        if wrong:
            raise ValueError(f"checkpoint: expected parts in 0..{parts - 1}, got {wrong[0]!r:.80}")

    @property
    def num_parts(self) -> int:
        """Number P of part ids, over all categories."""
        return 1 + max(map(max, self.parts_of_category))

    @property
    def smoothing(self) -> float:
        """The smoothing as torch defines it."""
        return smoothing_of(self.label_smoothing or 0.0, self.num_parts)

    least_points = 1  # a cloud repeats them where the model takes more

    def wanted_points(self, training: bool = False) -> int | None:
        """Return None: evaluation labels all points, and training draws among them."""
        return None

    def arrange(self, split: Split, training: bool = False) -> Split:
        """Lay a split out as batches take it: with all points, as evaluation labels every one.

        Raises:
            ValueError: If the split has no parts.
        """
        self._require_parts(split)
        return normalize_as(split, "max" if self.config is None else self.config.data.normalization)

    def model_args(self, split: Split) -> dict[str, Any]:
        """Return how many parts and categories there are."""
        self._require_parts(split)
        return {"num_parts": split.num_parts, "num_categories": len(split.categories)}

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Call the model, with `count` as `Task.forward`: logits (B, N, P) of every point of the batch."""
        call, told = partial(self._call, model), (batch.points, batch.category)
        if batch.points.shape[1] == self.num_points and (batch.count is None or self.takes_count):
            return call(*told, batch.count)
        return segment_all_points(call, *told, self.num_points or 0, batch.count, self.takes_count)

    def _call(self, model: nn.Module, points: Tensor, category: Any, count: Any = None) -> Tensor:
        """Call a model on points, and on category and count where it takes them."""
        told = (category,) if self.takes_category else ()
        logits: Tensor = model(points, *told, **self.told_count(count))
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of logits (B, N, P): the mean over clouds of that over their points.

        With ``loss.class_weights`` a point's loss is multiplied by the weight of its part; points of an
        ignored part have none.
        """
        parts, valid = self._counted(batch)
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), parts, label_smoothing=self.smoothing, reduction="none"
        )  # (B, N)
        if self.class_weights is not None:
            losses = losses * self.class_weights[parts]
        points = valid.sum(1)
        return ((losses * valid).sum(1) / points.clamp_min(1)).sum() / (points > 0).sum().clamp_min(1)

    def _counted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the parts (B, N), 0 where they are ignored, and which points count (B, N)."""
        parts = part_data(batch)[0]
        kept = metrics.is_labelled(parts, self.ignore)
        return torch.where(kept, parts, 0), kept & own_points(batch)

    def _answered(self) -> list[list[int]]:
        """Return the parts that a point of each category, or of any, may get: those that are not ignored."""
        table = self.parts_of_category or (range(len(self.part_names)),)
        return [[one for one in ids if one not in self.ignore] or [*ids] for ids in table]

    def start(self, device: torch.device) -> Tensor:
        """Return empty counts (C + 1, 3).

        A row for each category: the sum over its shapes of the part IoU, under either convention, and their
        number. The last row: points that are right, under either convention, and points.
        """
        return torch.zeros(len(self.categories) + 1, 3, dtype=widest(device), device=device)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the counts (C + 1, 3) of one batch."""
        (parts, category), table, valid = part_data(batch), self._answered(), self._counted(batch)[1]
        counts, size = self.start(logits.device), logits.shape[-1]
        for column, convention in enumerate(metrics.CONVENTIONS):
            prediction = metrics.predict_parts(logits, category, table, convention)  # (B, N)
            iou = metrics.iou_of(prediction, parts, category, table, convention, size, valid, self.ignore)
            sums = metrics.sum_by_category(iou, category, len(table), valid.any(1))
            counts[:-1, column], counts[:-1, 2] = sums
            counts[-1, column], counts[-1, 2] = ((prediction == parts) & valid).sum(), valid.sum()
        return counts

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """Return ``accuracy``, ``instance_miou`` and ``class_miou`` under each convention."""
        return category_metrics(counts.cpu())

    def table(self, counts: Tensor) -> list[list[Any]]:
        """Return the mean IoU of each category under both conventions."""
        return category_rows(counts, self.categories)

    def predict(
        self, model: nn.Module, points: Tensor, preprocess: Preprocess, category: Any = None
    ) -> Segmentation:
        """Label every point of one cloud (N, C) with a part; see `Task.predict`."""
        return PartSegmentationTask.predict_batch(self, model, [points], preprocess, [category])[0]

    def predict_batch(
        self, model: nn.Module, clouds: Sequence[Tensor], preprocess: Preprocess, categories: Sequence[Any]
    ) -> list[Segmentation]:
        """Label every point of each cloud (N_i, C), those of as many passes together."""
        numbers = [self.category_number(category) for category in categories]
        seen = [self.on_device_of(model, preprocess.normalize(points)) for points in clouds]
        call, size = partial(self._call, model), preprocess.num_points
        labelled = label_points(call, seen, numbers, size, self.takes_count)
        told, tables = zip(labelled, clouds, numbers, strict=True), (self._answered(), self.part_names)
        return [name_parts(*one, *tables, preprocess.up) for one in told]

    def answers(self, logits: Tensor, batch: Batch) -> list[Segmentation]:
        """Return the parts of each cloud of a batch, among those of its category; see `Task.answers`."""
        (_, category), valid = part_data(batch), own_points(batch)
        tables = (self._answered(), self.part_names)
        told = zip(logits, batch.points, category.tolist(), valid, strict=True)
        return [name_parts(own[kept], points[kept], number, *tables) for own, points, number, kept in told]

    def inputs(self, points: Tensor, preprocess: Preprocess, category: Any = None) -> tuple[Tensor, ...]:
        """Return a draw of the points (1, n, C), and the category (1,) if the model is told it."""
        seen = preprocess.normalize(points)[None]  # (1, N, C)
        wanted, generator = preprocess.num_points or len(points), Generator(points.device).manual_seed(0)
        seen = gather_points(seen, draw_points(seen, None, wanted, generator))  # (1, n, C)
        number = self.category_number(category)
        return (seen,) if number is None else (seen, torch.tensor([number], device=points.device))

    def category_number(self, category: Any) -> int | None:
        """Return the number of a category that a user names or numbers.

        Raises:
            ValueError: If it is unknown, or missing for a model that needs to be told it.
        """
        names = self.categories or tuple(str(i) for i in range(len(self.parts_of_category)))
        if category is None and self.told:
            raise NoCategory(names)
        if category is None:
            return None
        if isinstance(category, str):
            folded = [name.casefold() for name in names]  # Chair and chair are one, unless both are there
            if category in names or folded.count(category.casefold()) == 1:
                return names.index(category) if category in names else folded.index(category.casefold())
        if not isinstance(category, (str, bool)):
            try:  # Python's, NumPy's and torch's whole numbers
                number = operator.index(category)
            except TypeError:
                number = -1
            if 0 <= number < len(names):
                return number
        raise ValueError(
            f"category: expected one of {', '.join(names)}, got {category!r}{nearest(category, names)}"
        )

    def example(self, model: nn.Module, batch: int, count: int, channels: int) -> dict[str, Tensor]:
        """Return made-up points, and categories if the model is told them."""
        inputs = super().example(model, batch, count, channels)
        if self.told:
            inputs["category"] = torch.arange(batch) % max(1, len(self.categories))
        return inputs

    def view(self, answer: Segmentation, truth: Any = None) -> dict[str, Any]:
        """Return the parts of all points; where the truth is known, of those that have one, with the IoU."""
        number, table = answer.category, self._answered()
        ids = {one for own in table for one in own} if number is None else table[number]
        return {**answer.shown(sorted(ids), truth), "names": self.part_names, "codes": self.part_codes}

    def groups(self, split: Split) -> tuple[tuple[str, ...], Tensor]:
        """Return the categories, and each cloud's number (S,)."""
        self._require_parts(split)
        return split.categories, split.label if split.category is None else split.category

    def point_labels(self, split: Split) -> Tensor | None:
        """Return the true part of each point (S, N)."""
        self._require_parts(split)
        return split.parts

    def _require_parts(self, split: Split) -> None:
        if split.parts is None:
            raise ValueError("parts: expected data with a part for each point, got a split without")
