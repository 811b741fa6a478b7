"""The blocks of the paper once more, in float64 numpy, one head after another; weights by our own names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

Array = NDArray[Any]
Weights = Mapping[str, Array]


def weights_of(module: nn.Module) -> dict[str, Array]:
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def below(weights: Weights, prefix: str) -> dict[str, Array]:
    """The weights of the module of that name."""
    found = {n.removeprefix(f"{prefix}."): w for n, w in weights.items() if n.startswith(f"{prefix}.")}
    assert found, f"no weights below {prefix}"
    return found


def linear(weights: Weights, name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: Weights, name: str, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def feed_forward(weights: Weights, x: Array) -> Array:
    hidden = gelu(linear(weights, "mlp.fc1", layer_norm(weights, "norm", x)))
    return x + linear(weights, "mlp.fc2", hidden)


def attend(query: Array, key: Array, value: Array, heads: int) -> Array:
    """Every head on its own slice of the channels, joined in order; (B, M, D), (B, N, D) x2 -> (B, M, D)."""
    width = query.shape[-1] // heads
    joined = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        similarity = np.einsum("bmd,bnd->bmn", query[..., part], key[..., part]) / math.sqrt(width)
        raised = np.exp(similarity - similarity.max(-1, keepdims=True))
        joined.append(raised / raised.sum(-1, keepdims=True) @ value[..., part])
    return np.concatenate(joined, -1)


def self_attention(weights: Weights, x: Array, heads: int) -> Array:
    query, key, value = np.split(linear(weights, "qkv", layer_norm(weights, "norm", x)), 3, -1)
    x = x + linear(weights, "out", attend(query, key, value, heads))
    return feed_forward(below(weights, "ffn"), x)


def cross_attention(weights: Weights, x: Array, context: Array, heads: int) -> Array:
    query = linear(weights, "query", layer_norm(weights, "norm_query", x))
    both = linear(weights, "key_value", layer_norm(weights, "norm_context", context))
    key, value = np.split(both, 2, -1)
    x = x + linear(weights, "out", attend(query, key, value, heads))
    return feed_forward(below(weights, "ffn"), x)


def bidirectional(weights: Weights, latents: Array, tokens: Array, heads: int) -> tuple[Array, Array]:
    """Both streams read the other as it was before the block."""
    rv_lat = linear(weights, "rv_latents", layer_norm(weights, "norm_latents", latents))
    rv_tok = linear(weights, "rv_tokens", layer_norm(weights, "norm_tokens", tokens))
    (r_lat, v_lat), (r_tok, v_tok) = np.split(rv_lat, 2, -1), np.split(rv_tok, 2, -1)
    new_latents = latents + linear(weights, "out_latents", attend(r_lat, r_tok, v_tok, heads))
    new_tokens = tokens + linear(weights, "out_tokens", attend(r_tok, r_lat, v_lat, heads))
    return (
        feed_forward(below(weights, "ffn_latents"), new_latents),
        feed_forward(below(weights, "ffn_tokens"), new_tokens),
    )
