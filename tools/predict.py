"""The command `bixt3d predict`, from a checkout."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]], prog="predict.py")
