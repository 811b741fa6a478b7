"""Predict on arrays, tensors and files with the preprocessing of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from bixt3d.datasets.loader import arrange
from bixt3d.datasets.meshes import read_cloud
from bixt3d.datasets.split import unit_sphere
from bixt3d.models.classifier import PointClassifier
from bixt3d.ops import gather_points
from bixt3d.ops.validate import check_points, describe
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


class Predictor:
    """Classify clouds and meshes with a trained model.

    Clouds are centred, scaled to the unit sphere, ordered and cut to the number of points of the
    training. The same input always gives the same output.

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
        if not isinstance(model, PointClassifier):
            raise ValueError(f"expected a classifier or its checkpoint, got {type(model).__name__}")
        self.model = model.to(self.device).eval()
        about = model.description or {}
        names = classes if classes is not None else about.get("classes")
        self.classes = tuple(names) if names is not None else None
        outputs = model.head.linear.out_features
        if self.classes is not None and len(self.classes) != outputs:
            raise ValueError(f"classes: expected {outputs} names, one a logit, got {len(self.classes)}")
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

    def attention_maps(self, cloud: Cloud) -> list[Tensor]:
        """Return the latents' attention over the tokens for one cloud, one (H, M, N) per layer."""
        with torch.no_grad():
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

    def _prepare(self, cloud: Any) -> Tensor:
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
        # Centred in double precision: coordinates of a map lose their shape in single precision.
        points = points.detach()[:, : self.channels].to(self.device, torch.float64)
        check_points(points[None], name, (self.channels,))
        points = torch.cat([unit_sphere(points[:, :3]), points[:, 3:]], -1).float()
        wanted = self.num_points or len(points)
        if len(points) < wanted:
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
