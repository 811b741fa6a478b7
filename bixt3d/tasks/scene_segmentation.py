"""Scene segmentation: a class a point of clouds of any size, looked at in columns that overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from bixt3d import metrics
from bixt3d.config import Config
from bixt3d.datasets.columns import columns_over, draw_column, place_column
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.orientation import turn
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.split import Split
from bixt3d.ops.precision import widest
from bixt3d.progress import progress
from bixt3d.tasks.base import Choose
from bixt3d.tasks.labels import part_data
from bixt3d.tasks.part_segmentation import PartSegmentationTask
from bixt3d.tasks.results import Segmentation, check_output

TINY = torch.finfo(torch.float32).tiny  # the least probability, whose logarithm is finite
ROUNDING = 1e-6  # of a scene's width: what its middle is off by, in float32
PASS = 32_768  # points that go through the model together


class SceneSegmentationTask(PartSegmentationTask):
    """A class a point: cross-entropy, accuracies and the mean IoU of the classes, from one confusion matrix.

    A model looks at a column: the points within ``radius`` of its axis, moved to its middle and ground, and
    divided by the radius. Training draws columns, and ``data.num_points`` of the points in each. A whole
    scene is looked at in columns that stand on a square grid, ``step`` radii apart; the points of each go
    through the model in as many passes as they need, and a point's probabilities in all of its columns are
    averaged. With a radius beyond the scene's extent it is one column.

    Args:
        radius: Of a column, in the unit of the files.
        step: Distance of neighbouring columns in radii, up to the root of 2, at which every point is in one.
        draws: How many columns an epoch draws from each scene.
    """

    name = "scene_segmentation"
    goal = "miou"
    shown: tuple[str, ...] = ("oa", "miou")
    titles: ClassVar[Mapping[str, str]] = {"oa": "OA", "macc": "mAcc", "miou": "mIoU"}
    optional_args: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __init__(self, radius: float = 20.0, step: float = 1.0, draws: int = 64) -> None:
        """Keep the columns' sizes."""
        super().__init__()
        sizes = {"radius": (radius, 0, math.inf), "step": (step, 0, math.sqrt(2) + 1e-9)}
        for key, (value, low, high) in sizes.items():
            ends = f" and up to {high:.4g}" if high < math.inf else ""
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not low < value < high:
                raise ValueError(f"{key}: expected a number above {low}{ends}, got {value!r}")
        if type(draws) is not int or draws < 1:
            raise ValueError(f"draws: expected a whole number of at least 1, got {draws!r}")
        self.radius, self.step, self.draws = float(radius), float(step), draws
        self.features: tuple[str, ...] = ()

    def configure(self, config: Config) -> None:
        """Take the settings; augmentation that makes no sense of a column is refused.

        Raises:
            ValueError: If clouds are normalized or fitted anew, or points dropped.
        """
        super().configure(config)
        if config.data.normalization != "max":
            raise ValueError(
                f"data.normalization: expected none for scenes, whose columns stand in their own unit, got "
                f"{config.data.normalization!r}; leave it out"
            )
        if config.augment.dropout:
            raise ValueError("augment.dropout: puts points onto the first, far away in a scene: expected 0")
        if config.augment.refit:
            raise ValueError(
                "augment.refit: would undo the unit of a scene's columns, the radius: leave it out"
            )

    def facts(self, split: Split) -> dict[str, Any]:
        """Return the classes with their names and the files' numbers of them, and the columns' sizes."""
        return {**super().facts(split), "radius": self.radius, "step": self.step}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Take the classes, the files' numbers of them, and the columns' sizes.

        Raises:
            ValueError: If a checkpoint's are damaged.
        """
        super().set_facts(facts)
        sizes = {key: facts[key] for key in ("radius", "step") if key in facts}
        checked = SceneSegmentationTask(**sizes)
        self.radius, self.step = checked.radius, checked.step

    def bind_model(self, model: nn.Module) -> None:
        """Take the number of classes from the model where nothing else has said them.

        Raises:
            ValueError: If it is not that of the labels.
        """
        super().bind_model(model)
        self.parts_of_category = self.parts_of_category or (tuple(range(len(self.part_names))),)

    def arrange(self, split: Split, training: bool = False) -> Split:
        """Lay a split out as batches take it: whole scenes in their own unit.

        Raises:
            ValueError: If the split has no labels of points.
        """
        self._require_parts(split)
        self.features = split.features
        return split

    def model_args(self, split: Split) -> dict[str, Any]:
        """Return how many labels there are, numbers without a name included."""
        self._require_parts(split)
        return {"num_classes": split.num_parts}

    def reach(self, preprocess: Preprocess) -> float:
        """Return the diameter of a column: its points reach that far from one at its edge."""
        return 2 * self.radius

    def choose(self) -> Choose:
        """Return what draws a column of each scene, and its points."""
        assert self.config is not None
        radius, count = self.radius, self.config.data.num_points
        return lambda points, generator, own: draw_column(points, own, radius, count, generator)

    def place(self, points: Tensor) -> Tensor:
        """Return columns (B, n, C) moved to their middle and ground, in radii."""
        return place_column(points, self.radius, self.features)

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Call the model on drawn columns in training, else label whole scenes: logits (B, N, K)."""
        if model.training:
            return self._call(model, batch.points, None, batch.count)
        own = batch.points.shape[1] if batch.count is None else batch.count[:, None]
        row = torch.arange(batch.points.shape[1], device=batch.points.device)  # (N,)
        place = (row % own).expand(batch.points.shape[:2])  # (B, N), of each point or the one it repeats
        size = self.num_points or 0
        logits = [
            self._shares(model, *self._laid(points[: int(index.max()) + 1]), size, self.features)
            .clamp_min(TINY)
            .log()[index]
            for points, index in zip(batch.points, place, strict=True)
        ]
        return torch.stack(logits)  # (B, N, K)

    def start(self, device: torch.device) -> Tensor:
        """Return empty counts: a confusion matrix (K, K), rows = truth."""
        return torch.zeros(len(self.part_names), len(self.part_names), dtype=torch.int64, device=device)

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the confusion matrix (K, K) of one batch; predictions are among the classes that count."""
        _, valid = self._counted(batch)
        found = logits.masked_fill(~self._allowed(logits), -torch.inf).argmax(-1)  # (B, N)
        labels = torch.where(valid, part_data(batch)[0], -1)
        return metrics.confusion_matrix(found, labels, len(self.part_names), -1)

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """Return ``oa``, ``macc`` and ``miou``."""
        said = metrics.segmentation(counts)
        return {name: float(said[name]) for name in self.titles}  # type: ignore[arg-type]

    def table(self, counts: Tensor) -> list[list[Any]]:
        """Return the points and the IoU of each class that counts; None where no answer is of it either."""
        iou: Any = metrics.segmentation(counts)["per_class"]
        rows = [[self.part_names[one], int(counts[one].sum()), iou[one]] for one in self._ids]
        return [
            ["class", "points", "IoU"],
            *([*row[:2], None if row[2] != row[2] else row[2]] for row in rows),
        ]

    def confusion(self, counts: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Return the confusion matrix of the classes that count, and their names."""
        return counts[self._ids][:, self._ids], tuple(self.part_names[one] for one in self._ids)

    def predict(
        self,
        model: nn.Module,
        points: Tensor,
        preprocess: Preprocess,
        category: Any = None,
        wanted: Tensor | None = None,
        done: Callable[[int], object] | None = None,
        extent: Tensor | None = None,
    ) -> Segmentation:
        """Label every point of one scene (N, C); see `Task.predict`.

        Args:
            model: As there.
            points: As there.
            preprocess: As there; its number of points is that of a pass.
            category: None.
            wanted: Which points need a label (N,), bool; others get some, as far as columns reach them.
                None: all.
            done: Is told how many more points are done; None: it is shown here.
            extent: The least and the largest coordinates (2, 3) of the scene that the points are a piece of;
                None: their own.
        """
        size = preprocess.num_points or len(points)
        turned, corners = preprocess.prepare(points), None
        laid, begin = self._laid(turned, None if extent is None else turn(extent.to(turned), preprocess.up))
        if wanted is not None:
            corners = torch.stack(torch.aminmax(laid[wanted.to(laid.device), :3], dim=0))  # (2, 3)
        with progress("labelling", len(points), "points") if done is None else nullcontext(done) as tell:
            shares = self._shares(model, laid, begin, size, preprocess.features, corners, tell)
        check_output(shares)
        share, label = (value.cpu().numpy() for value in self._among_allowed(shares).max(-1))
        names = np.array(self.part_names)[label]
        return Segmentation(label, names, share, points.cpu().numpy(), None, preprocess.up)

    def predict_batch(
        self, model: nn.Module, clouds: Sequence[Tensor], preprocess: Preprocess, categories: Sequence[Any]
    ) -> list[Segmentation]:
        """Label every point of each cloud (N_i, C), one after another."""
        return [self.predict(model, points, preprocess) for points in clouds]

    def answers(self, logits: Tensor, batch: Batch) -> list[Segmentation]:
        """Return the labels of each scene of a batch; see `Task.answers`."""
        shares = self._among_allowed(logits.softmax(-1))  # (B, N, K)
        names, found = np.array(self.part_names), []
        for points, of_scene, count in zip(batch.points, shares, self._own(batch), strict=True):
            share, label = (value[:count].cpu().numpy() for value in of_scene.max(-1))
            found.append(Segmentation(label, names[label], share, points[:count].double().cpu().numpy()))
        return found

    def view(self, answer: Segmentation, truth: Any = None) -> dict[str, Any]:
        """Return the labels for a viewer: the classes that occur, as the mean IoU is over those."""
        found = answer.parts if truth is None else np.concatenate([answer.parts, truth])
        ids = [one for one in np.unique(found).tolist() if one >= 0]
        return {**answer.shown(ids, truth), "names": self.part_names, "codes": self.part_codes}

    def inputs(self, points: Tensor, preprocess: Preprocess, category: Any = None) -> tuple[Tensor, ...]:
        """Return what one pass takes of a scene (N, C): a draw of the column around its middle (1, n, C)."""
        turned = preprocess.prepare(points)[None]  # (1, N, C)
        middle = turned[0, :, [0, 2]].median(0).values  # (2,)
        generator = Generator(points.device).manual_seed(0)
        wanted = preprocess.num_points or len(points)
        index = draw_column(turned, None, self.radius, wanted, generator, middle[None])
        return (place_column(turned[:, index[0]], self.radius, preprocess.features).float(),)

    @property
    def _ids(self) -> list[int]:
        """The labels that count, sorted."""
        return sorted({one for ids in self.parts_of_category for one in ids} - set(self.ignore))

    def _allowed(self, logits: Tensor) -> Tensor:
        """Say which labels a point may get: (K,) bool."""
        category = torch.zeros(1, dtype=torch.int64, device=logits.device)
        return metrics.allowed_parts(category, (self._ids,), logits.shape[-1])[0]

    def _among_allowed(self, shares: Tensor) -> Tensor:
        """Return probabilities (..., K) among the labels a point may get, -1 for others."""
        others = ~self._allowed(shares)
        kept = shares.masked_fill(others, 0)
        least = torch.finfo(kept.dtype).tiny
        return (kept / kept.sum(-1, keepdim=True).clamp_min(least)).masked_fill(others, -1)

    def _own(self, batch: Batch) -> list[int]:
        rows, total = len(batch.points), batch.points.shape[1]
        return [total] * rows if batch.count is None else batch.count.tolist()

    def _laid(self, points: Tensor, extent: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a scene (N, C), y up, as files of scenes are read, and where the columns' grid begins (3,).

        The middle of its extent (2, 3) is the origin, and the points are float32. There the grid begins, too,
        or half a square before, of a scene that fits into one square.
        """
        xyz = points[:, :3].to(widest(points.device))
        low, high = torch.aminmax(xyz if extent is None else extent, dim=0)  # (3,) each
        middle, wide = (low + high) / 2, high - low
        middle = torch.where(middle.abs() <= ROUNDING * wide, 0, middle)  # it is there, as in files
        side = self.step * self.radius
        laid = torch.cat([(xyz - middle).float(), points[:, 3:].float()], 1)  # (N, C)
        return laid, torch.where(wide < side, -side / 2, 0.0).to(xyz)

    def _shares(
        self,
        model: nn.Module,
        points: Tensor,
        begin: Tensor,
        size: int,
        features: Sequence[str],
        corners: Tensor | None = None,
        done: Callable[[int], object] = int,
    ) -> Tensor:
        """Return the mean probabilities (N, K) of a scene (N, C), y up, over the columns of each point.

        Args:
            model: In evaluation mode.
            points: The scene, where it is stored; columns go to the model's device.
            begin: Where the grid of columns begins (3,).
            size: Points of a pass.
            features: What stands beside xyz.
            corners: Columns that hold no point between them (2, 3) are left out; None: none are.
            done: Is told how many more points have a column of their own behind them.
        """
        waiting: dict[int, list[tuple[Tensor, Tensor, int]]] = {}  # passes by their width, see `flush`
        total: Tensor = points.new_zeros(len(points), len(self.part_names), dtype=torch.float32)
        columns = points.new_zeros(len(points), dtype=torch.float32)  # (N,), how many a point is in

        def flush(passes: list[tuple[Tensor, Tensor, int]]) -> None:
            # of each pass its points (W, C), which of the scene its first are, and how many differ
            seen, which, own = zip(*passes, strict=True)
            batch = self.on_device_of(model, torch.stack(seen))  # (B, W, C)
            logits = self._call(model, batch, None, torch.tensor(own, device=batch.device))  # (B, W, K)
            for index, of_pass in zip(which, logits.float().softmax(-1).to(total.device), strict=True):
                total[index] += of_pass[: len(index)]  # no point twice in one pass
            passes.clear()

        places = points[:, :3].to(begin) - begin  # (N, 3)
        corners = None if corners is None else corners.to(begin) - begin
        for index, held in columns_over(places, self.radius, self.step, corners):
            seen = place_column(points[index][None], self.radius, features)[0].float()  # (n, C)
            order = torch.randperm(len(index), generator=Generator().manual_seed(0)).to(index.device)
            each, width = pass_size(len(index), size)
            passes = waiting.setdefault(width, [])
            for chunk in torch.split(order, each):
                # what is left of a pass is filled up with other points of the column, or its own again
                filled = torch.cat([chunk, order.repeat(-(-width // len(order)))])[:width]
                passes.append((seen[filled], index[chunk], min(width, len(order))))
                if len(passes) * width >= PASS:
                    flush(passes)
            columns[index] += 1
            done(held)
        for passes in filter(None, waiting.values()):
            flush(passes)
        return total / columns.clamp_min(1)[:, None]


def pass_size(count: int, size: int) -> tuple[int, int]:
    """Return how many of a column's points a pass labels, and how many it takes, a multiple of an eighth.

    Passes of a column are alike, and each takes from 2/3 to 3/2 of ``size``, or ``size`` where it has fewer.
    """
    each = -(-count // max(1, round(count / size)))
    grain = max(1, size // 8)
    return each, size if count <= size else -(-each // grain) * grain
