"""Measure a model at one size. Each measurement has a process of its own, which is given its request as JSON:
memory is then that of this model alone, and one that runs out of it takes nothing else along.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from benchmarks.memory import PeakMemory
from benchmarks.models import DTYPES, Spec, Work, count_macs, count_parameters
from benchmarks.timing import LEAST_REPEATS, MatrixProduct, middle_half, milliseconds
from bixt3d.shipped import PACKAGE
from bixt3d.training.device import keep_freed_memory

# The program of a measurement's process; its argument is the request.
MEASURE = """
import sys
from bixt3d.commands.benchmark import load_benchmarks
load_benchmarks()
from benchmarks.measure import answer, parse
answer(parse(sys.argv[1]))
"""
NO_MEMORY = "out of memory"
# What allocators say whose error is a mere RuntimeError.
ALLOCATION = ("can't allocate memory", "bad_alloc", "ALLOC_FAILED")
FOUND = (
    "ms",
    "spread",
    "repeats",
    "peak_memory_bytes",
    "parameters",
    "macs",
    "matmul_flops",
    "matmul_spread",
    "limit_operations",
)


@dataclass(frozen=True)
class Settings:
    """What all measurements of a run share.

    Repeating ends after ``seconds``, though not before the third time; a model that takes more than ``limit``
    seconds altogether is given up. Without ``threads`` torch chooses how many of the CPU's it takes.
    """

    device: str
    batch: int
    threads: int | None = None
    repeats: int = 9
    warmup: int = 1
    seconds: float = 20.0
    limit: float = 600.0


@dataclass(frozen=True)
class Request:
    """One measurement: a model as `Spec.parse` reads it, at one size."""

    model: str
    num_points: int
    mode: str
    dtype: str
    settings: Settings


def measure(request: Request) -> Iterator[dict[str, Any]]:
    """Yield what is found as soon as it is: times and memory, then the operations of a cloud."""
    settings = request.settings
    device = torch.device(settings.device)
    spec = Spec.parse(request.model)
    if threads := spec.ways.get("threads", settings.threads):
        torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()
    product = MatrixProduct(device, DTYPES[spec.ways.get("dtype", request.dtype)])
    memory = PeakMemory(device)
    work = Work(spec, request.mode, request.dtype, request.num_points, settings.batch, device)
    for _ in range(settings.warmup):
        work.run()
    times: list[float] = []
    rates = [product.rate()]
    begun = time.perf_counter()
    while len(times) < settings.repeats:
        if time.perf_counter() - begun > settings.seconds and len(times) >= LEAST_REPEATS:
            break
        times.append(milliseconds(work.run, device))
        rates.append(product.rate())  # between all batches: a clock that drifts slows both
    around = [(before + after) / 2 for before, after in pairwise(rates)]
    yield {
        "ms": statistics.median(times),
        "spread": middle_half(times),
        "repeats": len(times),
        "peak_memory_bytes": memory.grown(),
        "parameters": count_parameters(work.model),
        "matmul_flops": statistics.median(rates),
        "matmul_spread": middle_half(rates),
        "limit_operations": statistics.median(
            1e-3 * ms * rate for ms, rate in zip(times, around, strict=True)
        ),
    }
    del work
    yield {"macs": count_macs(spec, request.num_points, device)}


def reason(error: Exception) -> str | None:
    """Say why a model did not run, where it is its memory or its input; None for any other error."""
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(mark in text for mark in ALLOCATION):
        return NO_MEMORY
    return text.splitlines()[0] if isinstance(error, ValueError) and text else None


def failure(error: Exception) -> str:
    """Say in one line that something did not run, and why."""
    said = str(error).strip().splitlines()
    return f"did not run: {reason(error) or ': '.join([type(error).__name__, *said[:1]])}"


def parse(text: str) -> Request:
    """Return the request that a process of a measurement is given as JSON."""
    given = json.loads(text)
    return Request(**{**given, "settings": Settings(**given["settings"])})


def answer(request: Request) -> None:
    """Print what is found, a line of JSON each; this is what the process of a measurement does."""
    try:
        for found in measure(request):
            print(json.dumps(found), flush=True)
    except Exception as error:
        note = reason(error)
        if note is None:
            raise
        print(json.dumps({"note": note}), flush=True)


def run(request: Request, device_name: str) -> dict[str, Any]:
    """Measure in a process of its own and return the row, with ``note`` for whatever is missing in it."""
    note = ""
    try:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, json.dumps(asdict(request))],
            capture_output=True,
            text=True,
            timeout=request.settings.limit,
            cwd=PACKAGE.parent,  # where `bixt3d` is found
        )
        out = done.stdout
        if done.returncode == -signal.SIGKILL:
            note = f"killed, probably {NO_MEMORY}"
        elif done.returncode:
            said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode} and said nothing"]
            note = said[-1]
    except subprocess.TimeoutExpired as error:
        out = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        note = f"given up after {request.settings.limit:g} s"
    found: dict[str, Any] = {}
    for line in out.splitlines():
        found |= json.loads(line)
    note = found.get("note") or note
    if note and "ms" in found:
        note = f"operations not counted: {note}"
    return row(request, device_name, found | {"note": note or None})


def row(request: Request, device_name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Complete what was found by what follows from it."""
    spec, batch = Spec.parse(request.model), request.settings.batch
    ms, macs = found.get("ms"), found.get("macs")
    fraction = None
    if ms and macs:
        # A product has two others in the backward pass, of the same size each.
        operations = 2 * macs * batch * (3 if request.mode == "training" else 1)
        fraction = operations / found["limit_operations"]
    return {
        "model": spec.label,
        "name": spec.name,
        "args": spec.args,
        "ways": spec.ways,
        "num_points": request.num_points,
        "batch": batch,
        "mode": request.mode,
        "dtype": spec.ways.get("dtype", request.dtype),
        "device": device_name,
        "clouds_per_second": None if ms is None else 1e3 * batch / ms,
        **dict.fromkeys(FOUND),
        **found,
        "fraction": fraction,
    }


def matmul_rates(device: torch.device, dtypes: Sequence[str]) -> dict[str, float]:
    """Return the best of five products' FLOP/s for each dtype."""
    rates = {}
    for dtype in dtypes:
        product = MatrixProduct(device, DTYPES[dtype])
        rates[dtype] = max(product.rate() for _ in range(5))
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what is measured next is in another process
    return rates


def number(text: str, least: int = 1) -> int:
    """Read a whole number from ``least`` up for argparse; k and M stand for a thousand and a million."""
    factor = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    try:
        value = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        value = math.nan
    if not (value >= least and value % 1 == 0):
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {least} up, such as 1024, 16k or 1M, got {text!r}"
        )
    return int(value)


def duration(text: str, unit: str = "seconds") -> float:
    """Read a time in that unit for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected {unit}, more than 0, got {text!r}")
    return value


def writable(text: str) -> Path:
    """Read the path of a file for argparse, make its folder, and refuse now what cannot be written."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") if path.exists() else TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        wrong = f"expected a file that can be written, got {text!r} ({error.strerror})"
        raise argparse.ArgumentTypeError(wrong) from None
