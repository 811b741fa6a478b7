"""Learn on 3D point clouds with bi-directional cross-attention (BiXT).

Examples:
  bixt3d list models
  bixt3d train shapes_quickstart
  bixt3d predict modelnet40_cpu chair.off
"""

# Each verb is a module here: a docstring, whose first line `bixt3d --help` shows, `add_arguments(parser)` and
# `run(args)`, which imports what is heavy. A package with COMMANDS of its own is a group of verbs. A bug's
# traceback goes to `args.ending.folder`, which `run` may set.
COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "search",
    "view",
    "attention",
    "compare",
    "plot",
    "export",
    "data",
    "list",
    "benchmark",
)
HIDDEN = ("seg_shapenetpart",)  # for tools/ alone
