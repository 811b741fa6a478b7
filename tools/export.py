"""The command `bixt3d export`, from a checkout."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]], prog="export.py")
