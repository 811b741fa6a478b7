"""Fine-tuning: a model that ships with the project learns classes of one's own from a few shapes.

python examples/finetune.py
"""

import math
from pathlib import Path

import torch

import bixt3d

CLASSES = ("ball", "box", "hourglass")


def make_clouds(count: int, seed: int) -> bixt3d.Split:
    """Clouds of 512 points on simple surfaces; any arrays (S, N, 3) and labels (S,) will do."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % len(CLASSES)
    u, v = torch.rand(2, count, 512, generator=generator)  # (S, N) each
    height, turn = 2 * u - 1, 2 * math.pi * v
    ring = torch.stack([turn.cos(), torch.zeros_like(turn), turn.sin()], -1)  # (S, N, 3)
    up = torch.tensor([0.0, 1.0, 0.0]) * height[..., None]  # (S, N, 3)
    ball = ring * (1 - height**2).sqrt()[..., None] + up
    box = ball / ball.abs().amax(-1, keepdim=True)
    hourglass = ring * height.abs()[..., None] + up
    points = torch.stack([ball, box, hourglass])[label, torch.arange(count)]  # (S, N, 3)
    return bixt3d.Split(points, label, CLASSES)


def main(folder: Path = Path("runs/finetune")) -> dict[str, float]:
    common = ["train.epochs=2", "train.batch_size=6", "optim.warmup_epochs=1", "data.train_split=trainval"]
    starts = {
        "from scratch": [],
        "fine-tuned": ["model.init_from=modelnet40_cpu", "optim.body_lr_factor=0.25"],
        "head alone": ["model.init_from=modelnet40_cpu", "train.freeze=[encoder]"],
    }
    accuracy = {}
    for name, settings in starts.items():
        run_dir = folder / name.replace(" ", "_")
        config = bixt3d.load_config("modelnet40_cpu", [*common, *settings, f"run.dir={run_dir}"])
        result = bixt3d.train(config, train=make_clouds(12, seed=0), test=make_clouds(48, seed=1))
        accuracy[name] = 100 * result.last["oa"]
    print(*(f"{name}: test accuracy {value:.1f} %" for name, value in accuracy.items()), sep="\n")
    answer = bixt3d.Predictor(folder / "fine-tuned" / "last")(make_clouds(2, seed=2).points[1].numpy())
    print(f"a new cloud is a {answer.label}")
    return accuracy


if __name__ == "__main__":
    main()
