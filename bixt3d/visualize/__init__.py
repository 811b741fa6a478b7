"""Pictures of results; each function loads the library that draws only when it is called."""

from bixt3d.visualize.bars import class_bars
from bixt3d.visualize.gallery import Gallery
from bixt3d.visualize.parts import part_picture
from bixt3d.visualize.plots import confusion_matrix, read_metrics, training_curves
from bixt3d.visualize.scene import LabelledCloud
from bixt3d.visualize.speed import throughput

__all__ = [
    "Gallery",
    "LabelledCloud",
    "class_bars",
    "confusion_matrix",
    "part_picture",
    "read_metrics",
    "throughput",
    "training_curves",
]
