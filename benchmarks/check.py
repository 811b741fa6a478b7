"""Check on a GPU that the Triton kernels compute what plain torch does: attention, samples, neighbours.

    python -m benchmarks.check --out results/gpu/check.md
    TRITON_INTERPRET=1 python -m benchmarks.check --device cpu         with small sizes

It needs nothing but bixt3d and Triton; `pytest --no-skip=cuda,triton tests/ops` asks for more, in more ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.measure import failure, writable
from benchmarks.table import command_line, environment_line, markdown_table
from bixt3d.commands.endings import one_line_errors
from bixt3d.ops import bidirectional_attention, farthest_point_sample, knn
from bixt3d.training.device import pick_device

# How far from the exact result, in roundings of the largest number: half precision rounds weights and result;
# float32 adds up to a hundred products and takes exponentials of their sum.
ROUNDINGS = {torch.float32: 64, torch.bfloat16: 4, torch.float16: 4}
# Clouds, heads, latents, tokens, channels of a head: the models' own, none a power of two, the limits.
ATTENTION = {
    "cpu": ((1, 2, 5, 40, 24),),
    "cuda": (
        *((32, 6, 64, 1024, 32), (1, 6, 64, 5000, 32), (2, 3, 50, 333, 24), (1, 2, 100, 1000, 48)),
        *((2, 2, 1, 40, 1), (1, 2, 130, 517, 64), (1, 1, 256, 300, 128)),
    ),
}
# Clouds, points, samples (or queries), neighbours: on chip, by tiles, by boxes.
SEARCH = {
    "cpu": ((2, 60, 9, 4),),
    "cuda": (
        (32, 1024, 512, 24),
        (3, 1000, 77, 1),
        (2, 2048, 512, 64),
        (1, 10000, 300, 16),
        (2, 30000, 100, 33),
    ),
}
HEAD = ["what", "sizes", "type", "result"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", help="cuda where there is one, by default")
    parser.add_argument("--out", type=writable, metavar="FILE.md")
    args = parser.parse_args()
    with one_line_errors():
        device = pick_device(args.device)
        torch.manual_seed(0)
        rows = []
        for row in (*attention(device), *search(device)):
            rows.append(row)
            print(*row, sep="  ", flush=True)
        wrong = sum(row[-1] != "ok" for row in rows)
        verdict = f"{wrong} of {len(rows)} wrong" if wrong else f"all {len(rows)} right"
        if args.out:
            text = [f"# Kernels against plain torch: {verdict}", markdown_table(HEAD, rows)]
            text += [f"`{command_line('benchmarks.check')}`", environment_line(device), ""]
            args.out.write_text("\n\n".join(text))
        if wrong:
            raise SystemExit(f"error: {verdict}")
        print(verdict)


def attention(device: torch.device) -> Iterator[list[str]]:
    """Both updates and all four gradients, against the explicit matrix in float64."""
    for batch, heads, latents, tokens, width in ATTENTION[device.type]:
        for dtype in ROUNDINGS:
            if device.type == "cpu" and dtype == torch.bfloat16:
                continue  # which the interpreter cannot multiply
            counts = (latents, latents, tokens, tokens)
            inputs = [torch.randn(batch, heads, n, width, device=device).to(dtype) for n in counts]
            sizes = f"{batch} x {heads}, {latents} and {tokens} x {width}"
            yield ["attention", sizes, str(dtype).removeprefix("torch."), _attention(inputs)]


def _attention(inputs: Sequence[Tensor]) -> str:
    dtype = inputs[0].dtype
    try:
        leaves = [t.detach().requires_grad_() for t in inputs]
        exact_leaves = [t.detach().double().requires_grad_() for t in inputs]
        found = bidirectional_attention(*leaves, backend="triton")
        pull = [torch.randn_like(one) for one in found]
        gradients = torch.autograd.grad(found, leaves, pull)
    except Exception as error:  # the other sizes are checked all the same
        return failure(error)
    exact = bidirectional_attention(*exact_leaves, backend="torch")
    exact_gradients = torch.autograd.grad(exact, exact_leaves, [one.double() for one in pull])
    names = ("latents", "tokens", "r_lat", "v_lat", "r_tok", "v_tok")
    for name, one, wanted in zip(names, (*found, *gradients), (*exact, *exact_gradients), strict=True):
        far = float((one.double() - wanted).detach().abs().max())
        allowed = ROUNDINGS[dtype] * torch.finfo(dtype).eps * max(1.0, float(wanted.detach().abs().max()))
        if not far <= allowed:
            return f"wrong: {name} by {far:.3g}, {allowed:.3g} is allowed"
    return "ok"


def search(device: torch.device) -> Iterator[list[str]]:
    """The same indices, of random clouds, and of points on a grid, full of equal distances."""
    for batch, count, samples, k in SEARCH[device.type]:
        for kind in ("random", "grid"):
            xyz = torch.randn(batch, count, 3, device=device)
            if kind == "grid":
                xyz = (xyz * 4).round() * 0.1
            sizes = f"{batch} x {count}, {kind}"
            yield [
                "farthest points",
                f"{sizes} -> {samples}",
                "float32",
                _same(farthest_point_sample, xyz, samples),
            ]
            yield [
                "neighbours",
                f"{samples} among {sizes}, {k}",
                "float32",
                _same(knn, xyz[:, :samples], xyz, k),
            ]


def _same(operation: object, *given: object) -> str:
    assert callable(operation)
    try:
        found = operation(*given, backend="triton")
    except Exception as error:
        return failure(error)
    wrong = int((found != operation(*given, backend="torch")).sum())
    return f"wrong: {wrong:,} of {found.numel():,} indices" if wrong else "ok"


if __name__ == "__main__":
    main()
