"""One trainer for every task, and the checkpoints that it writes."""

from bixt3d.tasks import ClassificationTask, PartSegmentationTask
from bixt3d.training.checkpoint import load_checkpoint, load_model
from bixt3d.training.evaluate import evaluate
from bixt3d.training.experiment import Result, train
from bixt3d.training.trainer import Trainer

__all__ = [
    "ClassificationTask",
    "PartSegmentationTask",
    "Result",
    "Trainer",
    "evaluate",
    "load_checkpoint",
    "load_model",
    "train",
]
