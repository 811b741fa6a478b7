"""Compile the Triton kernels for GPUs that need not be there: what they take, and what they could be at best.

    python -m benchmarks.kernels --out results/kernels.md
    python -m benchmarks.kernels --sizes 64x32 50x24 --dtypes bf16 --capability 80

Attention in both directions and in each alone, whole and in splits, and the searches. A thread that needs
more registers than it has spills them into slow memory; a program that needs more shared memory than a
multiprocessor has does not start. The page ends with the least time that each could take on an H200.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from benchmarks.bounds import bounds
from benchmarks.measure import writable
from benchmarks.table import command_line, environment_line, markdown_table
from bixt3d.commands.endings import one_line_errors
from bixt3d.ops import triton_search as search
from bixt3d.ops.triton_attention import MAX_LATENTS, MAX_WIDTH, choose_tiles

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# fp32 is exact here; tf32 is fp32 with rounded factors, on tensor cores.
KINDS = {
    "bf16": ("bf16", "ieee"),
    "fp16": ("fp16", "ieee"),
    "tf32": ("fp32", "tf32"),
    "fp32": ("fp32", "ieee"),
}
SIZES = ((64, 32), (50, 24), (64, 64), (100, 48), (128, 64), (256, 128))
# Compute capability of the GPU, times ten, and KiB of shared memory that a program may have there.
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
CAPABILITIES = (80, 86, 89, 90, 100)
HEADS = 6  # of the strides


@dataclass(frozen=True)
class Attention:
    """A kernel of attention: its sizes, its type, the directions that it computes, and whether in splits."""

    name: str  # "forward" or "backward"
    latents: int
    width: int
    kind: str  # one of KINDS
    directions: str = "both"  # "both", "latents" or "tokens": what is updated
    split: bool = False

    def __str__(self) -> str:
        what = "" if self.directions == "both" else f", {self.directions} alone"
        return f"{self.latents} x {self.width} {self.kind} {self.name}{what}{', split' if self.split else ''}"


@dataclass(frozen=True)
class Search:
    """A kernel of the searches: its name, and the constants that it is compiled for."""

    name: str
    constants: tuple[tuple[str, int], ...]
    warps: int = 1

    def __str__(self) -> str:
        return f"{self.name} {' '.join(f'{name}={value}' for name, value in self.constants)}"


@dataclass(frozen=True)
class Taken:
    """What one compiled kernel takes: bytes of shared memory, registers and spilled bytes of a thread."""

    shared: int
    registers: int
    spilled: int

    def cell(self, capability: int) -> str:
        """Registers, spilled bytes and KiB of shared memory; in bold where a program does not start."""
        kib = -(-self.shared // 1024)
        text = f"{self.registers} / {self.spilled} / {kib}"
        return text if kib <= SHARED[capability] else f"**{text}**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, metavar="LATENTSxWIDTH")
    parser.add_argument("--dtypes", nargs="+", default=list(KINDS), choices=KINDS)
    add = parser.add_argument
    add(
        "--capability",
        nargs="+",
        type=int,
        default=CAPABILITIES,
        choices=SHARED,
        help="of the GPUs (90: H200)",
    )
    add("--only", choices=["attention", "search"], help="leave the others out")
    add("--out", type=writable, metavar="FILE.md")
    args = parser.parse_args()
    cases: list[Attention | Search] = []
    if args.only != "search":
        cases += attention_cases(args.sizes, args.dtypes)
    if args.only != "attention":
        cases += search_cases()
    rows = []
    with one_line_errors():
        for case in cases:
            found = {one: compile_case(case, one) for one in args.capability}
            for one, taken in found.items():
                print(f"{case}: {one} {taken.shared} {taken.registers} {taken.spilled}", flush=True)
            rows.append([str(case), *(taken.cell(one) for one, taken in found.items())])
    if args.out:
        args.out.write_text(page(rows, args.capability))


def page(rows: list[list[str]], capabilities: Sequence[int]) -> str:
    """Return the page: what was compiled, and the bounds."""
    head = ["kernel", *(f"{one / 10}" for one in capabilities)]
    limits = ", ".join(f"{SHARED[one]} for {one / 10}" for one in capabilities)
    return "\n\n".join(
        [
            "# Triton kernels without a GPU",
            "## Compiled ahead of time",
            "Registers / spilled bytes of one thread / KiB of shared memory of one program, by compute "
            "capability, as cuobjdump tells them. Where a program needs more shared memory than it may have "
            f'({limits} KiB; bold), it does not start: `backend="auto"` leaves it to torch, and '
            '`backend="triton"` says so.',
            markdown_table(head, rows),
            bounds(),
            f"`{command_line('benchmarks.kernels')}`",
            environment_line(torch.device("cpu")).replace("Measured", "Compiled"),
            "",
        ]
    )


def size(text: str) -> tuple[int, int]:
    """Read LATENTSxWIDTH for argparse."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    latents, width = (int(side) for side in found.groups()) if found else (0, 0)
    if not (1 <= latents <= MAX_LATENTS and 1 <= width <= MAX_WIDTH):
        raise argparse.ArgumentTypeError(
            f"expected 1x1 to {MAX_LATENTS}x{MAX_WIDTH}, such as 64x32, got {text!r}"
        )
    return latents, width


def attention_cases(sizes: Sequence[tuple[int, int]], kinds: Sequence[str]) -> list[Attention]:
    """All sizes and types in both directions; of the first even and the first padded size the variants, too.

    Half precision of either kind takes much the same, so fp16 is compiled for these two sizes alone.
    """
    cases: list[Attention] = []
    first = {any(side & (side - 1) for side in one): one for one in reversed(sizes)}.values()
    for one, kind, name in product(sizes, kinds, ("forward", "backward")):
        case = Attention(name, *one, kind)
        if kind != "fp16" or one in first:
            cases.append(case)
        if kind in ("bf16", "fp32") and one in first:
            cases += [replace(case, split=True)]
            cases += [replace(case, directions=directions) for directions in ("latents", "tokens")]
    return cases


def search_cases() -> list[Search]:
    """The searches, with the tiles of small, usual and large clouds."""
    fps = [
        Search("fps_on_chip", (("BLOCK", points),), search.fps_warps(points)) for points in (64, 1024, 2048)
    ]
    tile = search.FPS_TILE
    fps += [Search("fps_on_chip", (("BLOCK", tile),), search.fps_warps(tile))]
    fps += [Search("fps_by_tiles", (("TILE", tile),), search.fps_warps(tile))]
    knn = [
        Search("knn_by_tiles", (("QUERIES", search.KNN_QUERIES), ("TILE", tile), ("SLOTS", slots)))
        for tile, slots in ((64, 4), (search.KNN_TILE, 16), (search.KNN_TILE, 32), (search.KNN_TILE, 64))
    ]
    boxes = ("TILE", search.BOX_TILE), ("GROUP", search.BOX_GROUP)
    return [*fps, *knn, *(Search("knn_by_boxes", (*boxes, ("SLOTS", slots))) for slots in (4, 32, 64))]


def compile_case(case: Attention | Search, capability: int) -> Taken:
    """Compile a kernel for a compute capability, given times ten."""
    if isinstance(case, Attention):
        return _compile(*_attention(case), capability)
    from bixt3d.ops import triton_search_kernels as kernels

    kernel, constants = getattr(kernels, case.name), dict(case.constants)
    whole = {"order": "*i32", "first": "*i64", "index": "*i64"}
    numbers = ("count", "num_samples", "num_query", "k")
    types = {
        name: "i32" if name in numbers else whole.get(name, "*fp32")
        for name in kernel.arg_names
        if name not in constants
    }
    return _compile(kernel, types, constants, {}, {"num_warps": case.warps, **search.EXACT}, capability)


def _attention(
    case: Attention,
) -> tuple[Any, Mapping[str, Any], dict[str, Any], dict[Any, Any], dict[str, int]]:
    """Return kernel, types of its arguments, constants, attributes and options, as a launch has them."""
    from bixt3d.ops import triton_attention_kernels as kernels

    dtype, precision = KINDS[case.kind]
    backward = case.name == "backward"
    kernel = kernels.backward_kernel if backward else kernels.forward_kernel
    latents, width = (max(16, 1 << (side - 1).bit_length()) for side in (case.latents, case.width))
    tiles = choose_tiles(latents, width, DTYPES[dtype], backward)
    to_latents, to_tokens = case.directions != "tokens", case.directions != "latents"
    constants: dict[str, Any] = {
        "NUM_LATENTS": case.latents, "WIDTH": case.width, "M_PAD": latents, "D_PAD": width,
        "BLOCK": tiles.block, "HOLD": tiles.hold, "OWN": tiles.own,
        "TO_LATENTS": to_latents, "TO_TOKENS": to_tokens, "PRECISION": precision,
    }  # fmt: skip
    shares = ("d_r_lat", "d_v_lat") if backward else ("out_lat",)  # of splits: with a size more, in float32
    unused = set() if to_latents else {"v_tok", "d_lat", "d_v_tok", "out_lat"}
    unused |= set() if to_tokens else {"v_lat", "d_tok", "d_v_lat", "out_tok"}
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}
    types: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[str | int]]] = {}
    aligned = [["tt.divisibility", 16]]
    # A matrix lies as (B, count, H, d), of a count that is a multiple of 16.
    strides = [16 * HEADS * case.width, case.width, HEADS * case.width]
    for place, argument in enumerate(kernel.arg_names):
        tensor = argument.removesuffix("_strides")
        if argument in constants:
            continue
        if argument.endswith("_strides"):
            own = [strides[0], strides[0], strides[1], strides[2]] if tensor in shares else strides
            own = [0] * len(own) if tensor in unused else own
            types[argument] = ("i32",) * len(own)
            attributes |= {(place, axis): aligned for axis, stride in enumerate(own) if stride % 16 == 0}
        elif argument in ("heads", "num_tokens", "split_tokens"):
            types[argument] = "i32"
        elif argument == "scale":
            types[argument] = "fp32"
        elif tensor in unused:
            constants[argument] = None
        else:
            single = argument.startswith("lse") or (case.split and argument in shares)
            types[argument] = "*fp32" if single else "*" + dtype
            attributes[(place,)] = aligned
    return kernel, types, constants, attributes, options


def _compile(
    kernel: Any,
    types: Mapping[str, Any],
    constants: Mapping[str, Any],
    attributes: Mapping[Any, Any],
    options: Mapping[str, Any],
    capability: int,
) -> Taken:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, dict(constants), dict(attributes))
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))
    return Taken(built.metadata.shared, *_usage(built.asm["cubin"]))


def _usage(cubin: bytes) -> Iterator[int]:
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
    return map(int, found.groups())


if __name__ == "__main__":
    main()
