"""Classification: one label a cloud, overall and mean class accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d import metrics
from bixt3d.config import Config
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.split import Split
from bixt3d.tasks.base import Task, smoothing_of
from bixt3d.tasks.labels import class_weights, note_ignored
from bixt3d.tasks.results import Array, Prediction, check_output
from bixt3d.tasks.together import alike


class ClassificationTask(Task):
    """One label a cloud: cross-entropy, overall and mean class accuracy.

    Args:
        classes: Names of the classes; a training takes those of its data.
        label_smoothing: Mass moved from the true class, shared by the others (PointMLP's definition); that of
            the settings if None.
    """

    name = "classification"
    goal = "oa"
    shown: tuple[str, ...] = ("oa", "macc")
    titles: ClassVar[Mapping[str, str]] = {"oa": "OA", "macc": "mAcc"}
    averages = True

    def __init__(self, classes: Sequence[str] = (), label_smoothing: float | None = None) -> None:
        """Keep the classes and the smoothing."""
        super().__init__()
        self.classes = tuple(classes)
        self.label_smoothing = label_smoothing

    def configure(self, config: Config) -> None:
        """Take the smoothing from the settings, unless it was given."""
        super().configure(config)
        if self.label_smoothing is None:
            self.label_smoothing = config.optim.label_smoothing

    def look_at_training(self, split: Split) -> None:
        """Take what the classes weigh in the loss (``loss.class_weights``)."""
        if self.config is not None:
            note_ignored(self.ignore, len(split.classes))
            counts = split.label[self.labelled(split)].bincount(minlength=len(split.classes))
            self.class_weights = class_weights(self.config.loss.class_weights, counts, split.classes)

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Take the names of the classes."""
        self.classes = tuple(facts.get("classes", ()))

    def bind_model(self, model: nn.Module) -> None:
        """Hold the number of classes against the model's outputs.

        Raises:
            ValueError: If they differ.
        """
        super().bind_model(model)
        count = getattr(model, "num_outputs", None)
        if self.classes and count is not None and len(self.classes) != count:
            raise ValueError(f"classes: expected {count} names, one a logit, got {len(self.classes)}")

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    @property
    def smoothing(self) -> float:
        """The smoothing as torch defines it."""
        return smoothing_of(self.label_smoothing or 0.0, self.num_classes)

    def arrange(self, split: Split, training: bool = False) -> Split:
        """Lay a split out as batches take it, without parts; see `Task.arrange`."""
        return super().arrange(split.without_parts() if split.parts is not None else split, training)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of logits (B, K), a scalar.

        Where clouds are mixed, it is the sum of those with either label, weighted by their shares; where they
        lie, that with all labels alike. With ``loss.class_weights`` each cloud's loss is multiplied by the
        weight of its label; one of an ignored label has none.

        Raises:
            ValueError: If the logits are of another shape.
        """
        if not isinstance(logits, Tensor) or logits.shape != (len(batch.label), self.num_classes):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"model: expected logits ({len(batch.label)}, {self.num_classes}), one a class, got {got}"
            )
        losses, known = self._weighed(logits, batch.label), self._known(batch.label)
        if batch.share is not None and batch.other_label is not None:
            other = self._weighed(logits, batch.other_label)
            losses, known = batch.share * losses + (1.0 - batch.share) * other, torch.ones_like(known)
        if batch.lies is not None:
            unsure = -logits.float().log_softmax(-1).mean(-1)  # (B,)
            losses, known = torch.where(batch.lies, unsure, losses), known | batch.lies
        return losses.sum() / known.sum().clamp_min(1)

    def losses(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of each cloud (B,) by logits (B, K) and labels (B,), all of which are classes.

        A task with another loss overrides this: `loss` weighs it, mixes it, and leaves out what is ignored.
        """
        return F.cross_entropy(logits.float(), label, label_smoothing=self.smoothing, reduction="none")

    def _known(self, label: Tensor) -> Tensor:
        return metrics.is_labelled(label, self.ignore)

    def _weighed(self, logits: Tensor, label: Tensor) -> Tensor:
        known = self._known(label)
        label = torch.where(known, label, 0)
        losses = torch.where(known, self.losses(logits, label), 0.0)
        return losses if self.class_weights is None else losses * self.class_weights[label]

    def start(self, device: torch.device) -> Tensor:
        """Return an empty confusion matrix (K, K)."""
        return torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64, device=device)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the confusion matrix (K, K) of one batch.

        Mixed clouds count by the larger share's label, and clouds that lie not at all.
        """
        label = batch.label
        if batch.share is not None and batch.other_label is not None:
            label = torch.where(batch.share >= 0.5, label, batch.other_label)
        label = torch.where(self._known(label), label, -1)
        if batch.lies is not None:
            label = label.masked_fill(batch.lies, -1)
        return metrics.confusion_matrix(logits.argmax(-1), label, self.num_classes, -1)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """Return ``oa`` and ``macc`` of a confusion matrix."""
        result = metrics.classification(counts)
        return {name: value for name, value in result.items() if isinstance(value, float)}

    def table(self, counts: Tensor) -> list[list[Any]]:
        """Return the accuracy of each class, and what it is most taken for."""
        return class_rows(counts, self.classes)

    def confusion(self, counts: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Return the confusion matrix (K, K), which the counts are, and the classes."""
        return counts, self.classes

    def predict(
        self, model: nn.Module, points: Tensor, preprocess: Preprocess, category: Any = None
    ) -> Prediction:
        """Name the class of one cloud (N, C); see `Task.predict`."""
        return ClassificationTask.predict_batch(self, model, [points], preprocess, [category])[0]

    def predict_batch(
        self, model: nn.Module, clouds: Sequence[Tensor], preprocess: Preprocess, categories: Sequence[Any]
    ) -> list[Prediction]:
        """Name the class of each cloud (N_i, C), those of as many points in one pass."""
        seen = [self.on_device_of(model, self.inputs(points, preprocess)[0]) for points in clouds]
        found: list[Any] = [None] * len(seen)
        for places in alike([cloud.shape[1] for cloud in seen]):
            batch = torch.cat([seen[place] for place in places])  # (B, n, C)
            own = [self._own(clouds[place], preprocess, batch.shape[1]) for place in places]
            count = torch.tensor(own, device=batch.device) if min(own) < batch.shape[1] else None  # (B,)
            logits = model(batch, **self.told_count(count))  # (B, K)
            answers = self._named(logits, [seen[place][0] for place in places], preprocess.up)
            for place, answer in zip(places, answers, strict=True):
                found[place] = answer
        return found

    def _own(self, points: Tensor, preprocess: Preprocess, wanted: int) -> int:
        """Return how many of the points that a model sees of a cloud are its own."""
        if not self.takes_count or preprocess.normalization == "max":
            return min(len(points), wanted)
        return preprocess.count(preprocess.normalize(points))

    def answers(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """Return the class of each cloud of a batch; see `Task.answers`."""
        return self._named(logits, list(batch.points))

    def average(self, answers: Sequence[Prediction]) -> Prediction:
        """Return the class that is most probable in the mean, with the points of the first look."""
        probabilities = torch.from_numpy(np.stack([answer.probabilities for answer in answers])).mean(
            0
        )  # (K,)
        return self._said(probabilities, answers[0].points, answers[0].up)

    def _named(self, logits: Tensor, clouds: Sequence[Tensor], up: str | None = None) -> list[Prediction]:
        """Return what logits (B, K) say of clouds (n_i, C)."""
        probabilities = logits.float().softmax(-1).cpu()  # (B, K)
        check_output(probabilities)
        told = zip(probabilities, clouds, strict=True)
        return [self._said(shares, cloud.cpu().numpy(), up) for shares, cloud in told]

    def _said(self, probabilities: Tensor, points: Array, up: str | None) -> Prediction:
        index = int(probabilities.argmax())
        label = self.classes[index] if self.classes else str(index)
        return Prediction(label, index, probabilities.numpy(), points, up)

    def view(self, answer: Prediction, truth: Any = None) -> dict[str, Any]:
        """Return the class and its probability as the verdict, and the probability of each class."""
        names = self.classes or tuple(map(str, range(len(answer.probabilities))))
        scores = dict(zip(names, map(float, answer.probabilities), strict=True))
        return {"verdict": f"predicted {answer.label} {answer.probabilities.max():.1%}", "scores": scores}


def class_rows(confusion: Tensor, classes: Sequence[str]) -> list[list[Any]]:
    """Return a row for each class: name, shapes, accuracy, and what it is most taken for."""
    confusion = confusion.cpu()
    per_class = metrics.classification(confusion)["per_class"]
    assert isinstance(per_class, list)
    rows: list[list[Any]] = [["class", "shapes", "accuracy", "most often taken for"]]
    for index, name in enumerate(classes):
        row = confusion[index].clone()
        support = int(row.sum())
        row[index] = 0
        wrong = int(row.argmax())
        taken = f"{classes[wrong]} ({int(row[wrong])})" if int(row[wrong]) else "-"
        rows.append([name, support, per_class[index] if support else None, taken])
    return rows
