"""Compile the kernels of bi-directional attention for a GPU that need not be there, and say what they take.

    python -m benchmarks.kernels --out results/kernels.md
    python -m benchmarks.kernels --sizes 64x32 --dtypes bf16 --capability 80

A thread that needs more registers than it has spills them into slow memory; a program that needs more
shared memory than a multiprocessor has does not start.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import product

import torch

from benchmarks.measure import writable
from benchmarks.table import command_line, environment_line, markdown_table
from bixt3d.commands.endings import one_line_errors
from bixt3d.ops.triton_attention import MAX_LATENTS, MAX_WIDTH, choose_tiles

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# fp32 is exact here; tf32 is fp32 with rounded factors, on tensor cores.
KINDS = {"bf16": ("bf16", "ieee"), "tf32": ("fp32", "tf32"), "fp32": ("fp32", "ieee")}
SIZES = ((64, 32), (64, 64), (128, 64), (128, 128), (256, 64), (256, 128))
CAPABILITIES = (80, 86, 89, 90, 100, 120)  # of GPUs with bfloat16 that Triton compiles for


@dataclass(frozen=True)
class Taken:
    """What one compiled kernel takes: bytes of shared memory, registers and spilled bytes of a thread."""

    shared: int
    registers: int
    spilled: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, metavar="LATENTSxWIDTH")
    parser.add_argument("--dtypes", nargs="+", default=list(KINDS), choices=KINDS)
    add = parser.add_argument
    add("--capability", type=int, default=90, choices=CAPABILITIES, help="of the GPU (90: H100, H200)")
    add("--out", type=writable, metavar="FILE.md")
    args = parser.parse_args()
    rows: list[list[str | int]] = []
    with one_line_errors():
        for (latents, width), kind, name in product(args.sizes, args.dtypes, ("forward", "backward")):
            taken = compile_kernel(name, latents, width, kind, args.capability)
            rows.append([f"{latents} x {width}", kind, name, taken.shared, taken.registers, taken.spilled])
            print(*rows[-1], flush=True)
        head = ["latents x width", "type", "pass", "shared memory, bytes", "registers", "spilled, bytes"]
        title = "# Kernels of bi-directional attention, compiled for compute capability"
        text = (
            f"{title} {args.capability / 10}\n\n{markdown_table(head, rows)}\n\n"
            "Registers and spills of one thread, as cuobjdump tells them.\n\n"
            f"`{command_line('benchmarks.kernels')}`\n\n{environment_line(torch.device('cpu'))}\n"
        )
        if args.out:
            args.out.write_text(text)


def size(text: str) -> tuple[int, int]:
    """Read LATENTSxWIDTH for argparse: the kernels' padded sizes are powers of two."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    latents, width = (int(side) for side in found.groups()) if found else (0, 0)
    for side, most in ((latents, MAX_LATENTS), (width, MAX_WIDTH)):
        if not 16 <= side <= most or side & (side - 1):
            raise argparse.ArgumentTypeError(
                f"expected powers of two from 16x16 to {MAX_LATENTS}x{MAX_WIDTH}, such as 64x32, got {text!r}"
            )
    return latents, width


def compile_kernel(name: str, latents: int, width: int, kind: str, capability: int = 90) -> Taken:
    """Compile the forward or backward kernel as for tensors of aligned numbers.

    Args:
        name: ``"forward"`` or ``"backward"``.
        latents: Number of latents, a power of two.
        width: Channels of a head, a power of two.
        kind: One of `KINDS`.
        capability: Compute capability of the GPU, times ten.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bixt3d.ops import triton_attention_kernels as kernels

    dtype, precision = KINDS[kind]
    kernel = kernels.backward_kernel if name == "backward" else kernels.forward_kernel
    tiles = choose_tiles(latents, width, DTYPES[dtype], name == "backward")
    constants = {
        "NUM_LATENTS": latents, "WIDTH": width, "M_PAD": latents, "D_PAD": width, "BLOCK": tiles.block,
        "HOLD": tiles.hold, "OWN": tiles.own, "TO_LATENTS": True, "TO_TOKENS": True, "PRECISION": precision,
    }  # fmt: skip
    shares = ("d_r_lat", "d_v_lat") if name == "backward" else ("out_lat",)  # of splits: with a size more
    aligned = [["tt.divisibility", 16]]
    signature: dict[str, str | tuple[str, ...]] = {}
    attributes: dict[tuple[int, ...], list[list[str | int]]] = {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.endswith("_strides"):
            sizes = 4 if argument.removesuffix("_strides") in shares else 3
            signature[argument] = ("i32",) * sizes
            attributes |= {(place, size): aligned for size in range(sizes)}
        elif argument in ("heads", "num_tokens", "split_tokens"):
            signature[argument] = "i32"
        elif argument == "scale":
            signature[argument] = "fp32"
        else:
            signature[argument] = "*fp32" if argument.startswith("lse") else "*" + dtype
            attributes[(place,)] = aligned
    built = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiles.warps, "num_stages": tiles.stages},
    )
    registers, spilled = _usage(built.asm["cubin"])
    return Taken(built.metadata.shared, registers, spilled)


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread, by the tool that comes with Triton."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        told = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", told.stdout)
    if found is None:
        raise ValueError(f"{tool}: expected registers and stack, got {told.stdout!r}")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    main()
