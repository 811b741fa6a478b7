"""Bi-directional attention in one pass over the tokens, forward and backward: the backend triton.

The fused calls of the backend sdpa build the similarity once for each direction; here a tile of it serves
both, and every token is read once. `bixt3d.ops.triton_attention_kernels` says how. The latents' update is
gathered over all tokens: where clouds and heads are too few to fill a GPU, the tokens are split among
programs, and the splits' shares are added afterwards, always in the same order.

The operations are registered with torch, so that torch.compile passes over them as one piece.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bixt3d.ops.backends import require_triton

MAX_LATENTS = 256
MAX_WIDTH = 128
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PROGRAMS = 4  # wanted for each multiprocessor: a few run at once, and some compute while others wait
LN_2 = 0.6931471805599453  # the kernels' logarithms are to base 2


class Tiles(NamedTuple):
    """How a kernel cuts its work."""

    block: int  # tokens of a tile
    warps: int
    stages: int  # tiles in flight: read while earlier ones are computed
    hold: bool  # keep the latents on chip; else read them again for every tile
    own: int  # columns of the gradients that one program of the backward computes


class Plan(NamedTuple):
    """How an operation is cut."""

    latents: int  # padded
    width: int  # padded
    tiles: Tiles
    splits: int
    split_tokens: int  # a multiple of a tile's; no split is empty


def check_limits(latents: int, width: int, dtype: torch.dtype) -> None:
    """Check that the kernels compute what is asked for.

    Args:
        latents: Number of latents; for attention in one direction, the fewer of queries and keys.
        width: Channels of a head.
        dtype: The tensors' dtype.

    Raises:
        ValueError: For more than 256 latents, heads wider than 128, or a dtype other than float32,
            bfloat16 and float16, with the backend to use instead.
    """
    if dtype not in DTYPES:
        names = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
        raise ValueError(f"backend 'triton' computes in {names}, got {dtype}; use backend=\"torch\"")
    if latents > MAX_LATENTS or width > MAX_WIDTH:
        raise ValueError(
            f"backend 'triton' takes up to {MAX_LATENTS} latents (of queries and keys, the fewer) of up to "
            f'{MAX_WIDTH} channels, got {latents} of {width}; use backend="sdpa"'
        )


def fits(latents: int, width: int, dtype: torch.dtype) -> bool:
    """Tell whether the kernels compute it; see `check_limits`."""
    return dtype in DTYPES and latents <= MAX_LATENTS and width <= MAX_WIDTH


def choose_tiles(latents: int, width: int, dtype: torch.dtype, backward: bool) -> Tiles:
    """Return the tiles of a kernel for padded sizes.

    They were chosen by what the compiler says for compute capability 9.0: no more than 227 KiB of shared
    memory, and registers that hardly spill for up to 64 latents of 64 channels, or 256 of 64 in half
    precision. Exact float32 does not run on tensor cores; beyond 8192 numbers of latents it spills heavily,
    and the fused calls of the backend sdpa may well be faster.
    """
    numbers = latents * width
    if dtype == torch.float32:
        # Exact products are unrolled into registers: tiles as small as they come, many threads to share them.
        if numbers > 8192:
            return Tiles(16, 16, 1, False, min(width, 8192 // latents) if backward else width)
        return Tiles(16, 4 if latents <= 32 else 8 if latents <= 128 else 16, 2, True, width)
    if backward and numbers > 16384:  # two accumulators of all columns would fill all registers
        return Tiles(16, 8, 1, False, width // 2)
    block = 16 if backward and latents > 128 else 32  # registers hold several matrices (latents, block)
    warps = 4 if latents <= 64 and width <= 64 else 8  # as few as hold the matrices: more programs fit
    stages = 2 if backward or width > 64 else 3  # what shared memory has room for
    return Tiles(block, warps, stages, True, width)


def split_count(pairs: int, tiles: int, processors: int) -> int:
    """Return among how many programs the tokens of each of the clouds' heads are split.

    One, where the pairs of a cloud and a head alone give each of a GPU's multiprocessors four programs; else
    as many as do so, but no more than the tiles of one pair's tokens.
    """
    return max(1, min(tiles, PROGRAMS * processors // pairs))


def count_processors(device: torch.device) -> int:
    """Return the number of a GPU's multiprocessors; 1 for a CPU, where programs run one after another."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def bidirectional(
    r_lat: Tensor, v_lat: Tensor | None, r_tok: Tensor, v_tok: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Let latents and tokens attend to each other, or one side to the other.

    Args:
        r_lat: Latent references (B, H, M, d).
        v_lat: Latent values (B, H, M, d), which the tokens receive; None leaves the tokens' update out.
        r_tok: Token references (B, H, N, d).
        v_tok: Token values (B, H, N, d), which the latents receive; None leaves the latents' update out.
        scale: Factor on the similarity.

    Returns:
        Latent update (B, H, M, d) and token update (B, H, N, d), laid out as (B, M, H, d) and (B, N, H, d);
        what was left out is of size 0.

    Raises:
        ValueError: Beyond the limits of `check_limits`.
        ImportError: When Triton is not installed.
        RuntimeError: For tensors that are not on a GPU, or a second derivative.
    """
    check_limits(r_lat.shape[-2], r_lat.shape[-1], r_lat.dtype)
    out_lat, out_tok, _, _ = _forward(r_lat, v_lat, r_tok, v_tok, scale)
    return out_lat, out_tok


def _plan(r_lat: Tensor, r_tok: Tensor, backward: bool) -> Plan:
    # Triton's tiles are powers of two, and those of its matrix products have sides of 16 at least.
    latents, width = (max(16, 1 << (size - 1).bit_length()) for size in r_lat.shape[-2:])
    tiles = choose_tiles(latents, width, r_lat.dtype, backward)
    batch, heads, num_tokens, _ = r_tok.shape
    count = -(-num_tokens // tiles.block)
    per_split = -(-count // split_count(batch * heads, count, count_processors(r_tok.device)))
    return Plan(latents, width, tiles, -(-count // per_split), per_split * tiles.block)


def _launch(
    kernel: Any, plan: Plan, r_lat: Tensor, r_tok: Tensor, scale: float, arguments: list[Any], **flags: bool
) -> None:
    batch, heads, num_latents, width = r_lat.shape
    arguments = [*arguments, heads, r_tok.shape[2], plan.split_tokens, scale]
    grid = (batch * heads, plan.splits, plan.width // plan.tiles.own)
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"  # set by the older allow_tf32 as well
    from triton.runtime.errors import OutOfResources

    with torch.cuda.device_of(r_lat):  # type: ignore[no-untyped-call]
        try:
            kernel[grid](
                *arguments,
                NUM_LATENTS=num_latents,
                WIDTH=width,
                M_PAD=plan.latents,
                D_PAD=plan.width,
                BLOCK=plan.tiles.block,
                HOLD=plan.tiles.hold,
                OWN=plan.tiles.own,
                PRECISION="tf32" if tf32 else "ieee",
                num_warps=plan.tiles.warps,
                num_stages=plan.tiles.stages,
                enable_fp_fusion=True,
                **flags,
            )
        except OutOfResources as error:
            raise RuntimeError(
                f"backend 'triton': {num_latents} latents of {width} channels in {r_lat.dtype} do not fit on "
                f'this GPU ({error}); use backend="sdpa"'
            ) from error


def _with_strides(*tensors: Tensor | None) -> list[Any]:
    """The kernels' arguments for tensors: they read rows of neighbouring numbers, wherever the rows lie."""
    arguments: list[Any] = []
    for tensor in tensors:
        if tensor is not None and tensor.stride(-1) != 1:
            tensor = tensor.contiguous()
        arguments += [tensor, (0, 0, 0) if tensor is None else tensor.stride()[:-1]]
    return arguments


def _like(tensor: Tensor, present: bool = True) -> Tensor:
    """Allocate for a tensor (B, H, count, d), laid out as (B, count, H, d), or of size 0 in its place."""
    if not present:
        return tensor.new_empty(0)
    batch, heads, count, width = tensor.shape
    return tensor.new_empty(batch, count, heads, width).transpose(1, 2)  # (B, H, count, d)


def _shares(whole: Tensor, splits: int) -> Tensor:
    """Allocate the splits' shares of a tensor (B, H, M, d), in float32; a single share is the whole."""
    if splits == 1:
        return whole.unsqueeze(2)  # (B, H, 1, M, d)
    batch, heads, count, width = whole.shape
    return whole.new_empty(batch, heads, splits, count, width, dtype=torch.float32)


@torch.library.custom_op("bixt3d::bidirectional_attention", mutates_args=())
def _forward(
    r_lat: Tensor, v_lat: Tensor | None, r_tok: Tensor, v_tok: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return both updates and the logarithms of their softmax's denominators, (B, H, M) and (B, H, N)."""
    require_triton(r_lat.device)
    if r_lat.dtype == torch.bfloat16 and r_lat.device.type == "cpu":  # its products are of the bits
        raise RuntimeError("Triton's interpreter cannot multiply bfloat16; give it float32 or float16")
    from bixt3d.ops.triton_attention_kernels import forward_kernel

    plan = _plan(r_lat, r_tok, backward=False)
    out_lat, out_tok, lse_lat, lse_tok = _forward_outputs(r_lat, v_lat, r_tok, v_tok, scale)
    to_latents, to_tokens = v_tok is not None, v_lat is not None
    shares, lse_shares = None, lse_lat
    if to_latents:
        shares = _shares(out_lat, plan.splits)  # (B, H, splits, M, d)
        lse_shares = lse_lat if plan.splits == 1 else lse_lat.new_empty(shares.shape[:-1])
    arguments = _with_strides(r_lat, v_lat, r_tok, v_tok, shares)
    arguments += [lse_shares, *_with_strides(out_tok if to_tokens else None), lse_tok]
    _launch(forward_kernel, plan, r_lat, r_tok, scale, arguments, TO_LATENTS=to_latents, TO_TOKENS=to_tokens)
    if shares is not None and plan.splits > 1:
        weights = torch.softmax(lse_shares * LN_2, 2)  # (B, H, splits, M): what each split has of the total
        out_lat.copy_((weights.unsqueeze(-1) * shares).sum(2))
        lse_lat.copy_(torch.logsumexp(lse_shares * LN_2, 2) / LN_2)
    return out_lat, out_tok, lse_lat, lse_tok


@_forward.register_fake
def _forward_outputs(
    r_lat: Tensor, v_lat: Tensor | None, r_tok: Tensor, v_tok: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out_lat, out_tok = _like(r_lat, v_tok is not None), _like(r_tok, v_lat is not None)
    lse_shapes = (out.shape[:-1] if out.ndim == 4 else (0,) for out in (out_lat, out_tok))
    lse_lat, lse_tok = (r_lat.new_empty(shape, dtype=torch.float32) for shape in lse_shapes)
    return out_lat, out_tok, lse_lat, lse_tok


@torch.library.custom_op("bixt3d::bidirectional_attention_backward", mutates_args=())
def _backward(
    d_lat: Tensor | None,
    d_tok: Tensor | None,
    r_lat: Tensor,
    v_lat: Tensor | None,
    r_tok: Tensor,
    v_tok: Tensor | None,
    out_lat: Tensor,
    lse_lat: Tensor,
    lse_tok: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of r_lat, v_lat, r_tok and v_tok; size 0 for values that no gradient reaches."""
    from bixt3d.ops.triton_attention_kernels import backward_kernel

    plan = _plan(r_lat, r_tok, backward=True)
    of_latents, of_tokens = d_lat is not None, d_tok is not None
    d_r_lat, d_v_lat, d_r_tok, d_v_tok = _backward_outputs(d_lat, d_tok, r_lat, v_lat, r_tok)
    wholes = [d_r_lat, d_v_lat] if of_tokens else [d_r_lat]
    shares = [_shares(whole, plan.splits) for whole in wholes]  # (B, H, splits, M, d)
    arguments = _with_strides(d_lat, d_tok, r_lat, v_lat, r_tok, v_tok, out_lat if of_latents else None)
    arguments += [lse_lat, lse_tok, *_with_strides(shares[0], shares[1] if of_tokens else None)]
    arguments += _with_strides(d_r_tok, d_v_tok if of_latents else None)
    _launch(backward_kernel, plan, r_lat, r_tok, scale, arguments, TO_LATENTS=of_latents, TO_TOKENS=of_tokens)
    if plan.splits > 1:
        for whole, share in zip(wholes, shares, strict=True):
            whole.copy_(share.sum(2))
    return d_r_lat, d_v_lat, d_r_tok, d_v_tok


@_backward.register_fake
def _backward_outputs(
    d_lat: Tensor | None, d_tok: Tensor | None, r_lat: Tensor, v_lat: Tensor | None, r_tok: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like(r_lat), _like(r_lat, d_tok is not None), _like(r_tok), _like(r_tok, d_lat is not None)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale = inputs
    out_lat, _, lse_lat, lse_tok = output
    ctx.set_materialize_grads(False)  # None, not zeros, for an update that the loss does not use
    ctx.mark_non_differentiable(lse_lat, lse_tok)
    ctx.save_for_backward(*tensors, out_lat, lse_lat, lse_tok)


def _gradients(ctx: Any, d_lat: Tensor | None, d_tok: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    r_lat, v_lat, r_tok, v_tok, *rest = ctx.saved_tensors
    # torch.compile gives gradients of what was left out, too: of size 0.
    d_lat, d_tok = (None if v_tok is None else d_lat), (None if v_lat is None else d_tok)
    if d_lat is None and d_tok is None:
        return None, None, None, None, None
    d_r_lat, d_v_lat, d_r_tok, d_v_tok = _backward(d_lat, d_tok, r_lat, v_lat, r_tok, v_tok, *rest, ctx.scale)
    return d_r_lat, None if d_tok is None else d_v_lat, d_r_tok, None if d_lat is None else d_v_tok, None


def _no_second_derivative(ctx: Any, *gradients: Tensor | None) -> None:
    raise RuntimeError("backend 'triton' has no second derivative; use backend=\"torch\"")


_forward.register_autograd(_gradients, setup_context=_save)
_backward.register_autograd(_no_second_derivative)
