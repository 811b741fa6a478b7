"""Measure trained classifiers on clouds that stand or lie otherwise: turned about y, on a side, up unknown.

    python -m benchmarks.orientation modelnet40_cpu --out results/orientation

The clouds of the test split are measured as they stand, turned about y, each by an angle of its own, and in
the 24 positions whose axes are parallel to the first ones, each position for as many clouds: by a plain call,
and with ``up="auto"``, for which the surest of six answers counts, as `bixt3d.inference.looks.Looks` has it.
The first two are looked at four times, too (``turns=4``). Then each of the six axes is up, and a
plain call is not told. ``--retrieval`` adds how well shapes find others of their class, as they stand and
turned.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from functools import partial

import torch
from torch import Generator, Tensor

from benchmarks.options import add_models, parser_of
from benchmarks.table import command_line, environment_line, markdown_table
from benchmarks.trained import Trained, opened, part_of
from bixt3d import Predictor
from bixt3d.commands.endings import one_line_errors
from bixt3d.datasets.augment import parallel_turns, rotate_up, turn_by
from bixt3d.datasets.orientation import AXES, turn, turn_about
from bixt3d.datasets.split import Split
from bixt3d.inference.looks import Looks
from bixt3d.retrieval import retrieval
from bixt3d.training.device import pick_device
from bixt3d.training.files import write_csv, write_text

SEED = 0


def about_y(points: Tensor) -> Tensor:
    """Turn each cloud (S, N, 3) about y by an angle drawn evenly: the same every time."""
    return rotate_up(points, 180, Generator().manual_seed(SEED), ())


def parallel(points: Tensor) -> Tensor:
    """Put clouds (S, N, 3) into the 24 positions in turn, in an order that is drawn: the same every time."""
    turns = parallel_turns().to(points)
    order = torch.randperm(len(points), generator=Generator().manual_seed(SEED))  # (S,)
    return turn_by(points, turns[order % len(turns)], ())


def with_up(points: Tensor, axis: str) -> Tensor:
    """Return clouds (S, N, 3) whose y is up so that ``axis`` is: `turn` with it gives them back."""
    whole = torch.eye(3)
    rows = turn(whole, axis)  # of what each axis becomes
    return points @ rows.T.to(points)


def probabilities(trained: Trained, split: Split, points: Tensor, device: torch.device) -> Tensor:
    """Return the probabilities of classes (S, K) for clouds as a file has them."""
    return trained.probabilities(trained.arrange(replace(split, points=points)), device)


def accuracy(found: Tensor, split: Split) -> float:
    return float((found.argmax(-1) == split.label).float().mean())


def automatic(trained: Trained, split: Split, points: Tensor, device: torch.device) -> Tensor:
    """Return the probabilities (S, K) of the surest of six answers, one with each axis up."""
    seen = torch.stack([probabilities(trained, split, turn(points, axis), device) for axis in AXES])
    sure = torch.special.entr(seen).sum(-1).neg() if trained.looks.even else seen.amax(-1)  # (6, S)
    return seen[sure.argmax(0), torch.arange(len(split))]


def around(trained: Trained, split: Split, points: Tensor, device: torch.device, turns: int) -> Tensor:
    """Return the mean probabilities (S, K) of clouds that are turned about y ``turns`` times."""
    turned = [turn_about(points, None, 360 * number / turns) for number in range(turns)]
    return torch.stack([probabilities(trained, split, one, device) for one in turned]).mean(0)


def measure(trained: Trained, split: Split, device: torch.device) -> dict[str, float]:
    """Return accuracies by what was done to the clouds."""
    points = split.points
    plain, auto = (partial(way, trained, split, device=device) for way in (probabilities, automatic))
    ways = {
        "as they stand": plain(points=points),
        "turned about y": plain(points=about_y(points)),
        "as they stand, mean of 4 turns": around(trained, split, points, device, 4),
        "turned about y, mean of 4 turns": around(trained, split, about_y(points), device, 4),
        "24 positions": plain(points=parallel(points)),
        "as they stand, up unknown": auto(points=points),
        "turned about y, up unknown": auto(points=about_y(points)),
        "24 positions, up unknown": auto(points=parallel(points)),
        **{f"{axis} up, not told": plain(points=with_up(points, axis)) for axis in AXES},
    }
    found = {name: accuracy(seen, split) for name, seen in ways.items()}
    found["mean of six up axes, not told"] = statistics.mean(found[f"{axis} up, not told"] for axis in AXES)
    return found


def search(trained: Trained, split: Split, device: torch.device) -> dict[str, float]:
    """Return the mean average precision of retrieval by what was done to the clouds."""

    data = trained.config.data

    def precision(points: Tensor, turns: int = 1) -> float:
        kind = {"num_points": data.num_points, "normalization": data.normalization, "up": "y"}
        predictor = Predictor(trained.model, device, turns=turns, **kind)
        return retrieval(torch.from_numpy(predictor.embed(points)), split.label)["map"]

    turned = about_y(split.points)
    return {
        "retrieval, as they stand": precision(split.points),
        "retrieval, turned about y": precision(turned),
        "retrieval, turned about y, mean of 4 turns": precision(turned, 4),
    }


def looked(looks: Looks) -> str:
    """Say which of six answers counts where the up axis is not known."""
    return f"up unknown: {'the least entropy' if looks.even else 'the most confident'}"


def page(rows: list[list[str]], models: list[Trained], part: str, about: str) -> str:
    """Return the text of the page."""
    trained = "\n".join(f"{model.about()}; {looked(model.looks)}" for model in models)
    return f"""# Any orientation

Overall accuracy in per cent on {part}:

{trained}

{markdown_table(rows[0], rows[1:])}

Turned about y: each cloud by an angle drawn evenly; mean of 4 turns: `Predictor(..., turns=4)`. 24 positions:
the turns that leave axes parallel to axes, each for as many clouds. Up unknown: `Predictor(..., up="auto")`,
the surest of six answers, one an axis. Not told: a plain call, though another axis is up. Retrieval: mean
average precision by `Predictor.embed`. The same numbers: [table.csv](table.csv).

{about}
"""


def main() -> None:
    parser = parser_of(__doc__)
    add_models(parser)
    parser.add_argument("--retrieval", action="store_true", help="measure retrieval, too")
    args = parser.parse_args()
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    begun, device = time.perf_counter(), pick_device(args.device)
    models, split, trial = opened(args, device)
    for trained in models:
        if trained.features:
            raise ValueError(
                f"{trained.name}: expected a model of xyz alone, got {', '.join(trained.features)}"
            )
    split = split.with_features(())
    if args.retrieval and int(split.label.bincount().max()) < 2:
        raise ValueError("--retrieval: expected a class of two shapes or more; give more --shapes")
    found = {trained.name: measure(trained, split, device) for trained in models}
    if args.retrieval:
        for trained in models:
            found[trained.name] |= search(trained, split, device)
    ways = next(iter(found.values()))
    rows = [["clouds", *found], *([way, *(f"{100 * of[way]:.2f}" for of in found.values())] for way in ways)]
    minutes = (time.perf_counter() - begun) / 60
    about = f"`{command_line('benchmarks.orientation')}`, {minutes:.1f} minutes\n\n{environment_line(device)}"
    write_csv(rows, args.out / "table.csv")
    write_text(args.out / "README.md", page(rows, models, part_of(split, trial), about))
    print(f"{markdown_table(rows[0], rows[1:])}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
