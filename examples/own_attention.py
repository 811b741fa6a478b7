"""An attention of one's own inside BiXT, in a model of one's own, known by a name.

python examples/own_attention.py
python tools/train_cls.py --plugin examples/own_attention.py --cfg my.yaml --set model.name=cosine_cls
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bixt3d
from bixt3d.models.attention import BidirectionalCrossAttention
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.encoder import PointEncoder
from bixt3d.models.heads import ClassificationHead
from bixt3d.models.tokenizers import SinusoidalTokenizer


class CosineAttention(BidirectionalCrossAttention):
    """Similarity is the cosine of the references, times a learned factor a head; its maps follow."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        self.factor = nn.Parameter(torch.full((self.num_heads, 1, 1), 10.0))

    def project(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r_lat, v_lat, r_tok, v_tok = super().project(latents, tokens)  # (B, H, M, d) x2, (B, H, N, d) x2
        r_lat = F.normalize(r_lat, dim=-1) * self.factor * r_lat.shape[-1] ** 0.5  # which is divided by it
        return r_lat, v_lat, F.normalize(r_tok, dim=-1), v_tok


def cosine_cls(
    num_classes: int = 40, in_dims: int = 3, *, dim: int = 24, depth: int = 3, num_latents: int = 8
) -> PointClassifier:
    # The usual last layer, one_sided, attends by a class of its own, which the block names: `one_sided`.
    sizes = {"num_heads": 2, "num_latents": num_latents, "last_layer": "full"}
    trunk = bixt3d.BiXT(dim, depth, block=CosineAttention, **sizes)
    encoder = PointEncoder(SinusoidalTokenizer(in_dims, dim), trunk)
    return PointClassifier(encoder, ClassificationHead(dim, num_classes))


bixt3d.register_model("cosine_cls", cosine_cls)


def main(folder: Path = Path("runs/own_attention"), root: str = "data") -> bixt3d.Result:
    settings = ["data.name=shapes", f"data.root={root}", "data.num_points=128", f"run.dir={folder}"]
    settings += ["model.name=cosine_cls", "optim.lr=3e-3", "optim.warmup_epochs=1", "train.epochs=8"]
    result = bixt3d.train(bixt3d.load_config(bixt3d.Config(), [*settings, "train.ema_decay=0.95"]))
    maps = bixt3d.load_model(folder / "last").attention_maps(torch.randn(1, 128, 3))
    print(f"test accuracy {100 * result.last['oa']:.1f} %, maps of {len(maps)} layers {tuple(maps[0].shape)}")
    return result


if __name__ == "__main__":
    main()
