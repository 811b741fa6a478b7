"""What classifiers and segmenters share: tokenizer, and trunk with grouping between its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bixt3d.models.bixt import Trunk
from bixt3d.models.grouping import GroupingStage, Neighborhood
from bixt3d.models.tokenizers import SinusoidalTokenizer
from bixt3d.ops.attention import attention_symmetry
from bixt3d.ops.validate import check_points

Level = tuple[Tensor, Tensor]  # xyz (B, S, 3) and tokens (B, S, C)
Watch = Callable[[int, Tensor, Tensor, Tensor], None]
Attended = tuple[Tensor, Tensor]  # xyz (B, S, 3) of tokens and the latents' attention over them (B, H, M, S)


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

    def forward(
        self,
        points: Tensor,
        levels: list[Level] | None = None,
        condition: Tensor | None = None,
        watch: Watch | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode points (B, N, A).

        Args:
            points: The clouds.
            levels: Receives the points' xyz and tokens after the tokenizer and after each step.
            condition: Added to the learned latents (B, D).
            watch: Called before each step with its number, the tokens' xyz (B, S, 3), and the latents and
                tokens that it will see.

        Returns:
            latents (B, M, D), tokens (B, S, C), and the tokens' xyz (B, S, 3).
        """
        xyz = points[..., :3]
        tokens = self.tokenizer(points).to(self.trunk.latents.dtype)  # (B, N, C), whole also under autocast
        latents = self.trunk.start(points.shape[0])  # (B, M, D)
        if condition is not None:
            latents = latents + condition[:, None]
        if levels is not None:
            levels.append((xyz, tokens))
        near: Neighborhood | None = None
        for index in range(self.trunk.depth):
            if str(index) in self.stages:
                xyz, tokens, near = self.stages[str(index)](xyz, tokens, near)
            if watch is not None:
                watch(index, xyz, latents, tokens)
            latents, tokens = self.trunk.step(index, latents, tokens)
            if levels is not None:
                levels.append((xyz, tokens))
        return latents, tokens, xyz


class PointModel(nn.Module):
    """A model of point clouds: an encoder, and whatever a subclass puts on it.

    Attributes:
        task: Name of the task that it is for.
        description: What a checkpoint said of it, a `bixt3d.tasks.Description`; None if it comes from none.
    """

    task: str = "classification"
    head: Any

    def __init__(self, encoder: PointEncoder) -> None:
        """Keep the encoder."""
        super().__init__()
        self.encoder = encoder
        self.description: Any = None

    @property
    def in_dims(self) -> int:
        """Channels of a point: 3 for xyz, and the widths of its features."""
        return self.encoder.tokenizer.in_dims

    @property
    def num_outputs(self) -> int:
        """Logits of a cloud, or of a point."""
        return int(self.head.linear.out_features)

    @property
    def least_points(self) -> int:
        """The fewest points of a cloud for which every layer has the neighbours that it looks for."""
        stages, points, kept = self.encoder.stages, 2, 1
        for index in sorted(stages, key=int):
            stage: Any = stages[index]
            points = max(points, stage.neighbors * kept)
            kept *= stage.reduction
        return max(points, self._least_tokens * kept)

    # Tokens that the last layer must leave.
    _least_tokens = 1

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay leaves alone: vectors, latents and embeddings."""
        return {
            name
            for name, value in self.named_parameters()
            if value.ndim < 2 or name.endswith(("latents", "embedding.weight"))
        }

    def _check(self, points: Tensor) -> None:
        # Training batches come from a checked split; looking at values on a GPU would wait for it.
        finite = not (self.training and isinstance(points, Tensor) and points.is_cuda)
        check_points(points, "points", (self.in_dims,), finite=finite)

    def _attend(self, points: Tensor, condition: Tensor | None = None) -> list[Attended]:
        """Return each step's xyz and attention in evaluation."""
        seen: list[Attended] = []
        trunk = self.encoder.trunk

        def watch(index: int, xyz: Tensor, latents: Tensor, tokens: Tensor) -> None:
            seen.append((xyz, trunk.attention_map(index, latents, tokens)))

        self._watch(points, condition, watch)
        return seen

    def _compare(self, points: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """Return how alike the two directions of attention are in each step that has both, (B, H) each."""
        seen: list[Tensor] = []
        trunk = self.encoder.trunk

        def watch(index: int, xyz: Tensor, latents: Tensor, tokens: Tensor) -> None:
            both = trunk.similarities(index, latents, tokens)
            if both is not None:
                seen.append(attention_symmetry(*both))

        self._watch(points, condition, watch)
        return seen

    @torch.no_grad()
    def _watch(self, points: Tensor, condition: Tensor | None, watch: Watch) -> None:
        """Walk the encoder in evaluation, and leave the model in the mode it came in."""
        training = self.training
        self.eval()
        try:
            self.encoder(points, condition=condition, watch=watch)
        finally:
            self.train(training)
