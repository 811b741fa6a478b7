"""A network and a loop of one's own, with parts of bixt3d inside: clouds, tokenizer, grouping, trunk.

python examples/own_loop.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import bixt3d
from bixt3d.models.grouping import GroupingStage
from bixt3d.models.tokenizers import SinusoidalTokenizer

CLASSES = ("ball", "board", "needle", "ring")


def make_clouds(count: int, seed: int) -> bixt3d.Split:
    """Clouds whose class is their proportions: any arrays (S, N, 3) and labels (S,) will do."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % len(CLASSES)
    sizes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.1, 1.0], [0.1, 1.0, 0.1], [1.0, 1.0, 0.1]])
    points = F.normalize(torch.randn(count, 128, 3, generator=generator), dim=-1) * sizes[label][:, None]
    return bixt3d.Split(points.numpy(), label.numpy(), CLASSES)


class Network(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.tokenizer = SinusoidalTokenizer(in_dims=3, dim=32)
        self.stage = GroupingStage(32, 48, neighbors=8, reduction=4)  # 128 tokens -> 32
        self.trunk = bixt3d.BiXT(dim=48, depth=2, num_heads=4, num_latents=8, last_layer="full")
        self.head = nn.Linear(2 * 48, num_classes)

    def forward(self, points: Tensor) -> Tensor:
        _, tokens, _ = self.stage(points, self.tokenizer(points))  # (B, 32, 48)
        latents, tokens = self.trunk(tokens)  # (B, 8, 48), (B, 32, 48)
        logits: Tensor = self.head(torch.cat([latents.mean(1), tokens.amax(1)], -1))  # (B, K)
        return logits


def main() -> float:
    torch.manual_seed(0)
    model = Network(len(CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(6):
        for points, label in DataLoader(make_clouds(128, seed=0), batch_size=16, shuffle=True):  # type: ignore[arg-type]
            optimizer.zero_grad()
            F.cross_entropy(model(points), label).backward()
            optimizer.step()
    test, counts = make_clouds(64, seed=1), torch.zeros(4, 4, dtype=torch.int64)
    with torch.inference_mode():
        counts += bixt3d.metrics.confusion_matrix(model.eval()(test.points).argmax(-1), test.label, 4)
    accuracy = bixt3d.metrics.classification(counts)["oa"]
    print(f"test accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
