"""Predict on arrays, tensors and files with the preprocessing of the training."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from bixt3d.datasets.augment import draw_points
from bixt3d.datasets.loader import arrange
from bixt3d.datasets.meshes import read_cloud
from bixt3d.datasets.split import unit_sphere
from bixt3d.metrics import mask_logits
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.encoder import PointModel
from bixt3d.models.segmenter import PointSegmenter, segment_all_points
from bixt3d.ops import gather_points
from bixt3d.ops.validate import check_points, describe
from bixt3d.suggest import nearest
from bixt3d.training.checkpoint import load_checkpoint

Cloud = np.ndarray[Any, Any] | Tensor | str | Path


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one cloud.

    Attributes:
        label: Name of the most probable class.
        index: Its number.
        probabilities: Probability of each class (K,), float32.
        points: The points that the model saw (N, C), normalised, float32.
    """

    label: str
    index: int
    probabilities: np.ndarray[Any, Any]
    points: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Segmentation:
    """What a segmenter says of one cloud, in the order of its points.

    Attributes:
        parts: Part id of each point (N,), int64.
        names: Name of each point's part (N,), str.
        probabilities: Probability of that part (N,), float32, among the parts that were possible.
        points: The points in their own coordinates and scale (N, C), float64: those that came, or the sample
            of a mesh.
    """

    parts: np.ndarray[Any, Any]
    names: np.ndarray[Any, Any]
    probabilities: np.ndarray[Any, Any]
    points: np.ndarray[Any, Any]


class Predictor:
    """Classify clouds and meshes, or label their parts, with a trained model.

    For a classifier, clouds are centred, scaled to the unit sphere, ordered and cut to the number of points
    of the training; a segmenter (see `segment`) labels every point. The same input always gives the same
    output.

    Args:
        model_or_path: A checkpoint's path, or a model.
        device: Where to compute; CUDA where there is one if None.
        classes: Names of the classes; the checkpoint's if None, or numbers for a model that has none.
        num_points: Points a cloud; the training's if None, or all for a model without a checkpoint.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is damaged, or ``classes`` does not fit the model.
    """

    def __init__(
        self,
        model_or_path: nn.Module | str | Path,
        device: torch.device | str | None = None,
        classes: Sequence[str] | None = None,
        num_points: int | None = None,
    ) -> None:
        """Load the model if a path is given."""
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
        self.model: PointModel = model.to(self.device).eval()
        about = model.description or {}
        names = classes if classes is not None else about.get("classes")
        self.classes = tuple(names) if names is not None else None
        if isinstance(model, PointClassifier):
            count, what = model.head.linear.out_features, "a logit"
        else:
            count, what = model.num_categories, "a category"
        if self.classes is not None and count and len(self.classes) != count:
            raise ValueError(f"classes: expected {count} names, one {what}, got {len(self.classes)}")
        self.parts_of_category: list[list[int]] | None = about.get("parts_of_category")
        self.part_names: list[str] | None = about.get("part_names")
        preprocess = about.get("preprocess", {})
        self.num_points: int | None = num_points or preprocess.get("num_points")
        self.order: str = preprocess.get("order", "stored")
        self.stored_points: int = preprocess.get("stored_points", self.num_points or 2048)
        self.channels = model.in_dims

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
            ValueError: For a wrong shape, NaN, or fewer points than the model takes.
            FileNotFoundError: If a file is missing.
        """
        if not isinstance(self.model, PointClassifier):
            raise ValueError("this model labels parts: call predictor.segment(cloud, category)")
        if isinstance(clouds, (str, Path)) or getattr(clouds, "ndim", None) == 2:
            return self._predict([clouds])[0]
        if not isinstance(clouds, (np.ndarray, Tensor, Sequence)):
            raise ValueError(f"expected arrays, tensors or paths, got {describe(clouds)}")
        if isinstance(clouds, (np.ndarray, Tensor)) and clouds.ndim != 3:
            raise ValueError(
                f"expected a cloud (N, {self.channels}) or a batch (B, N, {self.channels}), got an array of "
                f"shape {tuple(clouds.shape)}"
            )
        return self._predict(list(clouds))

    @torch.no_grad()
    def segment(self, cloud: Cloud, category: str | int | None = None) -> Segmentation:
        """Label every point of a cloud, or of a sample of a mesh, with a part.

        Args:
            cloud: An array or tensor (N, C) of any number of points, or a file's path; C is
                ``self.channels``, 3 for xyz or 6 for xyz and unit normal, as in training. Meshes give
                normals, and so do columns 4 to 6 of .xyz, .txt and .npy; PLY clouds do not. It must stand as
                the training's do: y up for ours.
            category: Name or number of the cloud's category, whose parts are then the possible ones. A model
                that was not told it in training needs none.

        Raises:
            ValueError: For a classifier, a wrong shape, NaN, or a category that is missing or unknown.
            FileNotFoundError: If the file is missing.
        """
        if not isinstance(self.model, PointSegmenter):
            raise ValueError("this model classifies whole clouds: call predictor(cloud)")
        number = self._category(category)
        points = self._read(cloud)  # (N, C)
        of_cloud = None if number is None else torch.tensor([number], device=self.device)
        seen = self._normalize(points)[None]
        wanted = self.num_points or len(points)
        logits = segment_all_points(self.model, seen, of_cloud, wanted).float()  # (1, N, P)
        if of_cloud is not None and self.parts_of_category is not None:
            logits = mask_logits(logits, of_cloud, self.parts_of_category)
        probabilities, parts = (value[0].cpu().numpy() for value in logits.softmax(-1).max(-1))
        names = self.part_names or [f"part {part}" for part in range(logits.shape[-1])]
        return Segmentation(parts, np.array(names)[parts], probabilities, points.cpu().numpy())

    def _category(self, category: str | int | None) -> int | None:
        assert isinstance(self.model, PointSegmenter)
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

    @torch.no_grad()
    def attention_maps(self, cloud: Cloud, category: str | int | None = None) -> list[Tensor]:
        """Return the latents' attention over the tokens for one cloud, one (H, M, N) per layer."""
        if isinstance(self.model, PointSegmenter):
            points = self._normalize(self._read(cloud))[None]
            wanted = self.num_points or points.shape[1]
            generator = torch.Generator(self.device).manual_seed(0)
            points = gather_points(points, draw_points(points, None, wanted, generator))
            number = self._category(category)
            told = None if number is None else torch.tensor([number], device=self.device)
            maps = self.model.attention_maps(points, told)
        else:
            assert isinstance(self.model, PointClassifier)
            maps = self.model.attention_maps(self._prepare(cloud)[None])
        return [attention[0].cpu() for attention in maps]

    @torch.no_grad()
    def _predict(self, clouds: Sequence[Any]) -> list[Prediction]:
        results = []
        for cloud in clouds:  # one at a time: clouds may differ in their number of points
            points = self._prepare(cloud)
            probabilities = self.model(points[None]).float().softmax(-1)[0].cpu()  # (K,)
            index = int(probabilities.argmax())
            label = self.classes[index] if self.classes is not None else str(index)
            results.append(Prediction(label, index, probabilities.numpy(), points.cpu().numpy()))
        return results

    def _read(self, cloud: Any) -> Tensor:
        """Return the points of an array, a tensor or a file (N, C), in double precision on the device."""
        if isinstance(cloud, (str, Path)):
            name = str(cloud)
            points = torch.from_numpy(read_cloud(cloud, self.channels, self.stored_points))
        elif isinstance(cloud, (np.ndarray, Tensor)):
            name = "cloud"
            points = cloud if isinstance(cloud, Tensor) else _from_numpy(cloud)
        else:
            raise ValueError(f"expected an array, a tensor or a path, got {describe(cloud)}")
        if points.ndim != 2 or points.shape[-1] < self.channels or not _is_number(points):
            raise ValueError(f"{name}: expected points (N, {self.channels}), got {describe(points)}")
        points = points.detach()[:, : self.channels].to(self.device, torch.float64)
        check_points(points[None], name, (self.channels,))
        return points

    def _normalize(self, points: Tensor) -> Tensor:
        # In double precision: coordinates of a map lose their shape in single precision.
        return torch.cat([unit_sphere(points[:, :3]), points[:, 3:]], -1).float()

    def _prepare(self, cloud: Any) -> Tensor:
        points = self._normalize(self._read(cloud))
        wanted = self.num_points or len(points)
        if len(points) < wanted:
            name = str(cloud) if isinstance(cloud, (str, Path)) else "cloud"
            raise ValueError(
                f"{name}: expected at least {wanted} points, as the model was trained on, got {len(points)}"
            )
        if self.order == "stored" and len(points) > wanted and len(points) != self.stored_points:
            # A scan may be stored line by line, and its first points be one corner of it.
            generator = torch.Generator().manual_seed(0)
            points = points[torch.randperm(len(points), generator=generator).to(self.device)]
        index = arrange(points[None], wanted, self.order)
        return gather_points(points[None], index)[0]  # (N, C)


def _from_numpy(cloud: np.ndarray[Any, Any]) -> Tensor:
    if cloud.dtype.kind not in "fiu":
        raise ValueError(f"cloud: expected numbers, got an array of {cloud.dtype}")
    return torch.from_numpy(np.array(cloud, dtype=np.float64))


def _is_number(points: Tensor) -> bool:
    return points.dtype != torch.bool and not points.is_complex()
