"""Several looks at one cloud: turned about its up axis, or with every axis up. Which answer counts?"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from bixt3d.datasets.orientation import AXES, turn_about
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.tasks import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looks:
    """How often a model looks at a cloud before it answers.

    Attributes:
        turns: Looks, each turned further about the up axis by as much; their mean counts.
        auto_up: Look with every axis up, and keep the surest of the six answers.
        even: The surest is that of the least entropy, not that of the most probable label. Where the model
            has learned to give even probabilities to what lies (`augment.lying`), entropy tells that from a
            cloud that is one of two classes.
    """

    turns: int = 1
    auto_up: bool = False
    even: bool = False

    @classmethod
    def of(cls, turns: int, auto_up: bool, task: Task, augment: Mapping[str, Any]) -> Looks:
        """Return the looks that are asked for, judged as suits the training.

        Args:
            turns: Looks, each turned further.
            auto_up: Whether no axis is known to be up.
            task: The model's task.
            augment: The augmentation of the model's training; empty where it is not known.

        Raises:
            ValueError: For turns of a task whose answers have no mean.
        """
        if turns > 1 and not task.averages:
            raise ValueError(
                f"turns: expected a task whose answers have a mean, such as classification, got {task.name}"
            )
        tilt = augment.get("tilt")
        if auto_up and isinstance(tilt, (int, float)) and tilt >= 180:
            logger.warning(
                "up='auto': this model was trained on clouds turned about every axis, and none is surer than "
                "another: leave it out"
            )
        elif auto_up and augment and not augment.get("lying"):
            logger.warning(
                "up='auto': this model was never shown clouds that lie, and is often sure of a wrong axis; "
                "one of a training with augment.lying, such as modelnet40_robust, tells them better"
            )
        return cls(turns, auto_up, bool(augment.get("lying")))

    def answer(
        self,
        task: Task,
        model: nn.Module,
        clouds: Sequence[Tensor],
        preprocess: Preprocess,
        told: Sequence[Any],
    ) -> list[Any]:
        """Return what a task says of each cloud (N_i, C).

        Raises:
            ValueError: With ``auto_up``, for a task whose answers have no confidence.
        """
        if not self.auto_up:
            return self._turned(task, model, clouds, preprocess, told)
        standing = [replace(preprocess, up=axis) for axis in AXES]
        seen = [self._turned(task, model, clouds, one, told) for one in standing]
        if not hasattr(seen[0][0], "confidence"):
            raise ValueError(f"up='auto': expected a task with confident answers, got {task.name}")
        sure = "certainty" if self.even and hasattr(seen[0][0], "certainty") else "confidence"
        return [max(of_cloud, key=attrgetter(sure)) for of_cloud in zip(*seen, strict=True)]

    def _turned(
        self,
        task: Task,
        model: nn.Module,
        clouds: Sequence[Tensor],
        preprocess: Preprocess,
        told: Sequence[Any],
    ) -> list[Any]:
        seen = [task.predict_batch(model, one, preprocess, told) for one in self.around(clouds, preprocess)]
        return seen[0] if len(seen) == 1 else [task.average(of_cloud) for of_cloud in zip(*seen, strict=True)]

    def around(self, clouds: Sequence[Tensor], preprocess: Preprocess) -> Iterator[Sequence[Tensor]]:
        """Yield clouds (N_i, C) as they stand, and then turned further about their up axis."""
        for number in range(self.turns):
            degrees = 360 * number / self.turns
            yield [turn_about(points, preprocess.up, degrees, preprocess.features) for points in clouds]
