"""Measure how fast models are, and what memory they take.

    python tools/benchmark.py --models bixt_ti_cls pointmlp --points 1024 4096
    python tools/benchmark.py --models bixt_ti_cls --points 4k 64k 1M --batch 1 --mode inference
    python tools/benchmark.py --compare bixt_ti_cls:backend=sdpa bixt_ti_cls:backend=torch
    python tools/benchmark.py --compare pointnet:threads=1 pointnet:threads=2

A model may have settings after its name, name:key=value:key=value, among them threads,
dtype, and compile with a mode of torch.compile. tools/plot.py --throughput draws --out.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks lies beside tools, not installed

from benchmarks.measure import Settings, duration, number, writable
from benchmarks.models import DEFAULT, DTYPES, MODES, model_names
from benchmarks.report import Target
from benchmarks.speed import Sizes, compare_models, measure_models
from bixt3d.training.command import one_line_errors
from bixt3d.training.device import has_bfloat16, pick_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=DEFAULT, metavar="MODEL", help="\n".join(model_names()))
    add("--compare", nargs=2, metavar=("A", "B"), help="time two models in turn instead")
    add("--points", nargs="+", type=number, default=[1024], metavar="N", help="of a cloud (1024)")
    add("--mode", choices=(*MODES, "both"), default="both", help="(both)")
    add("--dtype", choices=(*DTYPES, "both"), help="(both where the device has bfloat16, else float32)")
    add("--batch", type=number, help="clouds at a time (16 on a CPU, 32 on a GPU)")
    add("--device", help="cpu or cuda (cuda where there is one)")
    add("--threads", type=number, help="of a CPU (torch's own choice)")
    add("--repeats", type=number, default=9, help="timed batches, at most (9)")
    add("--warmup", type=partial(number, least=0), default=1, help="batches before (1)")
    add("--seconds", type=duration, default=20.0, help="after that long no more than 3 are timed (20)")
    add("--limit", type=duration, default=600.0, help="seconds after which a model is given up (600)")
    add("--out", type=writable, metavar="FILE.json")
    add("--markdown", type=writable, metavar="FILE.md")
    args = parser.parse_args()
    with one_line_errors():
        device = pick_device(args.device)
        if args.threads:
            torch.set_num_threads(args.threads)
        if args.dtype in ("bfloat16", "both") and not has_bfloat16(device):
            raise ValueError(f"--dtype {args.dtype}: {device} has no units for bfloat16; take float32")
        both = args.dtype == "both" or (args.dtype is None and has_bfloat16(device))
        sizes = Sizes(
            modes=MODES if args.mode == "both" else (args.mode,),
            dtypes=tuple(DTYPES) if both else (args.dtype or "float32",),
            points=tuple(dict.fromkeys(args.points)),
        )
        settings = Settings(
            device=str(device),
            batch=args.batch or (16 if device.type == "cpu" else 32),
            threads=args.threads,
            repeats=args.repeats,
            warmup=args.warmup,
            seconds=args.seconds,
            limit=args.limit,
        )
        command = shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]])
        target = Target(command, args.out, args.markdown)
        if args.compare:
            compare_models(args.compare, sizes, settings, target)
        else:
            measure_models(tuple(dict.fromkeys(args.models)), sizes, settings, target)


if __name__ == "__main__":
    main()
