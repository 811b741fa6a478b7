"""Measure how fast models are, and what memory they take.

A model, or shipped weights, may have settings after the name,
name:key=value:key=value, among them threads, dtype, and compile with a mode of
torch.compile. `bixt3d plot --throughput` draws what --out writes.

Examples:
  bixt3d benchmark --models bixt_ti_cls pointmlp --points 1024 4096
  bixt3d benchmark --points 4k 1M --batch 1 --mode inference
  bixt3d benchmark --compare bixt_ti_cls:backend=sdpa bixt_ti_cls:backend=torch
"""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location

from bixt3d.shipped import shipped


def load_benchmarks() -> None:
    """Import the package ``benchmarks``, which ships, whatever else has its name."""
    folder = shipped("benchmarks")
    loaded = sys.modules.get("benchmarks")
    if loaded is not None and list(loaded.__path__) == [str(folder)]:
        return
    spec = spec_from_file_location(
        "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"no folder {folder}, which this command measures with")
    module = module_from_spec(spec)
    sys.modules["benchmarks"] = module
    spec.loader.exec_module(module)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d benchmark``."""
    load_benchmarks()
    from benchmarks.measure import duration, number, writable
    from benchmarks.models import DEFAULT, DTYPES, MODES, model_names

    parser.epilog = f"{parser.epilog}\n\nmodels:\n" + "\n".join(f"  {line}" for line in model_names())
    add = parser.add_argument_group("what is measured").add_argument
    add("--models", nargs="+", default=DEFAULT, metavar="MODEL", help="default: some of the list below")
    add("--compare", nargs=2, metavar=("A", "B"), help="time two models in turn instead")
    add(
        "--points",
        nargs="+",
        type=number,
        default=[1024],
        metavar="N",
        help="points of a cloud (default: 1024)",
    )
    add("--mode", choices=(*MODES, "both"), default="both", help="default: both")
    add("--dtype", choices=(*DTYPES, "both"), help="default: both, where the device has bfloat16")
    add("--batch", type=number, metavar="N", help="clouds at a time (default: 16 on a CPU, 32 on a GPU)")
    add = parser.add_argument_group("how").add_argument
    add("--device", help="cpu or cuda (default: CUDA if there is one)")
    add("--threads", type=number, metavar="N", help="threads of a CPU (default: torch's choice)")
    add("--repeats", type=number, default=9, metavar="N", help="timed batches, at most (default: 9)")
    add("--warmup", type=partial(number, least=0), default=1, metavar="N", help="batches before (default: 1)")
    add(
        "--seconds",
        type=duration,
        default=20.0,
        help="after that long no more than 3 are timed (default: 20)",
    )
    add(
        "--limit", type=duration, default=600.0, help="seconds after which a model is given up (default: 600)"
    )
    add = parser.add_argument_group("output").add_argument
    add("--out", type=writable, metavar="FILE.json", help="all that was measured")
    add("--markdown", type=writable, metavar="FILE.md", help="a table")


def run(args: argparse.Namespace) -> None:
    """Measure."""
    import torch

    from benchmarks.measure import Settings
    from benchmarks.models import DTYPES, MODES
    from benchmarks.report import Target
    from benchmarks.speed import Sizes, compare_models, measure_models
    from bixt3d.training.device import has_bfloat16, pick_device

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
    typed = sys.argv[1:]
    program = ["bixt3d"] if typed[:1] == ["benchmark"] else ["python", "tools/benchmark.py"]
    target = Target(shlex.join([*program, *typed]), args.out, args.markdown)
    if args.compare:
        compare_models(args.compare, sizes, settings, target)
    else:
        measure_models(tuple(dict.fromkeys(args.models)), sizes, settings, target)
