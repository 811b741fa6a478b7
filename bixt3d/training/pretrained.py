"""Fine-tuning: models that start from weights of another training, and parts of them that are frozen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bixt3d.datasets.preprocess import Preprocess
from bixt3d.models.encoder import PointModel
from bixt3d.models.official import initialize_from, read_state
from bixt3d.suggest import nearest
from bixt3d.tasks import Description
from bixt3d.training.checkpoint import find_checkpoint, read_checkpoint
from bixt3d.training.optim import OUTPUTS

OFFICIAL = (".pth", ".pt", ".bin")


def start_from(
    model: nn.Module,
    source: str | Path,
    facts: Mapping[str, Any] | None = None,
    preprocess: Preprocess | None = None,
) -> str:
    """Start a model from the weights of another training.

    An official BiXT checkpoint (.pth) gives its trunk. A checkpoint of this package, a run's folder or a
    shipped name gives everything; the head and the embedding of categories are new where their sizes, or the
    names of the classes or parts, are others.

    Args:
        model: The model.
        source: A file, a run's folder, or a name of `bixt3d.list_weights`.
        facts: What the model's outputs mean, as `bixt3d.tasks.Task.facts` says.
        preprocess: What the model's inputs are.

    Returns:
        A line that says what was taken and what was not, and which features were others there.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or anything but the head does not fit, naming the first misfit.
    """
    path = find_start(source)
    if path.suffix != ".safetensors":
        return _start_from_official(model, path)
    try:
        state, meta = read_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"model.init_from: {error}") from None
    known, wanted = Description.from_dict(meta), model.state_dict()
    told = {key: value for key, value in (facts or {}).items() if isinstance(value, list)}
    other = {key for key, value in told.items() if known.facts.get(key) != value}
    fresh = set()
    for name in sorted({*wanted, *state}):
        fits = name in wanted and name in state and wanted[name].shape == state[name].shape
        renamed = name.startswith(("head.linear.", "embedding.")) and other
        if fits and not renamed:
            continue
        if not name.startswith(OUTPUTS):
            shapes = (tuple(of[name].shape) if name in of else "none" for of in (state, wanted))
            raise ValueError(
                "model.init_from: {} ({}) does not fit this model: {} is {} there, {} here; everything but "
                "the head has to fit{}".format(
                    source, known.model["name"] or "of one's own", name, *shapes, _settings(name, known)
                )
            )
        fresh.add(name)
    taken = {name: value for name, value in state.items() if name not in fresh}
    model.load_state_dict({**wanted, **taken})
    new = sorted(fresh & set(wanted))
    left = sorted(fresh - set(wanted))
    what = f"; new: {', '.join(new)}" if new else "; nothing is new"
    what += f"; left out: {', '.join(left)}" if left else ""
    origin = f" (trained on {known.dataset})" if known.dataset else ""
    what += "" if preprocess is None else _other_features(known.preprocess, preprocess)
    return f"start: {len(taken)} of {len(wanted)} tensors from {source}{origin}{what}"


def find_start(source: str | Path) -> Path:
    """Return the file of the weights that a training starts from.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If shipped weights are not the file that was shipped.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix != ".safetensors":
        return path
    if path.suffix in OFFICIAL:
        raise FileNotFoundError(f"model.init_from: no file {path}, an official BiXT checkpoint")
    try:
        return find_checkpoint(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model.init_from: {error}") from None
    except ValueError as error:
        raise ValueError(f"model.init_from: {error}") from None


def _other_features(there: Preprocess, here: Preprocess) -> str:
    """Return what to say of features that have the same width, and are others or in another unit."""
    said = ""
    for key in ("features", "divide"):
        one, other = (getattr(of, key) for of in (there, here))
        if one != other:
            stated = (json.dumps(of).replace('"', "") for of in (one, other))
            said += "; it was trained with data.{}={}, here it is {}".format(key, *stated)
    return said


def _settings(name: str, known: Description) -> str:
    """Return the settings that weights were trained with, of which one is probably what does not fit."""
    if name.startswith("encoder.tokenizer."):
        return f"; it was trained with data.features=[{','.join(known.preprocess.features)}]"
    sizes = dict(known.model["args"])
    for of_data in ("in_dims", "num_classes", "num_parts", "num_categories"):
        sizes.pop(of_data, None)
    stated = [f"model.name={known.model['name']}"] if known.model["name"] else []
    stated += [
        f"model.args.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in sizes.items()
    ]
    return f"; it was trained with {' '.join(stated)}" if stated else ""


def _start_from_official(model: nn.Module, path: Path) -> str:
    if not isinstance(model, PointModel):
        raise ValueError(f"model.init_from: expected a model with a BiXT trunk, got {type(model).__name__}")
    try:
        state = read_state(path)
    except ValueError as error:
        raise ValueError(f"model.init_from: {error}") from None
    left = initialize_from(model, state)
    count = len(model.encoder.trunk.state_dict())
    return f"start: the trunk's {count} tensors from {path}; left out: {', '.join(left) or 'nothing'}"


def freeze(model: nn.Module, prefixes: Sequence[str]) -> list[nn.Module]:
    """Let parts of a model stay as they are: no gradients, and evaluation also while the rest trains.

    Args:
        model: The model; its parameters of those parts no longer ask for gradients.
        prefixes: Names of modules or parameters, such as ``encoder`` or ``encoder.trunk.layers.0``.

    Returns:
        The modules that are frozen, to be kept in evaluation mode: batch norms keep their statistics.

    Raises:
        ValueError: For a name that the model does not have, with the nearest, or if nothing is left to train.
    """
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    frozen = []
    for prefix in prefixes:
        if not prefix or (prefix not in modules and prefix not in parameters):
            known = [name for name in (*modules, *parameters) if name]
            top = ", ".join(name for name in known if "." not in name)
            raise ValueError(
                f"train.freeze: the model has no {prefix!r}{nearest(prefix, known)}; at the top it has {top}"
            )
        frozen += list(modules[prefix].modules()) if prefix in modules else []
        for name, value in parameters.items():
            if name == prefix or name.startswith(f"{prefix}."):
                value.requires_grad_(False)
    if prefixes and not any(value.requires_grad for value in parameters.values()):
        raise ValueError(f"train.freeze: {', '.join(prefixes)} leave nothing to train")
    return frozen
