"""Learning on 3D point clouds with bi-directional cross-attention (BiXT)."""

from bixt3d import metrics, ops
from bixt3d.config import Config, list_configs, load_config
from bixt3d.datasets import Split, open_dataset, register_dataset
from bixt3d.inference import Predictor
from bixt3d.models import BiXT, Perceiver, create_model, list_models, official, register_model
from bixt3d.tasks import Task, register_task
from bixt3d.training import Result, load_model, train
from bixt3d.training.weights import list_weights

__version__ = "0.1.0"

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
