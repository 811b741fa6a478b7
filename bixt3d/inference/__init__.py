"""Using trained models."""

from bixt3d.inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
