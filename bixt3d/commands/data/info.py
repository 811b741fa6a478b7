"""Describe data before training: classes, sizes, unit, up axis, what is odd.

It looks for shapes that two splits share, classes that one of them lacks, and
classes with many more shapes than others.

Examples:
  bixt3d data info data
  bixt3d data info my_meshes --name folder
"""

from __future__ import annotations

import argparse

from bixt3d.commands.options import place, split_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d data info``."""
    parser.add_argument("root", type=place, metavar="FOLDER", help="a data set's folder, or a data folder")
    parser.add_argument("--name", help="kind, as data.name of a config (default: what the folder holds)")
    parser.add_argument(
        "--features", nargs="*", metavar="NAME", help="beside xyz, as data.features (default: as files say)"
    )


def run(args: argparse.Namespace) -> None:
    """Print what the data hold."""
    from bixt3d.datasets.features import FeatureError
    from bixt3d.datasets.overview import info

    features = None if args.features is None else split_names(args.features)
    try:
        print(info(args.root, args.name, features))
    except FeatureError as error:
        such = f"--features {' '.join(error.such)}"
        raise ValueError(error.advise(such, "--features with no name for xyz alone")) from None
