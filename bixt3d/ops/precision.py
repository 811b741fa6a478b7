"""The widest floats that a device has: float64, but for Apple's GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})  # types of devices


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device without it."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def place_of_float64(device: torch.device) -> torch.device:
    """Return the device itself, or the CPU for one without float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def as_float64(values: Tensor) -> Tensor:
    """Return values in float64, on their device, or on the CPU for one without."""
    return values.to(place_of_float64(values.device)).double()
