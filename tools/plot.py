"""The command `bixt3d plot`, from a checkout."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["plot", *sys.argv[1:]], prog="plot.py")
