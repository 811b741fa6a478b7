"""Measure what keeping freed memory does for a training step on the CPU, in alternating processes.

python -m benchmarks.allocator --out results/cpu_training.md
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.measure import number, writable
from benchmarks.table import command_line, environment_line, markdown_table
from bixt3d.config import load_config
from bixt3d.models import create_model
from bixt3d.training.device import autocast, has_bfloat16, keep_freed_memory

CFG = Path(__file__).parent.parent / "configs" / "modelnet40_cpu.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--step", choices=("keep", "free"), help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=number, default=3)
    parser.add_argument("--out", type=writable)
    args = parser.parse_args()
    if args.step:
        print(step(args.step == "keep"))
        return
    times: dict[str, list[float]] = {"free": [], "keep": []}
    for _ in range(args.repeats):
        for mode, found in times.items():
            command = [sys.executable, "-m", "benchmarks.allocator", "--step", mode]
            found.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    free, keep = (statistics.median(found) for found in times.values())
    ratios = [a / b for a, b in zip(times["free"], times["keep"], strict=True)]
    rows = [[f"{free:.0f}", f"{keep:.0f}", f"{free / keep:.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]]
    head = ["ms a step, memory given back", "ms a step, memory kept", "ratio", "range"]
    dtype = "bfloat16" if has_bfloat16(torch.device("cpu")) else "float32"
    text = (
        f"# Training steps on a CPU\n\nA step of `configs/modelnet40_cpu.yaml` (32 clouds, {dtype}), with "
        "glibc's own settings and with\nthose of `keep_freed_memory`: medians of alternating processes.\n\n"
        f"{markdown_table(head, rows)}\n\n`{command_line('benchmarks.allocator')}`\n\n"
        f"{environment_line(torch.device('cpu'))}\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text)


def step(keep: bool) -> float:
    """Return the milliseconds of a training step."""
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    config = load_config(CFG)
    model = create_model(config.model.name, num_classes=40, **config.model.args)
    points = torch.rand(config.train.batch_size, config.data.num_points, 3) * 2 - 1
    label = torch.randint(40, (len(points),))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    times = []
    for repeat in range(13):
        begun = time.perf_counter()
        with autocast(torch.device("cpu"), config.train.amp):
            logits = model(points)
        F.cross_entropy(logits.float(), label).backward()
        optimizer.step()
        optimizer.zero_grad()
        if repeat >= 3:
            times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


if __name__ == "__main__":
    main()
