"""Train a point cloud classifier, then evaluate it once on the test split."""

from __future__ import annotations

from bixt3d.training.command import RESUMABLE, experiment, one_line_errors, parser
from bixt3d.training.device import pick_device
from bixt3d.training.experiment import train_model


def main() -> None:
    options = parser(__doc__, "YAML file with the settings (required)")
    options.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    args = options.parse_args()
    if args.cfg is None:
        options.error("the following arguments are required: --cfg")
    with one_line_errors(RESUMABLE):
        train_model(experiment(args.cfg, args.set, parts=False), pick_device(args.device), args.resume)


if __name__ == "__main__":
    main()
