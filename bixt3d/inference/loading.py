"""The model of a Predictor: loaded from a checkpoint, or the caller's, taken over without changing it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bixt3d.config import config_from, override
from bixt3d.datasets.preprocess import STORED_POINTS, Preprocess
from bixt3d.datasets.relabel import match_labels
from bixt3d.datasets.split import Split
from bixt3d.suggest import unknown
from bixt3d.tasks import Description, Task, find_task
from bixt3d.tasks.description import GIVEN
from bixt3d.training.checkpoint import load_checkpoint
from bixt3d.training.splits import read_split


class Loaded(NamedTuple):
    """A model in evaluation mode, its task, the names of its classes, and what is done to a cloud before.

    ``augment`` is what was done to the clouds of its training, as far as it is known.
    """

    model: Any
    task: Task
    classes: tuple[str, ...] | None
    preprocess: Preprocess
    augment: Mapping[str, Any] = MappingProxyType({})


def open_model(
    model_or_path: nn.Module | str | Path,
    device: torch.device,
    classes: Sequence[str] | None = None,
    num_points: int | None = None,
    share: bool = False,
    task_args: Mapping[str, Any] | None = None,
) -> Loaded:
    """Return a model on a device, ready to predict.

    Args:
        model_or_path: A checkpoint, a name of `bixt3d.list_weights`, or a model, which stays as it is.
        device: Where it goes.
        classes: Names of its classes; the checkpoint's if None.
        num_points: Points of a cloud; the training's if None.
        share: Take the weights of a given model, rather than a copy, where they are on the device: for use
            at once, before anybody trains on.
        task_args: Arguments of the task in place of the training's, such as the radius of a scene's columns.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is damaged, a model does not say what it is, or the classes do not fit.
    """
    if isinstance(model_or_path, nn.Module):
        about = _description_of(model_or_path)
        model: Any = take_over(model_or_path, device, share)
    else:
        model = load_checkpoint(model_or_path, device)[0]
        about = model.description
    task = find_task(model.task if about is None else about.task, **(task_args or {}))
    facts = {**(about.facts if about is not None else {}), **(task_args or {})}
    if classes is not None:
        facts["classes"] = list(classes)
    task.set_facts(facts)
    task.bind_model(model)
    task.ignore = (-1, *_ignored(about))
    least = getattr(model, "least_points", None)
    if num_points and least and num_points < least:
        raise ValueError(f"num_points: expected {least} or more, for this model's layers, got {num_points}")
    if about is not None:
        preprocess = replace(about.preprocess, num_points=num_points or about.preprocess.num_points)
    else:
        features = ("normal",) if model.in_dims == 6 else ()
        preprocess = Preprocess(num_points, "stored", num_points or STORED_POINTS, features)
    names = tuple(facts["classes"]) if facts.get("classes") else None
    augment = about.config.get("augment") if about is not None else None
    return Loaded(model, task, names, preprocess, augment if isinstance(augment, Mapping) else {})


def _ignored(about: Description | None) -> Sequence[int]:
    """Return the labels that did not count in a training, which no answer gives."""
    loss = {} if about is None else about.config.get("loss", {})
    return loss.get("ignore", ()) if isinstance(loss, Mapping) else ()


def training_split(predictor: Any, split: str, root: str | Path | None = None) -> Split:
    """Open a split of the data that a model was trained on, with all stored points, as its checkpoint says.

    Clouds stand as they are stored, as a `bixt3d.Predictor` takes them; the splits are those of the training.
    Labels have the model's own numbers, in data with some of its classes or in another order, too.

    Args:
        predictor: The model.
        split: Which split.
        root: The data folder; that of the training if None.

    Raises:
        ValueError: If the model does not come from a checkpoint that says it, or was trained on clouds that
            no data set holds, the data are damaged, or their categories are none of the model's.
        FileNotFoundError: If the data are not there.
    """
    about = getattr(predictor.model, "description", None)
    if about is None or not {"name", "root"} <= set(about.config.get("data", {})):
        raise ValueError("the checkpoint does not say what data it was trained on: give files instead")
    if about.dataset == GIVEN and root is None:
        raise ValueError(f"the model was trained on {GIVEN}: give files instead, or a folder by --data")
    config = config_from(about.config)
    data = {"features": predictor.preprocess.features, "up": None, "divide": {}}
    found = read_split(override(config, data={**data, "root": str(root or config.data.root)}), split)
    found = match_labels(found, about.facts)
    if found.category is not None:
        check_groups(predictor, found)
    return found


def check_groups(predictor: Any, split: Split) -> None:
    """Raise ValueError if a split's classes, or categories of parts, are not those that a model knows."""
    known, names = predictor.classes or (), predictor.task.groups(split)[0]
    if known and tuple(known) != tuple(names):
        raise ValueError(
            f"the model knows {', '.join(known)}; the data set has {', '.join(names)}{unknown(names, known)}"
        )


def _description_of(model: nn.Module) -> Description | None:
    """Return what is known of a caller's model; None for a bare one of this package."""
    about = getattr(model, "description", None)
    if about is not None and not isinstance(about, Description):
        raise ValueError(f"description: expected a bixt3d.tasks.Description, got {type(about).__name__}")
    channels = getattr(model, "in_dims", None)
    if about is None and not (isinstance(getattr(model, "task", None), str) and channels is not None):
        raise ValueError(
            "expected a checkpoint, a model with a description of one, or one of this package, got "
            f"{type(model).__name__}"
        )
    if about is None and channels not in (3, 6):
        raise ValueError(
            f"expected a checkpoint, which names the features of {channels} channels, got a model without one"
        )
    return about


def take_over(model: nn.Module, device: torch.device, share: bool = False) -> nn.Module:
    """Return a copy of a model in evaluation mode on a device; the caller's keeps its modes, and its weights.

    Weights are copied once, straight to the device, or, shared, not at all where they lie there already.
    """
    memo: dict[int, Any] = {}  # what copy.deepcopy takes in place of a copy, by the original's id
    tensors = [value for module in model.modules() for value in vars(module).values()]
    for value in (*tensors, *model.parameters(), *model.buffers()):
        if not isinstance(value, Tensor) or id(value) in memo:
            continue
        if value.device != _whole(device):
            moved = value.detach().to(device)
            is_parameter = isinstance(value, nn.Parameter)
            memo[id(value)] = nn.Parameter(moved, value.requires_grad) if is_parameter else moved
        elif share:
            memo[id(value)] = value
        elif value.grad_fn is not None:  # computed from weights, as pruning does, which deepcopy refuses
            memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo).to(device).eval()


def _whole(device: torch.device) -> torch.device:
    """Return a device with its number, as tensors have it."""
    current = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if current else device
