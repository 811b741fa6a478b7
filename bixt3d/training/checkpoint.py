"""Checkpoints: weights that rebuild their own model.

They are a safetensors file whose header holds a JSON description (model and arguments, classes,
preprocessing, config, metrics). It is written beside its target and renamed onto it, so a full disk or a kill
leaves the previous file whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bixt3d.config import MOST_POINTS
from bixt3d.models.factory import create_model, find_builder, is_own
from bixt3d.suggest import nearest
from bixt3d.tasks import Description, find_task, list_tasks
from bixt3d.training.device import kept_random, pick_device
from bixt3d.training.files import write_atomically
from bixt3d.training.weights import checked, find_weights, list_weights

FORMAT = 1
SHOWN = 5  # runs that are named where a checkpoint is not found
SUFFIX = ".safetensors"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # what weights may be stored in
REPEATS = ("depth", "num_blocks", "self_attends_per_block", "group_blocks")  # arguments that repeat layers
LARGEST_ANYWAY = 1024  # of neighbours and the like, which are no side of a tensor


class _WithoutMemory(TorchFunctionMode):
    """Weights that are only shapes: a description may name any sizes, and is compared with the file first."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        shaped = func in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if shaped else {})})


class _Mismatch(ValueError):
    """What a file holds does not fit what it says."""


def save_model(path: Path, model: nn.Module, meta: Description | dict[str, Any]) -> None:
    """Write a model's weights and the description that rebuilds it.

    Args:
        path: Target file.
        model: The model.
        meta: The description, also as the dictionary that `load_checkpoint` returns.

    Raises:
        ValueError: If the description is of a model with another number of classes or parts.
        OSError: If the file cannot be written; the previous one is untouched.
    """
    from safetensors.torch import save

    try:
        about = meta if isinstance(meta, Description) else Description.from_dict(meta)
    except ValueError:  # of a dictionary that is no whole description; reading the file says so
        about = None
    if about is not None:
        check_outputs(model, about)

    # Each on its own: weights may be tied.
    state = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    stated = meta.to_dict() if isinstance(meta, Description) else meta
    header = {"bixt3d": json.dumps({"format": FORMAT, **stated})}
    # As bytes: save_file writes by a temporary file of a name of its own, which a kill would leave behind.
    write_atomically(path, lambda temporary: temporary.write_bytes(save(state, metadata=header)))


def check_outputs(model: nn.Module, description: Description) -> None:
    """Raise ValueError unless a model has as many outputs as its description says."""
    count = getattr(model, "num_outputs", None)
    for key in ("num_classes", "num_parts"):
        stated = description.model["args"].get(key, count)
        if count is not None and stated != count:
            raise ValueError(
                f"description: expected {key}={count}, as the model's head has, got {stated}: put a new head "
                "on it by reset_classifier, which changes the description too"
            )
    if description.task in list_tasks():
        task = find_task(description.task)
        task.set_facts(description.facts)
        task.bind_model(model)


def find_checkpoint(path: str | Path) -> Path:
    """Return the file that is meant: that path, also without suffix, a run's folder, or a shipped name.

    A folder stands for its ``best``, or its ``last`` where no epoch was chosen; names are those of
    `list_weights`.

    Raises:
        FileNotFoundError: Naming what was looked for, what is there, and the nearest name.
        ValueError: If shipped weights are not the file that was shipped.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return checked(path)
    tried = [path / f"best{SUFFIX}", path / f"last{SUFFIX}"]
    if path.name:  # "." has none
        tried.insert(0, path.with_name(path.name + SUFFIX))
    for candidate in tried:
        if candidate.is_file():
            return checked(candidate)
    is_name = str(path) == path.name  # and names no folder
    if is_name and (shipped := find_weights(path.name)):
        return shipped
    folder = path if path.is_dir() else path.parent
    there = sorted(p.name for p in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    runs = sorted({p.parent.name for p in folder.glob(f"*/*{SUFFIX}")})
    more = ["..."] if len(runs) > SHOWN else []
    held = ", ".join([*there, *(f"the run {run}" for run in runs[:SHOWN]), *more])
    close = nearest(path.name, [*(name.removesuffix(SUFFIX) for name in there), *runs])
    known = list_weights() if is_name else []
    names = f"; names of weights are {', '.join(known)}{nearest(path, known)}" if known else ""
    raise FileNotFoundError(
        f"no checkpoint {path}: looked for {', '.join(str(p) for p in tried)}; {folder} holds "
        f"{held or 'no checkpoint'}{close}{names}"
    )


def load_checkpoint(
    path: str | Path, device: torch.device | str | None = None, model: nn.Module | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a model from its weights file.

    Args:
        path: The file, its name without suffix, a run's folder, or a name of `list_weights`.
        device: Where the model goes; CUDA where there is one if None.
        model: The model that takes the weights; built as the file says if None.

    Returns:
        The model in evaluation mode, in float32 whatever the file holds, and its description, which is also
        the model's attribute ``description``.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the file is truncated, of another kind, or of another model than it says.
    """
    path = find_checkpoint(path)
    state, meta = read_checkpoint(path)
    description = Description.from_dict(meta)
    if model is None:
        with kept_random():
            model = _build(path, state, description)
    else:
        _check_state(model, state, path)
    model.load_state_dict(state)
    model.description = description  # type: ignore[assignment]
    return model.to(pick_device(None if device is None else str(device))).eval(), meta


def _build(path: Path, state: dict[str, Tensor], description: Description) -> nn.Module:
    name, args = description.model["name"], dict(description.model["args"])
    if not name:
        raise ValueError(
            f"{path}: its model was given to bixt3d.train as an object: expected one like it, "
            "bixt3d.load_model(path, model=...), which Predictor takes; a model that bixt3d.register_model "
            "has given a name is rebuilt by itself"
        )
    try:
        find_builder(name)
    except ValueError as error:
        raise ValueError(f"{path}: its model cannot be built: {error}") from None
    if not is_own(name):  # whatever its builder does, its bugs are its own
        model = create_model(name, **args)
        _check_state(model, state, path)
        return model
    try:
        _check_sizes(args, state)
        with _WithoutMemory():
            planned = create_model(name, **args)
        _check_state(planned, state, path)
        model = create_model(name, **args)
    except _Mismatch:
        raise
    except Exception as error:  # what a description makes up may meet any of torch's checks
        raise ValueError(f"{path}: its model cannot be built: {error}") from error
    return model


def load_model(
    path_or_name: str | Path,
    device: torch.device | str | None = None,
    classes: Sequence[str] | None = None,
    model: nn.Module | None = None,
) -> nn.Module:
    """Rebuild a model, in evaluation mode, from a checkpoint or a shipped name; see `load_checkpoint`.

    Args:
        path_or_name: The file, its name without suffix, a run's folder, or a name of `list_weights`.
        device: Where the model goes; CUDA where there is one if None.
        classes: Names of other classes, or, of a segmenter, of other parts: the model gets a new head for
            them, which starts at zero.
        model: A model of one's own, which takes the weights.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: As `load_checkpoint`, or for classes of a model that cannot get another head.
    """
    loaded: Any = load_checkpoint(path_or_name, device, model)[0]
    if classes is not None:
        names = list(classes) if not isinstance(classes, str) else []
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError(f"classes: expected names, each once, got {classes!r:.80}")
        if not hasattr(loaded, "reset_classifier"):
            raise ValueError(f"classes: expected a model with reset_classifier, got {type(loaded).__name__}")
        loaded.reset_classifier(len(names), names)
    result: nn.Module = loaded
    return result


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a checkpoint, and what it says of them.

    Raises:
        ValueError: If the file is truncated, of another kind, or its description is damaged.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get("bixt3d")
        state = load(path.read_bytes())  # its file.get_tensor keeps some bytes of each tensor for good (0.8)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole checkpoint ({error}); it may be truncated or of another format"
        ) from None
    if header is None:
        raise ValueError(f"{path} holds tensors but no description: it was not written by bixt3d")
    try:
        meta = json.loads(header)
        format_ = meta["format"]
        if format_ != FORMAT:
            raise ValueError(f"expected a description of format {FORMAT}, got format {format_!r}")
        description = Description.from_dict(meta)
        counts = description.preprocess.num_points or 1, description.preprocess.stored_points
        if max(counts) > MOST_POINTS:
            raise ValueError(f"expected clouds of up to {MOST_POINTS:,} points, got {max(counts):,}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged description: {error}") from None
    return state, meta


def _check_sizes(args: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raise ValueError for more layers than tensors, as each layer has several, or sizes that none has."""
    tensors, widest = len(state), max((side for value in state.values() for side in value.shape), default=0)
    numbers = [args.get(key, 1) for key in REPEATS]
    layers = math.prod(max(number, 1) for number in numbers if isinstance(number, int))
    longest = max((len(value) for value in args.values() if isinstance(value, list)), default=0)
    if max(layers, longest) > tensors:
        raise ValueError(f"{max(layers, longest)} layers are described, and there are {tensors} tensors")
    for key, value in args.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number > max(widest, LARGEST_ANYWAY):
                raise ValueError(f"{key} is {number}, and no tensor has a side longer than {widest}")


def _check_state(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    shaped = [n for n in wanted if n in state and wanted[n].shape != state[n].shape]
    if missing or extra or shaped:
        first = (
            f"{shaped[0]} is {tuple(state[shaped[0]].shape)} instead of {tuple(wanted[shaped[0]].shape)}"
            if shaped
            else f"first {(missing or extra)[0]}"
        )
        raise _Mismatch(
            f"{path} holds the weights of another model than it says: {len(missing)} tensors missing, "
            f"{len(extra)} unknown, {len(shaped)} of another shape ({first})"
        )
    for name, value in state.items():
        kinds = FLOATS if wanted[name].is_floating_point() else (wanted[name].dtype,)
        if value.dtype not in kinds:
            raise _Mismatch(f"{path}: expected {name} in {' or '.join(map(str, kinds))}, got {value.dtype}")
        # A buffer may hold infinity on purpose, as masks of attention do.
        meant = not wanted[name].is_meta and not bool(torch.isfinite(wanted[name].float()).all())
        if not meant and not bool(torch.isfinite(value.to(torch.float32)).all()):
            raise _Mismatch(f"{path}: {name} holds NaN or infinity: its training diverged, or it is damaged")
