"""Triton kernels of bi-directional attention; `bixt3d.ops.triton_attention` launches them.

A program serves one cloud and head, and one split of its tokens. It walks over the tokens in tiles and builds
the similarity of all latents with a tile once, for both directions. Lines that end with a shape speak of M,
the padded number of latents, n, the tokens of a tile, and D, the padded width. Rows and columns beyond the
end are read as zeros and never stored. Logarithms are to base 2: the hardware's exponential is.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _matrix(tensor, strides, batch, head):
    """The address of a cloud's and head's matrix."""
    return tensor + batch * strides[0] + head * strides[1]


@triton.jit
def _place(matrix, stride, first, rows, num_rows, columns, WIDTH: tl.constexpr):
    """Addresses of rows from the first on, and which of them lie inside a matrix (num_rows, WIDTH)."""
    start = matrix + tl.cast(first, tl.int64) * stride  # a tensor may have more than 2^31 numbers, a tile not
    inside = (rows[:, None] < num_rows - first) & (columns[None, :] < WIDTH)
    return start + rows[:, None] * stride + columns[None, :], inside


@triton.jit
def _read(matrix, stride, first, rows, num_rows, columns, WIDTH: tl.constexpr):
    """Rows from the first on, zeros beyond the end."""
    where, inside = _place(matrix, stride, first, rows, num_rows, columns, WIDTH)
    return tl.load(where, mask=inside, other=0.0)


@triton.jit
def _write(values, matrix, stride, first, rows, num_rows, columns, WIDTH: tl.constexpr):
    """Store rows from the first on, in the dtype of what lies there."""
    where, inside = _place(matrix, stride, first, rows, num_rows, columns, WIDTH)
    tl.store(where, values.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def forward_kernel(
    r_lat,
    r_lat_strides,
    v_lat,
    v_lat_strides,
    r_tok,
    r_tok_strides,
    v_tok,
    v_tok_strides,
    out_lat,  # (B, H, splits, M, d): each split's softmax over its own tokens
    out_lat_strides,
    lse_lat,  # (B, H, splits, M), contiguous
    out_tok,
    out_tok_strides,
    lse_tok,  # (B, H, N), contiguous
    heads,
    num_tokens,
    split_tokens,  # tokens of one split: a multiple of BLOCK
    scale,
    NUM_LATENTS: tl.constexpr,
    WIDTH: tl.constexpr,
    M_PAD: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK: tl.constexpr,  # tokens of a tile
    HOLD: tl.constexpr,  # keep the latents on chip; else read them again for every tile
    OWN: tl.constexpr,  # all columns: only the backward is cut there
    TO_LATENTS: tl.constexpr,
    TO_TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute both updates, or one of them, of a split of one cloud's and head's tokens.

    Grid: (B * H, splits).
    """
    pair, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = pair // heads, pair % heads
    latents, tile, columns = tl.arange(0, M_PAD), tl.arange(0, BLOCK), tl.arange(0, D_PAD)
    scale_log2 = scale * 1.4426950408889634  # log2(e)

    r_lat = _matrix(r_lat, r_lat_strides, batch, head)
    r_tok = _matrix(r_tok, r_tok_strides, batch, head)
    references = _read(r_lat, r_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)  # (M, D)
    if TO_LATENTS:
        v_tok = _matrix(v_tok, v_tok_strides, batch, head)
        top = tl.full((M_PAD,), float("-inf"), tl.float32)
        total = tl.zeros((M_PAD,), tl.float32)
        update = tl.zeros((M_PAD, D_PAD), tl.float32)
    if TO_TOKENS:
        v_lat = _matrix(v_lat, v_lat_strides, batch, head)
        out_tok = _matrix(out_tok, out_tok_strides, batch, head)
        values = _read(v_lat, v_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)  # (M, D)

    begin = split * split_tokens
    end = tl.minimum(begin + split_tokens, num_tokens)
    for first in range(begin, end, BLOCK):
        inside = tile < end - first
        tokens = _read(r_tok, r_tok_strides[2], first, tile, end, columns, WIDTH)  # (n, D)
        if not HOLD:
            references = _read(r_lat, r_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)
        shared = tl.dot(references, tl.trans(tokens), input_precision=PRECISION) * scale_log2  # (M, n)

        if TO_LATENTS:  # a running softmax along the tokens
            seen = tl.where(inside[None, :], shared, float("-inf"))
            new_top = tl.maximum(top, tl.max(seen, 1))
            weights = tl.exp2(seen - new_top[:, None])
            shrink = tl.exp2(top - new_top)
            total = total * shrink + tl.sum(weights, 1)
            contents = _read(v_tok, v_tok_strides[2], first, tile, end, columns, WIDTH)  # (n, D)
            update = update * shrink[:, None]
            update = tl.dot(weights.to(contents.dtype), contents, update, input_precision=PRECISION)
            top = new_top

        if TO_TOKENS:  # a whole softmax: the tile holds all latents
            if NUM_LATENTS < M_PAD:
                shared = tl.where(latents[:, None] < NUM_LATENTS, shared, float("-inf"))
            highest = tl.max(shared, 0)
            weights = tl.exp2(shared - highest[None, :])
            sums = tl.sum(weights, 0)
            if not HOLD:
                values = _read(v_lat, v_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)
            answer = tl.dot(tl.trans(weights.to(values.dtype)), values, input_precision=PRECISION)  # (n, D)
            answer = answer / sums[:, None]
            _write(answer, out_tok, out_tok_strides[2], first, tile, end, columns, WIDTH)
            tl.store(lse_tok + pair * num_tokens + first + tile, highest + tl.log2(sums), mask=inside)

    if TO_LATENTS:
        out_lat = _matrix(out_lat, out_lat_strides, batch, head) + split * out_lat_strides[2]
        _write(update / total[:, None], out_lat, out_lat_strides[3], 0, latents, NUM_LATENTS, columns, WIDTH)
        lse_lat += (pair * tl.num_programs(1) + split) * NUM_LATENTS
        tl.store(lse_lat + latents, top + tl.log2(total), mask=latents < NUM_LATENTS)


@triton.jit
def backward_kernel(
    d_lat,  # gradients of the two outputs
    d_lat_strides,
    d_tok,
    d_tok_strides,
    r_lat,
    r_lat_strides,
    v_lat,
    v_lat_strides,
    r_tok,
    r_tok_strides,
    v_tok,
    v_tok_strides,
    out_lat,
    out_lat_strides,
    lse_lat,  # (B, H, M), contiguous
    lse_tok,  # (B, H, N), contiguous
    d_r_lat,  # (B, H, splits, M, d): each split's share of the gradients
    d_r_lat_strides,
    d_v_lat,
    d_v_lat_strides,
    d_r_tok,
    d_r_tok_strides,
    d_v_tok,
    d_v_tok_strides,
    heads,
    num_tokens,
    split_tokens,
    scale,
    NUM_LATENTS: tl.constexpr,
    WIDTH: tl.constexpr,
    M_PAD: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HOLD: tl.constexpr,
    OWN: tl.constexpr,  # columns of the gradients that a program computes
    TO_LATENTS: tl.constexpr,
    TO_TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the gradients of a split of one cloud's and head's tokens, and its share of the latents'.

    With P the weights of a direction and dP the gradients in them, dS = P (dP - sum(P dP)) summed over the
    directions. For the latents that sum runs over all tokens; it is also sum(d_lat out_lat), which is here.
    Padding reads as zeros, and every product with it vanishes, the weights being finite. Only dS is not zero
    there, but a weight times -sum(P dP), which float16 may round to infinity: there it is masked.

    Grid: (B * H, splits, D_PAD / OWN).
    """
    pair, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = pair // heads, pair % heads
    latents, tile, columns = tl.arange(0, M_PAD), tl.arange(0, BLOCK), tl.arange(0, D_PAD)
    own = tl.program_id(2) * OWN + tl.arange(0, OWN)
    scale_log2 = scale * 1.4426950408889634  # log2(e)

    r_lat = _matrix(r_lat, r_lat_strides, batch, head)
    r_tok = _matrix(r_tok, r_tok_strides, batch, head)
    d_r_tok = _matrix(d_r_tok, d_r_tok_strides, batch, head)
    references = _read(r_lat, r_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)  # (M, D)
    d_references = tl.zeros((M_PAD, OWN), tl.float32)
    if TO_LATENTS:
        v_tok = _matrix(v_tok, v_tok_strides, batch, head)
        d_v_tok = _matrix(d_v_tok, d_v_tok_strides, batch, head)
        d_lat = _matrix(d_lat, d_lat_strides, batch, head)
        pull = _read(d_lat, d_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)  # (M, D)
        out_lat = _matrix(out_lat, out_lat_strides, batch, head)
        out = _read(out_lat, out_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)  # (M, D)
        delta = tl.sum(pull.to(tl.float32) * out.to(tl.float32), 1)
        lse_lat += pair * NUM_LATENTS
        lse = tl.load(lse_lat + latents, mask=latents < NUM_LATENTS, other=0.0)
    if TO_TOKENS:
        v_lat = _matrix(v_lat, v_lat_strides, batch, head)
        d_tok = _matrix(d_tok, d_tok_strides, batch, head)
        values = _read(v_lat, v_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)  # (M, D)
        d_values = tl.zeros((M_PAD, OWN), tl.float32)

    begin = split * split_tokens
    end = tl.minimum(begin + split_tokens, num_tokens)
    for first in range(begin, end, BLOCK):
        tokens = _read(r_tok, r_tok_strides[2], first, tile, end, columns, WIDTH)  # (n, D)
        if not HOLD:
            references = _read(r_lat, r_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)
        shared = tl.dot(references, tl.trans(tokens), input_precision=PRECISION) * scale_log2  # (M, n)

        # Weights are at most 1, but for the rounding of very large similarities: tl.minimum sees to it.
        if TO_LATENTS:
            contents = _read(v_tok, v_tok_strides[2], first, tile, end, columns, WIDTH)  # (n, D)
            if not HOLD:
                pull = _read(d_lat, d_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)
            weights = tl.exp2(tl.minimum(shared - lse[:, None], 0.0))
            d_weights = tl.dot(pull, tl.trans(contents), input_precision=PRECISION)  # (M, n)
            d_shared = weights * (d_weights - delta[:, None])
            own_pull = pull
            if OWN < D_PAD:
                own_pull = _read(d_lat, d_lat_strides[2], 0, latents, NUM_LATENTS, own, WIDTH)
            d_contents = tl.dot(tl.trans(weights.to(pull.dtype)), own_pull, input_precision=PRECISION)
            _write(d_contents, d_v_tok, d_v_tok_strides[2], first, tile, end, own, WIDTH)

        if TO_TOKENS:
            d_answer = _read(d_tok, d_tok_strides[2], first, tile, end, columns, WIDTH)  # (n, D)
            tile_lse = lse_tok + pair * num_tokens + first
            tile_lse = tl.load(tile_lse + tile, mask=tile < end - first, other=0.0)
            if not HOLD:
                values = _read(v_lat, v_lat_strides[2], 0, latents, NUM_LATENTS, columns, WIDTH)
            weights = tl.exp2(tl.minimum(shared - tile_lse[None, :], 0.0))
            d_weights = tl.dot(values, tl.trans(d_answer), input_precision=PRECISION)  # (M, n)
            tile_delta = tl.sum(weights * d_weights, 0)
            other = weights * (d_weights - tile_delta[None, :])
            d_shared = d_shared + other if TO_LATENTS else other
            if OWN < D_PAD:
                d_answer = _read(d_tok, d_tok_strides[2], first, tile, end, own, WIDTH)
            d_values = tl.dot(weights.to(d_answer.dtype), d_answer, d_values, input_precision=PRECISION)

        if tokens.dtype == tl.float16:
            d_shared = tl.where(tile[None, :] < end - first, d_shared, 0.0)
            if NUM_LATENTS < M_PAD:
                d_shared = tl.where(latents[:, None] < NUM_LATENTS, d_shared, 0.0)
        d_shared = d_shared.to(tokens.dtype)
        own_references = references
        if OWN < D_PAD:
            own_references = _read(r_lat, r_lat_strides[2], 0, latents, NUM_LATENTS, own, WIDTH)
            tokens = _read(r_tok, r_tok_strides[2], first, tile, end, own, WIDTH)
        d_tokens = tl.dot(tl.trans(d_shared), own_references, input_precision=PRECISION) * scale  # (n, OWN)
        _write(d_tokens, d_r_tok, d_r_tok_strides[2], first, tile, end, own, WIDTH)
        d_references = tl.dot(d_shared, tokens, d_references, input_precision=PRECISION)

    d_r_lat = _matrix(d_r_lat, d_r_lat_strides, batch, head) + split * d_r_lat_strides[2]
    _write(d_references * scale, d_r_lat, d_r_lat_strides[3], 0, latents, NUM_LATENTS, own, WIDTH)
    if TO_TOKENS:
        d_v_lat = _matrix(d_v_lat, d_v_lat_strides, batch, head) + split * d_v_lat_strides[2]
        _write(d_values, d_v_lat, d_v_lat_strides[3], 0, latents, NUM_LATENTS, own, WIDTH)
