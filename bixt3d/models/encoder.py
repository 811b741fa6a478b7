"""The encoder (tokenizer, and trunk with grouping between its steps), and the base class of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bixt3d.models.bixt import Trunk
from bixt3d.models.grouping import Neighborhood
from bixt3d.models.layers import evaluating
from bixt3d.ops.attention import attention_symmetry
from bixt3d.ops.kdtree import SearchTree
from bixt3d.ops.validate import check_points

Level = tuple[Tensor | SearchTree, Tensor]  # xyz (B, S, 3), to be searched again, and tokens (B, S, C)
Watch = Callable[[int, Tensor, Tensor, Tensor], Any]
Attended = tuple[Tensor, Tensor]  # xyz (B, S, 3) of tokens and the latents' attention over them (B, H, M, S)


class PointEncoder(nn.Module):
    """Tokenize points, then walk the trunk's steps, with a grouping stage before some of them.

    Args:
        tokenizer: Points to tokens.
        trunk: The steps.
        stages: `GroupingStage`, or another that is called alike, before step ``index``, for some indices.

    Raises:
        ValueError: If a stage stands before a step that the trunk does not have.
    """

    def __init__(self, tokenizer: Any, trunk: Trunk, stages: Mapping[int, nn.Module] | None = None) -> None:
        """Keep the parts."""
        super().__init__()
        stages = stages or {}
        beyond = [index for index in stages if not 0 <= index < trunk.depth]
        if beyond:
            raise ValueError(f"grouping before steps {beyond}: the trunk has steps 0 to {trunk.depth - 1}")
        self.tokenizer = tokenizer
        self.trunk = trunk
        self.stages = nn.ModuleDict({str(index): stage for index, stage in stages.items()})

    def tokenize(self, points: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Return xyz (B, N, 3), tokens (B, N, C), and that by which stages find neighbours among them."""
        xyz = points[..., :3]
        return xyz, self.tokenizer(points), SearchTree(xyz)

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
        xyz, tokens, trees = self.tokenize(points)
        tokens = tokens.to(self.trunk.latents.dtype)  # (B, N, C), whole also under autocast
        latents = self.trunk.start(points.shape[0])  # (B, M, D)
        if condition is not None:
            latents = latents + condition[:, None]
        if levels is not None:
            levels.append((trees, tokens))
        near: Neighborhood | None = None
        for index in range(self.trunk.depth):
            if str(index) in self.stages:
                xyz, tokens, near = self.stages[str(index)](xyz, tokens, near, trees)
                trees = trees if xyz is trees.points else SearchTree(xyz)
            if watch is not None:
                watch(index, xyz, latents, tokens)
            latents, tokens = self.trunk.step(index, latents, tokens)
            if levels is not None:
                levels.append((trees, tokens))
        return latents, tokens, xyz


class PointModel(nn.Module):
    """A model of point clouds: an encoder, and whatever a subclass puts on it.

    Weights may be in half precision, points should stay in float32: positions, neighbours and cells of a grid
    are found in single precision, but coordinates that were rounded before are those of other places.

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
        return int(self.encoder.tokenizer.in_dims)

    @property
    def num_outputs(self) -> int:
        """Logits of a cloud, or of a point."""
        found = getattr(self.head.linear, "out_features", None)  # a wrapper around it may not say
        return int(self.head.num_outputs if found is None else found)

    @property
    def least_points(self) -> int:
        """The fewest points of a cloud for which every layer has the neighbours that it looks for."""
        points, kept = 2, 1
        for least, _, reduction in self._needs():
            points = max(points, least * kept)
            kept *= reduction
        return max(points, self._least_tokens * kept)

    def check_points(self, num_points: int) -> None:
        """Raise ValueError, naming the settings, if clouds of so many points are too small for a layer."""
        if num_points >= self.least_points:
            return
        left, wanted = num_points, f"at least {max(2, self._least_tokens)} are needed"
        for least, neighbors, reduction in self._needs():
            if left < least:
                left = left * neighbors // least
                wanted = f"model.args.neighbors is {neighbors}"
                break
            left = max(1, left // reduction)
        raise ValueError(
            f"data.num_points={num_points} leaves {left} points in a layer and {wanted}: expected "
            f"data.num_points of {self.least_points} or more, fewer neighbors, or smaller reductions"
        )

    def _needs(self) -> Iterator[tuple[int, int, int]]:
        """Yield each stage's fewest points, neighbours and reduction; a user's own may not say them."""
        for index in sorted(self.encoder.stages, key=int):
            stage = self.encoder.stages[index]
            neighbors = getattr(stage, "neighbors", 1)
            yield getattr(stage, "least_points", neighbors), neighbors, getattr(stage, "reduction", 1)

    # Tokens that the last layer must leave.
    _least_tokens = 1

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay leaves alone: vectors, latents and embeddings."""
        return {
            name
            for name, value in self.named_parameters()
            if value.ndim < 2 or name.endswith(("latents", "embedding.weight"))
        }

    def attention_maps(self, points: Tensor, category: Tensor | None = None) -> list[Tensor]:
        """Return the latents' attention over the tokens in evaluation, one (B, H, M, N) per layer.

        Args:
            points: The clouds (B, N, A).
            category: Their categories (B,), for a segmenter that is told them.
        """
        return [attention for _, attention in self.located_attention(points, category)]

    def located_attention(
        self, points: Tensor, category: Tensor | None = None, direction: str = "latents"
    ) -> list[Attended]:
        """Return what `attention_maps` does, each with the xyz of its tokens (B, N, 3) before it.

        With ``direction="tokens"`` it is the other direction's: how much of each latent a token reads, which
        sums to one over the latents; layers without it are left out.
        """
        trunk = self.encoder.trunk

        def look(index: int, xyz: Tensor, latents: Tensor, tokens: Tensor) -> Attended | None:
            if direction == "latents":
                return xyz, trunk.attention_map(index, latents, tokens)
            both = trunk.similarities(index, latents, tokens)
            return (
                None if both is None else (xyz, both[1].float().softmax(-1).transpose(-1, -2))
            )  # (B, H, M, N)

        return [seen for seen in self._watch(points, category, look) if seen is not None]

    def attention_symmetry(self, points: Tensor, category: Tensor | None = None) -> list[Tensor]:
        """Return how alike the two directions of attention are, (B, H) per layer that has both.

        See `bixt3d.ops.attention_symmetry`.
        """
        return [attention_symmetry(*pair) for pair in self.attention_similarities(points, category)]

    def attention_similarities(
        self, points: Tensor, category: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return what both directions take the softmax of, (B, H, M, N) and (B, H, N, M), per such layer."""
        trunk = self.encoder.trunk
        both = self._watch(points, category, lambda index, _, *streams: trunk.similarities(index, *streams))
        return [pair for pair in both if pair is not None]

    @torch.no_grad()
    def _watch(self, points: Tensor, category: Tensor | None, look: Watch) -> list[Any]:
        """Walk the encoder in evaluation, and return what ``look`` sees before each step."""
        self._check(points)
        condition, seen = self._condition(points, category), []
        with evaluating(self):
            self.encoder(points, condition=condition, watch=lambda *step: seen.append(look(*step)))
        return seen

    def _condition(self, points: Tensor, category: Tensor | None) -> Tensor | None:
        """Return what is added to the latents (B, D), None for nothing."""
        if category is not None:
            raise ValueError(f"category: expected none, as a {type(self).__name__} is not told it")
        return None

    def _check(self, points: Tensor) -> None:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            if len(self.encoder.stages):  # a trace would keep this cloud's neighbours for all others
                self.__prepare_scriptable__()
            return
        # Looking at values on a GPU would wait for it; there a NaN goes into the logits.
        finite = isinstance(points, Tensor) and points.device.type == "cpu"
        check_points(points, "points", (self.in_dims,), finite=finite)

    def __prepare_scriptable__(self) -> None:
        # What torch.jit.script calls first; the error that it would come to is a page long.
        raise RuntimeError(
            "TorchScript cannot hold this model: write it with bixt3d.inference.export.export_model"
        )


def at_least_xyz(in_dims: int) -> int:
    """Return the channels of a point, or raise ValueError if they do not hold xyz."""
    if in_dims < 3:
        raise ValueError(f"in_dims: expected 3 for xyz, and the widths of the features, got {in_dims}")
    return in_dims


def output_names(key: str, count: int, names: Sequence[str] | None, default: str) -> list[str]:
    """Return names of the outputs of a new head, numbered ones if none are given.

    Raises:
        ValueError: For another number of names.
    """
    chosen = [default.format(index) for index in range(count)] if names is None else list(names)
    if len(chosen) != count:
        raise ValueError(f"{key}: expected {count} names, got {len(chosen)}")
    return chosen
