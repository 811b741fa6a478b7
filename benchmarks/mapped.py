"""Clouds per second of a training whose clouds stay in a file, against the same in memory, timed in turn.

python -m benchmarks.mapped --out results/mapped.md
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import environment_line, markdown_table
from benchmarks.timing import alternate
from bixt3d.config import Config, load_config
from bixt3d.datasets.cache import Arrays, cached
from bixt3d.datasets.loader import Batch, CloudLoader
from bixt3d.datasets.mapped import Mapped, lay_out
from bixt3d.datasets.room import VARIABLE
from bixt3d.datasets.split import Split
from bixt3d.datasets.store import Store
from bixt3d.training.distributed import Workers
from bixt3d.training.experiment import build_model, describe
from bixt3d.training.splits import build_task, training_loader
from bixt3d.training.trainer import TrainState

POINTS = 2048  # as ModelNet40 stores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--cfg", default="modelnet40_cpu", help="config of the training (default: %(default)s)"
    )
    parser.add_argument("--clouds", type=int, default=4096, help="clouds in the file (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps of one timing (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="timings of each (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=80, help="for each row, about (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING", help="settings of the config")
    parser.add_argument("--out", type=Path, help="markdown file that the table is written to")
    args = parser.parse_args()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        stored = in_a_file(Path(folder), args.clouds).to(device)
        assert isinstance(stored.points, Mapped)
        held = Split(stored.points.clone(), stored.label, stored.classes, normalized=True)
        rows = []
        config = load_config(args.cfg, ["data.features=[]", "model.init_from=null", *args.set])
        for what, runs in (
            ("batches alone", (batches_of(config, held), batches_of(config, stored))),
            ("training", (training_of(config, held), training_of(config, stored))),
        ):
            first, second = (repeat(run, args.steps) for run in runs)
            seen = alternate(first, second, device, args.repeats, seconds=args.seconds)
            size = config.train.batch_size * args.steps
            speeds = [f"{1e3 * size / ms:,.0f}" for ms in (seen.first, seen.second)]
            middle = f"{seen.low:.2f} to {seen.high:.2f}"
            rows.append([what, *speeds, f"{seen.ratio:.2f}", middle, seen.repeats])
    columns = ["", "in memory, clouds/s", "from the file, clouds/s", "ratio", "middle half", "pairs"]
    command = f"python -m benchmarks.mapped --cfg {args.cfg} --clouds {args.clouds}"
    settings = f" --set {' '.join(args.set)}" if args.set else ""
    text = f"{markdown_table(columns, rows)}\n\n`{command}{settings}`\n\n{environment_line(device)}\n"
    print(text)
    if args.out:
        about = (
            f"{args.clouds:,} clouds of {POINTS:,} points in a file that is mapped, and the same in memory; "
            "the two take turns. The file is in the system's page cache."
        )
        args.out.write_text(f"# Clouds in a file\n\n{about}\n\n{text}")


def in_a_file(folder: Path, clouds: int) -> Split:
    """Write clouds in the unit sphere into a cache, and map it."""
    draw = np.random.default_rng(0)
    (folder / "source").touch()

    def build(store: Store) -> Arrays:
        for _ in range(clouds):
            cloud = draw.normal(size=(POINTS, 3)).astype(np.float32)
            store.add(points=cloud / np.linalg.norm(cloud, axis=1).max())
        return {}

    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "0"
    try:
        arrays = cached([folder / "source"], "clouds", build, folder=folder)
        points = lay_out(arrays, "points", POINTS, folder)
    finally:
        os.environ.pop(VARIABLE) if before is None else os.environ.update({VARIABLE: before})
    classes = tuple(f"class {number}" for number in range(40))
    return Split(points, torch.arange(clouds) % len(classes), classes, normalized=True)


def endless(loader: CloudLoader) -> Iterator[Batch]:
    return itertools.chain.from_iterable(loader.epoch(number) for number in itertools.count())


def batches_of(config: Config, split: Split) -> Callable[[], object]:
    """Return what makes the next training batch, augmented."""
    task = build_task(config)
    task.set_facts(task.facts(split))
    batches = endless(training_loader(config, task, split, Workers()))
    return lambda: next(batches)


def training_of(config: Config, split: Split) -> Callable[[], object]:
    """Return what takes the next step of a training."""
    task = build_task(config)
    task.set_facts(task.facts(split))
    device = split.points.device
    model = build_model(config, describe(config, split, POINTS, task)).to(device)
    task.bind_model(model)
    state = TrainState(config, model, task, device, Workers(), 100)
    batches = endless(training_loader(config, task, split, Workers()))
    return lambda: state.train_step(batches, 0)


def repeat(run: Callable[[], object], count: int) -> Callable[[], None]:
    def runs() -> None:
        for _ in range(count):
            run()

    return runs


if __name__ == "__main__":
    main()
