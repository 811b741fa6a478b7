"""Pictures of results; each function loads the library that draws only when it is called."""

from bixt3d.visualize.bars import class_bars, throughput
from bixt3d.visualize.file_clouds import FileClouds
from bixt3d.visualize.gallery import Gallery
from bixt3d.visualize.pictures import part_picture
from bixt3d.visualize.plots import confusion_matrix, training_curves
from bixt3d.visualize.runs import read_metrics
from bixt3d.visualize.scene import LabelledCloud

__all__ = [
    "FileClouds",
    "Gallery",
    "LabelledCloud",
    "class_bars",
    "confusion_matrix",
    "part_picture",
    "read_metrics",
    "throughput",
    "training_curves",
]
