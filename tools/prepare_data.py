"""The command `bixt3d data get`, from a checkout."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["data", "get", *sys.argv[1:]], prog="prepare_data.py")
