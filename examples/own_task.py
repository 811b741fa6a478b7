"""A loss of one's own: a task is subclassed where it differs, and given to the training.

python examples/own_task.py
python tools/train_cls.py --plugin examples/own_task.py --cfg configs/modelnet40_cpu.yaml --set task=focal
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import bixt3d
from bixt3d.tasks import ClassificationTask

CLASSES = ("ball", "board", "needle", "ring")


class FocalTask(ClassificationTask):
    """Classification with the focal loss (Lin et al., 2017): metrics, table and prediction stay."""

    gamma = 2.0

    def losses(self, logits: Tensor, label: Tensor) -> Tensor:
        plain = F.cross_entropy(logits.float(), label, reduction="none")  # (B,)
        return (1 - (-plain).exp()) ** self.gamma * plain


bixt3d.register_task("focal", FocalTask)


def make_clouds(count: int, seed: int) -> bixt3d.Split:
    """Clouds whose class is their proportions."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % len(CLASSES)
    sizes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.1, 1.0], [0.1, 1.0, 0.1], [1.0, 1.0, 0.1]])
    points = F.normalize(torch.randn(count, 64, 3, generator=generator), dim=-1) * sizes[label][:, None]
    return bixt3d.Split(points, label, CLASSES)


def main(folder: Path = Path("runs/own_task")) -> bixt3d.Result:
    settings = ["data.num_points=64", f"run.dir={folder}", "augment.scale_low=0.9", "augment.scale_high=1.1"]
    settings += [
        "model.args.dim=24",
        "model.args.depth=2",
        "model.args.num_heads=2",
        "model.args.num_latents=8",
    ]
    settings += ["optim.lr=3e-3", "optim.warmup_epochs=1", "train.epochs=8", "train.batch_size=16"]
    config = bixt3d.load_config(bixt3d.Config(), [*settings, "train.ema_decay=0.9"])
    result = bixt3d.train(
        config, train=make_clouds(160, 0), val=make_clouds(64, 1), test=make_clouds(64, 2), task=FocalTask
    )
    print(f"test accuracy {100 * result.last['oa']:.1f} %")
    return result


if __name__ == "__main__":
    main()
