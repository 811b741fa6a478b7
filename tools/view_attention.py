"""The command `bixt3d attention`, from a checkout."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["attention", *sys.argv[1:]], prog="view_attention.py")
