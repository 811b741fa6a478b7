"""Features beside xyz, by name: colour and intensity of clouds whose class is in the colour alone.

python examples/own_features.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import bixt3d

CLASSES = ("red", "green", "blue")


def make_clouds(count: int, seed: int, features: tuple[str, ...]) -> bixt3d.Split:
    """Balls of one shape: (S, N, 3 + 3 + 1), xyz, colour from 0 to 1, and the strength of an echo."""
    draw = np.random.default_rng(seed)
    label = np.arange(count) % len(CLASSES)
    xyz = draw.normal(size=(count, 64, 3))
    color = 0.6 * np.eye(3)[label][:, None] + 0.4 * draw.random((count, 64, 3))
    intensity = draw.random((count, 64, 1))
    clouds = np.concatenate([xyz, color, intensity], axis=-1)
    return bixt3d.Split(clouds, label, CLASSES, features=("color", "intensity")).with_features(features)


def train(features: tuple[str, ...], folder: Path) -> float:
    settings = ["data.num_points=64", f"run.dir={folder}", "augment.rotate_degrees=180"]
    settings += ["augment.feature_jitter.color=0.02"] if features else []
    settings += [
        "model.args.dim=24",
        "model.args.depth=2",
        "model.args.num_heads=2",
        "model.args.num_latents=8",
    ]
    settings += ["optim.lr=3e-3", "optim.warmup_epochs=1", "train.epochs=8", "train.batch_size=15"]
    config = bixt3d.load_config(bixt3d.Config(), [*settings, "train.ema_decay=0.9"])
    splits = {name: make_clouds(300, seed, features) for seed, name in enumerate(("train", "val", "test"))}
    return bixt3d.train(config, **splits).last["oa"]


def main(folder: Path = Path("runs/own_features")) -> tuple[float, float]:
    """Train with the features and without, and ask the trained model for a cloud; return both accuracies."""
    known, unknown = train(("color", "intensity"), folder / "color"), train((), folder / "xyz")
    cloud = np.random.default_rng(5).normal(size=(200, 7))
    cloud[:, 3:] = (0.1, 0.2, 0.9, 0.5)  # columns in the order of the features
    answer = bixt3d.Predictor(folder / "color" / "last")(cloud)
    print(f"with colour and intensity {100 * known:.1f} %, without {100 * unknown:.1f} %: {answer.label}")
    return known, unknown


if __name__ == "__main__":
    main()
