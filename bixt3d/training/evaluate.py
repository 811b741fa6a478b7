"""Evaluation of a model, or of a checkpoint, on a split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bixt3d.config import Config, config_from, dotted, load_config, override
from bixt3d.datasets.loader import Batch, CloudLoader
from bixt3d.datasets.split import Split
from bixt3d.ops.precision import widest
from bixt3d.progress import progress
from bixt3d.tasks import Description, Task, compare_facts
from bixt3d.tasks.description import GIVEN
from bixt3d.training.checkpoint import find_checkpoint, load_checkpoint
from bixt3d.training.device import autocast
from bixt3d.training.distributed import Workers
from bixt3d.training.files import made_folder, text_table, write_csv, write_result
from bixt3d.training.guards import guard_memory
from bixt3d.training.splits import build_task, open_splits
from bixt3d.training.weights import place_beside
from bixt3d.yaml import parse_overrides

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Mean loss, metrics by name, and the counts that they come from."""

    loss: float
    metrics: dict[str, float]
    counts: Tensor


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    task: Task,
    batch_size: int = 64,
    amp: bool = False,
    workers: Workers | None = None,
    watch: Callable[[Tensor, Batch], object] | None = None,
    what: str = "",
) -> Evaluation:
    """Evaluate a model once on every cloud of a split, without augmentation.

    Args:
        model: The model; it is left in its mode.
        split: The clouds, on the model's device.
        task: Says how the model is called and what is counted.
        batch_size: Clouds at a time in each process.
        amp: Use bfloat16 autocast, on devices that are faster with it.
        workers: Processes that share the split; every cloud is counted exactly once.
        watch: Is shown the logits and the batch of each step, in order.
        what: What the progress is called, such as "evaluating"; none is shown if empty.

    Returns:
        Mean loss over all clouds, metrics as fractions of 1, and the summed counts.

    Raises:
        OutOfMemory: Naming the setting to lower.
    """
    workers = workers or Workers()
    device = split.points.device
    loader = CloudLoader(split, batch_size, rank=workers.rank, world_size=workers.world_size)
    counts = task.start(device)
    loss = torch.zeros((), dtype=widest(device), device=device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()

    work = f"evaluation with {batch_size} clouds of {split.num_points:,} points"
    try:
        # Autocast around all batches, to cast weights once; not in inference_mode.
        shown = progress(what, len(split)) if what and workers.first else nullcontext(lambda count: None)
        with autocast(device, amp), guard_memory(work, "lower train.eval_batch_size"), shown as done:
            for batch in loader:
                logits = task.forward(model, batch)
                loss += task.loss(logits, batch).to(loss) * len(batch.label)
                counts += task.count(logits, batch)
                if watch is not None:
                    watch(logits, batch)
                done(len(batch.label) * workers.world_size)
    finally:
        for module, training in modes:
            module.training = training
    counts, loss = workers.all_reduce(counts), workers.all_reduce(loss)
    return Evaluation(float(loss) / len(split), task.metrics(counts), counts)


@torch.no_grad()
def embed_split(model: nn.Module, split: Split, batch_size: int = 64) -> Tensor:
    """Return a vector of each cloud of a split (S, D), float32: the mean of the model's latents.

    Raises:
        ValueError: For a model without ``forward_features``.
    """
    forward: Any = getattr(model, "forward_features", None)
    if forward is None:
        raise ValueError(f"expected a model with forward_features, got {type(model).__name__}")
    rows = []
    with progress("embedding", len(split)) as done:
        for batch in CloudLoader(split, batch_size):
            rows.append(forward(batch.points)[0].float().mean(1))  # (B, D)
            done(len(batch.label))
    return torch.cat(rows)


class Scored(NamedTuple):
    """An evaluated checkpoint: its evaluation, the split, the folder of the results, and the task."""

    seen: Evaluation
    split: Split
    out: Path
    task: Task


def scores(seen: Evaluation, task: Task) -> str:
    """Return a line for each metric, under the name by which it is known."""
    titles = {name: task.titles.get(name, name) for name in seen.metrics}
    width = 2 + max(map(len, titles.values()))
    return "\n".join(f"{titles[name]:{width}}{task.show(value)}" for name, value in seen.metrics.items())


def evaluate_checkpoint(
    checkpoint: str | Path,
    split_name: str = "test",
    cfg: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: torch.device | str | None = None,
    out: Path | None = None,
    watch: Callable[[Task, Split, Tensor, Batch], object] | None = None,
) -> Scored:
    """Evaluate a checkpoint on a split, print its table, and write ``result.json`` and ``table.csv``.

    Data that have some of the model's classes alone, or in another order, are matched to it by name. Model
    and features are those of the checkpoint, whatever the overrides say.

    Args:
        checkpoint: Weights file, its name without suffix, or a run's folder.
        split_name: Which split.
        cfg: YAML file with the settings; those of the checkpoint's training if None.
        overrides: Settings that go before the file's.
        device: Where to compute.
        out: Folder for the results; one beside the checkpoint if None, named by the split, and by the data
            and settings where they are others than the training's.
        watch: Is shown the task, the split, and the logits and the batch of each step.

    Returns:
        The evaluation with its counts on the CPU, the split, the folder, and the task.

    Raises:
        ValueError: If the checkpoint is damaged or knows other classes than the data, or ``out`` is the
            folder of a training.
        FileNotFoundError: If checkpoint, settings or data are missing.
    """
    overrides = [overrides] if isinstance(overrides, str) else overrides
    path, device = find_checkpoint(checkpoint), torch.device(device or "cpu")
    model, meta = load_checkpoint(path, device)
    known = Description.from_dict(meta)
    named = cfg or any(text.strip().startswith(("data.name", "data.root")) for text in overrides)
    if meta.get("dataset") in ("", GIVEN) and not named:
        raise ValueError(
            f"{path}: this run was trained on {GIVEN}: evaluate it with "
            "bixt3d.training.evaluate, or name a data set with --set data.name=NAME data.root=FOLDER"
        )
    config = load_config(cfg, overrides) if cfg else config_from(known.config, overrides)
    stated = dotted(parse_overrides(overrides))
    _tell_fixed(known, stated, path)
    fixed = {"features": known.preprocess.features, "divide": dict(known.preprocess.divide)}
    config = override(config, model={"name": known.model["name"]}, data=fixed)
    task = build_task(config, config.task or known.task)
    split = open_splits(config, device, (split_name,), task=task, facts=known.facts)[0][split_name]
    compare_facts(str(path), known.facts, task.facts(split), config.data.name)
    sizes = {key: stated[f"task_args.{key}"] for key in known.facts if f"task_args.{key}" in stated}
    task.set_facts({**task.facts(split), **known.facts, **sizes})
    task.bind_model(model)
    look = None if watch is None else partial(watch, task, split)
    size, amp = config.train.eval_batch_size, config.train.amp
    beside = place_beside(path) / _results_name(path, split_name, known, config, stated)
    out = out.expanduser() if out else beside
    if any((out / name).exists() for name in ("metrics.jsonl", "resume.pt")):
        raise ValueError(f"{out}: expected a folder for the results, got that of a training: take {beside}")
    with made_folder(out):  # before the work, that a wrong place costs none
        seen = evaluate(model, split, task, size, amp, watch=look, what="evaluating")
    rows = task.table(seen.counts.cpu())
    epoch = known.metrics.get("epoch", "unknown")
    print(f"{text_table(rows)}\n\n{split_name}: {len(split)} shapes of {config.data.name}, epoch {epoch}")
    print(scores(seen, task))
    if learned := trained_on(known, config, split_name):
        print(learned)
    write_csv(rows, out / "table.csv")
    asked = {"settings": list(overrides)} if overrides else {}
    write_result(out / "result.json", {"split": split_name, "shapes": len(split), **asked, **seen.metrics})
    return Scored(replace(seen, counts=seen.counts.cpu()), split, out, task)


def _tell_fixed(known: Description, stated: Mapping[str, Any], path: Path) -> None:
    """Log which settings ask for something else than a checkpoint has fixed."""
    own = {"model.name": known.model["name"], "data.features": list(known.preprocess.features)}
    own |= {f"model.args.{name}": value for name, value in dotted(dict(known.model["args"])).items()}
    own |= {f"data.divide.{name}": by for name, by in known.preprocess.divide.items()}
    for key, value in stated.items():
        fixed = key == "data.features" or key.startswith(("model.", "data.divide"))
        asked = [value] if key == "data.features" and isinstance(value, str) else value
        if fixed and not key.startswith("model.init_from") and (own.get(key) or None) != (asked or None):
            logger.warning("%s=%s is not used: %s fixes it as %s", key, value, path, own.get(key))


def _results_name(
    path: Path, split_name: str, known: Description, config: Config, stated: Mapping[str, Any]
) -> str:
    """Return the folder's name for results: with what differs from the training of data and settings."""
    trained, own = dotted(dict(known.config)), ("data.name", "data.root", "data.features")
    changed = [
        key.rpartition(".")[2]
        for key, value in stated.items()
        if key.startswith(("data.", "loss.", "task_args.")) and trained.get(key) != value
        if key not in own and not key.startswith("data.divide")
    ]
    data, name, root = known.config.get("data", {}), config.data.name, Path(config.data.root).expanduser()
    other = [name] if data.get("name", name) != name else []
    if not other and Path(data.get("root", root)).name != root.name:
        other = [root.resolve().name]
    return "_".join([path.stem, split_name, *other, *sorted(changed)])


def trained_on(known: Description, config: Config, split_name: str) -> str:
    """Return what to say of scores on the shapes that a checkpoint was trained on; empty on others."""
    data = known.config.get("data", {})
    learned, own = data.get("train_split"), data.get("root") == config.data.root
    seen = {"train": True, "trainval": True, "val": learned == "trainval", "all": own}
    if not seen.get(split_name) or data.get("name") != config.data.name:
        return ""
    if own:
        return f"the model was trained on these shapes ({learned}): this says nothing about others"
    return (
        f"the model was trained on the split {learned} of {data.get('root')}: if these are its shapes, this "
        "says nothing about others"
    )
