"""Predict on arrays, tensors and files with the preprocessing of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bixt3d.datasets.loader import arrange
from bixt3d.datasets.meshes import read_cloud
from bixt3d.datasets.split import unit_sphere
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
        classes: Names of the classes, for a model that comes without a checkpoint; numbers if None.
        num_points: Points a cloud, likewise; all if None.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is damaged.
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
        if isinstance(model_or_path, nn.Module):
            self.model = model_or_path.to(self.device).eval()
            self.classes = tuple(classes) if classes is not None else None
            self.num_points, self.order, self.samples = num_points, "stored", num_points or 2048
        else:
            self.model, meta = load_checkpoint(model_or_path, self.device)
            self.classes = tuple(meta["classes"])
            preprocess = meta["preprocess"]
            self.num_points, self.order = preprocess["num_points"], preprocess["order"]
            self.samples = preprocess["stored_points"]
        self.channels = int(getattr(self.model, "in_dims", 3))

    def __call__(self, clouds: Cloud | Sequence[Cloud]) -> Any:
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
        if isinstance(clouds, (np.ndarray, Tensor)) and clouds.ndim != 3:
            raise ValueError(
                f"expected a cloud (N, {self.channels}) or a batch (B, N, {self.channels}), got an array of "
                f"shape {tuple(clouds.shape)}"
            )
        return self._predict(list(clouds))

    def attention_maps(self, cloud: Cloud) -> list[Tensor]:
        """Return the latents' attention over the tokens for one cloud, one (H, M, N) per layer."""
        with torch.no_grad():
            maps = self.model.attention_maps(self._prepare(cloud)[None])  # type: ignore[operator]
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
            points = torch.from_numpy(read_cloud(cloud, self.channels, self.samples))
        elif isinstance(cloud, (np.ndarray, Tensor)):
            name = "cloud"
            points = cloud if isinstance(cloud, Tensor) else _from_numpy(cloud)
        else:
            raise ValueError(f"expected an array, a tensor or a path, got {describe(cloud)}")
        if points.ndim != 2 or points.shape[-1] < self.channels or points.dtype == torch.bool:
            raise ValueError(f"{name}: expected points (N, {self.channels}), got {describe(points)}")
        points = points.detach().to(self.device, torch.float32)[:, : self.channels]
        check_points(points[None], name, (self.channels,))
        wanted = self.num_points or len(points)
        if len(points) < wanted:
            raise ValueError(
                f"{name}: expected at least {wanted} points, as the model was trained on, got {len(points)}"
            )
        points = torch.cat([unit_sphere(points[:, :3]), points[:, 3:]], -1)
        index = arrange(points[None], wanted, self.order)
        return gather_points(points[None], index)[0]  # (N, C)


def _from_numpy(cloud: np.ndarray[Any, Any]) -> Tensor:
    if cloud.dtype.kind not in "fiu":
        raise ValueError(f"cloud: expected numbers, got an array of {cloud.dtype}")
    return torch.from_numpy(np.ascontiguousarray(cloud, dtype=np.float32))
