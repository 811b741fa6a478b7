"""Train, evaluate, load and predict again and again in one process, and see whether anything grows.

python -m benchmarks.soak --minutes 120 --out results/soak.md

Resident memory, what malloc has handed out, open handles, threads and Python objects are read after every
part of every round. What is flat stays within 2 % of its median from the warm-up on; handles and threads stay
as many.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import duration, writable
from benchmarks.table import command_line, environment_line, markdown_table
from bixt3d.config import Config, load_config
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.inference import Predictor
from bixt3d.training.checkpoint import load_checkpoint, save_model
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.experiment import train

CONFIGS = Path(__file__).parent.parent / "configs"
QUICKSTART, PARTSEG = "shapes_quickstart", "shapes_partseg"
CPU = torch.device("cpu")
WITHIN = 0.02
ROWS = 25  # of the table: as many rounds are shown, evenly over the time
MB = 1 << 20


class MallocInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    _fields_ = [(name, ctypes.c_size_t) for name in (*names, "keepcost")]


@dataclass(frozen=True)
class Taken:
    """What a process takes: bytes resident, handed out and kept by malloc, then numbers of things."""

    resident: int
    used: int
    kept: int
    handles: int
    threads: int
    objects: int


# What each is called, and how far it may be from its median.
QUANTITIES: dict[str, tuple[str, float]] = {
    "resident": ("resident memory", WITHIN),
    "used": ("memory handed out by malloc", WITHIN),
    "handles": ("open handles", 0.0),
    "threads": ("threads", 0.0),
    "objects": ("Python objects", WITHIN),
}


@dataclass(frozen=True)
class Reading:
    """What was taken at the end of a part of a round."""

    seconds: float
    cycle: int
    part: str
    taken: Taken


@dataclass(frozen=True)
class Finding:
    """How one quantity went after the warm-up, and by how much it grew in each part of a round."""

    name: str
    least: float
    median: float
    most: float
    flat: bool
    growth: Mapping[str, float]


def take() -> Taken:
    """Read what this process takes now, all garbage collected."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallocInfo
    info = mallinfo()
    handles = len(os.listdir("/proc/self/fd")) - 1  # the one that lists them
    threads = len(os.listdir("/proc/self/task"))
    used = info.uordblks + info.hblkhd
    return Taken(resident, used, info.fordblks, handles, threads, len(gc.get_objects()))


def soak(parts: Mapping[str, Callable[[], None]], seconds: float, cycles: int = 6) -> list[Reading]:
    """Call the parts in turn until the time is over, but ``cycles`` rounds at least; read after each."""
    begun, cycle = time.perf_counter(), 0
    written = array("d")  # one object, however long: readings must not be what grows
    while cycle < cycles or time.perf_counter() - begun < seconds:
        for work in parts.values():
            work()
            written.extend((time.perf_counter() - begun, *astuple(take())))
        cycle += 1
    width = 1 + len(fields(Taken))
    rows = [written[place : place + width].tolist() for place in range(0, len(written), width)]
    names = list(parts)
    return [
        Reading(spent, index // len(names), names[index % len(names)], Taken(*map(int, numbers)))
        for index, (spent, *numbers) in enumerate(rows)
    ]


def judge(readings: Sequence[Reading], warm_up: int) -> list[Finding]:
    """Say of each quantity whether it was flat from round ``warm_up`` on, and which part it grew in.

    Rounds are compared at their ends, where all the parts are over. A part's growth is what was more after it
    than before it, a round.
    """
    last = readings[-1].part
    findings = []
    for key, (name, within) in QUANTITIES.items():
        ends = [getattr(r.taken, key) for r in readings if r.part == last and r.cycle >= warm_up]
        middle = statistics.median(ends)
        flat = max(ends) <= middle * (1 + within) and min(ends) >= middle * (1 - within)
        growth: dict[str, float] = {}
        for before, after in zip(readings, readings[1:], strict=False):
            if after.cycle >= warm_up:
                change = getattr(after.taken, key) - getattr(before.taken, key)
                growth[after.part] = growth.get(after.part, 0.0) + change / len(ends)
        findings.append(Finding(name, min(ends), middle, max(ends), flat, growth))
    return findings


class Rounds:
    """The parts of a round, on shapes made in a folder: a classifier and a segmenter, small."""

    def __init__(self, folder: Path) -> None:
        """Make the shapes, and clouds to predict in several kinds of files."""
        self.folder = folder
        with quiet():
            write_shapes(folder / "data", per_class=6, num_points=300, seed=0, progress=False)
        self.files: list[Path] = sorted((folder / "data").glob("shapes/meshes/test/*/*.off"))[:2]
        cloud = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
        self.arrays = [cloud[:count] for count in (400, 256, 90)]
        for name, save in (("cloud.npy", np.save), ("cloud.xyz", np.savetxt)):
            save(folder / name, cloud)
            self.files.append(folder / name)

    def parts(self) -> dict[str, Callable[[], None]]:
        """Return the parts by name, in their order."""
        return {
            "train": self.train,
            "evaluate": self.evaluate,
            "save and load": self.load,
            "predict": self.predict,
        }

    def config(self, name: str) -> Config:
        """Return the settings of one of the two, with an epoch of a few steps."""
        overrides = [
            f"data.root={self.folder / ('data/shapes' if name == PARTSEG else 'data')}",
            "data.num_points=256",
            "data.features=[]",
            "train.epochs=1",
            "train.batch_size=16",
            "optim.warmup_epochs=0",
            f"run.dir={self.folder / name}",
        ]
        return load_config(CONFIGS / f"{name}.yaml", overrides)

    def train(self) -> None:
        """Train both from the start, with their evaluation and checkpoints."""
        for name in (QUICKSTART, PARTSEG):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            train(self.config(name), device=CPU)

    def evaluate(self) -> None:
        """Evaluate both checkpoints."""
        for name in (QUICKSTART, PARTSEG):
            evaluate_checkpoint(self.folder / name / "last", device=CPU)

    def load(self) -> None:
        """Load both checkpoints and save them elsewhere."""
        for name in (QUICKSTART, PARTSEG):
            model, meta = load_checkpoint(self.folder / name / "last", CPU)
            save_model(self.folder / "copy.safetensors", model, meta)

    def predict(self) -> None:
        """Predict arrays and files, one by one and together."""
        classify = Predictor(self.folder / QUICKSTART / "last", "cpu")
        label = Predictor(self.folder / PARTSEG / "last", "cpu").segment
        for each in (*self.arrays, *self.files):
            classify(each)
            label(each, category=0)
        classify(self.arrays)
        classify(self.files)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what is printed from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def table(readings: Sequence[Reading]) -> str:
    """Return the ends of up to `ROWS` rounds, evenly over the time."""
    ends = [r for r in readings if r.part == readings[-1].part]
    places = sorted({round(i * (len(ends) - 1) / (ROWS - 1)) for i in range(ROWS)})
    head = ["min", "round", "resident MB", "used MB", "kept MB", "handles", "threads", "objects"]
    rows = []
    for reading in (ends[place] for place in places):
        *memory, handles, threads, objects = astuple(reading.taken)
        sizes = [f"{size / MB:.1f}" for size in memory]
        rows.append([f"{reading.seconds / 60:.1f}", reading.cycle + 1, *sizes, handles, threads, objects])
    return markdown_table(head, rows)


def verdict(finding: Finding) -> str:
    """Return a line or two that say how a quantity went."""
    unit = MB if "memory" in finding.name else 1
    low, middle, high = (value / unit for value in (finding.least, finding.median, finding.most))
    digits = 1 if unit == MB else 0
    spread = f"{100 * (low / middle - 1):+.2f} to {100 * (high / middle - 1):+.2f} %"
    said = f"{finding.name}: {'flat' if finding.flat else 'NOT FLAT'}, {middle:,.{digits}f}"
    said += f"{' MB' if unit == MB else ''}, {spread}"
    if finding.flat:
        return said
    parts = ", ".join(f"{part} {growth / unit:+.2f}" for part, growth in finding.growth.items())
    return f"{said}\n  a round: {parts}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=partial(duration, unit="minutes"), default=120.0)
    parser.add_argument("--out", type=writable)
    args = parser.parse_args()
    if platform.libc_ver()[0] != "glibc" or not Path("/proc/self/statm").is_file():
        sys.exit("error: what a process takes is read from Linux's /proc and from glibc; neither is here")
    with tempfile.TemporaryDirectory() as folder:
        parts = Rounds(Path(folder)).parts()
        with quiet():
            readings = soak(parts, 60 * args.minutes)
    rounds = readings[-1].cycle + 1
    # A tenth of the time, but three of at least six rounds: caches fill, and malloc finds the sizes it needs.
    tenth = next(r.cycle for r in readings if r.seconds >= readings[-1].seconds / 10)
    warm_up = max(3, tenth)
    findings = judge(readings, warm_up)
    after = next(r.seconds for r in readings if r.cycle == warm_up) / 60
    said = "\n".join(verdict(finding) for finding in findings)
    text = (
        f"# Memory and handles over {readings[-1].seconds / 60:.0f} minutes\n\n"
        "A small classifier and a small segmenter, trained, evaluated, saved, loaded and asked\n"
        f"about arrays and files, again and again in one process: {rounds} rounds. From round\n"
        f"{warm_up + 1} on, after {after:.1f} minutes of warm-up, the median of the rounds' ends, and how\n"
        f"far the least and the most are from it; flat is within {WITHIN:.0%}, for handles and\n"
        f"threads not one more or less:\n\n```\n{said}\n```\n\n{table(readings)}\n\n"
        "Used is what malloc has handed out, kept is what it holds back for later.\n\n"
        f"`{command_line('benchmarks.soak')}`\n\n{environment_line(CPU)}\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text)
    if not all(finding.flat for finding in findings):
        sys.exit("error: not everything was flat")


if __name__ == "__main__":
    main()
