"""Train a point cloud classifier, then evaluate it once on the test split."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from bixt3d.config import load_config
from bixt3d.training import ClassificationTask, Trainer
from bixt3d.training.checkpoint import load_checkpoint
from bixt3d.training.device import join_workers, leave_workers, pick_device
from bixt3d.training.evaluate import evaluate
from bixt3d.training.experiment import build_model, describe, open_splits
from bixt3d.training.report import write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cfg", required=True, help="YAML file with the settings")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings that go before the file's",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; CUDA where there is one by default")
    parser.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train(args)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; go on from the last saved epoch with --resume")
    finally:
        leave_workers()


def train(args: argparse.Namespace) -> None:
    begun = time.perf_counter()
    config = load_config(args.cfg, args.set)
    run_dir = Path(config.run.dir or Path("runs") / Path(args.cfg).stem)
    device = pick_device(args.device)
    workers = join_workers(device)
    chosen = config.data.train_split
    names = (chosen, "test") if chosen == "trainval" else (chosen, "val", "test")
    splits, stored_points = open_splits(config, device, names)
    description = describe(config, splits[chosen], stored_points)
    model = build_model(config, description)
    task = ClassificationTask(splits[chosen].classes, config.optim.label_smoothing)
    if workers.first:
        count = sum(value.numel() for value in model.parameters())
        sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
        print(f"{config.model.name}: {count:,} parameters on {device}; {config.data.name}: {sizes}")
    trainer = Trainer(
        config, model, task, splits[chosen], splits.get("val"), run_dir, description, args.resume
    )
    trainer.fit()
    result: dict[str, object] = {"config": args.cfg, "set": args.set}
    for name in ("last", "best"):
        if not (run_dir / f"{name}.safetensors").is_file():
            continue
        model, meta = load_checkpoint(run_dir / name, device)
        seen = evaluate(
            model, splits["test"], task, config.train.eval_batch_size, config.train.amp, workers
        )
        result[name] = {"epoch": meta["metrics"]["epoch"], **seen.metrics}
        if workers.first:
            scores = "  ".join(f"{key} {100 * value:.2f}%" for key, value in seen.metrics.items())
            why = "last epoch" if name == "last" else f"epoch {meta['metrics']['epoch']}, best on val"
            print(f"test  {scores}  ({why})")
    if workers.first:
        result["minutes"] = round((time.perf_counter() - begun) / 60, 2)
        write_result(run_dir / "result.json", result)
        print(f"{result['minutes']} minutes; everything is in {run_dir}")


if __name__ == "__main__":
    main()
