"""A task that is neither of the package's: blobs are counted. python examples/own_counting.py"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bixt3d
from bixt3d.datasets.loader import Batch


class CountingTask(bixt3d.Task):
    """The label is a number, which one output estimates; the answer for a cloud is a number, too."""

    name, goal = "counting", "close"

    def model_args(self, split: bixt3d.Split) -> dict[str, Any]:
        return {"num_classes": 1}

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return (logits[:, 0] - batch.label).square().mean()

    def start(self, device: torch.device) -> Tensor:
        return torch.zeros(2, dtype=torch.float64, device=device)  # clouds within a half, and all

    def count(self, logits: Tensor, batch: Batch) -> Tensor:
        close = (logits[:, 0] - batch.label).abs() < 0.5  # (B,)
        return torch.stack([close.sum(), torch.ones_like(close).sum()]).double()

    def metrics(self, counts: Tensor) -> dict[str, float]:
        return {"close": float(counts[0] / counts[1])}

    def predict(self, model: nn.Module, points: Tensor, preprocess: Any, category: Any = None) -> float:
        return float(model(*self.inputs(points, preprocess)))


bixt3d.register_task("counting", CountingTask)


def make_clouds(count: int, seed: int) -> bixt3d.Split:
    """Clouds of one to four blobs along x."""
    draw, label = torch.Generator().manual_seed(seed), torch.arange(count) % 4 + 1
    blob = (torch.rand(count, 96, 1, generator=draw) * label[:, None, None]).floor()  # (S, N, 1)
    points = 0.2 * torch.randn(count, 96, 3, generator=draw) + blob * torch.tensor([2.0, 0.0, 0.0])
    return bixt3d.Split(points, label, tuple("01234"))


def main(folder: Path = Path("runs/own_counting")) -> None:
    settings = ["data.num_points=96", f"run.dir={folder}", "task=counting", "model.args.dim=24"]
    settings += ["model.args.depth=2", "model.args.num_heads=2", "model.args.pool=both", "optim.lr=5e-3"]
    settings += ["optim.warmup_epochs=1", "train.epochs=16", "train.batch_size=16", "train.ema_decay=0.9"]
    clouds = {name: make_clouds(192, seed) for seed, name in enumerate(("train", "val", "test"))}
    result = bixt3d.train(bixt3d.load_config(bixt3d.Config(), settings), **clouds)
    number = bixt3d.Predictor(folder / "last")(clouds["test"].points[2])
    print(f"{100 * result.last['close']:.1f} % within a half; three blobs: {number:.1f}")


if __name__ == "__main__":
    main()
