"""Measure models on the CPU as a share of the matrix-product rate of the same machine, in the same run.

python -m benchmarks.matmul_share --out results/matmul_share.md
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import bixt3d
from benchmarks.peers.pointmlp import pointmlp
from benchmarks.table import environment_line, markdown_table
from bixt3d.training.device import keep_freed_memory

SIDE = 2048  # of the square matrices whose product is the limit
MODELS = ("bixt_ti_cls", "bixt_ti_cls_hierarchy", "pointmlp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    points = F.normalize(torch.randn(args.batch, args.points, 3), dim=-1)
    rows = [row for name in args.models for row in measure(name, points, args.repeats)]
    head = ["model", "mode", "GMAC a cloud", "s a batch", "clouds/s", "GFLOP/s", "product GFLOP/s", "share"]
    text = (
        f"# Share of the matrix-product rate\n\n{markdown_table(head, rows)}\n\n"
        f"float32, batches of {args.batch} clouds of {args.points} points, medians of {args.repeats}; the "
        f"rate of a product of two {SIDE} x {SIDE} matrices is measured before and after every batch, the "
        "share is the median of the batches' shares. Products are counted by torch's flop counter in the "
        "forward with one attention matrix for both directions; training counts three times the forward.\n\n"
        f"`python -m benchmarks.matmul_share`\n\n{environment_line(points.device)}\n"
    )
    print(text)
    if args.out:
        args.out.write_text(text)


def measure(name: str, points: torch.Tensor, repeats: int) -> list[list[str]]:
    """Time a model's inference and training steps, each batch between two matrix products."""
    model: nn.Module = pointmlp() if name == "pointmlp" else bixt3d.create_model(name)
    forward = count(name, points)
    labels = torch.arange(len(points)) % 40
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def infer() -> None:
        with torch.inference_mode():
            model.eval()(points)

    def train() -> None:
        F.cross_entropy(model.train()(points), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    rows = []
    for mode, run, products in (("inference", infer, forward), ("training", train, 3 * forward)):
        run()
        times = [alternate(run) for _ in range(repeats)]
        seconds, rate = (statistics.median(column) for column in zip(*times, strict=True))
        share = statistics.median(products / own / limit for own, limit in times)
        rows.append(
            [
                *(name, mode, f"{forward / 2e9 / len(points):.2f}", f"{seconds:.2f}"),
                *(f"{len(points) / seconds:.1f}", f"{products / seconds / 1e9:.0f}", f"{rate / 1e9:.0f}"),
                f"{share:.2f}",
            ]
        )
    return rows


def alternate(run: Callable[[], None]) -> tuple[float, float]:
    """Return a run's seconds, and the matrix-product rate (FLOP/s) around it."""
    before = product_rate()
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun, (before + product_rate()) / 2


def product_rate() -> float:
    """Return FLOP/s of a product of square matrices."""
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    left[:64, :64] @ right[:64, :64]
    begun = time.perf_counter()
    left @ right
    return 2 * SIDE**3 / (time.perf_counter() - begun)


def count(name: str, points: torch.Tensor) -> float:
    """Return the FLOP of the matrix products of one forward of a batch: two for each MAC."""
    settings = {"backend": "torch"} if name.startswith("bixt") else {}
    model = pointmlp() if name == "pointmlp" else bixt3d.create_model(name, **settings)
    model.eval().requires_grad_(False)
    # The counter knows no fused attention of the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(points[:1])
    return float(counter.get_total_flops()) * len(points)


if __name__ == "__main__":
    main()
