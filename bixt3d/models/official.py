"""Official ImageNet BiXT checkpoints: their names and layout, mapped to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from bixt3d.models.bixt import BiXT, TokenLayer
from bixt3d.models.encoder import PointModel
from bixt3d.models.heads import ClassificationHead

# The token half of a two-sided layer, by our names, for a last layer that has no other half.
TOKEN_HALF = {
    "norm_tokens": "norm_query",
    "norm_latents": "norm_context",
    "rv_latents": "key_value",
    "out_tokens": "out",
    "ffn_tokens.norm": "ffn.norm",
    "ffn_tokens.mlp.fc1": "ffn.mlp.fc1",
    "ffn_tokens.mlp.fc2": "ffn.mlp.fc2",
}
LAYER = re.compile(r"blocks\.(\d+)\.(self_attention_latents|cross_attention_latents_token)\.(.+)")
SELF = {"norm1": "norm", "attn.qkv": "qkv", "attn.proj": "out", "norm2": "ffn.norm", "mlp": "ffn.mlp"}
TWO_SIDED = {
    "norm1_lat": "norm_latents",
    "norm1_pat": "norm_tokens",
    "attn.rv_latents": "rv_latents",
    "attn.rv_patches": "rv_tokens",
    "attn.proj_lat": "out_latents",
    "attn.proj_pat": "out_tokens",
    "norm2_lat": "ffn_latents.norm",
    "mlp_lat": "ffn_latents.mlp",
    "norm2_pat": "ffn_tokens.norm",
    "mlp_pat": "ffn_tokens.mlp",
}
ONE_SIDED = {
    "norm1_lat": "norm_query",
    "norm1_pat": "norm_context",
    "attn.r_latents": "query",
    "attn.rv_patches": "key_value",
    "attn.proj_lat": "out",
    "norm2_lat": "ffn.norm",
    "mlp_lat": "ffn.mlp",
}


def from_state_dict(state_dict: Mapping[str, Tensor], num_heads: int) -> tuple[BiXT, ClassificationHead]:
    """Rebuild the trunk and head of an official BiXT checkpoint.

    Sizes are read off the tensors; the patch embedding and its positional encoding are left behind, as
    points have their own tokenizer.

    Args:
        state_dict: Tensors by their official names (``latents``, ``blocks.0. ...``, ``head.weight``).
        num_heads: Attention heads, which no tensor tells (6 for the tiny models).

    Returns:
        The trunk, and the LayerNorm + linear head on the mean latent.

    Raises:
        ValueError: If tensors are missing, unknown, or shaped for another model.
    """
    trunk_state, head_state = _translate(state_dict)
    layers = {int(name.split(".")[1]) for name in trunk_state if name.startswith("layers.")}
    needed = ("latents", "layers.0.among.ffn.mlp.fc1.weight")
    if not layers or "linear.weight" not in head_state or any(n not in trunk_state for n in needed):
        raise ValueError(
            "not an official BiXT state dict: expected latents, blocks.0. ... and head.weight among "
            f"its names, got {', '.join(sorted(state_dict)[:5])} ..."
        )
    last = max(layers)
    one_sided = f"layers.{last}.cross.query.weight" in trunk_state
    if trunk_state["latents"].ndim != 3:
        raise ValueError(f"latents: expected (1, M, D), got {tuple(trunk_state['latents'].shape)}")
    _, num_latents, dim = trunk_state["latents"].shape
    hidden = trunk_state["layers.0.among.ffn.mlp.fc1.weight"].shape[0]
    trunk = BiXT(
        dim,
        last + 1,
        num_heads,
        num_latents,
        last_layer="one_sided" if one_sided else "full",
        mlp_ratio=hidden / dim,
    )
    head = ClassificationHead(dim, head_state["linear.weight"].shape[0])
    for module, state in ((trunk, trunk_state), (head, head_state)):
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"official state dict does not fit a BiXT trunk: {error}") from None
    return trunk, head


def initialize_from(model: PointModel, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Start a point-cloud model's trunk from an official ImageNet checkpoint.

    Latents and every layer of the trunk are copied; tokenizer, grouping and head keep their own start.
    A two-sided 12-layer trunk takes the first 12 layers of a 13-layer checkpoint, as the official dense
    models do; a last layer that updates tokens alone takes that half of a two-sided one.

    Args:
        model: A model with a bi-directional trunk of the checkpoint's width.
        state_dict: Tensors by their official names.

    Returns:
        Official names that were left out.

    Raises:
        ValueError: If the trunk needs a tensor that the checkpoint lacks or holds in another shape.
    """
    trunk = model.encoder.trunk
    state, _ = _translate(state_dict)
    wanted = trunk.state_dict()
    if isinstance(trunk, BiXT) and isinstance(trunk.layers[-1], TokenLayer):
        _take_token_half(state, f"layers.{trunk.depth - 1}.cross", trunk.dim)
    wrong = [n for n, value in wanted.items() if n not in state or state[n].shape != value.shape]
    if wrong:
        got = {n: tuple(state[n].shape) if n in state else "missing" for n in wrong[:3]}
        raise ValueError(
            f"the checkpoint does not fit this trunk in {len(wrong)} of {len(wanted)} tensors, first {got}; "
            "it needs the same width, latents and kind of attention, and layers of the same kinds"
        )
    with torch.no_grad():
        trunk.load_state_dict({name: state[name] for name in wanted})
    used = {id(state[name]) for name in wanted}
    return sorted(name for name, value in state_dict.items() if id(value) not in used)


def _take_token_half(state: dict[str, Tensor], layer: str, dim: int) -> None:
    """Put the token half of a two-sided layer in its place; of a one-sided layer nothing is left."""
    for name in [name for name in state if name.startswith(f"{layer}.")]:
        value = state.pop(name)
        old, _, kind = name.removeprefix(f"{layer}.").rpartition(".")
        if old in TOKEN_HALF:
            state[f"{layer}.{TOKEN_HALF[old]}.{kind}"] = value
        elif old == "rv_tokens":
            state[f"{layer}.query.{kind}"] = value[:dim]


def _translate(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    trunk: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in state_dict.items():
        match = LAYER.fullmatch(name)
        if match:
            layer, block, rest = match.groups()
            cross = block.startswith("cross")
            one_sided = f"blocks.{layer}.{block}.attn.r_latents.weight" in state_dict
            table = (ONE_SIDED if one_sided else TWO_SIDED) if cross else SELF
            for old, new in table.items():
                if rest.startswith(old + "."):
                    prefix = f"layers.{layer}.{'cross' if cross else 'among'}"
                    trunk[f"{prefix}.{new}{rest[len(old) :]}"] = value
                    break
            else:
                unknown.append(name)
        elif name == "latents":
            trunk["latents"] = value
        elif name.startswith(("fc_norm.", "head.")):
            head[name.replace("fc_norm", "norm").replace("head", "linear")] = value
        elif not name.startswith(("patch_embed.", "fourier_pos_encode.")):
            unknown.append(name)
    if unknown:
        raise ValueError(f"unknown names in the official state dict: {', '.join(unknown[:5])}")
    return trunk, head
