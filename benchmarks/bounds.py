"""The least time that the kernels, and torch in their place, could take on an H200: by bytes and operations.

A measurement that lies far above its bound says that something else is in the way: waits, launches (some 5
microseconds each from Python), or too few programs to fill the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.table import markdown_table

# NVIDIA's data sheet of the H200 SXM, dense; and what the paper of FlashAttention-3 counts of exponentials.
BANDWIDTH = 4.8e12  # bytes a second
PROCESSORS = 132
FLOPS = {"bf16": 989e12, "tf32": 495e12, "fp32": 67e12}  # operations a second of products
EXPONENTIALS = 3.9e12
UNFUSED = FLOPS["fp32"] / 2  # additions and multiplications that are not fused into one operation
BYTES = {"bf16": 2, "tf32": 4, "fp32": 4}
HEADS, LATENTS, WIDTH = 6, 64, 32  # of the naive classifier


@dataclass(frozen=True)
class Counts:
    """Matrices of B x H x N x d numbers that are read or written, and products of M x N x d."""

    matrices: int
    products: int


# Forward, one pass reads the tokens' references and values and writes their update; it builds the similarity
# and makes two products with it. The first of two calls reads both, the second reads the references again and
# writes; each builds the similarity. Backward, one pass reads references, values and the update's gradient,
# and writes two gradients: products for the similarity, and two each for gradients of weights, values and
# references. A call's backward has five products. The first reads two and writes two; the second reads
# references, update and its gradient, and writes one; then the references' two gradients are added: two are
# read, one is written.
KERNEL = {"forward": Counts(3, 3), "backward": Counts(5, 7)}
FUSED = {"forward": Counts(4, 4), "backward": Counts(11, 10)}


def attention_seconds(counts: Counts, clouds: int, points: int, kind: str) -> tuple[float, str]:
    """Return the least time of attention between points and the latents, and what takes it."""
    tokens, latents = clouds * HEADS * points * WIDTH, clouds * HEADS * LATENTS * WIDTH
    pairs = clouds * HEADS * LATENTS * points
    times = {
        "bytes": BYTES[kind] * counts.matrices * (tokens + latents) / BANDWIDTH,
        "products": 2 * counts.products * pairs * WIDTH / FLOPS[kind],
        "exponentials": 2 * pairs / EXPONENTIALS,
    }
    what = max(times, key=times.__getitem__)
    return times[what], what


def fps_seconds(clouds: int, points: int, samples: int) -> float:
    """Return the least time of the kernel of farthest points.

    It serves a cloud with one multiprocessor: 9 operations a point and sample.
    """
    return -(-clouds // PROCESSORS) * samples * points * 9 / (UNFUSED / PROCESSORS)


def knn_seconds(clouds: int, points: int, queries: int) -> tuple[float, float]:
    """Return the least time of neighbours by the kernel that looks at all points, and by torch.

    8 operations a pair; torch writes and reads distances 15 times, of 4 bytes, makes keys of 8 bytes of them,
    and reads those.
    """
    pairs = clouds * points * queries
    return pairs * 8 / UNFUSED, pairs * (15 * 4 + 4 + 8 + 8) / BANDWIDTH


def shown(seconds: float) -> str:
    """Return microseconds with three digits."""
    return f"{1e6 * seconds:.3g}" if seconds < 1e-3 else f"{1e6 * seconds:,.0f}"


def bounds() -> str:
    """Return the tables as markdown."""
    rows = []
    for kind in FLOPS:
        for clouds, points in ((32, 1024), (256, 1024), (16, 16384), (1, 262144), (1, 1 << 20)):
            for name in KERNEL:
                kernel, fused = (attention_seconds(of[name], clouds, points, kind) for of in (KERNEL, FUSED))
                row = [kind, f"{clouds} x {points}", name, f"{shown(kernel[0])} ({kernel[1]})"]
                rows.append([*row, f"{shown(fused[0])} ({fused[1]})", f"{fused[0] / kernel[0]:.2f}"])
    searches = []
    for clouds, points, samples in ((32, 1024, 512), (256, 1024, 512), (32, 2048, 512), (1, 16384, 1024)):
        found = shown(fps_seconds(clouds, points, samples))
        searches.append(
            ["farthest points", f"{clouds} x {points} -> {samples}", found, f"{14 * samples} launches"]
        )
    for clouds, points, samples in ((32, 1024, 512), (256, 1024, 512), (32, 2048, 512)):  # larger go by boxes
        kernel, plain = map(shown, knn_seconds(clouds, points, samples))
        searches.append(["neighbours", f"{clouds} x {samples} among {points}", kernel, plain])
    head = ["type", "clouds x points", "pass", "kernel, µs", "two fused calls, µs", "times"]
    return "\n\n".join(
        [
            "## The least time on an H200",
            f"{BANDWIDTH / 1e12} TB/s, {FLOPS['bf16'] / 1e12:.0f} TFLOP/s of bf16, "
            f"{FLOPS['tf32'] / 1e12:.0f} of tf32, {FLOPS['fp32'] / 1e12:.0f} of fp32, "
            f"{EXPONENTIALS / 1e12} T exponentials a second; {HEADS} heads of {WIDTH} channels, {LATENTS} "
            "latents. The longest of the three is the bound; `benchmarks/bounds.py` says what is counted. "
            "Only what stays in the cache of 50 MB from one step to the next may take less. Where a bound is "
            "some 5 µs, launches take longer: the kernel has one, torch two, or, backward, seven. These are "
            "predictions: nothing on this page was measured on a GPU.",
            markdown_table(head, rows),
            "A farthest point waits for the one before it, some 1 µs each in the kernel, which is far above "
            "the bound; in torch 14 launches each.",
            markdown_table(["search", "sizes", "kernel, µs", "torch, µs"], searches),
        ]
    )
