"""Runs a fuzz target, or all of them, on a corpus that grows in build/fuzz."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CORPUS = Path(__file__).resolve().parent.parent / "build" / "fuzz"
NAMES = (
    *(
        "off",
        "obj",
        "ply",
        "stl",
        "glb",
        "gltf",
        "las",
        "laz",
        "bin",
        "pcd",
        "npy",
        "npz",
        "text",
        "rows",
        "hdf5",
        "lines",
        "parts",
        "list",
    ),
    *("archive", "checkpoint", "state", "settings"),
)


class Target(NamedTuple):
    """What a parser reads, and with what; its errors name the file or one of these words."""

    file: str
    seeds: list[bytes]
    read: Callable[[Path], object]
    named: tuple[str, ...] = ()


def find_target(name: str) -> Target:
    """Returns a target; its parsers are instrumented as they are imported."""
    import atheris

    with atheris.instrument_imports(include=["bixt3d", "laspy"]):
        from bixt3d.config import load_config
        from bixt3d.datasets import part_table
        from bixt3d.datasets.acquire.archives import unpack
        from bixt3d.datasets.files import read_lines
        from bixt3d.datasets.hdf5 import read_hdf5
        from bixt3d.datasets.readers import read_cloud
        from bixt3d.datasets.readers.text import read_rows
        from bixt3d.training.checkpoint import load_checkpoint
        from bixt3d.training.resume import load_state
        from tests.border import files

    def cloud(path: Path) -> object:
        read_cloud(path, None, 32)
        return read_cloud(path, ("color", "own:3", "height"), 32)

    def unpacked(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            unpack(path, Path(folder), 1 << 20)

    def table(path: Path) -> object:
        return part_table.read_part_table(path.parent, ("Mug", "Lamp"))

    def listed(path: Path) -> object:
        return part_table.read_list(path.parent.parent, "train", {"Mug": "one"})

    hdf5 = [files.hdf5(names=False), files.hdf5(names=False, compression="gzip", chunks=True)]
    if f".{name}" in files.SHAPES:
        return Target(f"shape.{name}", files.SHAPES[f".{name}"], cloud)
    return {
        "text": lambda: Target(
            "shape.pts",
            [each for kind in (".xyz", ".txt", ".csv", ".pts") for each in files.SHAPES[kind]],
            cloud,
        ),
        "rows": lambda: Target("rows.txt", [files.text(" ", 6)], lambda path: read_rows(path, 6)),
        "hdf5": lambda: Target("data.h5", hdf5, lambda path: read_hdf5(path, 40)),
        "lines": lambda: Target("names.txt", [b"chair\ntable\n"], read_lines),
        "parts": lambda: Target("parts.json", [files.PARTS], table),
        "list": lambda: Target(
            "train_test_split/shuffled_train_file_list.json", [b'["shape_data/one/a"]'], listed, ("a.txt",)
        ),
        "archive": lambda: Target("set.archive", list(files.ARCHIVES.values()), unpacked),
        "checkpoint": lambda: Target("last.safetensors", [files.checkpoint()], load_checkpoint),
        "state": lambda: Target("resume.pt", [files.state()], load_state),
        "settings": lambda: Target(
            "settings.yaml", [files.CONFIG], load_config, ("optim", "data", "model", "train", "augment")
        ),
    }[name]()


def fuzz(name: str, seconds: int, again: list[str]) -> None:
    """Fuzzes one target in this process; atheris ends the process."""
    import atheris

    warnings.simplefilter("ignore")
    logging.disable()
    target = find_target(name)
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        path = Path(folder) / target.file
        path.parent.mkdir(exist_ok=True)

        def one(content: bytes) -> None:
            path.write_bytes(content)
            try:
                target.read(path)
            except (ValueError, OSError) as error:
                told: Any = str(error)
                if "MemoryError" in told or not any(word in told for word in (path.name, *target.named)):
                    raise AssertionError(f"an error that does not say which file: {told}") from error

        options = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=20000"]
        options += [f"-artifact_prefix={CORPUS}/", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, *(again or [str(corpus)])], one)
        atheris.Fuzz()


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=[*NAMES, "all"])
    parser.add_argument("again", nargs="*", help="files to run once, instead of fuzzing")
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    if args.target != "all":
        return fuzz(args.target, args.seconds, args.again)
    failed = []
    for name in NAMES:
        command = [sys.executable, "-m", "fuzz.run", name, "--seconds", str(args.seconds)]
        ran = subprocess.run(command, capture_output=True, text=True)
        units = [line.split()[-1] for line in ran.stderr.splitlines() if "number_of_executed_units" in line]
        print(
            f"{name:12}{units[0] if units else '?':>10} files  {'' if ran.returncode == 0 else 'FAILED'}",
            flush=True,
        )
        if ran.returncode:
            failed.append(name)
            print(ran.stderr[-3000:], file=sys.stderr)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the files lie in {CORPUS}")


if __name__ == "__main__":
    main()
