"""The models that segment parts and scenes: encoder, an optional decoder, and a head on every point."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn

from bixt3d.models.decoder import PropagationDecoder
from bixt3d.models.encoder import Level, PointEncoder, PointModel, output_names
from bixt3d.models.heads import PartHead, at_least_one
from bixt3d.ops import gather_points
from bixt3d.ops.validate import describe


class PointSegmenter(PointModel):
    """Label every point with a part: points (B, N, A) and category (B,) -> logits (B, N, P).

    The category's embedding is added to the latents at the start, and the head of the encoder-decoder reads
    it as well (PointMLP's segmentation network).

    Args:
        encoder: The encoder; without a decoder it keeps all points.
        head: The head.
        num_categories: Number of categories C; 0 for a model that is not told the category.
        decoder: Carries the tokens back to all points.
    """

    task = "part_segmentation"
    _counted = "num_parts"  # the builder's argument for the number of outputs
    _least_tokens = 3  # that a point is interpolated from

    def __init__(
        self,
        encoder: PointEncoder,
        head: PartHead,
        num_categories: int,
        decoder: PropagationDecoder | None = None,
    ) -> None:
        """Keep the parts and build the embedding of the category."""
        super().__init__(encoder)
        self.head = head
        self.decoder = decoder
        self.num_categories = num_categories
        self.embedding: nn.Embedding | None = None
        if num_categories:
            self.embedding = nn.Embedding(num_categories, encoder.trunk.dim)
            nn.init.trunc_normal_(self.embedding.weight, std=0.02)

    def _condition(self, points: Tensor, category: Tensor | None) -> Tensor | None:
        if self.embedding is None:
            return None
        expected = f"category: expected int64 of shape ({points.shape[0]},), one a cloud"
        if not isinstance(category, Tensor) or category.dtype != torch.int64:
            raise ValueError(f"{expected}, got {describe(category)}")
        if category.shape != points.shape[:1] or category.device != points.device:
            raise ValueError(f"{expected} on {points.device}, got {describe(category)} on {category.device}")
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if category.device.type == "cpu" and not tracing and not torch.compiler.is_compiling():
            low, high = int(category.min()), int(category.max())
            if low < 0 or high >= self.num_categories:
                raise ValueError(f"category: expected 0 to {self.num_categories - 1}, got {low} to {high}")
        condition: Tensor = self.embedding(category)
        return condition

    def forward_features(self, points: Tensor, category: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map points (B, N, A) and category (B,) to latents (B, M, D) and tokens of all points (B, N, C).

        With a decoder the tokens are its own, the global context and the category appended.
        """
        self._check(points)
        condition = self._condition(points, category)
        if self.decoder is None:
            latents, tokens, _ = self.encoder(points, condition=condition)
            return latents, tokens
        levels: list[Level] = []
        latents, _, _ = self.encoder(points, levels=levels, condition=condition)
        tokens, context = self.decoder(levels, latents)
        whole = context if condition is None else torch.cat([context, condition], -1)  # (B, K)
        everywhere = whole[:, None].expand(-1, tokens.shape[1], -1).to(tokens.dtype)  # (B, N, K)
        return latents, torch.cat([tokens, everywhere], -1)

    def forward_head(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, C) to logits (B, N, P); the latents are not read."""
        logits: Tensor = self.head(tokens)
        return logits

    def forward(self, points: Tensor, category: Tensor | None = None) -> Tensor:
        """Map points (B, N, A) and category (B,) to logits (B, N, P).

        Raises:
            ValueError: For a wrong shape, dtype, an empty batch, NaN, or a category that is missing or
                unknown.
        """
        return self.forward_head(*self.forward_features(points, category))

    def reset_classifier(self, num_parts: int, part_names: Sequence[str] | None = None) -> None:
        """Put a new last map for ``num_parts`` in place of the old, starting at zero.

        The model's description then names the new parts, ``part_names`` or numbered ones, and says that every
        category may hold any of them.

        Raises:
            ValueError: For fewer than one part, or another number of names.
        """
        count = at_least_one("num_parts", num_parts)
        names = output_names("part_names", count, part_names, "part {}")
        self.head.reset(count)
        if self.description is not None:
            categories = self.description.facts.get("classes", ())
            table = [list(range(count)) for _ in categories]
            facts = {"part_names": names, "parts_of_category": table, "part_codes": []}
            self.description = self.description.resized({self._counted: count}, facts)


class SceneSegmenter(PointSegmenter):
    """Label every point of a scene with a class: points (B, N, A) -> logits (B, N, K), no category."""

    task = "scene_segmentation"
    _counted = "num_classes"


def segment_all_points(
    model: Callable[..., Tensor],
    points: Tensor,
    category: Tensor | None,
    num_points: int,
    count: Tensor | None = None,
    tell_count: bool = False,
) -> Tensor:
    """Label every point of clouds that have more points than the model takes, or fewer.

    Each cloud's points are shuffled, the same way every time, and cut into chunks of ``num_points``; each
    chunk goes through the model once. The last chunk reaches back for points of the one before; a cloud with
    fewer points than a chunk repeats them. The logits depend on a cloud's own points alone.

    Args:
        model: Called with points and category: a `PointSegmenter` in evaluation mode.
        points: All points (B, N, A).
        category: Category of each cloud (B,).
        num_points: Points that the model takes at a time.
        count: Points that each cloud has of its own (B,); its rows from there on repeat them in order.
        tell_count: Call the model with a third argument: how many rows of a chunk are a cloud's own (B,), its
            first.

    Returns:
        Logits of all points (B, N, P).

    Raises:
        ValueError: For a ``num_points`` below 1, or as the model.
    """
    num_points = at_least_one("num_points", num_points)
    batch, total, _ = points.shape
    row = torch.arange(total, device=points.device)  # (N,)
    own = torch.full((batch, 1), total, device=points.device) if count is None else count[:, None]  # (B, 1)
    # The beginning of a seeded draw does not depend on its length, so padding changes nothing.
    draw = torch.rand(total, generator=Generator().manual_seed(0)).to(points.device)  # (N,)
    order = (draw + (row >= own)).argsort(1)  # (B, N), own points first
    last = (own - num_points).clamp_min(0)  # (B, 1), where the last chunk begins
    told = (category, own[:, 0].clamp_max(num_points)) if tell_count else (category,)
    chunks = []
    for begin in range(0, total if count is None else int(own.max()), num_points):
        place = last.clamp_max(begin) + torch.arange(num_points, device=points.device)  # (B, num_points)
        index = order.gather(1, place % own)
        chunks.append(model(gather_points(points, index), *told))  # (B, num_points, P)
    logits = torch.cat(chunks, 1)  # (B, chunks * num_points, P)
    rank = order.argsort(1).gather(1, row % own)  # (B, N), the place of each point, or of the one it repeats
    chunk = rank // num_points * num_points  # (B, N), where its chunk would begin
    answer = chunk + rank - torch.minimum(chunk, last)  # (B, N)
    return logits.gather(1, answer[..., None].expand(-1, -1, logits.shape[-1]))
