"""The command `bixt3d evaluate`, from a checkout."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]], prog="evaluate.py")
