"""Evaluate a checkpoint: its scores, every class or category, and a classifier's confusion matrix."""

from __future__ import annotations

from bixt3d.training.command import folder_of, one_line_errors, parser, place
from bixt3d.training.device import pick_device
from bixt3d.training.report import write_confusion
from bixt3d.training.scoring import evaluate_checkpoint
from bixt3d.visualize.plots import confusion_matrix


def main() -> None:
    options = parser(__doc__, "YAML file; by default the settings of the checkpoint's training")
    options.add_argument("checkpoint", help="weights file, run's folder (best, else last) or shipped name")
    options.add_argument("--split", default="test", help="train, val, trainval or test (default)")
    options.add_argument("--out", type=place, help="for results; beside the checkpoint, runs for a name")
    args = options.parse_args()
    with one_line_errors(args=args) as ending:
        ending.folder = folder_of(args.checkpoint)
        device = pick_device(args.device)
        scored = evaluate_checkpoint(args.checkpoint, args.split, args.cfg, args.set, device, args.out)
        if confusion := scored.task.confusion(scored.seen.counts):
            write_confusion(*confusion, scored.out / "confusion.csv")
            picture = confusion_matrix(*confusion, scored.out / "confusion.png")
            print(f"confusion matrix: {picture}")
        print(f"tables and scores are in {scored.out}")


if __name__ == "__main__":
    main()
