"""Get a data set by name, check it, and put it into the data folder."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bixt3d.datasets.acquire import SOURCES, Source, prepare, verify

AFTER = """\
examples:
  python tools/prepare_data.py modelnet40
  python tools/prepare_data.py shapenetpart --from-file ~/Downloads/part.zip
  python tools/prepare_data.py modelnet40 --verify

The original host has been down since 2024, so mirrors are tried after it. None
of them could be reached when their list was made: data/README.md says what is
known of each. What arrives is checked before it takes its place, the same
command continues a download that was cut off, and data that is there is left
alone unless --force is given.
"""


def parser(sources: Mapping[str, Source]) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__, epilog=AFTER, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("name", choices=sources, help="which data set")
    options.add_argument("--root", type=Path, default=Path("data"), help="data folder (default: data)")
    options.add_argument("--from-file", type=Path, metavar="PATH", help="an archive or folder that you have")
    options.add_argument("--mirror", action="append", default=[], metavar="URL", help="try this place first")
    options.add_argument("--force", action="store_true", help="get it anew and replace what is there")
    options.add_argument("--verify", action="store_true", help="only check the data that is there")
    options.add_argument("--timeout", type=float, default=30, help="seconds a server may be silent (30)")
    return options


def main(arguments: Sequence[str] | None = None, sources: Mapping[str, Source] = SOURCES) -> None:
    options = parser(sources)
    args = options.parse_args(arguments)
    if args.verify and (args.from_file or args.mirror or args.force):
        options.error("--verify only checks: give no --from-file, --mirror or --force with it")
    if args.from_file and args.mirror:
        options.error("give --from-file or --mirror, not both")
    if not args.timeout > 0:
        options.error(f"--timeout: expected seconds above 0, got {args.timeout:g}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("bixt3d.datasets.acquire").setLevel(logging.INFO)
    source = sources[args.name]
    try:
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
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; what was downloaded is kept for the next run")
    if report.folder.is_relative_to(Path.cwd()):
        report.folder = report.folder.relative_to(Path.cwd())
    print(report)
    if args.verify:
        print("Every listed file was read. The archive's checksum is not known once unpacked.")


if __name__ == "__main__":
    main()
