"""Predict on arrays, tensors and files with the preprocessing of the training."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from bixt3d.datasets.augment import draw_points
from bixt3d.datasets.loader import arrange
from bixt3d.inference.clouds import Cloud, as_list, check_output, normalize, read_points
from bixt3d.inference.results import Attention, Prediction, Segmentation
from bixt3d.metrics import mask_logits
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.encoder import Attended
from bixt3d.models.segmenter import PointSegmenter, segment_all_points
from bixt3d.ops import gather_points, knn
from bixt3d.suggest import nearest
from bixt3d.training.checkpoint import load_checkpoint

Category = str | int | None


class Predictor:
    """Classify clouds and meshes, or label their parts, with a trained model.

    For a classifier, clouds are centred, scaled to the unit sphere, ordered and cut to the number of points
    of the training, as `folder` does it: of a cloud with more points than the training stored (2,048, say) a
    draw of so many is looked at, one with fewer than the model takes repeats them. A segmenter (see
    `segment`) labels every point. The same input always gives the same output.

    Args:
        model_or_path: A checkpoint's path, a name of `bixt3d.list_weights`, or a model.
        device: Where to compute; CUDA where there is one if None.
        classes: Names of the classes; the checkpoint's if None, or numbers for a model that has none.
        num_points: Points a cloud; the training's if None, or all for a model without a checkpoint.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is damaged, or ``classes`` or ``num_points`` does not fit.
    """

    def __init__(
        self,
        model_or_path: nn.Module | str | Path,
        device: torch.device | str | None = None,
        classes: Sequence[str] | None = None,
        num_points: int | None = None,
    ) -> None:
        """Load the model if a path or a name is given."""
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        model = model_or_path
        if not isinstance(model, nn.Module):
            model = load_checkpoint(model, self.device)[0]
        if not isinstance(model, (PointClassifier, PointSegmenter)):
            raise ValueError(
                f"expected a classifier, a segmenter or a checkpoint of one, got {type(model).__name__}"
            )
        self.model: PointClassifier | PointSegmenter = model.to(self.device).eval()
        about = model.description or {}
        names = classes if classes is not None else about.get("classes")
        self.classes = tuple(names) if names is not None else None
        if isinstance(model, PointClassifier):
            count, what = model.head.linear.out_features, "a logit"
        else:
            count, what = model.num_categories, "a category"
        if self.classes is not None and count and len(self.classes) != count:
            raise ValueError(f"classes: expected {count} names, one {what}, got {len(self.classes)}")
        # Of a segmenter; a classifier has none.
        self.part_names: tuple[str, ...] = ()
        self.parts_of_category: list[list[int]] = []
        if isinstance(model, PointSegmenter):
            every = range(model.head.linear.out_features)
            self.part_names = tuple(about.get("part_names") or (f"part {part}" for part in every))
            self.parts_of_category = about.get("parts_of_category") or [list(every)] * model.num_categories
            _check_parts(self.part_names, self.parts_of_category, len(every), model.num_categories)
        if num_points is not None and (type(num_points) is not int or num_points < 1):
            raise ValueError(f"num_points: expected a whole number of at least 1, got {num_points!r}")
        preprocess = about.get("preprocess", {})
        self.num_points: int | None = num_points or preprocess.get("num_points")
        self.order: str = preprocess.get("order", "stored")
        self.stored_points: int = preprocess.get("stored_points", self.num_points or 2048)
        self.channels = model.in_dims

    @property
    def labels_parts(self) -> bool:
        """Whether the model labels points with parts, rather than the whole cloud with a class."""
        return isinstance(self.model, PointSegmenter)

    @overload
    def __call__(self, clouds: str | Path) -> Prediction: ...

    @overload
    def __call__(self, clouds: Any) -> Any: ...

    def __call__(self, clouds: Cloud | Sequence[Cloud]) -> Prediction | list[Prediction]:
        """Classify one cloud or several.

        Args:
            clouds: An array or tensor (N, C), a file's path, a batch (B, N, C), or a list of any of these.

        Returns:
            A `Prediction` for one cloud, a list of them for several.

        Raises:
            ValueError: For a wrong shape, no points, NaN, or points that all coincide.
            FileNotFoundError: If a file is missing.
        """
        if not isinstance(self.model, PointClassifier):
            raise ValueError("this model labels parts: call predictor.segment(cloud, category)")
        clouds, single = as_list(clouds, self.channels)
        predictions = self._predict(clouds)
        return predictions[0] if single else predictions

    @overload
    def segment(self, clouds: str | Path, category: Category = None) -> Segmentation: ...

    @overload
    def segment(self, clouds: Any, category: Category | Sequence[Category] = None) -> Any: ...

    @torch.no_grad()
    def segment(
        self, clouds: Cloud | Sequence[Cloud], category: Category | Sequence[Category] = None
    ) -> Segmentation | list[Segmentation]:
        """Label every point of a cloud, or of a sample of a mesh, with a part; of one or of several.

        Args:
            clouds: An array or tensor (N, C) of any number of points, a file's path, a batch (B, N, C), or a
                list of any of these; C is ``self.channels``, 3 for xyz or 6 for xyz and unit normal, as in
                training. Meshes give normals, and so do clouds that hold them. They must stand as the
                training's do: y up for ours.
            category: Name or number of the cloud's category, whose parts are then the possible ones; for
                several clouds one for all, or a list. A model that was not told it in training needs none.

        Returns:
            A `Segmentation` for one cloud, a list of them for several.

        Raises:
            ValueError: For a classifier, a wrong shape, NaN, or a category that is missing or unknown.
            FileNotFoundError: If a file is missing.
        """
        if not isinstance(self.model, PointSegmenter):
            raise ValueError("this model classifies whole clouds: call predictor(cloud)")
        clouds, single = as_list(clouds, self.channels)
        told: list[Any] = list(category) if isinstance(category, (list, tuple)) else [category] * len(clouds)
        if len(told) != len(clouds):
            raise ValueError(f"category: expected one, or {len(clouds)}, one for each cloud, got {len(told)}")
        numbers = [self.category_number(one) for one in told]
        labelled = [self._segment(cloud, number) for cloud, number in zip(clouds, numbers, strict=True)]
        return labelled[0] if single else labelled

    def _segment(self, cloud: Cloud, number: int | None) -> Segmentation:
        points = self._read(cloud)  # (N, C)
        of_cloud = None if number is None else torch.tensor([number], device=self.device)
        seen = normalize(points)[None]  # (1, N, C)
        wanted = self.num_points or len(points)
        logits = segment_all_points(self.model, seen, of_cloud, wanted).float()  # (1, N, P)
        check_output(logits, cloud)
        if of_cloud is not None:
            logits = mask_logits(logits, of_cloud, self.parts_of_category)
        probabilities, parts = (value[0].cpu().numpy() for value in logits.softmax(-1).max(-1))
        return Segmentation(parts, np.array(self.part_names)[parts], probabilities, points.cpu().numpy())

    def category_number(self, category: Category) -> int | None:
        """Return the number of a category that a user names, None for none, as `segment` takes it.

        Raises:
            ValueError: If it is unknown, or missing for a model that needs to be told it.
        """
        if not isinstance(self.model, PointSegmenter):
            return None
        names = self.classes or tuple(str(i) for i in range(self.model.num_categories))
        if category is None:
            if self.model.num_categories:
                raise ValueError(f"category: this model needs to be told it, one of {', '.join(names)}")
            return None
        if isinstance(category, str) and category in names:
            return names.index(category)
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

    def attention_maps(self, cloud: Cloud, category: Category = None) -> list[Tensor]:
        """Return the latents' attention over the tokens for one cloud, one (H, M, N) per layer."""
        attended = self._attend(self._read(cloud), category)
        return [attention[0].cpu() for _, attention in attended]

    def attention(self, cloud: Cloud, category: Category = None) -> Attention:
        """Return where the latents look on one cloud, for each layer and head, on every point.

        Args:
            cloud: An array or tensor (N, C), or a file's path.
            category: As for `segment`.

        Raises:
            ValueError: For a wrong shape, NaN, or a category that is missing or unknown.
            FileNotFoundError: If the file is missing.
        """
        points = self._read(cloud)  # (N, C)
        everywhere = normalize(points)[None, :, :3]  # (1, N, 3)
        maps = []
        for xyz, attention in self._attend(points, category):
            nearest_token = knn(everywhere, xyz, 1)[0, :, 0]  # (N,)
            maps.append(attention[0][..., nearest_token].float().cpu().numpy())  # (H, M, N)
        return Attention(tuple(maps), points.cpu().numpy())

    def attention_symmetry(self, cloud: Cloud, category: Category = None) -> list[np.ndarray[Any, Any]]:
        """Return how alike the two directions of attention are on one cloud, (H,) per layer that has both.

        See `bixt3d.ops.attention_symmetry`; arguments and errors are those of `attention`.
        """
        seen = self._seen(self._read(cloud), category)
        return [layer[0].cpu().numpy() for layer in self.model.attention_symmetry(*seen)]

    def _attend(self, points: Tensor, category: Category) -> list[Attended]:
        return self.model.located_attention(*self._seen(points, category))

    def _seen(self, points: Tensor, category: Category) -> tuple[Tensor, ...]:
        """Return what a pass of the model takes: points (1, N, C), and the category (1,) if it is told."""
        if not self.labels_parts:
            return (self._choose(points)[None],)
        points = normalize(points)[None]
        wanted = self.num_points or points.shape[1]
        generator = torch.Generator(self.device).manual_seed(0)
        points = gather_points(points, draw_points(points, None, wanted, generator))  # (1, wanted, C)
        number = self.category_number(category)
        return (points,) if number is None else (points, torch.tensor([number], device=self.device))

    @torch.no_grad()
    def _predict(self, clouds: Sequence[Any]) -> list[Prediction]:
        results = []
        for cloud in clouds:  # one at a time: what comes with it changes nothing, not even the last digit
            points = self._choose(self._read(cloud))
            probabilities = self.model(points[None]).float().softmax(-1)[0].cpu()  # (K,)
            check_output(probabilities, cloud)
            index = int(probabilities.argmax())
            label = self.classes[index] if self.classes is not None else str(index)
            results.append(Prediction(label, index, probabilities.numpy(), points.cpu().numpy()))
        return results

    def read(self, cloud: Cloud) -> np.ndarray[Any, Any]:
        """Return the points of a cloud, or of a sample of a mesh, in their own coordinates (N, C), float64.

        Raises:
            ValueError: For a wrong shape or NaN.
            FileNotFoundError: If the file is missing.
        """
        return self._read(cloud).cpu().numpy()

    def _read(self, cloud: Any) -> Tensor:
        return read_points(cloud, self.channels, self.stored_points).to(self.device)

    def _choose(self, points: Tensor) -> Tensor:
        """Return the points (N, C) that a classifier sees, normalised, of those that were read."""
        points = normalize(points)
        own = len(points)
        wanted = self.num_points or own
        stored = max(self.stored_points, wanted)
        if own > stored or (self.order == "stored" and stored > own > wanted):
            # A scan may be stored line by line, and its first points be one corner of it; and training chose
            # the farthest ones among so many, not among millions.
            generator = torch.Generator().manual_seed(0)
            points = points[torch.randperm(own, generator=generator)[:stored].to(self.device)]
        count = None
        if own < wanted:  # as `folder` stores them
            points = points[torch.arange(wanted, device=self.device) % own]
            count = torch.tensor([own], device=self.device)
        index = arrange(points[None], wanted, self.order, count=count)
        return gather_points(points[None], index)[0]  # (N, C)


def _check_parts(names: Sequence[Any], table: Any, parts: int, categories: int) -> None:
    """Raise ValueError unless a description has a name for each part, and parts for each category."""
    named = len(names) == parts and all(isinstance(name, str) for name in names)
    if not named or not isinstance(table, (list, tuple)) or (categories and len(table) != categories):
        raise ValueError(
            f"checkpoint: expected the names of {parts} parts and the parts of {categories} categories, got "
            f"{len(names)} names, and parts of {len(table) if isinstance(table, (list, tuple)) else 'no'}"
        )
    for ids in table:
        if not ids or not all(type(part) is int and 0 <= part < parts for part in ids):
            raise ValueError(f"checkpoint: expected parts of a category in 0..{parts - 1}, got {ids!r:.80}")
