"""Checkpoints: weights that rebuild their own model, and the state that a run resumes from.

Weights are a safetensors file whose header holds a JSON description (model and arguments, classes,
preprocessing, config, metrics). The state of a run is a torch file that is read without pickle. Both are
written beside their target and renamed onto it, so a full disk or a kill leaves the previous file whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bixt3d.models.encoder import PointModel
from bixt3d.models.factory import create_model

FORMAT = 1
SUFFIX = ".safetensors"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, flush it to the disk, and rename it to ``path``.

    Raises:
        OSError: If it cannot be written; the previous file, if any, is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        kept = f"; the previous {path.name} is untouched" if path.exists() else ""
        raise OSError(f"could not save {path} ({error}){kept}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        OSError: If it cannot be written; the previous one is untouched.
    """
    write_atomically(path, lambda temporary: temporary.write_text(text))


def save_model(path: Path, model: nn.Module, meta: dict[str, Any]) -> None:
    """Write a model's weights and the description that rebuilds it.

    Args:
        path: Target file.
        model: The model.
        meta: ``model`` = {name, args}, ``classes``, ``preprocess`` = {num_points, order, stored_points}, and
            whatever else is worth keeping; JSON values only.

    Raises:
        OSError: If the file cannot be written; the previous one is untouched.
    """
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    header = {"bixt3d": json.dumps({"format": FORMAT, **meta})}
    write_atomically(path, lambda temporary: save_file(state, temporary, metadata=header))


def find_checkpoint(path: str | Path) -> Path:
    """Return the weights file that a user means: the file, its name without suffix, or a run's folder.

    A folder stands for its ``best``, or its ``last`` where no epoch was chosen.

    Raises:
        FileNotFoundError: Naming what was looked for and what lies there.
    """
    path = Path(path)
    if path.is_file():
        return path
    tried = [path / f"best{SUFFIX}", path / f"last{SUFFIX}"]
    if path.name:  # "." has none
        tried.insert(0, path.with_name(path.name + SUFFIX))
    for candidate in tried:
        if candidate.is_file():
            return candidate
    folder = path if path.is_dir() else path.parent
    there = sorted(p.name for p in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    raise FileNotFoundError(
        f"no checkpoint {path}: looked for {', '.join(str(p) for p in tried)}; {folder} holds "
        f"{', '.join(there) or 'no checkpoint'}"
    )


def load_checkpoint(
    path: str | Path, device: torch.device | str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a model from its weights file.

    Args:
        path: The file, its name without suffix, or a run's folder.
        device: Where the model goes; CUDA where there is one if None.

    Returns:
        The model in evaluation mode, and its description.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the file is truncated, of another kind, or of another model than it says.
    """
    path = find_checkpoint(path)
    state, meta = _read(path)
    try:
        model = create_model(meta["model"]["name"], **meta["model"]["args"])
    except ValueError as error:
        raise ValueError(f"{path}: its model cannot be built: {error}") from None
    _load_state(model, state, path)
    if isinstance(model, PointModel):
        model.description = meta
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), meta


def load_model(path_or_name: str | Path, device: torch.device | str | None = None) -> nn.Module:
    """Rebuild a model from a checkpoint; see `load_checkpoint`. The model comes in evaluation mode."""
    return load_checkpoint(path_or_name, device)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get("bixt3d")
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole checkpoint ({error}); it may be truncated or of another format"
        ) from None
    if header is None:
        raise ValueError(f"{path} holds tensors but no description: it was not written by bixt3d")
    try:
        meta = json.loads(header)
        format_, model = meta["format"], meta["model"]
        named = isinstance(model["name"], str) and isinstance(model["args"], dict)
        classes, preprocess = meta["classes"], meta["preprocess"]
        counts = preprocess["num_points"], preprocess["stored_points"]
        whole = isinstance(classes, list) and all(isinstance(count, int) for count in counts)
        whole = whole and isinstance(preprocess["order"], str)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged description ({error!r})") from None
    if format_ != FORMAT or not named or not whole:
        raise ValueError(f"{path}: expected a whole description of format {FORMAT}, got format {format_!r}")
    return state, meta


def _load_state(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    shaped = [n for n in wanted if n in state and wanted[n].shape != state[n].shape]
    if missing or extra or shaped:
        first = (
            f"{shaped[0]} is {tuple(state[shaped[0]].shape)} instead of {tuple(wanted[shaped[0]].shape)}"
            if shaped
            else f"first {(missing or extra)[0]}"
        )
        raise ValueError(
            f"{path} holds the weights of another model than it says: {len(missing)} tensors missing, "
            f"{len(extra)} unknown, {len(shaped)} of another shape ({first})"
        )
    model.load_state_dict(state)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run: tensors, numbers, strings and containers of them.

    Raises:
        OSError: If the file cannot be written; the previous one is untouched.
    """
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Read the state of a run; nothing in the file can execute.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is truncated or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume from: {path} does not exist; start without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a damaged or foreign file
        raise ValueError(
            f"{path}: cannot resume from it, it is truncated or holds other things than tensors and plain "
            f"values ({type(error).__name__})"
        ) from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected the state of a run, got {type(state).__name__}")
    return state
