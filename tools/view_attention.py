"""Draw where a model's latents look on a cloud, or how alike its two directions of attention are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.inference import Predictor
from bixt3d.training.command import add_plugins, folder_of, one_line_errors, place
from bixt3d.training.device import pick_device
from bixt3d.visualize.attention import attention_picture, symmetry_picture
from bixt3d.visualize.gallery import training_split


def symmetry(predictor: Predictor, split_name: str, root: str | None, shapes: int) -> list[Any]:
    """Measure a model on the first clouds of its data's split: for each layer (clouds, heads)."""
    split = training_split(predictor, split_name, root)
    of_cloud = predictor.task.groups(split)[1] if predictor.task.per_point else None
    values = [
        predictor.attention_symmetry(split.points[i], None if of_cloud is None else int(of_cloud[i]))
        for i in range(0, len(split), max(1, len(split) // shapes))
    ]
    return [np.stack(layer) for layer in zip(*values, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", help="mesh or cloud; a shape of the training's data by default")
    parser.add_argument(
        "--checkpoint", required=True, nargs="+", help="weights, run or shipped name; several with --symmetry"
    )
    parser.add_argument("--symmetry", action="store_true", help="compare both directions of attention")
    parser.add_argument("--category", help="category of the file, for a model of parts")
    parser.add_argument("--data", help="data folder; that of the training by default")
    parser.add_argument("--split", default="test", help="train, val or test (default)")
    parser.add_argument("--shape", type=int, default=0, help="which shape of the split (0)")
    parser.add_argument("--shapes", type=int, default=64, help="shapes that --symmetry measures (64)")
    parser.add_argument("--latents", type=int, nargs="+", help="latents to show, from 1 (six)")
    parser.add_argument("--heads", type=int, metavar="LATENT", help="show the heads of this latent, from 1")
    parser.add_argument("--out", type=place, default=Path("attention.png"), help="picture (attention.png)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; CUDA where there is one by default")
    add_plugins(parser)
    args = parser.parse_args()
    if len(args.checkpoint) > 1 and not args.symmetry:
        parser.error("several checkpoints are compared with --symmetry only; a file goes before --checkpoint")
    if args.symmetry and args.file:
        parser.error("--symmetry measures shapes of the data: give no file with it")
    if args.shapes < 1 or min(args.latents or [1]) < 1 or (args.heads is not None and args.heads < 1):
        parser.error("--shapes, --latents and --heads: expected numbers from 1")
    with one_line_errors(args=args) as ending:
        ending.folder = folder_of(args.checkpoint[0])
        predictors = {name: Predictor(name, pick_device(args.device)) for name in args.checkpoint}
        if args.symmetry:
            found = {name: symmetry(p, args.split, args.data, args.shapes) for name, p in predictors.items()}
            for name, layers in found.items():
                shown = "  ".join(f"{values.mean():.3f} ± {values.std():.3f}" for values in layers)
                print(f"{name}: {shown or 'no layer has both directions'}")
            print(f"picture: {symmetry_picture(found, args.out)}")
            return
        predictor = predictors[args.checkpoint[0]]
        cloud, category, title = args.file, args.category, Path(args.file or "").name
        if cloud is None:
            split = training_split(predictor, args.split, args.data)
            shape = args.shape
            if not 0 <= shape < len(split):
                raise ValueError(f"--shape: expected 0 to {len(split) - 1}, got {shape}")
            cloud, title = split.points[shape], f"{split.classes[int(split.label[shape])]}, shape {shape}"
            category = int(split.category[shape]) if split.category is not None else None
        attention = predictor.attention(cloud, category)
        latents = [number - 1 for number in args.latents] if args.latents else None
        heads = args.heads - 1 if args.heads else None
        print(f"picture: {attention_picture(attention, args.out, latents, heads, title)}")


if __name__ == "__main__":
    main()
