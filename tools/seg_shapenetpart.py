"""The commands `bixt3d train`, for part segmenters, and with --checkpoint `bixt3d evaluate`."""

import sys

from bixt3d.cli import main

if __name__ == "__main__":
    main(["seg_shapenetpart", *sys.argv[1:]], prog="seg_shapenetpart.py")
