"""Layers of the models: feed-forward and residual blocks, batch norm and its folding, drop path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d.ops.linear import activate, is_fusable, linear_map
from bixt3d.ops.tracing import is_exporting

NORM_EPS = 1e-6
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Rows of a feed-forward block, and neighbours of a grouping stage, in evaluation. Inside they are many times
# what they map: for a million tokens that would be all the memory of a laptop, and a CPU reuses small pieces
# of memory.
ROWS = {"cpu": 1 << 12, "cuda": 1 << 17}


def rows_at_once(x: Tensor) -> int:
    """Return `ROWS` for the device of a tensor."""
    return ROWS.get(x.device.type, ROWS["cuda"])


def is_plain(*layers: nn.Module) -> bool:
    """Return whether the layers compute what their weights say, so that a fused path may read the weights.

    Layers that are quantised, pruned, parametrised, wrapped (LoRA) or hooked are not plain: they are called.
    Hooks on all modules at once, as a counter of operations sets them, watch what runs and change nothing.
    """
    return all(
        type(layer) in PLAIN
        and is_unwatched(layer)
        # Quantised or distributed weights are tensors made of other tensors.
        and not hasattr(getattr(layer, "weight", None), "__tensor_flatten__")
        for layer in layers
    )


def is_unwatched(layer: nn.Module) -> bool:
    """Return whether a layer has neither hooks nor a ``forward`` of its own, and need not be called."""
    return "forward" not in layer.__dict__ and not any(getattr(layer, hooks) for hooks in HOOKS)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules in evaluation mode, and afterwards each in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def apply(layer: nn.Module, x: Tensor, activation: str = "none") -> Tensor:
    """Return activation(layer(x)); for a plain `nn.Linear` by `linear_map`, where that is one pass."""
    if type(layer) is nn.Linear and is_fusable(x, layer.weight, layer.bias) and is_plain(layer):
        return linear_map(x, layer.weight, layer.bias, activation)
    out: Tensor = layer(x)
    return activate(out, activation)


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a sample's whole residual branch with probability ``rate``."""

    def __init__(self, rate: float = 0.0) -> None:
        """Drop with probability ``rate``, in [0, 1)."""
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, ...) with dropped samples zeroed and kept ones scaled by 1 / (1 - rate)."""
        if self.rate == 0.0 or not self.training:
            return x
        kept = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1.0 - self.rate) / (1.0 - self.rate)


class Mlp(nn.Module):
    """Two linear maps with an exact GELU between: (..., D) -> (..., D)."""

    def __init__(self, dim: int, ratio: float) -> None:
        """Use a hidden width of ``ratio * dim``."""
        super().__init__()
        hidden = round(dim * ratio)
        if hidden < 1:
            raise ValueError(f"mlp_ratio: expected a hidden width of at least 1, got {dim} * {ratio}")
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) -> (..., D)."""
        return apply(self.fc2, apply(self.fc1, x, "gelu"))


class FeedForward(nn.Module):
    """x + DropPath(Mlp(LayerNorm(x))), in evaluation for `ROWS` rows at a time where all inside is plain."""

    def __init__(self, dim: int, ratio: float, drop_path: float) -> None:
        """Build the norm, the two linear maps and the stochastic depth."""
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) -> (B, N, D)."""
        # What is compiled or traced may be meant for any number of rows: it cannot ask.
        whole = torch.is_grad_enabled() or self.training or torch.compiler.is_compiling()
        whole = whole or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        most = rows_at_once(x)
        if whole or x.shape[0] * x.shape[1] <= most or not is_plain(*list(self.modules())[1:]):
            return self._whole(x)
        rows = x.reshape(-1, x.shape[-1])  # (B * N, D)
        out = torch.empty_like(rows)
        for part, place in zip(torch.split(rows, most), torch.split(out, most), strict=True):
            place.copy_(self._whole(part))
        return out.view(x.shape)  # (B, N, D)

    def _whole(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.drop_path(self.mlp(self.norm(x)))
        return out


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the last axis of (..., C)."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., C) -> (..., C)."""
        if is_exporting() and not self.training:
            assert self.running_mean is not None and self.running_var is not None
            # As an image it would tie a program to the number of points that it was written with.
            factor = self.weight * (self.running_var + self.eps).rsqrt()  # (C,)
            return input * factor + (self.bias - self.running_mean * factor)
        # As an image in channels-last order, for which torch has kernels that read rows once.
        image = input.reshape(1, -1, 1, input.shape[-1]).permute(0, 3, 1, 2)  # (1, C, R, 1)
        out = super().forward(image)
        return out.permute(0, 2, 3, 1).reshape(input.shape)  # (..., C)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim != 4:
            raise ValueError(f"expected an image (1, C, R, 1), got {tuple(input.shape)}")


NORMS = (BatchNorm, nn.BatchNorm1d)


def linear_norm(x: Tensor, linear: nn.Module, norm: nn.Module, relu: bool = False) -> Tensor:
    """Return norm(linear(x)) of (..., C), or its ReLU; in evaluation as one map if `is_foldable`."""
    if is_foldable(linear, norm):
        return linear_map(x, *fold(norm, linear), "relu" if relu else "none")
    out: Tensor = norm(linear(x))
    return F.relu(out) if relu else out


def is_foldable(linear: nn.Module, norm: nn.Module) -> bool:
    """Return whether norm(linear(x)) is the one linear map that `fold` returns: plain, in evaluation."""
    if norm.training or type(norm) not in NORMS or type(linear) is not nn.Linear:
        return False
    assert isinstance(norm, nn.BatchNorm1d)
    return norm.running_mean is not None and norm.weight is not None and is_plain(linear, norm)


def fold(norm: nn.Module, linear: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight (D, C) and bias (D,) of a linear map and the batch norm in evaluation after it."""
    assert isinstance(norm, nn.BatchNorm1d) and isinstance(linear, nn.Linear)
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = linear.weight, linear.bias
    exact = torch.promote_types(weight.dtype, torch.float32)
    factor = norm.weight.to(exact) * (norm.running_var.to(exact) + norm.eps).rsqrt()  # (D,)
    shift = norm.running_mean.to(exact) if bias is None else norm.running_mean.to(exact) - bias
    # Rounded once, to the map's dtype: norms may have stayed in float32 where the rest is in half precision.
    return (weight * factor[:, None]).to(weight.dtype), (norm.bias - shift * factor).to(weight.dtype)


class ResidualMlp(nn.Module):
    """relu(x + BN(linear(relu(BN(linear(x)))))), the block of PointMLP (section 3.3)."""

    def __init__(self, dim: int, expansion: float) -> None:
        """Use a hidden width of ``expansion * dim``."""
        super().__init__()
        hidden = max(1, int(dim * expansion))
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.norm1 = BatchNorm(hidden)
        self.fc2 = nn.Linear(hidden, dim, bias=False)
        self.norm2 = BatchNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) -> (..., C)."""
        folded = self.folded()
        if folded is not None:
            return residual(x, *folded)
        inner = F.relu(self.norm1(self.fc1(x)))  # (..., hidden)
        return F.relu(self.norm2(self.fc2(inner)) + x, inplace=True)

    def folded(self) -> tuple[Tensor, ...] | None:
        """Return weights and biases of both maps with their norms, for `residual`, if they fold."""
        if not (is_foldable(self.fc1, self.norm1) and is_foldable(self.fc2, self.norm2)):
            return None
        return *fold(self.norm1, self.fc1), *fold(self.norm2, self.fc2)


def residual(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Return relu(x + the second map of relu(the first map of x)): (..., C) -> (..., C)."""
    inner = linear_map(x, weight1, bias1, "relu")  # (..., hidden)
    return F.relu(linear_map(inner, weight2, bias2) + x, inplace=True)


PLAIN = (nn.Linear, nn.LayerNorm, *NORMS, Mlp, DropPath, ResidualMlp)
