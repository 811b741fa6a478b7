"""The classifier: tokenizer, trunk with grouping between its steps, head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bixt3d.models.bixt import Trunk
from bixt3d.models.grouping import GroupingStage, Neighborhood
from bixt3d.models.heads import ClassificationHead
from bixt3d.models.tokenizers import SinusoidalTokenizer
from bixt3d.ops.validate import check_points


class PointEncoder(nn.Module):
    """Tokenize points, then walk the trunk's steps, with a grouping stage before some of them.

    Args:
        tokenizer: Points to tokens.
        trunk: The steps.
        stages: Grouping stage before step ``index``, for some indices.

    Raises:
        ValueError: If a stage stands before a step that the trunk does not have.
    """

    def __init__(
        self, tokenizer: SinusoidalTokenizer, trunk: Trunk, stages: Mapping[int, GroupingStage] | None = None
    ) -> None:
        """Keep the parts."""
        super().__init__()
        stages = stages or {}
        beyond = [index for index in stages if not 0 <= index < trunk.depth]
        if beyond:
            raise ValueError(f"grouping before steps {beyond}: the trunk has steps 0 to {trunk.depth - 1}")
        self.tokenizer = tokenizer
        self.trunk = trunk
        self.stages = nn.ModuleDict({str(index): stage for index, stage in stages.items()})

    def forward(self, points: Tensor, maps: list[Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode points (B, N, A); a list in ``maps`` receives each step's attention (B, H, M, N).

        Returns:
            latents (B, M, D), tokens (B, S, C), and the tokens' xyz (B, S, 3).
        """
        xyz = points[..., :3]
        tokens = self.tokenizer(points).to(self.trunk.latents.dtype)  # (B, N, C), whole also under autocast
        latents = self.trunk.start(points.shape[0])  # (B, M, D)
        near: Neighborhood | None = None
        for index in range(self.trunk.depth):
            if str(index) in self.stages:
                xyz, tokens, near = self.stages[str(index)](xyz, tokens, near)
            if maps is not None:
                maps.append(self.trunk.attention_map(index, latents, tokens))
            latents, tokens = self.trunk.step(index, latents, tokens)
        return latents, tokens, xyz


class PointClassifier(nn.Module):
    """Classify point clouds: (B, N, A) -> logits (B, K)."""

    def __init__(self, encoder: PointEncoder, head: ClassificationHead) -> None:
        """Keep the encoder and the head."""
        super().__init__()
        self.encoder = encoder
        self.head = head
        # What a checkpoint said of the model that came from it: classes, preprocessing, settings.
        self.description: dict[str, Any] | None = None

    @property
    def in_dims(self) -> int:
        """Channels of a point: 3 for xyz, 6 with normals."""
        return self.encoder.tokenizer.in_dims

    def _check(self, points: Tensor) -> None:
        # Training batches come from a checked split; looking at values on a GPU would wait for it.
        finite = not (self.training and isinstance(points, Tensor) and points.is_cuda)
        check_points(points, "points", (self.in_dims,), finite=finite)

    def forward_features(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Map points (B, N, A) to latents (B, M, D) and tokens (B, S, C)."""
        self._check(points)
        latents, tokens, _ = self.encoder(points)
        return latents, tokens

    def forward_head(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Map latents and tokens to logits (B, K)."""
        logits: Tensor = self.head(latents, tokens)
        return logits

    def forward(self, points: Tensor) -> Tensor:
        """Map points (B, N, A) to logits (B, K).

        Raises:
            ValueError: For a wrong shape, dtype, an empty batch, or NaN.
        """
        return self.forward_head(*self.forward_features(points))

    def attention_maps(self, points: Tensor) -> list[Tensor]:
        """Return the latents' attention over the tokens in evaluation, one (B, H, M, N) per layer."""
        self._check(points)
        maps: list[Tensor] = []
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                self.encoder(points, maps)
        finally:
            self.train(training)
        return maps

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new head for ``num_classes`` in place of the old, starting at zero."""
        width = self.head.norm.weight.shape[0]
        new = ClassificationHead(width, num_classes, dropout=self.head.dropout.p)
        new.pool = self.head.pool
        self.head = new.to(self.head.linear.weight).train(self.training)

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay leaves alone: vectors and the latents."""
        return {
            name for name, value in self.named_parameters() if value.ndim < 2 or name.endswith("latents")
        }
