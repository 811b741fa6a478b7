"""Distillation: a network learns the answers of others beside its labels. python examples/own_distillation.py

With your weights: --plugin examples/own_distillation.py --set task=distilled "task_args.teachers=[PATH]"
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bixt3d
from bixt3d.datasets.loader import Batch
from bixt3d.tasks import ClassificationTask


class DistilledTask(ClassificationTask):
    """Adds, by ``share``, the divergence from the mean of teachers that see what the student sees."""

    def __init__(self, teachers: tuple[str | Path, ...] = (), share: float = 0.7) -> None:
        super().__init__()
        self.share, self.teachers = share, nn.ModuleList(bixt3d.load_model(one, "cpu") for one in teachers)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        own = super().loss(logits, batch)
        if not torch.is_grad_enabled() or not self.teachers:
            return own  # an evaluation's
        with torch.no_grad():
            answers = [self.forward(one, batch) for one in self.teachers.to(logits.device)]
            wanted = torch.stack(answers).float().softmax(-1).mean(0)  # (B, K)
        divergence = F.kl_div(logits.float().log_softmax(-1), wanted, reduction="batchmean")  # a scalar
        return self.share * divergence + (1 - self.share) * own


bixt3d.register_task("distilled", DistilledTask)


def make_clouds(count: int, seed: int, wrong: float = 0.0) -> bixt3d.Split:
    """Boxes as long as wide, or not; of a share of them the label is wrong."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 2
    sizes = torch.stack([torch.ones(count), 1 + label, 0.5 + torch.rand(count, generator=generator)], -1)
    points = (2 * torch.rand(count, 64, 3, generator=generator) - 1) * sizes[:, None]  # (S, N, 3)
    return bixt3d.Split(points, (label + (torch.rand(count, generator=generator) < wrong)) % 2, ("0", "1"))


def main(folder: Path = Path("runs/own_distillation")) -> None:
    settings = ["data.num_points=64", "optim.lr=3e-3", "optim.warmup_epochs=1", "train.epochs=20"]
    settings += ["model.args={dim: 24, depth: 2, num_heads: 2, num_latents: 8}", "train.ema_decay=0.9"]
    teacher, test = folder / "teacher", make_clouds(200, seed=1)
    tasks = {"teacher": (0.0, ()), "alone": (0.25, ()), "distilled": (0.25, (teacher / "last",))}
    for name, (wrong, teachers) in tasks.items():
        config = bixt3d.load_config(bixt3d.Config(), [*settings, f"run.dir={folder / name}"])
        given = {"train": make_clouds(240, seed=0, wrong=wrong), "test": test}
        result = bixt3d.train(config, **given, task=DistilledTask(teachers, share=0.9))
        print(f"{name}: test accuracy {100 * result.last['oa']:.1f} %")


if __name__ == "__main__":
    main()
