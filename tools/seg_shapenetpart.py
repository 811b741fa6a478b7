"""Train a part segmenter, then evaluate it once on the test split; with --checkpoint, only evaluate."""

from __future__ import annotations

from pathlib import Path

from bixt3d.inference import Predictor
from bixt3d.training.command import RESUMABLE, experiment, one_line_errors, parser, place
from bixt3d.training.device import pick_device
from bixt3d.training.experiment import train
from bixt3d.training.scoring import evaluate_checkpoint
from bixt3d.visualize import Gallery, part_picture

CFG = Path(__file__).parent.parent / "configs" / "shapenetpart_encdec.yaml"


def main() -> None:
    options = parser(__doc__, f"YAML file with the settings; configs/{CFG.name} by default")
    options.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    options.add_argument("--checkpoint", help="only evaluate: weights file, run's folder or shipped name")
    options.add_argument("--split", help="split to evaluate --checkpoint on (test)")
    options.add_argument("--out", type=place, help="folder for its results; beside it by default")
    options.add_argument("--picture", type=int, help="categories in its picture, 0 for none (all)")
    args = options.parse_args()
    if args.checkpoint and args.resume:
        options.error("--checkpoint only evaluates, --resume trains: give one of them")
    if not args.checkpoint and (args.split or args.out or args.picture is not None):
        options.error("--split, --out and --picture belong to --checkpoint")
    with one_line_errors(RESUMABLE, args) as ending:
        device = pick_device(args.device)
        if args.checkpoint:
            scored = evaluate_checkpoint(
                args.checkpoint, args.split or "test", args.cfg, args.set, device, args.out
            )
            if scored.task.per_point and args.picture != 0:
                numbers = scored.task.groups(scored.split)[1].tolist()
                firsts = [numbers.index(number) for number in sorted(set(numbers))][: args.picture]
                predictor = Predictor(args.checkpoint, device)
                clouds = Gallery.of_split(predictor, scored.split, firsts, attention=False)
                print(f"picture: {part_picture(clouds, scored.out / 'parts.png')}")
            print(f"tables and scores are in {scored.out}")
            return
        config = experiment(args.cfg or str(CFG), args.set, parts=True)
        ending.folder = Path(config.run.dir).expanduser()
        train(config, device=device, resume=args.resume)


if __name__ == "__main__":
    main()
