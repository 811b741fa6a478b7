"""The state of a run: saved after every epoch and where a training stops, read to resume it exactly.

It is a torch file that is read without pickle. It is written beside its target and renamed onto it, so a full
disk or a kill leaves the previous file whole.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bixt3d.config import Config, dotted, to_dict
from bixt3d.datasets.mapped import of_each
from bixt3d.datasets.split import Split
from bixt3d.tasks import Description
from bixt3d.tasks.description import GIVEN
from bixt3d.training.checkpoint import save_model
from bixt3d.training.distributed import Workers
from bixt3d.training.files import flush, write_atomically
from bixt3d.training.guards import Diverged, OutOfMemory, Stopped

if TYPE_CHECKING:
    from bixt3d.training.trainer import Trainer

logger = logging.getLogger(__name__)

FILE = "resume.pt"
NOTHING = "nothing to resume from: {} does not exist; start without --resume"
SAME_CLOUD = 1e-3  # by how much two readings of a cloud may differ, on devices that round differently


def collect(trainer: Trainer) -> dict[str, Any]:
    """Return the state of a training between two steps."""
    state = trainer.state
    return {
        "epoch": trainer.epoch,
        "sums": dict(vars(trainer.totals)),
        "unwritten": trainer.log.unwritten,
        "best": trainer.best,
        "best_loss": trainer.best_loss,
        "best_epoch": trainer.best_epoch,
        "seconds": trainer.seconds,
        "fixed": _fixed(trainer.config, len(trainer.loader.split)),
        "clouds": fingerprint(trainer.loader.split),
        "model": state.model.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "description": trainer.description.to_json(),
    }


def save(trainer: Trainer) -> None:
    """Write the state of a training to its folder; the one before it stays as ``resume.pt.previous``."""
    save_state(trainer.run_dir / FILE, collect(trainer), keep_previous=trainer.keep_previous)
    trainer.keep_previous = True


def save_epoch(trainer: Trainer, row: dict[str, float]) -> None:
    """Save the weights of an epoch whose log says ``row``, as the best or to keep as well, and the state."""
    goal, every = trainer.task.goal, trainer.config.train.keep_every
    score = row.get(f"val_{goal}", -math.inf)
    names = [name[4:] for name in row if name.startswith("val_") and name != "val_loss"]
    if names and goal not in names:
        raise ValueError(f"task: goal: expected one of {', '.join(names)}, got {goal!r}")
    loss, rose = row.get("val_loss", math.inf), score > trainer.best
    is_best = rose or (score == trainer.best and loss < trainer.best_loss)  # a small split gives many ties
    if rose:
        trainer.best_epoch = trainer.epoch
    if is_best:
        trainer.best, trainer.best_loss = score, loss
    if not trainer.workers.first:
        return
    description = replace(trainer.description, config=to_dict(trainer.config), metrics=row)
    kept = every > 0 and trainer.epoch % every == 0
    for name in ("last", *["best"] * is_best, *[f"epoch_{trainer.epoch:04d}"] * kept):
        save_model(trainer.run_dir / f"{name}.safetensors", trainer.result, description)
    save(trainer)


def restore(trainer: Trainer) -> str:
    """Continue from the state in a training's folder; return rows of the log that could not be written.

    Raises:
        ValueError: If it is no state of a run, or of other settings or clouds.
    """
    path = trainer.run_dir / FILE
    state, trainer.keep_previous = load_latest_state(path)  # a damaged file is not kept
    wanted = {"epoch", "sums", "unwritten", "best", "seconds", "fixed", "model", "average", "optimizers"}
    if missing := (wanted | {"description"}) - set(state):
        raise ValueError(f"{path} is not the state of a run: it lacks {', '.join(sorted(missing))}")
    _check_same_run(trainer, state)
    current = trainer.state
    current.model.load_state_dict(state["model"])
    current.guard.save_buffers()
    if current.average is not None:
        current.average.load_state_dict(state["average"])
    for optimizer, saved in zip(current.optimizers, state["optimizers"], strict=True):
        settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        optimizer.load_state_dict(saved)
        # What may change between, such as weight decay, comes from the settings.
        for group, values in zip(optimizer.param_groups, settings, strict=True):
            group.update(values)
    trainer.epoch, trainer.best, trainer.seconds = state["epoch"], state["best"], state["seconds"]
    # Runs of before have none.
    trainer.best_epoch = state.get("best_epoch", trainer.epoch)
    trainer.best_loss = state.get("best_loss", math.inf)
    trainer.totals.restore(state["sums"], trainer.workers)
    return str(state["unwritten"])


def _check_same_run(trainer: Trainer, state: dict[str, Any]) -> None:
    """Raise ValueError for the state of a run of other settings, classes or clouds, naming them."""
    before = Description.from_dict(json.loads(state["description"]))
    # What a run of before did not state of its labels says nothing against it.
    kinds = (
        "task",
        "model",
        "preprocess",
        *(key for key in trainer.description.facts if key in before.facts),
    )
    old, new = (
        dotted({kind: told.get(kind) for kind in kinds})
        for told in (before.to_dict(), trainer.description.to_dict())
    )
    old |= state["fixed"]
    new |= _fixed(trainer.config, len(trainer.loader.split))
    changed = [key for key in old | new if old.get(key) != new.get(key)]
    if changed:
        told = "; ".join(f"{key} was {old.get(key)}, now it would be {new.get(key)}" for key in changed)
        raise ValueError(f"cannot resume {trainer.run_dir} with other settings: {told}")
    clouds, known = fingerprint(trainer.loader.split), state.get("clouds")
    if known is not None and not torch.allclose(clouds, known.to(clouds), atol=SAME_CLOUD):
        other = int(((clouds - known.to(clouds)).abs() > SAME_CLOUD).any(1).sum())
        raise ValueError(
            f"cannot resume {trainer.run_dir} with other clouds: {other} of {len(clouds)} training clouds "
            "have changed"
        )


def check_opened(run_dir: Path) -> None:
    """Raise ValueError for a run that was trained on clouds that no data set holds."""
    state, _ = load_latest_state(run_dir / FILE)
    if json.loads(state.get("description", "{}")).get("dataset") in ("", GIVEN):
        raise ValueError(
            f"{run_dir}: this run was trained on {GIVEN}: resume it with "
            "bixt3d.train(..., train=..., resume=True)"
        )


def fingerprint(split: Split) -> Tensor:
    """Return what tells clouds apart, up to rounding: label and mean |xyz| of some points, (S, 4)."""
    points = split.points[:, :8] if split.points.ndim == 3 else split.points[:, ::5, 2::5].flatten(1, 2)
    size = of_each(points[..., :3], "heads", lambda _, part: part.float().abs().mean(1)).cpu()  # (S, 3)
    return torch.cat([split.label.cpu()[:, None].to(size), size], 1)  # (S, 4)


def _fixed(config: Config, clouds: int) -> dict[str, Any]:
    """Return settings that a resumed run may not change, as its steps or its state would no longer fit."""
    return {
        "data.name": config.data.name,
        "data.train_split": config.data.train_split,
        "optim.name": config.optim.name,
        "optim.decay_all": config.optim.decay_all,
        "training clouds": clouds,
        # Each step's clouds stay the same, in however many batches.
        "train.batch_size x train.accumulate": config.train.batch_size * config.train.accumulate,
        "train.seed": config.train.seed,
        "train.ema": config.train.ema_decay > 0,
        **({"data.balanced": True} if config.data.balanced else {}),
        # Which optimisers there are, and of what; runs of before have neither.
        **({"train.freeze": list(config.train.freeze)} if config.train.freeze else {}),
        **({"optim.body_lr_factor": True} if config.optim.body_lr_factor != 1.0 else {}),
    }


def save_at_stop(trainer: Trainer, error: Stopped | Diverged | OutOfMemory) -> None:
    """Save the state where it is one to resume from, and say so in the error."""
    steps = trainer.config.train.epochs * trainer.steps_per_epoch
    where = f"the state at step {trainer.step:,} of {steps:,}"
    saved, workers = "the last saved state stays", trainer.workers
    # All processes stop at the same step, but for want of memory each on its own, with its own sums.
    together = workers.world_size == 1 or not isinstance(error, OutOfMemory)
    if isinstance(error, Diverged):
        if workers.first:
            save_state(trainer.run_dir / "diverged.pt", collect(trainer), keep_previous=False)
    elif together and trainer.state.between_steps and trainer.state.is_finite():
        if workers.first:
            save(trainer)
        saved = f"{where} is saved"
    if together:
        workers.barrier()  # torchrun ends all soon after the first has left
    advice = "continue with --resume"
    if isinstance(error, Stopped):
        error.args = (f"stopped by {signal.Signals(error.number).name}: {saved}, {advice}",)
    elif isinstance(error, Diverged):
        advice += " and a smaller optim.lr, a smaller optim.clip_norm, or train.amp=false"
        error.args = (f"{error}; {where} is in diverged.pt, {saved}: {advice}",)
    else:
        error.args = (f"{error}; {saved}, {advice} and other settings",)


def check_folder(run_dir: Path, resume: bool, workers: Workers) -> None:
    """Refuse to start in a folder that holds a run, or to resume in one that holds none.

    Raises:
        FileExistsError: If the folder holds a run and ``resume`` is not set.
        FileNotFoundError: If ``resume`` is set and there is no state.
    """
    path = run_dir / FILE
    if resume:
        if not path.is_file() and not previous_of(path).is_file():
            raise FileNotFoundError(NOTHING.format(path))
    elif workers.max(int(workers.first and holds_run(run_dir))):
        raise FileExistsError(
            f"{run_dir} holds a run already: continue it by --resume (in Python resume=True), or choose "
            "another folder with --set run.dir=FOLDER"
        )


def holds_run(run_dir: Path) -> bool:
    """Return whether a folder holds weights, or a state that has taken a step."""
    if any(run_dir.glob("*.safetensors")):
        return True
    try:
        state = load_state(run_dir / FILE)
    except FileNotFoundError:
        return False
    except ValueError:
        return True  # damaged, and yet somebody's
    return bool(state.get("epoch") or state.get("sums", {}).get("steps"))


def save_state(path: Path, state: dict[str, Any], keep_previous: bool = True) -> None:
    """Write the state of a run: tensors, numbers, strings and containers of them.

    Args:
        path: Target file.
        state: The state.
        keep_previous: Keep the file before it as ``<name>.previous``, for `load_latest_state`.

    Raises:
        OSError: If the file cannot be written; the previous one is untouched.
    """

    def write(temporary: Path) -> None:
        torch.save(state, temporary)
        flush(temporary)
        if keep_previous and path.is_file():
            write_atomically(previous_of(path), lambda other: _same_file(path, other))

    write_atomically(path, write)


def previous_of(path: Path) -> Path:
    """Return where `save_state` keeps the state before the last."""
    return path.with_name(f"{path.name}.previous")


def _same_file(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, other)


def load_latest_state(path: Path) -> tuple[dict[str, Any], bool]:
    """Read the state of a run, or, with a warning, the one before it if the file is damaged.

    Returns:
        The state, and whether the file itself is whole.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If neither can be read.
    """
    try:
        return load_state(path), True
    except (ValueError, FileNotFoundError) as error:
        if not previous_of(path).is_file():
            raise
        try:
            state = load_state(previous_of(path))
        except ValueError as other:
            raise ValueError(f"{error}; nor from the one before it ({other}): start another run") from None
        logger.warning("%s; continuing from the state before it, %s", error, previous_of(path))
        return state, False


def load_state(path: Path) -> dict[str, Any]:
    """Read the state of a run; nothing in the file can execute.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is truncated or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(NOTHING.format(path))
    try:
        with zipfile.ZipFile(path) as archive:  # as torch writes it: nothing is packed, and none may unpack
            held = sum(entry.file_size for entry in archive.infolist())
            # torch looks at no checksum
            if held > path.stat().st_size or archive.testzip() is not None:
                raise ValueError
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a damaged or foreign file
        raise ValueError(
            f"{path}: cannot resume from it, it is truncated or holds other things than tensors and plain "
            f"values ({type(error).__name__})"
        ) from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected the state of a run, got {type(state).__name__}")
    return state
