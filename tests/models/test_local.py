"""Local refinement on a grid: its formula, its place among the stages, and where the tokens lie."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from bixt3d.models.local import Grid, LocalRefinement
from tests.models.randomize import randomize


def test_formula() -> None:
    """Written out for one token: its 5 x 5 neighbours of the same channel decide it."""
    stage = LocalRefinement(3).double()
    randomize(stage)
    tokens = torch.randn(2, 6 * 7, 3, dtype=torch.float64)
    grid = Grid.of(tokens.view(2, 6, 7, 3))
    xyz, refined, near = stage(grid.points, tokens, None, grid)
    assert xyz is grid.points and near is None
    image = F.layer_norm(tokens, (3,), stage.norm.weight, stage.norm.bias, 1e-6).view(2, 6, 7, 3)

    def taps(values: torch.Tensor, conv: torch.nn.Conv2d, row: int, column: int) -> torch.Tensor:
        total = conv.bias.clone()
        for down in range(3):
            for right in range(3):
                y, x = row + down - 1, column + right - 1
                if 0 <= y < 6 and 0 <= x < 7:
                    total = total + conv.weight[:, 0, down, right] * values[1, y, x]
        return total

    inner = torch.zeros_like(image)
    for y in range(6):
        for x in range(7):
            value = F.gelu(taps(image, stage.conv1, y, x))
            inner[1, y, x] = F.layer_norm(value, (3,), stage.inner_norm.weight, stage.inner_norm.bias, 1e-6)
    for y, x in ((0, 0), (2, 3), (5, 6), (3, 0)):
        expected = tokens[1, 7 * y + x] + taps(inner, stage.conv2, y, x)
        torch.testing.assert_close(refined[1, 7 * y + x], expected)


def test_reach() -> None:
    """A token two rows away is seen, one three rows away is not."""
    stage = LocalRefinement(4)
    randomize(stage)
    tokens = torch.randn(1, 49, 4)
    grid = Grid.of(tokens.view(1, 7, 7, 4))
    changed = tokens.clone()
    changed[0, 3 * 7 + 3] += torch.randn(4)
    moved = (stage(grid.points, changed, None, grid)[1] - stage(grid.points, tokens, None, grid)[1])[0]
    rows, columns = (moved.abs().sum(-1).view(7, 7) > 1e-7).nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 5, 1, 5)


def test_places() -> None:
    """Row by row from the top left corner; centres of tokens in -1 to 1."""
    grid = Grid.of(torch.zeros(2, 2, 4, 5))
    assert grid.shape == (2, 4) and grid.points.shape == (2, 8, 3)
    assert grid.points[1, 0].tolist() == [-0.75, 0.5, 0.0]
    assert grid.points[0, 3].tolist() == [0.75, 0.5, 0.0]
    assert grid.points[0, 4].tolist() == [-0.75, -0.5, 0.0]
