"""Stages of decoupled local aggregation (DeLA), and models that have them between BiXT's layers.

Where neighbours lie is encoded once a stage; its layers then cost a map a point, not a map a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bixt3d.models.attention import BidirectionalCrossAttention
from bixt3d.models.bixt import LATENT_STD, BiXT, Block
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.decoder import PropagationDecoder
from bixt3d.models.encoder import PointEncoder, at_least_xyz
from bixt3d.models.grouping import Neighborhood, check_stage, choose_anchors
from bixt3d.models.heads import ClassificationHead, PartHead
from bixt3d.models.layers import BatchNorm, DropPath, is_plain, linear_norm
from bixt3d.models.segmenter import PointSegmenter
from bixt3d.models.tokenizers import GROUPED_COORD_SCALE, SinusoidalTokenizer
from bixt3d.ops.grouping import largest_offset
from bixt3d.ops.kdtree import SearchTree
from bixt3d.ops.neighbors import gather_points, knn

EPSILON = 1e-8


class RelativePosition(nn.Module):
    """Encode how neighbours lie about a point: BN(linear(BN(max over neighbours of an MLP))).

    The MLP reads offset and distance in units of their root mean square in the cloud, so neither the cloud's
    size nor its density matters.

    Args:
        dim: Width C of the encoding.
        hidden: Width of the MLP, the only map of a stage that costs anything a neighbour.
        weight: The last norm's weight at the start.
    """

    def __init__(self, dim: int, hidden: int, weight: float) -> None:
        """Build the MLP, the map to the tokens' width, and the norms."""
        super().__init__()
        self.fc1 = nn.Linear(4, hidden)
        self.fc2 = nn.Linear(hidden, hidden, bias=False)
        self.norm = BatchNorm(hidden)
        self.out = nn.Linear(hidden, dim, bias=False)
        self.out_norm = _norm(dim, weight)

    def forward(self, xyz: Tensor, index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Encode neighbours index (B, N, k) of points xyz (B, N, 3), maybe in another dtype: (B, N, C)."""
        offset = gather_points(xyz, index) - xyz[:, :, None]  # (B, N, k, 3)
        squared = offset.square().sum(-1, keepdim=True)  # (B, N, k, 1)
        scale = (squared.mean((1, 2, 3), keepdim=True) + EPSILON).rsqrt()  # (B, 1, 1, 1)
        # The root's slope at 0 is infinite, and every point is its own neighbour.
        place = torch.cat([offset, (squared + EPSILON).sqrt()], -1) * scale  # (B, N, k, 4)
        inner = self.fc2(F.relu(self.fc1(place.to(dtype or place.dtype))))  # (B, N, k, hidden)
        # Of two ways to the maximum this has the faster backward.
        most = inner.max(2).values if self.training else inner.amax(2)  # (B, N, hidden)
        return linear_norm(self.norm(most), self.out, self.out_norm)


class LocalLayer(nn.Module):
    """BN(max over neighbours j of W x_j - W x_i): the linear map is applied once a point.

    Args:
        in_dim: Width of the tokens before.
        dim: Width after.
        weight: The norm's weight at the start.
        fused: Map before the gather, if the map is plain; False is the plain twin.
    """

    def __init__(self, in_dim: int, dim: int, weight: float, fused: bool = True) -> None:
        """Build the map and the norm."""
        super().__init__()
        self.linear = nn.Linear(in_dim, dim, bias=False)
        self.norm = _norm(dim, weight)
        self.fused = fused

    def forward(self, tokens: Tensor, anchors: Tensor, index: Tensor) -> Tensor:
        """Map tokens (B, N, C_in), at anchors (B, S) with neighbours index (B, S, k), to (B, S, C)."""
        if self.fused and is_plain(self.linear):
            # Differences alone count; without their mean, half precision keeps more of them.
            mapped = self.linear(tokens - tokens.detach().mean(1, keepdim=True))  # (B, N, C)
            edges = largest_offset(mapped, anchors, index)  # (B, S, C)
        else:
            offset = gather_points(tokens, index) - gather_points(tokens, anchors)[:, :, None]
            edges = self.linear(offset).amax(2)  # (B, S, C)
        out: Tensor = self.norm(edges.to(self.norm.weight.dtype))
        return out


class PointMlp(nn.Module):
    """BN(linear(gelu(linear(x)))) at every point: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, ratio: float, weight: float) -> None:
        """Use a hidden width of ``ratio * dim``; ``weight`` is the norm's at the start."""
        super().__init__()
        hidden = max(1, round(dim * ratio))
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim, bias=False)
        self.norm = _norm(dim, weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) -> (B, N, C)."""
        return linear_norm(F.gelu(self.fc1(x)), self.fc2, self.norm)


class AggregationStage(nn.Module):
    """Carry tokens to a sample of the points, and refine them by their neighbours there (DeLA).

    T <- BN(linear(T at the anchors)) + local layer(T) + relative position of the neighbours; then, each added
    to T, an MLP, ``depth`` local layers, and an MLP after every second of them. It stands where
    `bixt3d.models.grouping.GroupingStage` does.

    Args:
        in_dim: Width of the tokens before.
        out_dim: Width of the tokens after.
        neighbors: Neighbours k of a point, among the points before as among those that stay.
        reduction: Points per anchor; 1 keeps all points.
        depth: Local layers.
        hidden: Width of what is applied once a neighbour.
        ratio: Hidden width of the MLPs, as a multiple of theirs.
        drop_path: Stochastic depth of layers and MLPs.
        sampling: As in `GroupingStage`.
        fused: Map before the gather; False is the plain twin.

    Raises:
        ValueError: For an unknown ``sampling`` or sizes below 1.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        neighbors: int = 16,
        reduction: int = 1,
        depth: int = 2,
        hidden: int = 32,
        ratio: float = 2.0,
        drop_path: float = 0.0,
        sampling: str = "fps",
        fused: bool = True,
    ) -> None:
        """Build what carries the tokens over, and the layers after it."""
        super().__init__()
        sizes = {"in_dim": in_dim, "out_dim": out_dim, "neighbors": neighbors, "reduction": reduction}
        check_stage(sampling, {**sizes, "hidden": hidden}, depth=depth)
        self.neighbors, self.reduction, self.sampling = int(neighbors), int(reduction), sampling
        self.shortcut = nn.Linear(in_dim, out_dim, bias=False)
        self.norm = _norm(out_dim, 0.3)
        self.enter = LocalLayer(in_dim, out_dim, 0.3, fused)
        self.position = RelativePosition(out_dim, hidden, 0.3)
        self.mlp = PointMlp(out_dim, ratio, 0.2)
        # What comes later starts as nothing: a stage is as deep as it learns to be.
        self.layers = nn.ModuleList(LocalLayer(out_dim, out_dim, 0.0, fused) for _ in range(depth))
        self.mlps = nn.ModuleList(PointMlp(out_dim, ratio, 0.0) for _ in range(depth // 2))
        self.drop_path = DropPath(drop_path)

    @property
    def least_points(self) -> int:
        """The fewest points before the stage that leave a point its neighbours."""
        return self.neighbors * self.reduction

    def forward(
        self,
        xyz: Tensor,
        tokens: Tensor,
        near: Neighborhood | None = None,
        trees: SearchTree | None = None,
    ) -> tuple[Tensor, Tensor, Neighborhood]:
        """Refine tokens (B, N, C_in) at xyz (B, N, 3); arguments and results are those of `GroupingStage`."""
        anchors = choose_anchors(xyz, self.reduction, self.sampling, self.training)  # (B, S)
        if near is None or near.index.shape[1:] != (xyz.shape[1], self.neighbors):
            near = _neighbors_of_all(trees or SearchTree(xyz), self.neighbors)
        here, index = tokens, near.index
        if self.reduction > 1:
            here, xyz = gather_points(tokens, anchors), gather_points(xyz, anchors)  # (B, S, C_in), (B, S, 3)
            index = index.gather(1, anchors[..., None].expand(-1, -1, self.neighbors))  # (B, S, k)
            near = _neighbors_of_all(SearchTree(xyz), self.neighbors)
        x = linear_norm(here, self.shortcut, self.norm) + self.enter(tokens, anchors, index)
        x = x + self.position(xyz, near.index, tokens.dtype)  # (B, S, C)
        x = x + self.drop_path(self.mlp(x))
        for number, layer in enumerate(self.layers):
            x = x + self.drop_path(layer(x, near.anchors, near.index))
            if number % 2:
                x = x + self.drop_path(self.mlps[number // 2](x))
        return xyz, x.to(tokens.dtype), near


def aggregation_classifier(
    num_classes: int = 40,
    in_dims: int = 3,
    *,
    dim: int,
    num_heads: int,
    num_latents: int,
    embed_dim: int,
    widths: Sequence[int],
    reductions: Sequence[int],
    depths: Sequence[int],
    neighbors: int = 16,
    position_dim: int = 32,
    sampling: str = "fps",
    mlp_ratio: float = 2.0,
    coord_scale: float = GROUPED_COORD_SCALE,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    pool: str = "both",
    backend: str = "auto",
    block: Block = BidirectionalCrossAttention,
    latent_std: float = LATENT_STD,
) -> PointClassifier:
    """BiXT with an `AggregationStage` before each layer; one width, reduction and depth a layer."""
    options: dict[str, Any] = {"neighbors": neighbors, "hidden": position_dim, "ratio": mlp_ratio}
    stages = _stages(embed_dim, widths, reductions, depths, **options, drop_path=drop_path, sampling=sampling)
    last = "tokens" if pool == "tokens" else "one_sided"
    sizes = dim, len(widths), num_heads, num_latents, "bidirectional", last, widths, mlp_ratio
    trunk = BiXT(*sizes, drop_path, backend, block, latent_std)
    encoder = PointEncoder(SinusoidalTokenizer(at_least_xyz(in_dims), embed_dim, coord_scale), trunk, stages)
    return PointClassifier(encoder, ClassificationHead(dim, num_classes, pool, widths[-1], dropout))


def aggregation_part_segmenter(
    num_parts: int = 50,
    in_dims: int = 3,
    *,
    num_categories: int = 16,
    dim: int,
    num_heads: int,
    num_latents: int,
    embed_dim: int,
    widths: Sequence[int],
    reductions: Sequence[int],
    depths: Sequence[int],
    neighbors: int = 16,
    position_dim: int = 32,
    sampling: str = "fps",
    mlp_ratio: float = 2.0,
    decoder_widths: Sequence[int],
    decoder_blocks: int = 1,
    context_dim: int = 64,
    head_dim: int = 64,
    coord_scale: float = GROUPED_COORD_SCALE,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    backend: str = "auto",
    block: Block = BidirectionalCrossAttention,
    latent_std: float = LATENT_STD,
) -> PointSegmenter:
    """BiXT with an `AggregationStage` before each layer, and the decoder of `encdec_part_segmenter`."""
    options: dict[str, Any] = {"neighbors": neighbors, "hidden": position_dim, "ratio": mlp_ratio}
    stages = _stages(embed_dim, widths, reductions, depths, **options, drop_path=drop_path, sampling=sampling)
    sizes = dim, len(widths), num_heads, num_latents, "bidirectional", "full", widths, mlp_ratio
    trunk = BiXT(*sizes, drop_path, backend, block, latent_std)
    encoder = PointEncoder(SinusoidalTokenizer(at_least_xyz(in_dims), embed_dim, coord_scale), trunk, stages)
    decoder = PropagationDecoder((embed_dim, *widths), dim, decoder_widths, decoder_blocks, context_dim)
    width = decoder_widths[-1] + context_dim + (dim if num_categories else 0)
    return PointSegmenter(encoder, PartHead(width, num_parts, head_dim, dropout), num_categories, decoder)


def _stages(
    embed_dim: int, widths: Sequence[int], reductions: Sequence[int], depths: Sequence[int], **options: Any
) -> dict[int, AggregationStage]:
    """Return a stage before each layer; ``options`` are those that all share."""
    if not len(widths) == len(reductions) == len(depths):
        counts = f"{len(widths)}, {len(reductions)} and {len(depths)}"
        raise ValueError(f"widths, reductions and depths: expected one of each a layer, got {counts}")
    sizes = zip(chain([embed_dim], widths), widths, reductions, depths, strict=False)
    return {
        layer: AggregationStage(before, after, reduction=reduction, depth=depth, **options)
        for layer, (before, after, reduction, depth) in enumerate(sizes)
    }


def _norm(dim: int, weight: float) -> BatchNorm:
    norm = BatchNorm(dim)
    nn.init.constant_(norm.weight, weight)
    return norm


def _neighbors_of_all(trees: SearchTree, k: int) -> Neighborhood:
    xyz = trees.points
    everywhere = torch.arange(xyz.shape[1], device=xyz.device).expand(xyz.shape[0], -1)  # (B, N)
    return Neighborhood(everywhere, knn(xyz, trees, k, validate=False))
