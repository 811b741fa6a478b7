"""Models that start from weights of another training: official ImageNet checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from bixt3d.models.encoder import PointModel
from bixt3d.models.official import initialize_from


def start_from_official(model: nn.Module, source: str | Path) -> None:
    """Start a model's trunk from an official BiXT checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or does not fit the model.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"model.init_from: no file {path}, an official BiXT checkpoint (.pth)")
    if not isinstance(model, PointModel):
        raise ValueError(f"model.init_from: expected a model with a BiXT trunk, got {type(model).__name__}")
    try:
        # Checkpoints of timm's training script carry their command line as a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("it holds other things than tensors")
    except Exception as error:  # torch raises several kinds for a damaged or foreign file
        raise ValueError(f"model.init_from: {path} cannot be read ({error})") from None
    initialize_from(model, state)
