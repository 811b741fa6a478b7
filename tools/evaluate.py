"""Evaluate a classifier: overall and mean class accuracy, every class, confusion matrix."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from bixt3d.config import config_from, load_config
from bixt3d.training import ClassificationTask
from bixt3d.training.checkpoint import find_checkpoint, load_checkpoint
from bixt3d.training.device import pick_device
from bixt3d.training.evaluate import evaluate
from bixt3d.training.experiment import open_splits
from bixt3d.training.report import class_table, write_confusion, write_result
from bixt3d.visualize.plots import confusion_matrix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="weights file, its name without suffix, or a run's folder")
    parser.add_argument("--cfg", help="YAML file; by default the settings of the checkpoint's training")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; CUDA where there is one by default")
    parser.add_argument("--split", default="test", help="train, val, trainval or test (default)")
    parser.add_argument("--out", type=Path, help="folder for the results; beside the checkpoint by default")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def run(args: argparse.Namespace) -> None:
    path = find_checkpoint(args.checkpoint)
    device = pick_device(args.device)
    model, meta = load_checkpoint(path, device)
    config = load_config(args.cfg, args.set) if args.cfg else config_from(meta["config"], args.set)
    splits, _ = open_splits(config, device, (args.split,))
    split = splits[args.split]
    if list(split.classes) != meta["classes"]:
        raise ValueError(
            f"{path} knows {len(meta['classes'])} classes ({', '.join(meta['classes'][:3])} ...), "
            f"{config.data.name} has {len(split.classes)} ({', '.join(split.classes[:3])} ...)"
        )
    seen = evaluate(
        model, split, ClassificationTask(split.classes), config.train.eval_batch_size, config.train.amp
    )
    print(class_table(seen.counts.cpu(), split.classes))
    print(f"\n{args.split}: {len(split)} shapes of {config.data.name}, epoch {meta['metrics']['epoch']}")
    print(f"OA    {100 * seen.metrics['oa']:.2f}%\nmAcc  {100 * seen.metrics['macc']:.2f}%")
    out = args.out or path.parent / f"{path.stem}_{args.split}"
    out.mkdir(parents=True, exist_ok=True)
    write_confusion(seen.counts.cpu(), split.classes, out / "confusion.csv")
    write_result(out / "result.json", {"split": args.split, "shapes": len(split), **seen.metrics})
    picture = confusion_matrix(seen.counts.cpu(), split.classes, out / "confusion.png")
    print(f"confusion matrix: {picture}, {out / 'confusion.csv'}")


if __name__ == "__main__":
    main()
