"""Prediction with trained models."""

from bixt3d.inference.predictor import Predictor
from bixt3d.tasks.results import Attention, Prediction, Segmentation

__all__ = ["Attention", "Prediction", "Predictor", "Segmentation"]
