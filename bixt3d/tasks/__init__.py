"""Tasks by name: all that is special about each is in one file."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from bixt3d.config import Config
from bixt3d.suggest import check_free, nearest
from bixt3d.tasks.base import Task
from bixt3d.tasks.classification import ClassificationTask
from bixt3d.tasks.description import Description, compare_facts
from bixt3d.tasks.image_classification import ImageClassificationTask
from bixt3d.tasks.part_segmentation import PartSegmentationTask
from bixt3d.tasks.results import Attention, Prediction, Segmentation
from bixt3d.tasks.scene_segmentation import SceneSegmentationTask

__all__ = [
    "Attention",
    "ClassificationTask",
    "Description",
    "ImageClassificationTask",
    "PartSegmentationTask",
    "Prediction",
    "SceneSegmentationTask",
    "Segmentation",
    "Task",
    "TaskArgsError",
    "compare_facts",
    "find_task",
    "list_tasks",
    "make_task",
    "metric_titles",
    "register_task",
]

_TASKS: dict[str, Any] = {
    "classification": ClassificationTask,
    "image_classification": ImageClassificationTask,
    "part_segmentation": PartSegmentationTask,
    "scene_segmentation": SceneSegmentationTask,
}
_OWN = frozenset(_TASKS)


def list_tasks() -> list[str]:
    """Return the names of the tasks, sorted."""
    return sorted(_TASKS)


def register_task(name: str, task: type[Task] | Task) -> None:
    """Make a task known by a name, which ``task:`` of a config then takes, and checkpoints of it.

    Args:
        name: The name; one that ships with the package is not replaced.
        task: A subclass of `Task` that needs no arguments, or an object of one.

    Raises:
        ValueError: If the name is taken by a task of the package, or no name.
        TypeError: If the task is no task.
    """
    check_free(name, _OWN, "task")
    _check_task(task)
    if isinstance(task, type):
        try:
            inspect.signature(task).bind()
        except TypeError as error:
            raise TypeError(
                f"task: expected a class that needs no arguments, or an object ({error})"
            ) from None
    _TASKS[name] = task


def metric_titles() -> dict[str, str]:
    """Return what the metrics of all tasks are called, by their names."""
    return {name: title for task in _TASKS.values() for name, title in task.titles.items()}


def find_task(name: str, **args: Any) -> Task:
    """Return a new object of the task of that name, with arguments of its own.

    Raises:
        ValueError: If there is none, naming the nearest, or it does not take such arguments.
    """
    if name not in _TASKS:
        raise ValueError(
            f"unknown task {name!r}{nearest(name, _TASKS)}; known: {', '.join(list_tasks())}. Yours "
            "is known after bixt3d.register_task, on the command line by --plugin FILE.py"
        )
    task = _build(_TASKS[name], args)
    task.name = name
    return task


class TaskArgsError(ValueError):
    """An argument that a task does not have."""


def _build(task: type[Task] | Task, args: Mapping[str, Any]) -> Task:
    """Return a copy of a task, or one built with arguments (``task_args`` of the settings)."""
    known = {} if isinstance(task, Task) else dict(inspect.signature(task).parameters)
    for name in args:
        if name not in known:
            takes = ", ".join(known) or "none, as it is an object"
            raise TaskArgsError(
                f"task_args: unknown argument {name!r}{nearest(name, known)}; it takes: {takes}"
            )
    return copy.copy(task) if isinstance(task, Task) else task(**args)


def make_task(task: str | type[Task] | Task, config: Config) -> Task:
    """Return a task that knows the settings; one that is given as an object is copied.

    Raises:
        ValueError: For an unknown name, or settings that do not suit it.
        TypeError: For anything but a name, a task, or its class.
    """
    if not isinstance(task, str):
        _check_task(task)
    made = find_task(task, **config.task_args) if isinstance(task, str) else _build(task, config.task_args)
    made.configure(config)
    return made


def _check_task(task: Any) -> None:
    if not isinstance(task, Task) and not (isinstance(task, type) and issubclass(task, Task)):
        raise TypeError(
            f"task: expected a subclass of bixt3d.tasks.Task, or an object of one, got {task!r:.80}"
        )
