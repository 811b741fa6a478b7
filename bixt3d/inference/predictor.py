"""Predict on arrays, tensors and files with the preprocessing of the training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from bixt3d.datasets.preprocess import STORED_POINTS, Preprocess
from bixt3d.inference.clouds import Cloud, as_list, name_of, read_points
from bixt3d.models.encoder import Attended
from bixt3d.ops import knn
from bixt3d.tasks import Attention, Description, Prediction, Segmentation, Task, find_task
from bixt3d.tasks.results import NotFinite
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
        if isinstance(model_or_path, nn.Module):
            model: Any = copy.deepcopy(model_or_path)  # the caller's stays as it is
        else:
            model = load_checkpoint(model_or_path, self.device)[0]
        about: Description | None = getattr(model, "description", None)
        if about is not None and not isinstance(about, Description):
            raise ValueError(f"description: expected a bixt3d.tasks.Description, got {type(about).__name__}")
        if about is None and not (
            isinstance(getattr(model, "task", None), str) and hasattr(model, "in_dims")
        ):
            raise ValueError(
                "expected a checkpoint, a model with a description of one, or one of this package, got "
                f"{type(model).__name__}"
            )
        self.model: Any = model.to(self.device).eval()
        self.task: Task = find_task(model.task if about is None else about.task)
        facts = dict(about.facts) if about is not None else {}
        if classes is not None:
            facts["classes"] = list(classes)
        self.task.set_facts(facts)
        self.task.bind_model(model)
        self.classes: tuple[str, ...] | None = tuple(facts["classes"]) if facts.get("classes") else None
        num_points = int(num_points) if isinstance(num_points, np.integer) else num_points
        if num_points is not None and (type(num_points) is not int or num_points < 1):
            raise ValueError(f"num_points: expected a whole number of at least 1, got {num_points!r}")
        if about is None:
            features = ("normal",) if model.in_dims == 6 else ()
            if model.in_dims not in (3, 6):
                raise ValueError(
                    f"expected a checkpoint, which names the features of {model.in_dims} channels, got a "
                    "model without one"
                )
            stored = num_points or STORED_POINTS
            self.preprocess = Preprocess(num_points, "stored", stored, features)
        else:
            self.preprocess = replace(about.preprocess, num_points=num_points or about.preprocess.num_points)

    @property
    def labels_parts(self) -> bool:
        """Whether the model labels points, rather than the whole cloud."""
        return self.task.per_point

    @property
    def channels(self) -> int:
        """Channels of a point: 3 for xyz, and the widths of the features."""
        return self.preprocess.channels

    @property
    def num_points(self) -> int | None:
        """Points of a cloud that the model takes; None for all."""
        return self.preprocess.num_points

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of all part ids, of a model that labels parts; a classifier has none."""
        return getattr(self.task, "part_names", ())

    @property
    def parts_of_category(self) -> list[list[int]]:
        """For each category the part ids that it may hold; a classifier has none."""
        return [list(ids) for ids in getattr(self.task, "parts_of_category", ())]

    @overload
    def __call__(self, clouds: str | Path) -> Prediction: ...

    @overload
    def __call__(self, clouds: Any) -> Any: ...

    def __call__(self, clouds: Cloud | Sequence[Cloud]) -> Prediction | list[Prediction]:
        """Classify one cloud or several, or answer whatever else the model's task does of whole clouds.

        Args:
            clouds: An array or tensor (N, C), a file's path, a batch (B, N, C), or a list of any of these.

        Returns:
            A `Prediction` for one cloud, a list of them for several.

        Raises:
            ValueError: For a wrong shape, no points, NaN, or points that all coincide.
            FileNotFoundError: If a file is missing.
        """
        if self.task.per_point:
            raise ValueError("this model labels parts: call predictor.segment(cloud, category)")
        clouds, single = as_list(clouds, self.channels)
        # one at a time: what comes with it changes nothing, not even the last digit
        predictions = [self.answer(cloud) for cloud in clouds]
        return predictions[0] if single else predictions

    @overload
    def segment(self, clouds: str | Path, category: Category = None) -> Segmentation: ...

    @overload
    def segment(self, clouds: Any, category: Category | Sequence[Category] = None) -> Any: ...

    def segment(
        self, clouds: Cloud | Sequence[Cloud], category: Category | Sequence[Category] = None
    ) -> Segmentation | list[Segmentation]:
        """Label every point of a cloud, or of a sample of a mesh, with a part; of one or of several.

        Args:
            clouds: An array or tensor (N, C) of any number of points, a file's path, a batch (B, N, C), or a
                list of any of these; C is ``self.channels``: xyz, and the features of the training in their
                order, ``self.preprocess.features``. Meshes give normals, and so do clouds that hold them.
                They must stand as the training's do: y up for ours.
            category: Name or number of the cloud's category, whose parts are then the possible ones; for
                several clouds one for all, or a list. A model that was not told it in training needs none.

        Returns:
            A `Segmentation` for one cloud, a list of them for several.

        Raises:
            ValueError: For a classifier, a wrong shape, NaN, or a category that is missing or unknown.
            FileNotFoundError: If a file is missing.
        """
        if not self.task.per_point:
            raise ValueError("this model classifies whole clouds: call predictor(cloud)")
        clouds, single = as_list(clouds, self.channels)
        told: list[Any] = list(category) if isinstance(category, (list, tuple)) else [category] * len(clouds)
        if len(told) != len(clouds):
            raise ValueError(f"category: expected one, or {len(clouds)}, one for each cloud, got {len(told)}")
        numbers = [self.category_number(one) for one in told]
        labelled = [self.answer(cloud, number) for cloud, number in zip(clouds, numbers, strict=True)]
        return labelled[0] if single else labelled

    @torch.no_grad()
    def answer(self, cloud: Cloud, category: Category = None) -> Any:
        """Return what the model's task says of one cloud: a `Prediction`, a `Segmentation`, or its own.

        Args:
            cloud: An array or tensor (N, C), or a file's path.
            category: As for `segment`.

        Raises:
            ValueError: For a wrong shape, NaN, or a category that is missing or unknown.
            FileNotFoundError: If the file is missing.
        """
        try:
            return self.task.predict(self.model, self._read(cloud), self.preprocess, category)
        except NotFinite as error:
            raise ValueError(f"{name_of(cloud)}: {error}") from None

    def category_number(self, category: Category) -> int | None:
        """Return the number of a category that a user names, None for none, as `segment` takes it.

        Raises:
            ValueError: If it is unknown, or missing for a model that needs to be told it.
        """
        return self.task.category_number(category)

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
        everywhere = self.preprocess.normalize(points)[None, :, :3]  # (1, N, 3)
        maps = []
        for xyz, attention in self._attend(points, category):
            nearest_token = knn(everywhere, xyz, 1)[0, :, 0]  # (N,)
            maps.append(attention[0][..., nearest_token].float().cpu().numpy())  # (H, M, N)
        return Attention(tuple(maps), points.cpu().numpy())

    def attention_symmetry(self, cloud: Cloud, category: Category = None) -> list[np.ndarray[Any, Any]]:
        """Return how alike the two directions of attention are on one cloud, (H,) per layer that has both.

        See `bixt3d.ops.attention_symmetry`; arguments and errors are those of `attention`.
        """
        points = self._read(cloud)
        layers = self._look("attention_symmetry", points, category)
        return [layer[0].cpu().numpy() for layer in layers]

    def _attend(self, points: Tensor, category: Category) -> list[Attended]:
        attended: list[Attended] = self._look("located_attention", points, category)
        return attended

    def _look(self, method: str, points: Tensor, category: Category) -> Any:
        if not hasattr(self.model, method):
            raise ValueError(f"expected a model with {method}, got {type(self.model).__name__}")
        return getattr(self.model, method)(*self.task.inputs(points, self.preprocess, category))

    def read(self, cloud: Cloud) -> np.ndarray[Any, Any]:
        """Return the points of a cloud, or of a sample of a mesh, in their own coordinates (N, C), float64.

        Raises:
            ValueError: For a wrong shape or NaN.
            FileNotFoundError: If the file is missing.
        """
        return self._read(cloud).cpu().numpy()

    def _read(self, cloud: Any) -> Tensor:
        stored = self.preprocess.stored_points
        return read_points(cloud, self.preprocess.features, stored).to(self.device)
