"""A data set of one's own, known by a name: a config names it, and a checkpoint remembers it.

python examples/own_dataset.py
python tools/train_cls.py --plugin examples/own_dataset.py --cfg my.yaml --set data.name=blobs
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import bixt3d

CLASSES = ("one", "two", "three")
SIZES = {"train": 120, "val": 30, "test": 60, "trainval": 150}


def read_blobs(root: Path, split: str) -> bixt3d.Split:
    """Return a split: here it is made; yours may be read from files below the root.

    Clouds may have any number of points each, in any unit: they are centred and scaled.
    """
    draw = np.random.default_rng(list(SIZES).index(split))
    label = np.arange(SIZES[split]) % len(CLASSES)
    clouds = []
    for blobs in label + 1:
        centres = np.eye(3)[:blobs] * 8.0
        count = int(draw.integers(80, 120))
        clouds.append(centres[draw.integers(blobs, size=count)] + draw.normal(size=(count, 3)))
    return bixt3d.Split.from_clouds(clouds, label, CLASSES)


bixt3d.register_dataset("blobs", read_blobs)


def main(folder: Path = Path("runs/own_dataset")) -> bixt3d.Result:
    settings = ["data.name=blobs", "data.num_points=64", "data.order=random", f"run.dir={folder}"]
    settings += [
        "model.args.dim=24",
        "model.args.depth=2",
        "model.args.num_heads=2",
        "model.args.num_latents=8",
    ]
    settings += ["optim.lr=3e-3", "optim.warmup_epochs=1", "train.epochs=8", "train.batch_size=10"]
    config = bixt3d.load_config(bixt3d.Config(), [*settings, "train.ema_decay=0.9"])
    result = bixt3d.train(config)
    cloud = np.concatenate(
        [np.random.default_rng(9).normal(size=(50, 3)) + 9 * axis for axis in np.eye(3)[:2]]
    )
    answer = bixt3d.Predictor(folder / "last")(cloud)
    print(f"test accuracy {100 * result.last['oa']:.1f} %, two blobs are {answer.label!r}")
    return result


if __name__ == "__main__":
    main()
