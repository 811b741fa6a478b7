"""Predict on arrays, tensors, files and folders with the preprocessing of the training."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bixt3d.datasets.given import name_of
from bixt3d.datasets.orientation import check_up
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.inference.attempts import attempt
from bixt3d.inference.attention import Attentive, require
from bixt3d.inference.clouds import Cloud, as_list, check_count, each_category, find_clouds
from bixt3d.inference.loading import open_model
from bixt3d.inference.looks import Looks
from bixt3d.ops.precision import place_of_float64

Category = str | int | None
MOST_TOGETHER = 4_000_000  # points of a batch: the system ends a process that takes too much for it
FEW = 10  # of so many points that a model looks at, a cloud with one is told
logger = logging.getLogger(__name__)


class Predictor(Attentive):
    """Classify clouds and meshes, or label their parts, with a trained model.

    For a classifier, clouds are centred, scaled to the unit sphere, ordered and cut to the number of points
    of the training, as `folder` does it: of a cloud with more points than the training stored (2,048, say) a
    draw of so many is looked at, one with fewer than the model takes repeats them. A segmenter (see
    `segment`) labels every point. The same input always gives the same output.

    Args:
        model_or_path: A checkpoint's path, a name of `bixt3d.list_weights`, or a model, which stays as it is,
            every mode included; training it further does not change the predictor.
        device: Where to compute; CUDA where there is one if None.
        up: The axis of the clouds that points up, x, y, z, -x, -y or -z; that of the training's files if
            None. ``"auto"`` looks at each cloud with every axis up and keeps the most confident answer, whose
            ``up`` says which: a help where files do not tell, not as good as knowing. Of a model that was
            shown lying clouds (`augment.lying`) it keeps the one whose probabilities have least entropy.
        batch_size: Clouds in one pass. With several, probabilities are those of each cloud alone within
            1e-5; None takes one at a time, and what comes with a cloud then changes nothing, not even the
            last digit.
        classes: Names of the classes; the checkpoint's if None, or numbers for a model that has none.
        num_points: Points a cloud; the training's if None, or all for a model without a checkpoint.
        task_args: Arguments of the task in place of the training's, such as ``{"radius": 60}`` of scenes.
        normalization: ``"robust"`` finds points that stand apart first: they give neither centre nor scale,
            and a classifier does not see them. The training's if None; see `Preprocess`.
        turns: Looks at each cloud, turned further about its up axis every time, of a classifier; the mean of
            the probabilities counts, and that of the vectors of `embed`. It may help where
            nobody knows how clouds are turned, and may cost accuracy: see results/robust.md.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is damaged, or another argument does not fit.
    """

    def __init__(
        self,
        model_or_path: nn.Module | str | Path,
        device: torch.device | str | None = None,
        up: str | None = None,
        batch_size: int | None = None,
        *,
        classes: Sequence[str] | None = None,
        num_points: int | None = None,
        task_args: Mapping[str, Any] | None = None,
        normalization: str | None = None,
        turns: int = 1,
    ) -> None:
        """Load the model if a path or a name is given."""
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        check_up(up, "auto")
        num_points, batch_size = check_count(num_points, "num_points"), check_count(batch_size, "batch_size")
        self.batch_size = batch_size or 1
        turns = check_count(turns, "turns") or 1
        loaded = open_model(model_or_path, self.device, classes, num_points, task_args=task_args)
        self.model, self.task, self.classes, preprocess, augment = loaded
        self.looks = Looks.of(turns, up == "auto", self.task, augment)
        if up is not None and not self.auto_up:
            preprocess = replace(preprocess, up=up)
        if normalization == "robust" and (self.task.axes != 2 or self.task.reach(preprocess) is not None):
            raise ValueError(
                f"normalization: robust is for models of whole clouds, got one for {self.task.name}; leave "
                "it out"
            )
        self.preprocess = replace(preprocess, normalization=normalization or preprocess.normalization)

    def require_clouds(self, what: str) -> None:
        """Raise ValueError where the model takes images or the like, for something that only clouds have."""
        if self.task.axes != 2:
            raise ValueError(f"{what}: expected a model of clouds, got one for {self.task.name}")

    @property
    def auto_up(self) -> bool:
        """Whether clouds find their own up axis."""
        return self.looks.auto_up

    @property
    def up(self) -> str | None:
        """The axis that points up; None where clouds stay as they are, or find their own (`auto_up`)."""
        return self.preprocess.up

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

    def __call__(self, clouds: Cloud | Sequence[Cloud]) -> Any:
        """Classify one cloud or several, or answer whatever else the model's task does of whole clouds.

        Args:
            clouds: An array or tensor (N, C), a file's path, a batch (B, N, C), a list of any of these, or a
                folder, whose meshes and clouds are taken at any depth.

        Returns:
            A `Prediction` for one cloud, a list of them for several. For a folder a dictionary of them by the
            file's path in it; what cannot be read is left out, and named in the log.

        Raises:
            ValueError: For a wrong shape, no points, NaN, or points that all coincide.
            FileNotFoundError: If a file is missing, or a folder holds none.
            OutOfMemory: If a single cloud is too large for the device.
        """
        if self.task.per_point:
            raise ValueError("this model labels parts: call predictor.segment(cloud, category)")
        return self._answer_all(clouds, None)

    def segment(self, clouds: Cloud | Sequence[Cloud], category: Category | Sequence[Category] = None) -> Any:
        """Label every point of a cloud, or of a sample of a mesh, with a part; of one or of several.

        Args:
            clouds: An array or tensor (N, C) of any number of points, a file's path, a batch (B, N, C), a
                list of any of these, or a folder; C is ``self.channels``: xyz, and the features of the
                training in their order, ``self.preprocess.features``. Meshes give normals, and so do clouds
                that hold them; those of `Preprocess.optional` may be missing.
            category: Name or number of the cloud's category, whose parts are then the possible ones; for
                several clouds one for all, or a list. A model that was not told it in training needs none.

        Returns:
            A `Segmentation` for one cloud, a list of them for several; for a folder as in `__call__`.

        Raises:
            ValueError: For a classifier, a wrong shape, NaN, or a category that is missing or unknown.
            FileNotFoundError: If a file is missing, or a folder holds none.
            OutOfMemory: If a single cloud is too large for the device.
        """
        if not self.task.per_point:
            raise ValueError("this model classifies whole clouds: call predictor(cloud)")
        return self._answer_all(clouds, category)

    def _answer_all(self, clouds: Any, category: Any) -> Any:
        """Return the answer of one cloud, a list for several, or a dictionary for a folder."""
        if isinstance(clouds, (str, Path)) and (folder := Path(os.path.expanduser(clouds))).is_dir():
            files, _ = find_clouds([folder], self.task.suffixes)
            found = {}
            for file, answer in zip(files, self.answers(files, category), strict=True):
                if isinstance(answer, Exception):
                    logger.warning("left out: %s", answer)
                else:
                    found[file.relative_to(folder).as_posix()] = answer
            return found
        listed, single = as_list(clouds, self.channels, self.task.axes)
        answers = []
        for answer in self.answers(listed, category):
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers[0] if single else answers

    def answers(
        self, clouds: Sequence[Cloud], category: Category | Sequence[Category] = None
    ) -> Iterator[Any]:
        """Yield what the model's task says of each cloud, in order, or the error that the cloud met.

        A file that cannot be read, or a cloud for which memory does not suffice, does not end the others.

        Args:
            clouds: Arrays, tensors or files.
            category: As for `segment`.

        Raises:
            ValueError: For another number of categories than of clouds.
        """
        told = each_category(category, len(clouds))
        for begin in range(0, len(clouds), self.batch_size):
            end = begin + self.batch_size
            yield from self._batch(clouds[begin:end], told[begin:end])

    def _batch(self, clouds: Sequence[Cloud], told: Sequence[Category]) -> list[Any]:
        """Answer clouds in one pass, or one by one where that fails; errors take their clouds' places."""
        pairs = list(zip(clouds, told, strict=True))
        found = [attempt(cloud, self._take, cloud, category) for cloud, category in pairs]
        ready = [place for place, taken in enumerate(found) if not isinstance(taken, Exception)]
        taken = [found[place] for place in ready]
        fits = sum(len(points) for points, _ in taken) <= MOST_TOGETHER
        answers = attempt(clouds[ready[0]], self._predict, taken) if ready and fits else []
        if isinstance(answers, Exception) and len(ready) == 1:
            answers = [answers]
        elif isinstance(answers, Exception) or not fits:
            alone = [attempt(clouds[place], self._predict, [found[place]]) for place in ready]
            answers = [one if isinstance(one, Exception) else one[0] for one in alone]
        for place, answer in zip(ready, answers, strict=True):
            found[place] = answer
        return found

    def _take(self, cloud: Cloud, category: Category) -> tuple[Tensor, int | None]:
        """Return the points of a cloud, and the number of its category; a file that is broken comes first."""
        return self._read_noted(cloud), self.category_number(category)

    def _read_noted(self, cloud: Cloud) -> Tensor:
        """Return the points of a cloud, with a note where they are few."""
        points = self._read(cloud)
        whole = self.task.axes == 2 and not self.task.per_point
        if whole and len(points) * FEW < (wanted := self.num_points or 0):
            logger.warning("%s: it has %d points, the model looks at %d", name_of(cloud), len(points), wanted)
        return points

    @torch.no_grad()
    def _predict(self, taken: Sequence[tuple[Tensor, int | None]]) -> list[Any]:
        """Answer clouds (N_i, C) together, with the given axis up or each with its surest one."""
        clouds, told = zip(*taken, strict=True)
        return self.looks.answer(self.task, self.model, clouds, self.preprocess, told)

    def answer(self, cloud: Cloud, category: Category = None) -> Any:
        """Return what the model's task says of one cloud: a `Prediction`, a `Segmentation`, or its own.

        Args:
            cloud: An array or tensor (N, C), or a file's path.
            category: As for `segment`.

        Raises:
            ValueError: For a wrong shape, NaN, or a category that is missing or unknown.
            FileNotFoundError: If the file is missing.
        """
        (answer,) = self._batch([cloud], [category])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def embed(self, clouds: Cloud | Sequence[Cloud], category: Any = None) -> np.ndarray[Any, Any]:
        """Return a vector of each cloud, (n, D) float32: the mean of the model's latents.

        It is what a classifier's head reads, and alike for clouds that look alike; compare by cosine. Of a
        segmenter a draw of the points is looked at. Of several looks (``turns``) it is their mean. Of no
        clouds it is empty, (0, D), and (0, 0) for a model without an encoder of this package.

        Args:
            clouds: As for `__call__`, but no folder.
            category: As for `segment`.

        Raises:
            ValueError: As `__call__`, or for a model without ``forward_features``.
        """
        require(self.model, "forward_features")
        listed, _ = as_list(clouds, self.channels, self.task.axes)
        if not listed:
            trunk = getattr(getattr(self.model, "encoder", None), "trunk", None)
            return np.zeros((0, getattr(trunk, "dim", 0)), np.float32)
        told = zip(listed, each_category(category, len(listed)), strict=True)
        return np.concatenate([self.embed_one(cloud, of_cloud)[0] for cloud, of_cloud in told])

    @torch.no_grad()
    def embed_one(self, cloud: Cloud, category: Category = None) -> tuple[np.ndarray[Any, Any], str | None]:
        """Return the vector of one cloud, (1, D) float32, as `embed` does, and the axis that points up.

        With ``up="auto"`` that is the axis of the cloud's answer; None where clouds stay as they are.
        """
        require(self.model, "forward_features")
        preprocess, looks = self._standing(cloud, category), []
        points = self._read(cloud) if self.auto_up else self._read_noted(cloud)  # its answer noted it
        for turned in self.looks.around([points], preprocess):
            inputs = self.task.inputs(turned[0], preprocess, category)
            found = self.model.forward_features(*(one.to(self.device) for one in inputs))
            looks.append(found[0].float().mean(1))  # (1, D)
        return torch.stack(looks).mean(0).cpu().numpy(), preprocess.up

    def _standing(self, cloud: Cloud, category: Category) -> Preprocess:
        """Return the preprocessing of one cloud: with ``up="auto"`` the axis is that of its answer."""
        if not self.auto_up:
            return self.preprocess
        return replace(self.preprocess, up=self.answer(cloud, category).up)

    def category_number(self, category: Category) -> int | None:
        """Return the number of a category that a user names, None for none, as `segment` takes it.

        Raises:
            ValueError: If it is unknown, or missing for a model that needs to be told it.
        """
        return self.task.category_number(category)

    def read(self, cloud: Cloud) -> np.ndarray[Any, Any]:
        """Return the points of a cloud, or of a sample of a mesh, in their own coordinates (N, C), float64.

        Raises:
            ValueError: For a wrong shape or NaN.
            FileNotFoundError: If the file is missing.
        """
        return self._read(cloud).cpu().numpy()

    def _read(self, cloud: Any) -> Tensor:
        if isinstance(cloud, (str, Path)) and os.path.isdir(os.path.expanduser(cloud)):
            what = "segment(folder)" if self.task.per_point else "predictor(folder)"
            raise FileNotFoundError(
                f"{cloud}: expected a file, got a folder: give its files as a list, or ask {what}, which "
                "takes a folder alone"
            )
        return self.task.read(cloud, self.preprocess).to(place_of_float64(self.device))
