"""What every task has: how data are laid out, what a model is told, loss, metrics, and a prediction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from bixt3d.config import Config
from bixt3d.datasets.augment import choose_points
from bixt3d.datasets.damage import lost_points
from bixt3d.datasets.given import read_points
from bixt3d.datasets.loader import Batch, arrange_split
from bixt3d.datasets.overview import brief
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.readers import SUFFIXES
from bixt3d.datasets.spheres import normalize_split
from bixt3d.datasets.split import Split
from bixt3d.datasets.strays import normalize_as
from bixt3d.metrics import is_labelled
from bixt3d.tasks.changes import configured_changes

Choose = Callable[[Tensor, Generator, Tensor | None], Tensor | None]
Change = Callable[[Tensor, Generator], Tensor]


class Task:
    """All that is special about one kind of learning: trainer, Predictor, export and viewers ask it.

    A task of one's own subclasses this, or a task that does most of it already, and overrides what differs.
    `bixt3d.train` takes the class or an object of it, and ``task:`` of a config its registered name. A copy
    is first told the settings (`configure`), then what the labels mean (`set_facts`), from a split or a
    checkpoint.

    Attributes:
        name: What checkpoints call it. A subclass that keeps its parent's predicts as its parent does.
        goal: The metric that chooses the best epoch; more is better.
        shown: Metrics that the progress line shows.
        titles: Metrics by the names that people know.
        per_point: Whether it labels points, rather than whole clouds.
        ignore: Labels that do not count: -1, and those of ``loss.ignore``.
        class_weights: What each label weighs in the loss; None for all alike.
        takes_count: Whether the model's forward has a parameter ``count``; `bind_model` looks.
        optional_args: Arguments of a model that settings may state in place of `model_args`, and as what.
        draws: How many times an epoch shows each cloud.
        suffixes: Files that `read` reads.
        axes: Axes of one sample: 2 of a cloud (N, C).
        averages: Whether answers have a mean, for clouds that are looked at several times; see `average`.
    """

    name: str = "task"
    goal: str = "loss"
    shown: tuple[str, ...] = ()
    titles: ClassVar[Mapping[str, str]] = {}
    per_point: bool = False
    optional_args: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    ignore: tuple[int, ...] = (-1,)
    class_weights: Tensor | None = None
    takes_count: bool = False
    draws: int = 1
    suffixes: tuple[str, ...] = SUFFIXES
    axes: int = 2
    averages: bool = False

    def __init__(self) -> None:
        """Know nothing yet of settings and labels."""
        self.config: Config | None = None

    def configure(self, config: Config) -> None:
        """Take what the task needs from the settings.

        Raises:
            ValueError: If they do not suit it.
        """
        self.config = config
        self.ignore = (-1, *config.loss.ignore)

    def look_at_training(self, split: Split) -> None:
        """Take what the loss needs from the training split, such as the weights of its classes."""

    def labelled(self, split: Split) -> Tensor:
        """Say which clouds have a label that counts: (S,) bool; the others are left out."""
        return is_labelled(split.label, self.ignore)

    def facts(self, split: Split) -> dict[str, Any]:
        """Return what the labels of a split mean, in JSON's own kinds: a checkpoint keeps it."""
        return {"classes": list(split.classes)}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Take what the labels mean, from `facts` or from a checkpoint.

        Raises:
            ValueError: If a checkpoint's are damaged.
        """

    def bind_model(self, model: nn.Module) -> None:
        """Take from a model what nothing else has said, such as its number of outputs; call super's first.

        Raises:
            ValueError: If its sizes are not those of the labels.
        """
        self.takes_count = "count" in inspect.signature(model.forward).parameters

    def wanted_points(self, training: bool = False) -> int | None:
        """Return how many of a cloud's stored points, the first ones, are to be read; None for all of them.

        What draws, and what is put in another order, chooses among all.
        """
        if self.config is None or self.config.data.order != "stored" or (training and self._draws):
            return None
        return self.config.data.num_points

    @property
    def least_points(self) -> int:
        """The fewest points that a cloud must store."""
        return 1 if self.config is None else self.config.data.num_points

    def arrange(self, split: Split, training: bool = False) -> Split:
        """Lay a split out as batches take it: in the unit sphere, and, unless points are drawn, in order.

        Args:
            split: As it was opened.
            training: Whether batches draw points of it, others every epoch.

        Raises:
            ValueError: If the split lacks what the task needs, or has too few points.
        """
        if self.config is None:
            return normalize_split(split)
        split = normalize_as(split, self.config.data.normalization, drop=not self.per_point)
        data, draws = self.config.data, training and self._draws
        if draws and data.order == "random":
            return split
        return arrange_split(split, split.num_points if draws else data.num_points, data.order)

    def model_args(self, split: Split) -> dict[str, Any]:
        """Return what a model must be told of a split; its channels are added to it."""
        return {"num_classes": len(split.classes)}

    def choose(self) -> Choose:
        """Return what chooses the points of a training batch: ``(points, generator, count) -> indices``."""
        assert self.config is not None
        data, augment = self.config.data, self.config.augment
        missing, holes = augment.missing, augment.holes
        lose = partial(lost_points, missing=missing, holes=holes, probability=augment.damage)
        return partial(
            choose_points,
            num_points=data.num_points if self._draws else None,
            draw=data.order == "random",
            thin=augment.thin,
            dropout=augment.dropout,
            shuffle=augment.shuffle,
            lose=lose if missing or holes else None,
        )

    def augmentation(self, split: Split) -> Change:
        """Return what changes training batches (B, n, C), ``(points, generator) -> points``.

        It places them as `place` does, and then does what the settings of ``augment`` say. A task may do more
        after super's, or something else.
        """
        assert self.config is not None
        change = configured_changes(self.config, split.features)
        return lambda points, generator: change(self.place(points), generator)

    def brief(self, splits: Mapping[str, Split]) -> list[str]:
        """Return what a training says of its data before it begins, in lines."""
        return brief(splits)

    def place(self, points: Tensor) -> Tensor:
        """Return the chosen points of a training batch (B, n, C) as models take them, not augmented."""
        return points

    def reach(self, preprocess: Preprocess) -> float | None:
        """Return how far from a point others matter for its label, in the files' unit; None: all of them do.

        Of tasks with a reach, files of any size are labelled piece by piece: `predict` takes the keywords
        ``wanted``, the points (N,) that need an answer, ``done``, which is told how many have one, and
        ``extent``, the least and the largest coordinates (2, 3) of the whole file.
        """
        return None

    @property
    def _draws(self) -> bool:
        """Whether training draws points, others every epoch."""
        if self.config is None:
            return False
        augment = self.config.augment
        return self.config.data.order == "random" or max(augment.thin, augment.missing, augment.holes) > 0

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Call the model on a batch.

        Of different sizes: every cloud of a batch has as many rows, and one with fewer points begins again.
        A model whose forward has a parameter ``count`` is told how many rows are a cloud's own, its first:
        (B,) int64, or None if all are. It may mask the others: ``torch.arange(N) < count[:, None]``. So it is
        in training, evaluation, prediction and export. Other models see repeated points as they see any.
        """
        logits: Tensor = model(batch.points, **self.told_count(batch.count))
        return logits

    def told_count(self, count: Tensor | None) -> dict[str, Tensor | None]:
        """Return the argument ``count`` of a model that takes it, see `forward`; none for others."""
        return {"count": count} if self.takes_count else {}

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Where clouds are mixed (``augment.mix``), ``batch.share`` says how much of each is of its own label,
        and ``batch.other_label`` of what the rest is; ``batch.lies`` names clouds that ``augment.lying`` laid
        down, whose answer is to be unsure.
        """
        raise TypeError(f"{type(self).__name__} must define loss")

    def start(self, device: torch.device) -> Tensor:
        """Return empty counts on the device; counts of several batches or processes add up."""
        raise TypeError(f"{type(self).__name__} must define start")

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the counts of one batch."""
        raise TypeError(f"{type(self).__name__} must define count")

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """Compute the metrics from counts, among them `goal`."""
        raise TypeError(f"{type(self).__name__} must define metrics")

    def table(self, counts: Tensor) -> list[list[Any]]:
        """Return the results in detail as rows of text and numbers, the head first; None where there is none.

        Shares are fractions of 1.
        """
        rows = [[self.titles.get(name, name), value] for name, value in self.metrics(counts).items()]
        return [["metric", "value"], *rows]

    def show(self, value: float) -> str:
        """Return a metric as text: a share as per cent, other numbers as they are."""
        return f"{100 * value:.2f}%" if 0 <= value <= 1 else f"{value:.4g}"

    def confusion(self, counts: Tensor) -> tuple[Tensor, tuple[str, ...]] | None:
        """Return a confusion matrix (K, K), rows = truth, and their names; None if there is none."""
        return None

    def predict(self, model: nn.Module, points: Tensor, preprocess: Preprocess, category: Any = None) -> Any:
        """Answer for one cloud; `Predictor` calls it without gradients.

        Args:
            model: The model, in evaluation mode.
            points: (N, C) float64, in their own coordinates, on the model's device if it has float64.
            preprocess: What was done to clouds in training.
            category: What the user says that the cloud is, for tasks that are told.
        """
        raise TypeError(f"{type(self).__name__} must define predict")

    def on_device_of(self, model: nn.Module, seen: Tensor) -> Tensor:
        """Return normalised points where the model is: they are elsewhere if it has no float64 there."""
        first = next(model.parameters(), None)
        return seen if first is None else seen.to(first.device)

    def predict_batch(
        self,
        model: nn.Module,
        clouds: Sequence[Tensor],
        preprocess: Preprocess,
        categories: Sequence[Any],
    ) -> list[Any]:
        """Answer for several clouds (N_i, C), of each what `predict` says of it alone.

        This calls `predict` one by one. A task may do better, with one pass of the model for several.
        """
        told = zip(clouds, categories, strict=True)
        return [self.predict(model, points, preprocess, category) for points, category in told]

    def average(self, answers: Sequence[Any]) -> Any:
        """Return one answer for several looks at one cloud, of a task that ``averages``.

        Raises:
            TypeError: For a task that does not say how.
        """
        raise TypeError(f"{type(self).__name__} must define average")

    def answers(self, logits: Tensor, batch: Batch) -> list[Any]:
        """Return what `predict` says of each cloud of a batch, from its logits; none for tasks without.

        An evaluation lists and draws them.
        """
        return []

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a task with a `predict` of its own answer batches by that, not by its parent's for several."""
        super().__init_subclass__(**options)
        if "predict" in vars(cls) and "predict_batch" not in vars(cls):
            cls.predict_batch = Task.predict_batch  # type: ignore[method-assign]
        if "predict" in vars(cls) and "answers" not in vars(cls):
            cls.answers = Task.answers  # type: ignore[method-assign]
        if {"predict", "predict_batch"} & set(vars(cls)) and not {"average", "averages"} & set(vars(cls)):
            cls.averages = False  # the parent's mean is of the parent's answers

    def read(self, sample: Any, preprocess: Preprocess) -> Tensor:
        """Return what a user gives, an array, a tensor or a file, in its own numbers: a cloud (N, C) float64.

        Raises:
            ValueError: If it is none.
            FileNotFoundError: If the file is missing.
        """
        return read_points(sample, preprocess)

    def inputs(self, points: Tensor, preprocess: Preprocess, category: Any = None) -> tuple[Tensor, ...]:
        """Return what one pass of the model takes of a cloud (N, C): points (1, n, C), and whatever else."""
        return (preprocess.choose(preprocess.normalize(points))[None],)

    def category_number(self, category: Any) -> int | None:
        """Return the number of a category that a user names; None for tasks that are not told.

        Raises:
            ValueError: If it is unknown or missing.
        """
        return None

    def example(self, model: nn.Module, batch: int, count: int, channels: int) -> dict[str, Tensor]:
        """Return inputs of the model by name, made up: clouds of that many points and channels."""
        generator = Generator().manual_seed(batch)
        return {"points": torch.rand(batch, count, channels, generator=generator) * 2 - 1}

    def view(self, answer: Any, truth: Any = None) -> dict[str, Any]:
        """Return what a viewer shows of an answer: fields of `bixt3d.visualize.scene.LabelledCloud`.

        Args:
            answer: What `predict` returned.
            truth: Of `point_labels`, one cloud's, where known.
        """
        return {"verdict": f"predicted {answer}"}

    def groups(self, split: Split) -> tuple[tuple[str, ...], Tensor]:
        """Return the names by which a viewer sorts clouds, and each one's number (S,)."""
        return split.classes, split.label

    def point_labels(self, split: Split) -> Tensor | None:
        """Return the true label of each point (S, N), where the task has such."""
        return None


def smoothing_of(mass: float, count: int) -> float:
    """Return torch's label smoothing that moves ``mass`` from the true label to the others."""
    # torch spreads its mass over all labels, the true one included.
    return min(1.0, mass * count / (count - 1)) if count > 1 else 0.0
