"""The command `bixt3d view`, from a checkout."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["view", *sys.argv[1:]], prog="view_parts.py")
