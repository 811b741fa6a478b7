"""Sampling by grids: exactly so many points, each once, one a cell, spread over the cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bixt3d.ops import farthest_point_sample, grid_sample
from bixt3d.ops.grid import LEVELS, morton_codes
from tests.markers import needs_cuda


def twin(xyz: np.ndarray[Any, Any], num_samples: int) -> list[int]:
    """One cloud (N, 3), grid after grid, each cell's first point on the curve by sorting strings of bits."""
    low = xyz.min(0)
    side = max(float((xyz.max(0) - low).max()), float(np.finfo(xyz.dtype).tiny))
    cell = (((xyz - low) / xyz.dtype.type(side)) * ((1 << LEVELS) - 1)).astype(np.int64)
    bits = [[format(int(c), f"0{LEVELS}b") for c in row] for row in cell]
    names = ["".join(z + y + x for x, y, z in zip(*row, strict=True)) for row in bits]
    curve = sorted(range(len(xyz)), key=lambda i: (names[i], i))
    chosen: list[int] = []
    for level in range(LEVELS + 2):
        seen = {names[i][: 3 * level] for i in chosen} if level <= LEVELS else set()
        fresh = []
        for i in curve:
            if i in chosen or (level <= LEVELS and names[i][: 3 * level] in seen):
                continue
            seen.add(names[i][: 3 * level])
            fresh.append(i)
        wanted = num_samples - len(chosen)
        if len(fresh) >= wanted:
            return chosen + [fresh[i * len(fresh) // wanted] for i in range(wanted)]
        chosen += fresh
    raise AssertionError("more samples than points")


def clouds(kind: str) -> Tensor:
    points = torch.randn(2, 200, 3)
    return {
        "plain": points,
        "grid": (points * 2).round(),
        "repeated": points[:, torch.arange(200) % 30],
        "one place": torch.ones(2, 200, 3),
        "line": points * torch.tensor([1.0, 0.0, 0.0]),
        "far": points + 1e4,
    }[kind]


@pytest.mark.parametrize("kind", ["plain", "grid", "repeated", "one place", "line", "far"])
@pytest.mark.parametrize("num_samples", [1, 2, 50, 64, 199, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_twin(kind: str, num_samples: int, dtype: torch.dtype) -> None:
    xyz = clouds(kind).to(dtype)
    index = grid_sample(xyz, num_samples)
    assert index.dtype == torch.int64
    assert index.tolist() == [twin(cloud.numpy(), num_samples) for cloud in xyz]


@pytest.mark.parametrize("kind", ["plain", "grid", "repeated", "one place"])
def test_each_point_at_most_once(kind: str) -> None:
    for num_samples in (7, 120, 200):
        for row in grid_sample(clouds(kind), num_samples).tolist():
            assert len(set(row)) == num_samples


def gap(xyz: Tensor, index: Tensor) -> Tensor:
    """How far the points are from their nearest sample, at most."""
    return torch.cdist(xyz, xyz.gather(1, index[..., None].expand(-1, -1, 3))).amin(2).amax(1)


def test_spread_between_random_and_farthest_points() -> None:
    xyz = torch.nn.functional.normalize(torch.randn(4, 4000, 3), dim=-1) * torch.tensor([1.0, 2.0, 0.5])
    for num_samples in (100, 500, 1000):
        ours, best = (
            gap(xyz, grid_sample(xyz, num_samples)),
            gap(xyz, farthest_point_sample(xyz, num_samples)),
        )
        random = gap(xyz, torch.rand(4, 4000).argsort(1)[:, :num_samples])
        assert (ours < 2.5 * best).all()
        assert (ours < random).all()


def test_coarse_grids_come_first() -> None:
    xyz = torch.rand(2, 3000, 3)  # in every one of 8 and of 64 cells
    index = grid_sample(xyz, 1000)
    for cells in (1, 8, 64):
        assert index[:, :cells].equal(grid_sample(xyz, cells))


def test_a_cell_gives_one_point() -> None:
    axis = torch.linspace(0, 1, 8)
    corners = torch.cartesian_prod(axis, axis, axis)[None]  # one point a cell of the third grid
    crowd = torch.cat([corners + 1e-3 * torch.rand(1, 512, 3) for _ in range(5)], 1).clamp(0, 1)
    index = grid_sample(crowd, 512)
    assert (index[0] % 512).unique().numel() == 512


def test_morton_codes_of_hand() -> None:
    xyz = torch.tensor(
        [[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0.49, 0, 0], [0.51, 0, 0]]]
    )
    codes = morton_codes(xyz)[0]
    full = (1 << LEVELS) - 1
    spread = sum(((full >> bit) & 1) << (3 * bit) for bit in range(LEVELS))
    assert codes[:5].tolist() == [0, spread, spread << 1, spread << 2, (spread << 1 | spread | spread << 2)]
    assert (codes >> (3 * (LEVELS - 1))).tolist() == [0, 1, 2, 4, 7, 0, 1]


def test_scale_layout_and_precision() -> None:
    xyz = torch.randn(2, 3, 90).transpose(1, 2).requires_grad_()
    expected = grid_sample(xyz, 30)
    assert not expected.requires_grad
    assert grid_sample(xyz.detach().contiguous() * 4, 30).equal(expected)
    assert grid_sample(xyz.half(), 30).equal(grid_sample(xyz.half().float(), 30))


def test_very_large_and_small_numbers() -> None:
    for scale in (1e38, 1e-40):
        index = grid_sample(torch.rand(1, 50, 3) * scale * 3 - scale, 20)
        assert len(set(index[0].tolist())) == 20


def test_a_cloud_does_not_depend_on_its_batch() -> None:
    xyz = torch.randn(3, 80, 3) * torch.tensor([1.0, 1e-3, 50.0])[:, None, None]
    assert grid_sample(xyz, 21).equal(torch.cat([grid_sample(cloud[None], 21) for cloud in xyz]))


def test_shapes_on_the_meta_device() -> None:
    index = grid_sample(torch.empty(2, 300, 3, device="meta"), 40)
    assert (index.shape, index.dtype, index.is_meta) == ((2, 40), torch.int64, True)


def test_exports_for_any_number_of_points() -> None:
    class Sample(torch.nn.Module):
        def forward(self, xyz: Tensor) -> Tensor:
            return grid_sample(xyz, 40)

    sizes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("points", min=40)}
    program = torch.export.export(Sample(), (torch.randn(2, 90, 3),), dynamic_shapes=(sizes,), strict=False)
    xyz = torch.randn(3, 200, 3)
    assert program.module()(xyz).equal(grid_sample(xyz, 40))


def test_onnx(tmp_path: Path) -> None:
    import onnxruntime

    class Sample(torch.nn.Module):
        def forward(self, xyz: Tensor) -> Tensor:
            return grid_sample(xyz, 40)

    sizes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("points", min=40)},)
    example = (torch.randn(2, 90, 3),)
    torch.onnx.export(Sample().eval(), example, dynamo=True, dynamic_shapes=sizes, verbose=False).save(
        tmp_path / "sample.onnx"
    )
    session = onnxruntime.InferenceSession(tmp_path / "sample.onnx")
    for xyz in (torch.randn(3, 200, 3), torch.randn(1, 50, 3).repeat(1, 4, 1)):
        (found,) = session.run(None, {"xyz": xyz.numpy()})
        assert found.tolist() == grid_sample(xyz, 40).tolist()


@needs_cuda
def test_cuda_agrees_with_the_cpu() -> None:
    xyz = torch.randn(3, 5000, 3)
    assert grid_sample(xyz.cuda(), 700).cpu().equal(grid_sample(xyz, 700))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"xyz: expected .*\(B, N, 3\).*shape \(4, 3\)"):
        grid_sample(torch.zeros(4, 3), 2)
    with pytest.raises(ValueError, match="num_samples: expected 1 to 4"):
        grid_sample(torch.zeros(1, 4, 3), 5)
    with pytest.raises(ValueError, match="NaN or infinity"):
        grid_sample(torch.full((1, 4, 3), torch.nan), 2)
