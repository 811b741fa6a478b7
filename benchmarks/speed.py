"""Measure models one after another, or two in turn, and print every line as soon as it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch

from benchmarks.measure import Request, Settings, matmul_rates, reason, run
from benchmarks.models import Spec, Work
from benchmarks.report import Target, device_name, heading, line, pair_heading, pair_line, write, write_pairs
from benchmarks.timing import alternate
from bixt3d.training.device import keep_freed_memory


@dataclass(frozen=True)
class Sizes:
    """What models are measured at: every mode with every dtype and every number of points."""

    modes: Sequence[str]
    dtypes: Sequence[str]
    points: Sequence[int]


def measure_models(
    models: Sequence[str],
    sizes: Sizes,
    settings: Settings,
    target: Target,
) -> list[dict[str, Any]]:
    """Measure models at all sizes, print a line for each, and write the files anew after each.

    Args:
        models: As `Spec.parse` reads them.
        sizes: What they are measured at.
        settings: All else.
        target: Where the results go.

    Returns:
        The rows.

    Raises:
        ValueError: For an unknown model or setting.
    """
    device = torch.device(settings.device)
    for model in models:
        Spec.parse(model).build()  # a misspelt setting shows before an hour of measuring
    name = device_name(device)
    rates = {dtype: [rate] for dtype, rate in matmul_rates(device, sizes.dtypes).items()}
    rows: list[dict[str, Any]] = []
    asked = {"models": list(models), **asdict(sizes), **asdict(settings)}
    for mode, dtype in product(sizes.modes, sizes.dtypes):
        print(("\n" if rows else "") + heading(mode, dtype, settings.batch), flush=True)
        for count, model in product(sizes.points, models):
            rows.append(run(Request(model, count, mode, dtype, settings), name))
            print(line(rows[-1]), flush=True)
            write(rows, asked, rates, device, target)
    for dtype, rate in matmul_rates(device, sizes.dtypes).items():
        rates[dtype].append(rate)
    write(rows, asked, rates, device, target)
    return rows


def compare_models(
    pair: Sequence[str],
    sizes: Sizes,
    settings: Settings,
    target: Target,
) -> list[dict[str, Any]]:
    """Time two models in turn in this process, on the same input, and print a line for each size.

    Args:
        pair: Both models, as `Spec.parse` reads them.
        sizes: What they are measured at.
        settings: All else.
        target: Where the results go.

    Returns:
        What was found at each size.

    Raises:
        ValueError: For an unknown model or setting, or a model that refuses the input.
    """
    device = torch.device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    sides = [Spec.parse(text) for text in pair]
    for spec in sides:
        spec.build()
    own = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    asked = {**asdict(sizes), **asdict(settings)}
    print(pair_heading(pair, settings.batch), flush=True)
    for mode, dtype, count in product(sizes.modes, sizes.dtypes, sizes.points):
        at = {"num_points": count, "batch": settings.batch, "mode": mode, "dtype": dtype}
        try:
            found = _in_turn(sides, mode, dtype, count, settings)
        except (MemoryError, RuntimeError, ValueError) as error:
            note = reason(error)
            if note is None:
                raise
            found = {"note": note}
        finally:
            torch.set_num_threads(own)
        rows.append({"first": pair[0], "second": pair[1], **at, **found})
        print(pair_line(rows[-1]), flush=True)
        write_pairs(rows, asked, device, target)
    return rows


def _in_turn(
    sides: Sequence[Spec], mode: str, dtype: str, num_points: int, settings: Settings
) -> dict[str, Any]:
    device = torch.device(settings.device)
    own = torch.get_num_threads()
    runs = []
    for spec in sides:
        work = Work(spec, mode, dtype, num_points, settings.batch, device)

        def run_one(work: Work = work, threads: int = spec.ways.get("threads", own)) -> None:
            torch.set_num_threads(threads)
            work.run()

        runs.append(run_one)
    found = alternate(runs[0], runs[1], device, settings.repeats, settings.warmup, settings.seconds)
    return {
        "first_ms": found.first,
        "second_ms": found.second,
        "ratio": found.ratio,
        "spread": [found.low, found.high],
        "repeats": found.repeats,
    }
