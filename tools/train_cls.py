"""Train a point cloud classifier, then evaluate it once on the test split."""

from __future__ import annotations

from pathlib import Path

from bixt3d.training.command import RESUMABLE, experiment, one_line_errors, parser
from bixt3d.training.device import pick_device
from bixt3d.training.experiment import train


def main() -> None:
    options = parser(__doc__, "YAML file with the settings (required)")
    options.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    args = options.parse_args()
    if args.cfg is None:
        options.error("the following arguments are required: --cfg")
    with one_line_errors(RESUMABLE, args) as ending:
        config = experiment(args.cfg, args.set, parts=False)
        ending.folder = Path(config.run.dir).expanduser()
        train(config, device=pick_device(args.device), resume=args.resume)


if __name__ == "__main__":
    main()
