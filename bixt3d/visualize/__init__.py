"""Pictures of results; each function loads the library that draws only when it is called."""

from bixt3d.visualize.parts import LabelledCloud, part_picture
from bixt3d.visualize.plots import confusion_matrix, read_metrics, training_curves

__all__ = ["LabelledCloud", "confusion_matrix", "part_picture", "read_metrics", "training_curves"]
