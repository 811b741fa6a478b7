"""Learning on 3D point clouds with bi-directional cross-attention (BiXT).

Names are imported at their first use, so that ``bixt3d --help`` waits for no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bixt3d import metrics, ops
    from bixt3d.config import Config, list_configs, load_config
    from bixt3d.datasets import Split, open_dataset, register_dataset
    from bixt3d.inference import Predictor
    from bixt3d.models import BiXT, Perceiver, create_model, list_models, official, register_model
    from bixt3d.tasks import Task, register_task
    from bixt3d.training import Result, load_model, train
    from bixt3d.training.weights import list_weights

__version__ = "0.2.0"

__all__ = [
    "BiXT",
    "Config",
    "Perceiver",
    "Predictor",
    "Result",
    "Split",
    "Task",
    "create_model",
    "list_configs",
    "list_models",
    "list_weights",
    "load_config",
    "load_model",
    "metrics",
    "official",
    "open_dataset",
    "ops",
    "register_dataset",
    "register_model",
    "register_task",
    "train",
]

_ROOMS = {
    "config": ("Config", "list_configs", "load_config"),
    "datasets": ("Split", "open_dataset", "register_dataset"),
    "inference": ("Predictor",),
    "models": ("BiXT", "Perceiver", "create_model", "list_models", "official", "register_model"),
    "tasks": ("Task", "register_task"),
    "training": ("Result", "load_model", "train"),
    "training.weights": ("list_weights",),
}
_ROOM = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name, or a part of the package, where it is first used."""
    if name in _ROOM:
        value = getattr(import_module(f"bixt3d.{_ROOM[name]}"), name)
    elif name in {"metrics", "ops", *_ROOMS}:
        value = import_module(f"bixt3d.{name}")
    else:
        raise AttributeError(f"module 'bixt3d' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
