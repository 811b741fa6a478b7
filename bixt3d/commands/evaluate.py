"""Evaluate a checkpoint on a split: scores, and those of every class.

It writes every shape's prediction, and report.html: the worst shapes, the most
confused pairs, accuracy against confidence. Data with some of the model's
classes alone will do.

Examples:
  bixt3d evaluate runs/modelnet40_cpu
  bixt3d evaluate modelnet40_cpu --set data.root=FOLDER
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bixt3d.commands.options import (
    add_checkpoint,
    add_machine,
    add_settings,
    checkpoint_of,
    folder_of,
    place,
)

if TYPE_CHECKING:
    import torch

    from bixt3d.training.evaluate import Scored


RETRIEVAL = {"map": "retrieval mAP", "nearest": "nearest shape of its class"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d evaluate``."""
    add_checkpoint(parser)
    add_results(parser)
    add_settings(parser, "name or YAML file; by default the settings of the checkpoint's training")
    add_machine(parser)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add what is evaluated, and where results go."""
    parser.add_argument("--split", help="train, val, trainval, test, or all of a folder (default: test)")
    parser.add_argument(
        "--out", type=place, metavar="FOLDER", help="for the results (default: beside the checkpoint)"
    )
    parser.add_argument(
        "--retrieval",
        action="store_true",
        help="also of a classifier: how well each shape finds those of its class, by its embedding",
    )
    parser.add_argument(
        "--picture",
        type=int,
        default=0,
        metavar="N",
        help="draw the parts of a shape of N categories (default: 0)",
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate."""
    from bixt3d.inference import Predictor
    from bixt3d.inference.attention import require
    from bixt3d.metrics import retrieval
    from bixt3d.suggest import counted
    from bixt3d.training.device import pick_device
    from bixt3d.training.evaluate import embed_split, evaluate_checkpoint
    from bixt3d.training.files import write_confusion, write_csv, write_result
    from bixt3d.visualize.plots import confusion_matrix
    from bixt3d.visualize.report import Report

    checkpoint = checkpoint_of(args)
    args.ending.folder = folder_of(checkpoint)
    device, report, which = pick_device(args.device), Report(), args.split or "test"
    searcher = Predictor(checkpoint, device) if args.retrieval else None
    if searcher is not None and searcher.task.per_point:
        raise ValueError(f"--retrieval is for classifiers; {checkpoint} labels points")
    if searcher is not None:
        searcher.require_clouds("--retrieval")
        require(searcher.model, "forward_features")
    scored = evaluate_checkpoint(checkpoint, which, args.cfg, args.set, device, args.out, report.watch)
    out, pictures = scored.out, {}
    for name, rows in (("predictions", report.predictions), ("part_iou", report.part_scores)):
        if rows:
            write_csv(rows, out / f"{name}.csv")
    draws = find_spec("matplotlib") is not None
    if not draws:
        print('pictures are left out; they need matplotlib: pip install "bixt3d[plots]"', file=sys.stderr)
    if confusion := scored.task.confusion(scored.seen.counts):
        write_confusion(*confusion, out / "confusion.csv")
        if draws:
            pictures["Confusion matrix"] = confusion_matrix(*confusion, out / "confusion.png")
            print(f"confusion matrix: {pictures['Confusion matrix']}")
    if draws and (worst := report.write_worst(out / "worst.png")):
        print(f"the worst: {worst}")
    if draws and scored.task.per_point and args.picture != 0:
        draw_parts(checkpoint, scored, device, args.picture)
    shown = {
        scored.task.titles.get(name, name): scored.task.show(v) for name, v in scored.seen.metrics.items()
    }
    about = f"{counted(len(scored.split), 'shape')}, {which} split"
    rows = scored.task.table(scored.seen.counts)
    asked = {"settings": args.set} if args.set else {}
    stated = {"split": which, "shapes": len(scored.split), **asked, **scored.seen.metrics}
    if (error := report.calibration_error) is not None:
        stated["calibration_error"] = error
        shown["calibration error"] = f"{error:.2%}"
        print(f"expected calibration error  {error:.2%}")
    if searcher is not None:
        vectors = embed_split(searcher.model, scored.split)
        for name, value in retrieval(vectors, scored.split.label).items():
            stated[f"retrieval_{name}"] = value
            shown[RETRIEVAL[name]] = f"{value:.2%}"
            print(f"{RETRIEVAL[name]}  {value:.2%}")
    write_result(out / "result.json", stated)
    print(f"report: {report.write_page(out / 'report.html', checkpoint, about, shown, rows, pictures)}")
    print(f"tables and scores are in {out}")


def draw_parts(checkpoint: str, scored: Scored, device: torch.device, categories: int | None) -> None:
    """Draw the first shape of each category, or of so many."""
    from bixt3d.inference import Predictor
    from bixt3d.visualize import Gallery, part_picture

    numbers = scored.task.groups(scored.split)[1].tolist()
    firsts = [numbers.index(number) for number in sorted(set(numbers))][:categories]
    predictor = Predictor(checkpoint, device, up="y")  # as the clouds of an evaluation stand already
    clouds = Gallery.of_split(predictor, scored.split, firsts, attention=False)
    print(f"picture: {part_picture(clouds, scored.out / 'parts.png')}")
