"""The command `bixt3d benchmark`, from a checkout."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]], prog="benchmark.py")
