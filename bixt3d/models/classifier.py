"""The classifier: encoder and head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bixt3d.models.encoder import PointEncoder, PointModel, output_names
from bixt3d.models.heads import ClassificationHead, at_least_one


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
            ValueError: For a wrong shape, dtype, an empty batch, or, on a CPU, NaN.
        """
        return self.forward_head(*self.forward_features(points))

    def reset_classifier(self, num_classes: int, classes: Sequence[str] | None = None) -> None:
        """Put a new head for ``num_classes`` in place of the old, starting at zero.

        The model's description then names the new classes: ``classes``, or class_0 and so on.

        Raises:
            ValueError: For fewer than one class, or another number of names.
        """
        count = at_least_one("num_classes", num_classes)
        names = output_names("classes", count, classes, "class_{}")
        self.head = self.head.renewed(count)
        if self.description is not None:
            self.description = self.description.resized({"num_classes": count}, {"classes": names})
