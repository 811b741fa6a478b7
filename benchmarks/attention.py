"""Measure bi-directional attention: the explicit matrix, two fused calls and one pass over the tokens.

    python -m benchmarks.attention --points 1k 16k 256k
    python -m benchmarks.attention --device cuda --dtype bfloat16 --points 1k 4k 16k 64k 256k 1M

All ways run in turn on the same input, in shapes of the naive classifier: 6 heads of width 32,
64 latents. As many clouds lie in a batch as --tokens has room for. The first way is the one that
the others are held against.
"""

from __future__ import annotations

import argparse
import math
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.blocked import blocked_attention
from benchmarks.measure import failure, number, writable
from benchmarks.memory import PeakMemory
from benchmarks.models import DTYPES
from benchmarks.report import significant
from benchmarks.table import command_line, environment_line, markdown_table
from benchmarks.timing import MatrixProduct, copying_rate, middle_half, milliseconds
from bixt3d.commands.endings import one_line_errors
from bixt3d.ops import bidirectional_attention
from bixt3d.training.device import keep_freed_memory, pick_device

HEADS, LATENTS, WIDTH = 6, 64, 32
WAYS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "sdpa": partial(bidirectional_attention, backend="sdpa"),
    "torch": partial(bidirectional_attention, backend="torch"),
    "triton": partial(bidirectional_attention, backend="triton"),
    "auto": bidirectional_attention,
    "blocked": blocked_attention,
}
DEFAULT = {"cpu": ("sdpa", "torch", "blocked"), "cuda": ("sdpa", "torch", "triton")}
HEAD = [
    *("points", "clouds", "pass", "way", "ms", "middle half", "times faster", "MB"),
    *("GB/s", "of copying", "TFLOP/s", "of the product"),
]
# What the whole thing takes at least, if each pass reads or writes every matrix of B x H x N x d once and
# computes the similarity once: matrices of a side, and products of M x N x d. Forward reads two and writes
# the update; backward reads two and the update's gradient, and writes two gradients.
LEAST = {"forward": (3, 3), "forward + backward": (8, 10)}


@dataclass(frozen=True)
class Limits:
    """What the machine reaches in the same run: FLOP/s of a matrix product, bytes/s of copying."""

    product: float
    copying: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--device", help="cpu or cuda (cuda where there is one)")
    add("--dtype", choices=DTYPES, default="float32")
    add("--points", type=number, nargs="+", default=[1024, 16_384], metavar="N", help="(1024 16384)")
    add("--tokens", type=number, default=16_384, help="points of a batch, N clouds at most 32 (16384)")
    add("--ways", nargs="+", choices=WAYS, help="(sdpa torch blocked; on CUDA sdpa torch triton)")
    add("--repeats", type=number, default=9)
    add("--out", type=writable, metavar="FILE.md")
    args = parser.parse_args()
    with one_line_errors():
        device = pick_device(args.device)
        if device.type == "cpu":
            keep_freed_memory()
        ways = args.ways or DEFAULT.get(device.type, DEFAULT["cpu"])
        dtype = DTYPES[args.dtype]
        product = MatrixProduct(device, dtype)
        limits = Limits(max(product.rate() for _ in range(5)), max(copying_rate(device) for _ in range(5)))
        del product
        rows = []
        for points in dict.fromkeys(args.points):
            clouds = max(1, min(32, args.tokens // points))
            rows += measure(ways, clouds, points, dtype, device, args.repeats, limits)
        text = report(rows, command_line("benchmarks.attention"), limits, device)
        print(text)
        if args.out:
            args.out.write_text(text)


def inputs(clouds: int, points: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Return r_lat, v_lat, r_tok and v_tok, a tensor for each side, as a layer's linear map leaves it."""
    random = torch.Generator().manual_seed(0)
    pairs = []
    for count in (LATENTS, points):
        both = torch.randn(clouds, count, 2, HEADS, WIDTH, generator=random).to(device, dtype)
        pairs += both.permute(2, 0, 3, 1, 4).unbind(0)  # 2 x (B, H, N, d)
    return tuple(pairs)


def measure(
    ways: Sequence[str],
    clouds: int,
    points: int,
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
    limits: Limits,
) -> list[list[str]]:
    """Time the ways in turn, forward alone and with the backward pass, and return their rows."""
    rows = []
    for what, (matrices, products) in LEAST.items():
        given = inputs(clouds, points, dtype, device)
        for value in given:
            value.requires_grad_(what != "forward")
        runs = {way: partial(attend, WAYS[way], given) for way in ways}
        peaks = {way: first_run(run, device) for way, run in runs.items()}
        times: dict[str, list[float]] = {way: [] for way, peak in peaks.items() if not isinstance(peak, str)}
        for _ in range(repeats):
            for way, found in times.items():
                found.append(milliseconds(runs[way], device))
        entries = clouds * HEADS * WIDTH * (points + LATENTS)
        moved = matrices * entries * dtype.itemsize
        operations = 2 * products * clouds * HEADS * WIDTH * points * LATENTS
        for way, peak in peaks.items():
            row = [f"{points:,}", str(clouds), what, way]
            if way not in times:
                rows.append([*row, str(peak), *["-"] * 7])
                continue
            ms = statistics.median(times[way])
            low, high = middle_half(times[way])
            pairs = zip(times.get(ways[0], []), times[way], strict=False)
            faster = statistics.median([first / own for first, own in pairs] or [math.nan])
            rates = moved / ms * 1e3, operations / ms * 1e3
            rows.append(
                [
                    *(*row, significant(ms), f"{significant(low)} to {significant(high)}", f"{faster:.2f}"),
                    significant(peak if isinstance(peak, int) else None, 1e-6),
                    *(significant(rates[0], 1e-9), f"{rates[0] / limits.copying:.2f}"),
                    *(significant(rates[1], 1e-12), f"{rates[1] / limits.product:.2f}"),
                ]
            )
    return rows


def attend(way: Callable[..., tuple[Tensor, Tensor]], given: Sequence[Tensor]) -> None:
    """Do it once, with the backward pass where the inputs want gradients."""
    out = way(*given)
    if given[0].requires_grad:
        torch.autograd.grad(out, given, [value.detach() for value in out])


def first_run(run: Callable[[], None], device: torch.device) -> int | None | str:
    """Run once, which builds what there is to build; return the bytes that memory grew by, or what failed."""
    try:
        run()
        memory = PeakMemory(device)
        run()
        return memory.grown()
    except Exception as error:  # those of Triton's compiler are of many kinds
        return failure(error)


def report(rows: Sequence[Sequence[str]], command: str, limits: Limits, device: torch.device) -> str:
    """Return the table, how to read it, and how it was made."""
    about = (
        f"{HEADS} heads of width {WIDTH}, {LATENTS} latents. ms: median of runs in turn; times faster: "
        "median of the ratio to the first way. MB: what memory grows by at most, the results included. GB/s "
        "and TFLOP/s count what each pass needs at least: every matrix read or written once, the similarity "
        "computed once. The limits, in the same run: copying "
        f"{significant(limits.copying, 1e-9)} GB/s, a large matrix product "
        f"{significant(limits.product, 1e-12)} TFLOP/s."
    )
    title = "# Bi-directional attention, way by way"
    return (
        f"{title}\n\n{markdown_table(HEAD, rows)}\n\n{textwrap.fill(about, 110)}\n\n`{command}`\n\n"
        f"{environment_line(device)}\n"
    )


if __name__ == "__main__":
    main()
