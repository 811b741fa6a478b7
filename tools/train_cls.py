"""Train a point cloud classifier, then evaluate it once on the test split."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from bixt3d.config import load_config
from bixt3d.training.device import leave_workers, pick_device
from bixt3d.training.experiment import train_classifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cfg", required=True, help="YAML file with the settings")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings that go before the file's",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; CUDA where there is one by default")
    parser.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = load_config(args.cfg, args.set)
        config.run.dir = config.run.dir or str(Path("runs") / Path(args.cfg).stem)
        train_classifier(config, pick_device(args.device), args.resume)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; go on from the last saved epoch with --resume")
    finally:
        leave_workers()


if __name__ == "__main__":
    main()
