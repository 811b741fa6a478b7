"""The command `bixt3d train`, for classifiers."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["train", "--only", "shapes", *sys.argv[1:]], prog="train_cls.py")
