"""Input checks shared by the operations and the models."""

from __future__ import annotations

import torch
from torch import Tensor


def describe(value: object) -> str:
    """Return a short description of what a value is, for an error message."""
    if isinstance(value, Tensor):
        return f"{value.dtype} tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__}"


def check_points(points: Tensor, name: str, channels: tuple[int, ...], finite: bool = True) -> None:
    """Check a batch of point clouds.

    Args:
        points: What should be a floating-point tensor (B, N, C) with B, N > 0.
        name: The argument's name, for the message.
        channels: The values of C that are accepted; empty for any.
        finite: Also look at the values. On a GPU this waits for the device.

    Raises:
        ValueError: Saying what was expected, and what was given.
    """
    wanted = " or ".join(str(c) for c in channels) or "C"
    expected = f"{name}: expected a floating-point tensor of shape (B, N, {wanted}) with B, N > 0"
    if not isinstance(points, Tensor) or points.ndim != 3 or not points.is_floating_point():
        raise ValueError(f"{expected}, got {describe(points)}")
    if points.numel() == 0 or (channels and points.shape[-1] not in channels):
        turned = points.shape[1] in channels and points.shape[2] > max(16, *channels)
        raise ValueError(f"{expected}, got {describe(points)}{': transpose it' if turned else ''}")
    finite = finite and not torch.compiler.is_compiling() and not points.is_meta  # where there are values
    if finite and not bool(torch.isfinite(points).all()):
        bad = int((~torch.isfinite(points)).flatten(1).any(1).nonzero()[0, 0])
        raise ValueError(f"{name}: expected finite values, cloud {bad} of the batch holds NaN or infinity")


def check_same(first: Tensor, first_name: str, second: Tensor, second_name: str, dims: int) -> None:
    """Raise ValueError unless both tensors agree in device and in their first ``dims`` sizes."""
    if first.shape[:dims] != second.shape[:dims] or first.device != second.device:
        raise ValueError(
            f"{first_name} and {second_name} must agree in their first {dims} sizes and in device, got "
            f"{tuple(first.shape)} on {first.device} and {tuple(second.shape)} on {second.device}"
        )


def check_count(value: int, name: str, most: int, of: str) -> None:
    """Raise ValueError unless ``1 <= value <= most``; ``of`` says where ``most`` comes from."""
    if isinstance(value, torch.SymInt):
        return  # an exported program leaves this size open
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: expected an integer, got {describe(value)}")
    if not 1 <= value <= most:
        raise ValueError(f"{name}: expected 1 to {most} ({of}), got {value}")
