"""The command `bixt3d data make`, from a checkout."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["data", "make", *sys.argv[1:]], prog="make_shapes.py")
