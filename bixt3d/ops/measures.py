"""Measures of attention: how much latents differ, and how many numbers two directions of maps are free in."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bixt3d.ops.attention import centred, check_directions
from bixt3d.ops.precision import widest
from bixt3d.ops.validate import describe


def attention_diversity(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Measure how alike the latents' attention maps are, and how evenly they spread, in each cloud and head.

    Args:
        maps: Attention of the latents over the tokens (B, H, M, N); every row sums to one.

    Returns:
        The mean Pearson correlation between the maps of two latents (B, H), 1 if all look at the same tokens
        and near 0 if they have nothing to do with each other; a map that is even correlates with none. And
        the mean entropy of a map (B, H), as a share of even attention's: 0 for a map of one token.

    Raises:
        ValueError: For another shape, fewer than two latents, or fewer than two tokens.
    """
    if maps.ndim != 4 or min(maps.shape[2:]) < 2:
        raise ValueError(
            f"expected attention (B, H, M, N) of two or more latents and tokens, got {describe(maps)}"
        )
    maps = maps.to(widest(maps.device))
    latents, tokens = maps.shape[-2:]
    centred = maps - maps.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    own = unit.square().sum((-1, -2))  # (B, H)
    # The sum over all pairs of latents is the square of the sum.
    pairs = unit.sum(-2).square().sum(-1) - own  # (B, H)
    entropy = torch.special.entr(maps).sum(-1).mean(-1) / math.log(tokens)  # (B, H)
    return pairs / (latents * (latents - 1)), entropy


class Freedom(NamedTuple):
    """In how many numbers both directions' maps can change, a value for each cloud and head (B, H).

    Attributes:
        separate: If each direction has a similarity of its own.
        most_separate: The same where no attention vanishes: 2MN - M - N.
        shared: If both have one similarity.
        most_shared: The same where no attention vanishes: MN - 1.
        latent_components: Of the similarity by which latents read, after means of rows and columns are taken
            out: how many singular vectors hold 99 % of its variance.
        token_components: The same of that by which tokens read.
    """

    separate: Tensor
    most_separate: Tensor
    shared: Tensor
    most_shared: Tensor
    latent_components: Tensor
    token_components: Tensor


def attention_freedom(to_latents: Tensor, to_tokens: Tensor) -> Freedom:
    """Count the degrees of freedom of the two directions' maps at these similarities (BiXT, appendix A.3).

    They are the ranks of the maps' derivative by the similarities. A softmax does not see a constant along
    its axis, and nothing of an entry that float32 loses beside the largest of its row. Of one similarity for
    both, a change is unseen if it is a constant of a row wherever that row attends, and one of a column
    wherever that attends: one number for each group of latents and tokens that see each other.

    Args:
        to_latents: Similarities of latents and tokens (B, H, M, N), before the softmax over the tokens.
        to_tokens: Similarities of tokens and latents (B, H, N, M), before the softmax over the latents; the
            transpose of the first for a bi-directional attention.

    Raises:
        ValueError: If one is not of the transposed shape of the other.
    """
    check_directions(to_latents, to_tokens)
    latents, tokens = to_latents.shape[-2:]
    first, second = to_latents, to_tokens.transpose(-1, -2)  # (B, H, M, N) both
    rows, columns = _attended(first, -1), _attended(second, -2)  # (B, H, M, N)
    separate = rows.sum((-1, -2)) - latents + columns.sum((-1, -2)) - tokens  # (B, H)
    shared = (rows | columns).sum((-1, -2)) - _groups(rows & columns)
    return Freedom(
        separate,
        torch.full_like(separate, 2 * latents * tokens - latents - tokens),
        shared,
        torch.full_like(shared, latents * tokens - 1),
        _components(first),
        _components(second),
    )


def _attended(similarity: Tensor, axis: int) -> Tensor:
    """Return where the softmax along an axis is not lost beside its largest entry."""
    return similarity - similarity.amax(axis, keepdim=True) > math.log(torch.finfo(torch.float32).eps)


def _groups(linked: Tensor) -> Tensor:
    """Count the connected groups of rows and columns (B, H) that entries (B, H, M, N) link."""
    rows, columns = linked.shape[-2:]
    own = torch.arange(rows, device=linked.device)
    of_row = own.expand(linked.shape[:-1])  # (B, H, M): the least row of the group, as far as known
    while True:
        of_column = torch.where(linked, of_row[..., None], rows).amin(-2)  # (B, H, N)
        found = torch.where(linked, of_column[..., None, :], rows).amin(-1).minimum(of_row)
        if torch.equal(found, of_row):
            groups: Tensor = (of_row == own).sum(-1) + (of_column == rows).sum(-1)
            return groups
        of_row = found


def _components(similarity: Tensor) -> Tensor:
    values = torch.linalg.svdvals(centred(similarity.to(widest(similarity.device)))).square()  # (B, H, K)
    held = values.cumsum(-1) / values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    count: Tensor = ((held < 0.99).sum(-1) + 1) * (values.sum(-1) > 0)
    return count
