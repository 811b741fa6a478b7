"""Linear maps with what follows them: bias and activation, in one pass on CPUs (oneDNN)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bixt3d.ops.tracing import is_followed


def linear_map(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Return activation(x W^T + b): (..., C) -> (..., D).

    Where `is_fusable` holds it is one call of oneDNN, by which bias and activation cost no pass over memory;
    else several of torch, the plain twin.

    Args:
        x: Input (..., C).
        weight: Weight (D, C).
        bias: Bias (D,).
        activation: ``"none"``, ``"relu"``, or ``"gelu"``, the exact one.
    """
    if not is_fusable(x, weight, bias):
        return activate(F.linear(x, weight, bias), activation)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    # Of what is not contiguous oneDNN makes a loop that is a hundred times slower.
    x, weight = (one.to(dtype).contiguous() for one in (x, weight))
    bias = None if bias is None else bias.to(dtype).contiguous()
    # Its ReLU makes 0 of NaN, by which a broken model would go unseen.
    fused, kind = ("gelu", "none") if activation == "gelu" else ("none", None)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, fused, [], kind)
    return out.relu_() if activation == "relu" else out


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply one of ``"none"``, ``"relu"`` and ``"gelu"``."""
    if activation == "none":
        return x
    return F.gelu(x) if activation == "gelu" else F.relu(x)


def is_fusable(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `linear_map` is one call: on a CPU, in a dtype that it has units for, without gradients."""
    given = [one for one in (x, weight, bias) if one is not None]
    recorded = torch.is_grad_enabled() and any(one.requires_grad for one in given)
    if type(x) is not Tensor or recorded or is_followed() or not x.numel():
        return False
    if any(one.device.type != "cpu" or one.layout != torch.strided for one in given):
        return False
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
    units = {torch.float32: True, torch.bfloat16: torch.cpu._is_avx512_bf16_supported()}
    return (
        units.get(dtype, False)
        # Autocast leaves float64 as it is.
        and all(one.dtype in units if autocast else one.dtype == dtype for one in given)
        and x.shape[-1:] == weight.shape[1:]  # torch says what does not fit
        and torch._C._get_mkldnn_enabled()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
