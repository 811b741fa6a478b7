"""Using trained models."""

from bixt3d.inference.predictor import Prediction, Predictor, Segmentation

__all__ = ["Prediction", "Predictor", "Segmentation"]
