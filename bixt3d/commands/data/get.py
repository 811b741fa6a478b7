"""Get a published data set, check it, and put it into the data folder.

The original host has been down since 2024, so mirrors are tried after it. None
of them could be reached when their list was made: data/README.md says what is
known of each. What arrives is checked before it takes its place, the same
command continues a download that was cut off, and data that is there is left
alone unless --force is given.

Examples:
  bixt3d data get modelnet40
  bixt3d data get shapenetpart --from-file ~/Downloads/part.zip
  bixt3d data get modelnet40 --verify
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from bixt3d.commands.options import UsageError, place

STOPPED = "stopped; what was downloaded is kept for the next run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d data get``."""
    from bixt3d.datasets.acquire import SOURCES

    parser.add_argument("name", choices=tuple(SOURCES), help="which data set")
    parser.add_argument(
        "--root", type=place, default="data", metavar="FOLDER", help="data folder (default: data)"
    )
    parser.add_argument("--from-file", type=place, metavar="PATH", help="an archive or folder that you have")
    parser.add_argument("--mirror", action="append", default=[], metavar="URL", help="try this place first")
    parser.add_argument("--force", action="store_true", help="get it anew and replace what is there")
    parser.add_argument("--verify", action="store_true", help="only check the data that is there")
    parser.add_argument(
        "--timeout",
        type=float,
        default=30,
        metavar="SECONDS",
        help="how long a server may be silent (default: 30)",
    )


def run(args: argparse.Namespace) -> None:
    """Get or verify the data set, and report what it holds."""
    if args.verify and (args.from_file or args.mirror or args.force):
        raise UsageError("--verify only checks: give no --from-file, --mirror or --force with it")
    if args.from_file and args.mirror:
        raise UsageError("give --from-file or --mirror, not both")
    if not args.timeout > 0:
        raise UsageError(f"--timeout: expected seconds above 0, got {args.timeout:g}")
    from bixt3d.datasets.acquire import SOURCES, prepare, verify

    logging.getLogger("bixt3d.datasets.acquire").setLevel(logging.INFO)
    source = SOURCES[args.name]
    if args.verify:
        report = verify(source, args.root)
    else:
        report = prepare(
            source,
            args.root,
            from_file=args.from_file,
            mirrors=args.mirror,
            force=args.force,
            timeout=args.timeout,
        )
    if report.folder.is_relative_to(Path.cwd()):
        report.folder = report.folder.relative_to(Path.cwd())
    print(report)
    if args.verify:
        print("Every listed file was read. The archive's checksum is not known once unpacked.")
