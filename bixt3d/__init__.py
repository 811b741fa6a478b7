"""Learning on 3D point clouds with bi-directional cross-attention (BiXT)."""

from bixt3d import metrics, ops
from bixt3d.config import load_config
from bixt3d.datasets import open_dataset
from bixt3d.inference import Predictor
from bixt3d.models import BiXT, Perceiver, create_model, list_models, official
from bixt3d.training import load_model
from bixt3d.training.weights import list_weights

__version__ = "0.1.0"

__all__ = [
    "BiXT",
    "Perceiver",
    "Predictor",
    "create_model",
    "list_models",
    "list_weights",
    "load_config",
    "load_model",
    "metrics",
    "official",
    "open_dataset",
    "ops",
]
