"""Weights that hide nothing: zeros and ones of a fresh model would let a swapped or missing part pass."""

from __future__ import annotations

import torch
from torch import nn


def randomize(module: nn.Module, std: float = 0.2) -> None:
    """Add noise to every parameter, and running statistics of any batch norm that are not the start's."""
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn_like(value) * std)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(std=0.1)
                part.running_var.uniform_(0.5, 1.5)
