"""Pictures of results; each function loads the library that draws only when it is called."""

from bixt3d.visualize.plots import confusion_matrix, read_metrics, training_curves

__all__ = ["confusion_matrix", "read_metrics", "training_curves"]
