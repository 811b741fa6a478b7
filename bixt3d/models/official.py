"""Official ImageNet BiXT checkpoints: their names and layout, mapped to ours."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bixt3d.models.bixt import BiXT, TokenLayer
from bixt3d.models.encoder import PointModel
from bixt3d.models.factory import create_model
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
# Scales of the branches of a layer (the 256 wide models), by the map before them that takes them in.
SCALES = {
    "ls1": "attn.proj",
    "ls2": "mlp.fc2",
    "ls1_lat": "attn.proj_lat",
    "ls1_pat": "attn.proj_pat",
    "ls2_lat": "mlp_lat.fc2",
    "ls2_pat": "mlp_pat.fc2",
}
IMAGE_SIDES = (224, 384)  # of the official models
ONE_SIDED = {
    "norm1_lat": "norm_query",
    "norm1_pat": "norm_context",
    "attn.r_latents": "query",
    "attn.rv_patches": "key_value",
    "attn.proj_lat": "out",
    "norm2_lat": "ffn.norm",
    "mlp_lat": "ffn.mlp",
}


def load_image_model(
    path: str | Path, num_heads: int | None = None, image_size: int | None = None
) -> PointModel:
    """Load an official ImageNet BiXT checkpoint whole: with its tokenizer it gives the official logits.

    Sizes are read off the tensors. The model takes images (B, H, W, 3) by ImageNet's mean and deviation;
    `bixt3d.Predictor` takes files. Its classes have no names.

    Args:
        path: The file, as timm's training script writes it, or its state dict alone.
        num_heads: Attention heads, which no tensor tells; heads of 32 if None.
        image_size: Side of the images that it was trained on; 224 or 384, as its grid fits, if None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or is no whole checkpoint of such a model.
    """
    state = read_state(path)
    try:
        return _image_model(path, fold_scales(state), num_heads, image_size)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{path} does not fit a classifier of images: a tensor lacks, or has other axes ({error})"
        ) from None


def _image_model(
    path: str | Path, state: dict[str, Tensor], num_heads: int | None, image_size: int | None
) -> PointModel:
    tokens = {new: state[name] for name in state if (new := _tokenizer_name(name))}
    convs = [tokens[name] for name in sorted(tokens) if tokens[name].ndim == 4 and name.startswith("embed.")]
    if not convs or "positions.project.weight" not in tokens:
        got = ", ".join(sorted(state)[:5])
        raise ValueError(
            f"{path}: expected patch_embed. ... and fourier_pos_encode. ... among its names, got {got} ..."
        )
    tokens["positions.project.weight"] = tokens["positions.project.weight"].flatten(
        1
    )  # a 1 x 1 convolution there
    heads = num_heads or max(1, state["latents"].shape[-1] // 32)
    trunk, head = from_state_dict(state, heads)
    grid, patch = state.get("fourier_pos_encode.pos", torch.empty(0, 0)).shape[1], convs[0].shape[2]
    strides = [2 ** len(convs)] if len(convs) > 1 else [patch, patch // 2, patch // 4]
    sides = IMAGE_SIDES if image_size is None else (image_size,)
    fits = [(stride, side) for stride in strides for side in sides if stride * grid in (0, side)]
    stride, side = fits[0] if fits else (strides[0], strides[0] * grid)
    model: Any = create_model(
        "bixt_ti_image_cls_conv" if len(convs) > 1 else "bixt_ti_image_cls",
        **{"num_classes": head.num_outputs, "in_dims": convs[0].shape[1], "patch": patch, "stride": stride},
        **{"dim": trunk.dim, "depth": trunk.depth, "num_heads": heads, "num_latents": trunk.latents.shape[1]},
        mlp_ratio=state["blocks.0.self_attention_latents.mlp.fc1.bias"].shape[0] / trunk.dim,
        drop_path=0.0,
    )
    model.image_size = side
    parts = (model.encoder.trunk, trunk.state_dict()), (model.head, head.state_dict())
    for part, own in (*parts, (model.encoder.tokenizer, tokens)):
        try:
            part.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit a classifier of images: {error}") from None
    return model.eval()  # type: ignore[no-any-return]


def _tokenizer_name(name: str) -> str | None:
    """Return our name of a tensor of the tokenizer, None for any other."""
    name = name.replace("fourier_pos_encode.token_projection.", "positions.project.")
    match = re.fullmatch(r"patch_embed\.proj\.(?:(\d+)\.([01])\.)?(\w+)", name)
    if match is None:
        return name if name.startswith("positions.") else None
    layer, place, rest = match.groups()  # of convolutions, each with its norm; a GELU stands between
    return f"embed.{rest}" if layer is None else f"embed.{int(layer) // 2 * 3 + int(place)}.{rest}"


def fold_scales(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an official state dict without scales of branches, which the maps before them take in."""
    state = dict(state_dict)
    for name in [name for name in state if name.endswith(".gamma")]:
        block, _, scale = name.removesuffix(".gamma").rpartition(".")
        if scale in SCALES:
            gamma, layer = state.pop(name), f"{block}.{SCALES[scale]}"
            state[f"{layer}.weight"] = state[f"{layer}.weight"] * gamma[:, None]
            state[f"{layer}.bias"] = state[f"{layer}.bias"] * gamma
    return state


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of an official checkpoint, by their official names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds other things than tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}, an official BiXT checkpoint (.pth)")
    try:
        # Checkpoints of timm's training script carry their command line as a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it holds other things than tensors")
    except Exception as error:  # torch raises several kinds for a damaged or foreign file
        raise ValueError(f"{path} cannot be read ({error})") from None
    return dict(state)


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
    trunk_state, head_state = _translate(fold_scales(state_dict))
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
    if not (head_state["linear.weight"].ndim == trunk_state[needed[1]].ndim == 2):
        raise ValueError("expected weights of two axes in the head and in the first layer's map, got others")
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
    state_dict = fold_scales(state_dict)
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
