"""Evaluation of a model on a split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bixt3d.datasets.loader import Batch, CloudLoader
from bixt3d.datasets.split import Split
from bixt3d.tasks import Task
from bixt3d.training.device import Workers, autocast
from bixt3d.training.memory import describe, guarded, largest_fit


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
) -> Evaluation:
    """Evaluate a model once on every cloud of a split, without augmentation.

    Args:
        model: The model; it is left in the mode it came in.
        split: The clouds, on the model's device.
        task: Says how the model is called and what is counted.
        batch_size: Clouds at a time in each process.
        amp: Use bfloat16 autocast, on devices that are faster with it.
        workers: Processes that share the split; every cloud is counted exactly once.

    Returns:
        Mean loss over all clouds, metrics as fractions of 1, and the summed counts.

    Raises:
        OutOfMemory: Naming a batch that fits, if there is one.
    """
    workers = workers or Workers()
    device = split.points.device
    loader = CloudLoader(split, batch_size, rank=workers.rank, world_size=workers.world_size)
    counts = task.start(device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()

    def look(batch: Batch) -> tuple[Tensor, Tensor]:
        logits = task.forward(model, batch)
        return task.loss(logits, batch).double() * len(batch.label), task.count(logits, batch)

    def what_fits(batch: Batch, failure: str) -> str:
        size = largest_fit(look, batch)
        said = f"evaluation with {describe(batch)} ran out of memory ({failure})"
        return f"{said}; {size} clouds fit: train.eval_batch_size={size}" if size else said

    try:
        with autocast(device, amp):  # around all batches, to cast weights once; not in inference_mode
            for batch in loader:
                part, count = guarded(look, batch, what_fits)
                loss += part
                counts += count
    finally:
        for module, training in modes:
            module.training = training
    counts, loss = workers.sum(counts), workers.sum(loss)
    return Evaluation(float(loss) / len(split), task.metrics(counts), counts)
