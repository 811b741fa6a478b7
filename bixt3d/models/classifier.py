"""The classifier: encoder and head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bixt3d.models.encoder import Attended, PointEncoder, PointModel
from bixt3d.models.heads import ClassificationHead


class PointClassifier(PointModel):
    """Classify point clouds: (B, N, A) -> logits (B, K)."""

    def __init__(self, encoder: PointEncoder, head: ClassificationHead) -> None:
        """Keep the encoder and the head."""
        super().__init__(encoder)
        self.head = head

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
        return [attention for _, attention in self.located_attention(points)]

    def located_attention(self, points: Tensor) -> list[Attended]:
        """Return what `attention_maps` does, each with the xyz of its tokens (B, N, 3) before it."""
        self._check(points)
        return self._attend(points)

    def attention_symmetry(self, points: Tensor) -> list[Tensor]:
        """Return how alike the two directions of attention are, (B, H) per layer that has both.

        See `bixt3d.ops.attention_symmetry`.
        """
        self._check(points)
        return self._compare(points)

    def reset_classifier(self, num_classes: int, classes: Sequence[str] | None = None) -> None:
        """Put a new head for ``num_classes`` in place of the old, starting at zero.

        What a checkpoint said of the model says the new classes then: ``classes``, or numbers.

        Raises:
            ValueError: For fewer than one class, or another number of names.
        """
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        names = [str(index) for index in range(num_classes)] if classes is None else list(classes)
        if len(names) != num_classes:
            raise ValueError(f"classes: expected {num_classes} names, got {len(names)}")
        width = self.head.norm.weight.shape[0]
        new = ClassificationHead(width, num_classes, dropout=self.head.dropout.p)  # any pool of this width
        new.pool = self.head.pool
        self.head = new.to(self.head.linear.weight).train(self.training)
        if self.description is not None:
            self.description = self.description.resized({"num_classes": num_classes}, {"classes": names})
