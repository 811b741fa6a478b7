"""Train PointMLP for a fixed time on this machine, with the same trainer and data as our CPU experiment.

It is given its own recipe (SGD 0.1, cosine, PointMLP's augmentation, 1024 points) and as many steps as fit
into the time, measured beforehand, so that its schedule ends when the time does. Example:

    python -m benchmarks.pointmlp_cpu --data data --minutes 30 --out results/pointmlp_cpu.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.models import PEERS
from benchmarks.timing import milliseconds
from bixt3d.config import Config, load_config, override
from bixt3d.datasets.split import Split
from bixt3d.training import ClassificationTask, Trainer, evaluate
from bixt3d.training.device import has_bfloat16, keep_freed_memory, pick_device
from bixt3d.training.experiment import describe
from bixt3d.training.log import environment
from bixt3d.training.splits import open_splits

CFG = Path(__file__).parent.parent / "configs" / "paper_naive.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=("pointmlp", "pointmlp_elite"), default="pointmlp")
    parser.add_argument("--data", default="data", help="folder that holds modelnet40_ply_hdf5_2048")
    parser.add_argument("--minutes", type=float, default=30.0, help="wall time, evaluation included")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    begun = time.perf_counter()
    overrides = [
        "data.train_split=trainval",
        f"data.root={args.data}",
        f"train.seed={args.seed}",
        "train.epochs=1",
        "run.tensorboard=false",
        "optim.schedule_unit=step",
        "train.eval_batch_size=16",
    ]
    config = load_config(CFG, overrides)
    device = pick_device(args.device)
    keep_freed_memory()
    splits, stored_points = open_splits(config, device, ("trainval", "test"))
    train, test = splits["trainval"], splits["test"]
    torch.manual_seed(args.seed)
    model = PEERS[args.model](len(train.classes)).to(device)
    measured = {}
    for amp in (False, True) if has_bfloat16(device) else (False,):
        config = override(config, train={"amp": amp})
        measured[amp] = rates(config, PEERS[args.model](len(train.classes)).to(device), train)
    # In the precision that is the faster one for it here.
    amp = min(measured, key=lambda amp: measured[amp])
    step, cloud = measured[amp]
    left = 60 * args.minutes - (time.perf_counter() - begun) - 1.1 * cloud * len(test)
    steps = int(0.95 * left / step)
    batch = config.train.batch_size
    print(f"{step:.2f} s a step of {batch}, {1e3 * cloud:.0f} ms a test cloud: {steps} steps", flush=True)
    epochs = max(1, -(-steps * batch // len(train)))
    config = override(config, train={"amp": amp, "epochs": epochs})
    task = ClassificationTask(train.classes)
    task.configure(config)
    with tempfile.TemporaryDirectory() as folder:
        about = describe(config, train, stored_points, task, model)
        trainer = Trainer(config, model, task, train, None, folder, about)
        # Shorter epochs, each of other clouds, as the order is drawn anew: the schedule fills the time.
        trainer.steps_per_epoch = max(1, steps // epochs)
        trainer.fit()
    seen = evaluate(model, test, task, config.train.eval_batch_size, config.train.amp)
    result = {
        "model": args.model,
        "parameters": sum(value.numel() for value in model.parameters()),
        "minutes": round((time.perf_counter() - begun) / 60, 2),
        "bfloat16": config.train.amp,
        "steps": trainer.step,
        "clouds_trained": trainer.step * batch,
        "test_oa": seen.metrics["oa"],
        "test_macc": seen.metrics["macc"],
        "environment": environment(device),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def rates(config: Config, model: nn.Module, train: Split) -> tuple[float, float]:
    """Measure seconds of a training step and of a cloud in evaluation."""
    points = train.points[: config.train.batch_size]
    label = train.label[: config.train.batch_size]
    amp = torch.autocast(points.device.type, torch.bfloat16, enabled=config.train.amp)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        with amp:
            logits = model(points)
        F.cross_entropy(logits.float(), label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def look() -> None:
        with torch.no_grad(), amp:
            model(points)

    step()
    of_step = statistics.mean(milliseconds(step, points.device) for _ in range(2))
    model.eval()
    return 1e-3 * of_step, 1e-3 * milliseconds(look, points.device) / len(points)


if __name__ == "__main__":
    main()
