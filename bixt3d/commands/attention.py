"""Draw where a model's latents look on a cloud.

With --symmetry, measure how alike its two directions of attention are;
with --diversity, how alike its latents are; with --freedom, count the
degrees of freedom of its maps.

Examples:
  bixt3d attention modelnet40_cpu chair.off
  bixt3d attention modelnet40_cpu --shape 25 100 700 --of both
  bixt3d attention runs/one runs/other --symmetry
  bixt3d attention runs/one runs/other --diversity
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bixt3d.commands.options import UsageError, add_machine, add_up, folder_of, place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bixt3d.inference import Predictor

DIRECTIONS: dict[Literal["latents", "tokens"], str] = {
    "latents": "read by latents",
    "tokens": "read by points",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d attention``."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CHECKPOINT FILE",
        help="weights, run or shipped name (several with a measure), then a mesh or cloud; a shape of the "
        "training's data if none",
    )
    parser.add_argument("--checkpoint", nargs="+", default=[], help="the same, by name")
    measures = parser.add_mutually_exclusive_group()
    measures.add_argument("--symmetry", action="store_true", help="compare both directions of attention")
    measures.add_argument("--diversity", action="store_true", help="compare the latents' attention")
    measures.add_argument("--freedom", action="store_true", help="count the maps' degrees of freedom")
    which = parser.add_argument_group("which shapes")
    which.add_argument("--category", help="category of the file, for a part segmenter")
    add_up(which)
    which.add_argument("--data", metavar="FOLDER", help="data folder (default: that of the training)")
    which.add_argument("--split", default="test", help="train, val or test (default: test)")
    which.add_argument(
        "--shape",
        type=int,
        nargs="+",
        default=[0],
        metavar="N",
        help="which shapes of the split, drawn side by side (default: 0)",
    )
    which.add_argument(
        "--shapes", type=int, default=64, metavar="N", help="shapes that are measured (default: 64)"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--latents",
        type=int,
        nargs="+",
        metavar="N",
        help="latents to show, from 1 (default: some that differ)",
    )
    output.add_argument(
        "--of",
        choices=("latents", "tokens", "both"),
        default="latents",
        help="what a latent reads of the points, what each point reads of it, or both (default: latents)",
    )
    output.add_argument("--heads", type=int, metavar="LATENT", help="show the heads of this latent, from 1")
    output.add_argument(
        "--out",
        type=place,
        default=Path("attention.png"),
        metavar="FILE",
        help="picture (default: attention.png)",
    )
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    """Draw."""
    checkpoints, files = _checkpoints_and_files(args)
    if args.shapes < 1 or min(args.latents or [1]) < 1 or (args.heads is not None and args.heads < 1):
        raise UsageError("--shapes, --latents and --heads: expected numbers from 1")
    drawn = {"--latents": args.latents, "--heads": args.heads, "--of": args.of != "latents"}
    ignored = [option for option, value in drawn.items() if value]
    if ignored and _measures(args):
        raise UsageError(f"{' and '.join(ignored)}: for a picture; a measure takes all latents, got both")
    from bixt3d.inference import Predictor
    from bixt3d.training.device import pick_device
    from bixt3d.visualize.attention import attention_picture
    from bixt3d.visualize.bars import symmetry_picture

    args.ending.folder = folder_of(checkpoints[0])
    predictors = {name: Predictor(name, pick_device(args.device), args.up) for name in checkpoints}
    if args.symmetry:
        found = {
            name: measure(p, "attention_symmetry", args.split, args.data, args.shapes)
            for name, p in predictors.items()
        }
        for name, layers in found.items():
            shown = "  ".join(f"{values.mean():.3f} ± {values.std():.3f}" for values in layers)
            print(f"{name}: {shown or 'no layer has both directions'}")
        print(f"picture: {symmetry_picture(found, args.out)}")
        return
    if args.diversity:
        for name, of_name in predictors.items():
            layers = measure(of_name, "attention_diversity", args.split, args.data, args.shapes)
            print(f"{name}: correlation of two latents' maps, entropy of one (1: even attention)")
            for number, layer in enumerate(layers, 1):
                correlation, entropy = (layer[:, which] for which in range(2))  # (clouds, heads) each
                said = "  ".join(f"{one.mean():.3f} ± {one.std():.3f}" for one in (correlation, entropy))
                print(f"  layer {number}: {said}")
        return
    if args.freedom:
        for name, of_name in predictors.items():
            layers = measure(of_name, "attention_freedom", args.split, args.data, args.shapes)
            print(f"{name}: numbers that a head's two maps are free in, of one similarity and of two;")
            print("  components with 99 % of a similarity less the means of rows and columns")
            for number, layer in enumerate(layers, 1):
                separate, most, shared, most_shared, first, second = layer.mean((0, 2))
                one, two = f"{shared:,.0f} of {most_shared:,.0f}", f"{separate:,.0f} of {most:,.0f}"
                print(f"  layer {number}: {one}  {two}  {first:.1f} to read points, {second:.1f} latents")
            if not layers:
                print("  no layer has both directions")
        return
    predictor = predictors[checkpoints[0]]
    shapes = {}
    for title, cloud, category in _clouds(predictor, files, args):
        shapes[title] = {
            said: predictor.attention(cloud, category, direction)
            for direction, said in DIRECTIONS.items()
            if args.of in (direction, "both")
        }
    count = next(iter(next(iter(shapes.values())).values())).maps[0].shape[1]
    for option, numbers in (("--latents", args.latents or []), ("--heads", [args.heads or 1])):
        if wrong := [str(number) for number in numbers if number > count]:
            raise ValueError(f"{option}: expected 1 to {count}, got {', '.join(wrong)}")
    latents = [number - 1 for number in args.latents] if args.latents else None
    heads = args.heads - 1 if args.heads else None
    print(f"picture: {attention_picture(shapes, args.out, latents, heads)}")


def _clouds(
    predictor: Predictor, files: list[str], args: argparse.Namespace
) -> Iterator[tuple[str, Any, Any]]:
    """Yield title, cloud and category of the file, or else of the shapes of the training's data."""
    if files:
        yield Path(files[0]).name, files[0], args.category
        return
    from bixt3d.inference.loading import training_split

    split = training_split(predictor, args.split, args.data)
    for shape in dict.fromkeys(args.shape):
        if not 0 <= shape < len(split):
            raise ValueError(f"--shape: expected 0 to {len(split) - 1}, got {shape}")
        category = int(split.category[shape]) if split.category is not None else None
        yield f"{split.classes[int(split.label[shape])]}, shape {shape}", split.points[shape], category


def _measures(args: argparse.Namespace) -> bool:
    return bool(args.symmetry or args.diversity or args.freedom)


def _checkpoints_and_files(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the checkpoints and the file, if any, of a command line.

    Raises:
        UsageError: For no checkpoint, several without a measure, or a file with one.
    """
    if args.checkpoint:
        checkpoints, files = args.checkpoint, args.words
    elif _measures(args):
        checkpoints, files = args.words, []
    else:
        checkpoints, files = args.words[:1], args.words[1:]
    if not checkpoints:
        raise UsageError("expected a checkpoint: the first argument, or --checkpoint")
    if len(checkpoints) > 1 and not _measures(args):
        raise UsageError(
            "several checkpoints need --symmetry, --diversity or --freedom; a file goes before --checkpoint"
        )
    if _measures(args) and files:
        raise UsageError(
            "--symmetry, --diversity and --freedom measure shapes of the data: give no file with them"
        )
    if len(files) > 1:
        raise UsageError(f"expected one file, got {' '.join(files)}")
    return checkpoints, files


def measure(predictor: Predictor, what: str, split_name: str, root: str | None, shapes: int) -> list[Any]:
    """Measure a model on clouds spread over its data's split: for each layer (clouds, ..., heads)."""
    import numpy as np

    from bixt3d.inference.loading import training_split

    split = training_split(predictor, split_name, root)
    of_cloud = predictor.task.groups(split)[1] if predictor.task.per_point else None
    count = min(shapes, len(split))
    values = [
        getattr(predictor, what)(split.points[i], None if of_cloud is None else int(of_cloud[i]))
        for i in (place * len(split) // count for place in range(count))
    ]
    return [np.stack(layer) for layer in zip(*values, strict=True)]
