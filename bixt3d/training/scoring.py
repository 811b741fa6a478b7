"""Checkpoints evaluated on a split: printed, and written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from bixt3d.config import config_from, load_config, override
from bixt3d.datasets.split import Split
from bixt3d.tasks import Description, Task, compare_facts
from bixt3d.training.checkpoint import find_checkpoint, load_checkpoint
from bixt3d.training.evaluate import Evaluation, evaluate
from bixt3d.training.report import text_table, write_csv, write_result
from bixt3d.training.splits import build_task, open_splits
from bixt3d.training.weights import place_beside


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
) -> Scored:
    """Evaluate a checkpoint on a split, print its table, and write ``result.json`` and ``table.csv``.

    Args:
        checkpoint: Weights file, its name without suffix, or a run's folder.
        split_name: Which split.
        cfg: YAML file with the settings; those of the checkpoint's training if None.
        overrides: Settings that go before the file's.
        device: Where to compute.
        out: Folder for the results; one beside the checkpoint if None.

    Returns:
        The evaluation with its counts on the CPU, the split, the folder, and the task.

    Raises:
        ValueError: If the checkpoint is damaged or knows other classes than the data.
        FileNotFoundError: If checkpoint, settings or data are missing.
    """
    path, device = find_checkpoint(checkpoint), torch.device(device or "cpu")
    model, meta = load_checkpoint(path, device)
    known = Description.from_dict(meta)
    config = load_config(cfg, overrides) if cfg else config_from(known.config, overrides)
    config = override(
        config, model={"name": known.model["name"]}, data={"features": known.preprocess.features}
    )
    task = build_task(config, config.task or known.task)
    split = open_splits(config, device, (split_name,), task=task)[0][split_name]
    compare_facts(str(path), known.facts, task.facts(split), config.data.name)
    task.set_facts({**task.facts(split), **known.facts})
    task.bind_model(model)
    seen = evaluate(model, split, task, config.train.eval_batch_size, config.train.amp)
    rows = task.table(seen.counts.cpu())
    epoch = known.metrics.get("epoch", "unknown")
    print(f"{text_table(rows)}\n\n{split_name}: {len(split)} shapes of {config.data.name}, epoch {epoch}")
    print(scores(seen, task))
    learned = known.config.get("data", {}).get("train_split")
    if split_name in ("train", "trainval") or (split_name == "val" and learned == "trainval"):
        print(f"the model was trained on these shapes ({learned}): this says nothing about others")
    out = out.expanduser() if out else place_beside(path) / f"{path.stem}_{split_name}"
    out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, out / "table.csv")
    write_result(out / "result.json", {"split": split_name, "shapes": len(split), **seen.metrics})
    return Scored(replace(seen, counts=seen.counts.cpu()), split, out, task)
