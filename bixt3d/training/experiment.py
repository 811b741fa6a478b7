"""From settings to a trainer: open the data, build the model, describe both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bixt3d.config import Config
from bixt3d.datasets import open_dataset
from bixt3d.datasets.loader import arrange_split
from bixt3d.datasets.split import Split
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.factory import create_model
from bixt3d.models.official import initialize_from


def open_splits(
    config: Config, device: torch.device, names: tuple[str, ...]
) -> tuple[dict[str, Split], int]:
    """Open splits of the experiment's data set on a device, arranged as training and evaluation take them.

    Returns:
        The splits by name, and how many points each cloud was chosen from.
    """
    data = config.data
    opened, stored_points = {}, 0
    for name in names:
        # Farthest-point order chooses among all stored points; otherwise the first ones are enough.
        limit = data.num_points if data.order == "stored" else None
        split = open_dataset(data.name, data.root, name, limit).to(device)
        stored_points = split.num_points
        opened[name] = arrange_split(split, data.num_points, data.order)
    return opened, stored_points


def describe(config: Config, split: Split, stored_points: int) -> dict[str, Any]:
    """Describe a classifier of this experiment: what its checkpoint needs to be used without settings."""
    args = {"num_classes": len(split.classes), "in_dims": split.channels, **config.model.args}
    return {
        "task": "classification",
        "model": {"name": config.model.name, "args": args},
        "classes": list(split.classes),
        "preprocess": {
            "num_points": config.data.num_points,
            "order": config.data.order,
            "channels": split.channels,
            # How many points a mesh is sampled to before that.
            "stored_points": stored_points,
        },
        "dataset": config.data.name,
    }


def build_model(config: Config, description: dict[str, Any]) -> nn.Module:
    """Build the experiment's model from its seed, and start its trunk from a checkpoint if one is named.

    Raises:
        ValueError: For an unknown model or argument, or a checkpoint that does not fit.
        FileNotFoundError: If the checkpoint is missing.
    """
    torch.manual_seed(config.train.seed)
    model = create_model(description["model"]["name"], **description["model"]["args"])
    source = config.model.init_from
    if source is not None:
        if not Path(source).is_file():
            raise FileNotFoundError(f"model.init_from: no file {source}, an official BiXT checkpoint (.pth)")
        assert isinstance(model, PointClassifier)
        try:
            state = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises several kinds for a damaged or foreign file
            raise ValueError(f"model.init_from: {source} cannot be read ({error})") from None
        initialize_from(model, state.get("state_dict", state))
    return model
