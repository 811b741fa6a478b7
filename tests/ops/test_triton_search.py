"""Triton's sampling and neighbours against the torch versions: the very same indices, ties included.

Without a GPU Triton interprets the kernels on the CPU, and they are compiled for one all the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bixt3d.ops import farthest_point_sample, knn, triton_search
from tests.markers import needs_triton
from tests.ops.graphs import operations

pytestmark = needs_triton

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def same_samples(xyz: Tensor, num_samples: int, start: int = 0) -> None:
    expected = farthest_point_sample(xyz, num_samples, start, backend="torch")
    index = farthest_point_sample(xyz.to(DEVICE), num_samples, start, backend="triton")
    assert index.dtype == torch.int64
    assert index.device.type == DEVICE
    assert index.tolist() == expected.tolist()


def same_neighbors(query: Tensor, points: Tensor, k: int) -> None:
    expected = knn(query, points, k, backend="torch")
    index = knn(query.to(DEVICE), points.to(DEVICE), k, backend="triton")
    assert index.dtype == torch.int64
    assert index.device.type == DEVICE
    assert index.tolist() == expected.tolist()


def grid(batch: int, count: int, most: int) -> Tensor:
    """Points on few places: many coincide, and many distances are equal."""
    return torch.randint(most + 1, (batch, count, 3)).float()


class TestSamples:
    @pytest.mark.parametrize(
        ("batch", "count", "samples", "start"),
        [(1, 1, 1, 0), (2, 2, 2, 1), (3, 17, 17, 16), (2, 33, 1, 5), (2, 200, 40, 0), (1, 1100, 20, 700)],
    )
    def test_random_clouds(self, batch: int, count: int, samples: int, start: int) -> None:
        same_samples(torch.randn(batch, count, 3), samples, start)

    def test_random_start(self) -> None:
        xyz = torch.randn(6, 40, 3)
        index = farthest_point_sample(xyz.to(DEVICE), 6, "random", backend="triton").tolist()
        assert len({row[0] for row in index}) > 1
        for cloud, row in zip(xyz, index, strict=True):
            assert [row] == farthest_point_sample(cloud[None], 6, row[0]).tolist()

    @pytest.mark.parametrize("tile", [8, 32])  # 100 points in 13 tiles, the last half full, and in 4
    def test_clouds_that_do_not_fit_on_chip(self, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(triton_search, "FPS_TILE", tile)
        same_samples(torch.randn(1, 100, 3), 9, start=99)
        same_samples(grid(1, 100, 2), 30)
        same_samples(torch.randn(2, tile, 3), 8)  # on chip, just so
        same_samples(torch.randn(2, tile + 1, 3), 9)

    @pytest.mark.parametrize("tile", [8, 8192])
    def test_coinciding_points(self, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(triton_search, "FPS_TILE", tile)
        same_samples(torch.ones(1, 21, 3), 21)
        same_samples(torch.randn(1, 7, 3).repeat(1, 3, 1), 21, start=4)

    def test_memory_layout_and_gradients_do_not_matter(self) -> None:
        same_samples(torch.randn(2, 3, 50).transpose(1, 2).requires_grad_(), 10)
        same_samples(torch.randn(2, 50, 6)[..., 1:4], 10)
        same_samples(torch.randn(1, 50, 3).expand(3, -1, -1), 10)

    def test_near_ties_round_alike(self) -> None:
        same_samples(grid(1, 300, 5) * 0.1, 150)  # 0.1 is not a sum of powers of two

    @pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
    @pytest.mark.parametrize("scale", [1e-20, 1e6, 1e25])  # squares are subnormal, or infinite
    def test_small_and_large_coordinates(self, scale: float) -> None:
        same_samples(torch.randn(2, 60, 3) * scale, 20)
        same_samples(torch.randn(2, 60, 3) + scale, 20)

    def test_half_precision_is_measured_in_float32(self) -> None:
        same_samples((torch.randn(2, 40, 3) * 300).half(), 10)


class TestNeighbors:
    @pytest.mark.parametrize(
        ("batch", "queries", "count", "k"),
        [(1, 1, 1, 1), (2, 3, 2, 2), (3, 2, 17, 17), (2, 7, 33, 1), (2, 3, 200, 24), (1, 2, 64, 64)],
    )
    def test_random_clouds(self, batch: int, queries: int, count: int, k: int) -> None:
        same_neighbors(torch.randn(batch, queries, 3), torch.randn(batch, count, 3), k)

    def test_a_cloud_s_own_neighbors(self) -> None:
        points = torch.randn(2, 12, 3)
        same_neighbors(points, points, 5)

    @pytest.mark.parametrize(("tile", "queries"), [(8, 1), (32, 4), (512, 2)])
    def test_tiles_do_not_change_the_result(
        self, tile: int, queries: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(triton_search, "KNN_TILE", tile)
        monkeypatch.setattr(triton_search, "KNN_QUERIES", queries)
        same_neighbors(torch.randn(2, 5, 3), torch.randn(2, 50, 3), 6)
        same_neighbors(grid(1, 5, 2), grid(1, 50, 2), 17)

    def test_more_points_than_a_tile(self) -> None:
        same_neighbors(torch.randn(1, 2, 3), torch.randn(1, 2 * triton_search.KNN_TILE + 3, 3), 24)

    def test_nearest_points_come_last(self) -> None:
        points = torch.randn(1, 70, 3)
        order = points.square().sum(-1).argsort(1, descending=True)
        points = points.gather(1, order[..., None].expand(-1, -1, 3))
        same_neighbors(torch.zeros(1, 1, 3), points, 20)

    def test_coinciding_points(self) -> None:
        same_neighbors(torch.zeros(2, 1, 3), torch.ones(2, 21, 3), 21)
        same_neighbors(torch.zeros(2, 1, 3), torch.ones(2, 21, 3), 5)
        same_neighbors(torch.randn(2, 2, 3), torch.randn(1, 10, 3).repeat(2, 3, 1), 8)

    def test_memory_layout_and_gradients_do_not_matter(self) -> None:
        strided = torch.randn(2, 3, 5).transpose(1, 2).requires_grad_()
        sliced = torch.randn(2, 30, 6)[..., 1:4]
        same_neighbors(strided, sliced, 3)
        same_neighbors(sliced[:, :4], strided, 3)
        same_neighbors(strided[:1].expand(3, -1, -1), sliced[:1].expand(3, -1, -1), 2)

    def test_near_ties_round_alike(self) -> None:
        points = grid(1, 150, 5) * 0.1
        same_neighbors(points[:, :5] + 0.05, points, 40)

    @pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
    @pytest.mark.parametrize("scale", [1e-20, 1e6, 1e25])
    def test_small_and_large_coordinates(self, scale: float) -> None:
        query, points = torch.randn(1, 5, 3), torch.randn(1, 60, 3)
        same_neighbors(query * scale, points * scale, 9)
        same_neighbors(query + scale, points + scale, 9)

    def test_half_precision_is_measured_in_float32(self) -> None:
        same_neighbors((torch.randn(1, 5, 3) * 300).half(), torch.randn(1, 40, 3) * 300, 9)


@pytest.fixture
def small_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 8 points and groups of 4 tiles, for clouds of any size."""
    for name, value in (("BOXED_FROM", 1), ("BOX_TILE", 8), ("BOX_GROUP", 4)):
        monkeypatch.setattr(triton_search, name, value)


@pytest.mark.usefixtures("small_boxes")
class TestNeighborsByBoxes:
    @pytest.mark.parametrize(
        ("batch", "queries", "count", "k"),
        [(1, 1, 1, 1), (2, 3, 8, 8), (3, 2, 33, 5), (2, 3, 300, 24), (1, 2, 150, 64)],
    )
    def test_random_clouds(self, batch: int, queries: int, count: int, k: int) -> None:
        same_neighbors(torch.randn(batch, queries, 3), torch.randn(batch, count, 3), k)

    @pytest.mark.parametrize("scale", [1.0, 0.1])  # 0.1 is not a sum of powers of two
    def test_equal_distances(self, scale: float) -> None:
        points = grid(2, 200, 5) * scale
        same_neighbors(points[:, :4], points, 40)
        same_neighbors(points[:, :4] + 0.05, points, 7)

    def test_coinciding_points(self) -> None:
        same_neighbors(torch.zeros(2, 1, 3), torch.ones(2, 70, 3), 40)
        same_neighbors(torch.randn(1, 2, 3), torch.randn(1, 10, 3).repeat(1, 9, 1), 12)

    @pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
    @pytest.mark.parametrize("scale", [1e-20, 1e25])
    def test_small_and_large_coordinates(self, scale: float) -> None:
        points = torch.randn(1, 60, 3) * scale
        same_neighbors(points[:, :4] * 1.1, points, 9)

    def test_queries_outside_and_memory_layout(self) -> None:
        points = torch.randn(2, 3, 50).transpose(1, 2)
        same_neighbors(points[:, :3] + 9, points, 5)

    def test_far_boxes_are_passed_over(self) -> None:
        """A neighbour list that is full of nearer points spares the tiles behind; NaN there would show."""
        points = torch.cat([torch.rand(64, 3), torch.rand(192, 3) + 50]).expand(1, -1, -1)
        index = torch.zeros(1, 1, 5, dtype=torch.int64, device=DEVICE)
        low, high = triton_search._boxes(points.mT, points.mT, 8)
        groups = triton_search._boxes(low, high, 4)
        rows = points.mT.contiguous()
        rows[..., 64:] = points[:, :1].mT  # as near as can be, but in boxes that say otherwise
        order = torch.arange(256, dtype=torch.int32)[None]
        from bixt3d.ops import triton_search_kernels as kernels

        parts = [part.to(DEVICE) for part in (points[:, :1], rows, order, low, high, *groups)]
        kernels.knn_by_boxes[(1,)](*parts, index, 1, 256, 5, TILE=8, GROUP=4, SLOTS=8, num_warps=1)
        assert index[0].tolist() == knn(points[:, :1], points[:, :64], 5, backend="torch")[0].tolist()


@pytest.mark.parametrize(
    ("count", "boxes"), [(triton_search.BOXED_FROM - 1, 0), (triton_search.BOXED_FROM, 2)]
)
def test_large_clouds_go_by_boxes(count: int, boxes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], triton_search._boxes
    monkeypatch.setattr(triton_search, "_boxes", lambda *args: made.append(1) or make(*args))
    points = torch.randn(1, count, 3)
    same_neighbors(points[:, :2], points, 24)
    assert len(made) == boxes


coordinates = st.integers(-2, 2)
clouds = st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=12)


@settings(max_examples=20)
@given(points=clouds, query=clouds, data=st.data())
def test_any_small_cloud(points: list[Any], query: list[Any], data: st.DataObject) -> None:
    xyz = torch.tensor([points], dtype=torch.float32)
    count = len(points)
    same_samples(xyz, data.draw(st.integers(1, count)), data.draw(st.integers(0, count - 1)))
    same_neighbors(torch.tensor([query[:4]], dtype=torch.float32), xyz, data.draw(st.integers(1, count)))


class TestAsOperations:
    def test_registration(self) -> None:
        xyz = torch.randn(2, 12, 3, device=DEVICE)
        first = torch.zeros(2, dtype=torch.int64, device=DEVICE)
        torch.library.opcheck(torch.ops.bixt3d.fps.default, (xyz, 3, first, "triton"))
        query = xyz[:, :2].contiguous()
        torch.library.opcheck(torch.ops.bixt3d.knn.default, (query, xyz, 3, "triton", None))

    def test_compile_passes_over_them(self) -> None:
        def search(xyz: Tensor) -> tuple[Tensor, Tensor]:
            anchors = farthest_point_sample(xyz, 6, backend="triton")
            return anchors, knn(xyz[:, :4], xyz, 5, backend="triton")

        xyz = torch.randn(2, 20, 3, device=DEVICE)
        (anchors, index), names = operations(search, xyz)
        assert anchors.equal(farthest_point_sample(xyz, 6))
        assert index.equal(knn(xyz[:, :4], xyz, 5))
        assert {"bixt3d.fps.default", "bixt3d.knn.default"} <= set(names)
        assert len(names) < 12

    def test_either_size_may_change_in_a_compiled_program(self) -> None:
        compiled = torch.compile(
            lambda xyz: farthest_point_sample(xyz, 4, backend="triton"),
            backend="aot_eager", fullgraph=True, dynamic=True,
        )  # fmt: skip
        for count in (10, 13):
            xyz = torch.randn(2, count, 3, device=DEVICE)
            assert compiled(xyz).equal(farthest_point_sample(xyz, 4))


class TestErrors:
    def test_double_precision(self) -> None:
        xyz = torch.randn(1, 5, 3, dtype=torch.float64)
        message = r'float32 and would round torch.float64 points.*backend="torch"'
        with pytest.raises(ValueError, match=message):
            farthest_point_sample(xyz, 2, backend="triton")
        with pytest.raises(ValueError, match=message):
            knn(xyz.float(), xyz, 2, backend="triton")

    def test_too_many_neighbors(self) -> None:
        xyz = torch.randn(1, 70, 3)
        with pytest.raises(ValueError, match=r'k: .*at most 64 neighbours, got 65; use backend="torch"'):
            knn(xyz, xyz, 65, backend="triton")

    def test_too_many_points(self) -> None:
        xyz = torch.zeros(1, 1, 1).expand(1, (1 << 30) + 1, 3)  # one number in memory
        message = r'clouds of at most 1073741824 points, got 1073741825; use backend="torch"'
        with pytest.raises(ValueError, match=message):
            farthest_point_sample(xyz, 2, backend="triton", validate=False)
        with pytest.raises(ValueError, match=message):
            knn(xyz[:, :1], xyz, 2, backend="triton", validate=False)

    def test_the_other_checks_come_first(self) -> None:
        xyz = torch.randn(1, 5, 3)
        with pytest.raises(ValueError, match="num_samples: expected 1 to 5"):
            farthest_point_sample(xyz, 6, backend="triton")
        with pytest.raises(ValueError, match="k: expected 1 to 5"):
            knn(xyz, xyz, 6, backend="triton")

    def test_a_device_without_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import triton

        monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
        xyz = torch.randn(1, 5, 3)
        with pytest.raises(RuntimeError, match="'triton' needs a CUDA device, got cpu"):
            farthest_point_sample(xyz, 2, backend="triton")
        with pytest.raises(RuntimeError, match="'triton' needs a CUDA device, got cpu"):
            knn(xyz, xyz, 2, backend="triton")

    def test_triton_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "triton", None)
        xyz = torch.randn(1, 5, 3)
        with pytest.raises(ImportError, match=r"'triton' is not installed.*pip install"):
            farthest_point_sample(xyz, 2, backend="triton")
        with pytest.raises(ImportError, match=r"'triton' is not installed.*pip install"):
            knn(xyz, xyz, 2, backend="triton")


COMPILE = """
import re, subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from bixt3d.ops import triton_search, triton_search_kernels as kernels

numbers, indices = ["*fp32"], ["*i64"]
fps = [*numbers, *indices, *indices, "i32", "i32"]
fps_by_tiles = [*numbers, *indices, *numbers, *indices, "i32", "i32"]
knn = [*numbers, *numbers, *indices, "i32", "i32", "i32"]
boxed = [*numbers * 2, "*i32", *numbers * 4, *indices, "i32", "i32", "i32"]
boxes = {"TILE": triton_search.BOX_TILE, "GROUP": triton_search.BOX_GROUP}
tile = triton_search.FPS_TILE
neighbors = {"QUERIES": triton_search.KNN_QUERIES, "TILE": triton_search.KNN_TILE}
for kernel, types, sizes, warps in (
    (kernels.fps_on_chip, fps, {"BLOCK": 1024}, triton_search.fps_warps(1024)),
    (kernels.fps_on_chip, fps, {"BLOCK": 2048}, triton_search.fps_warps(2048)),
    (kernels.fps_on_chip, fps, {"BLOCK": tile}, triton_search.fps_warps(tile)),
    (kernels.fps_by_tiles, fps_by_tiles, {"TILE": tile}, triton_search.fps_warps(tile)),
    (kernels.knn_by_tiles, knn, {**neighbors, "SLOTS": 32}, 1),
    (kernels.knn_by_tiles, knn, {**neighbors, "SLOTS": 64}, 1),
    (kernels.knn_by_boxes, boxed, {**boxes, "SLOTS": 32}, 1),
    (kernels.knn_by_boxes, boxed, {**boxes, "SLOTS": 64}, 1),
):
    signature = dict(zip(kernel.arg_names, types + ["constexpr"] * len(sizes), strict=True))
    options = {"num_warps": warps, **triton_search.EXACT}
    source = triton.compiler.ASTSource(kernel, signature, sizes)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    rounded = re.findall(r"(?:mul|add|sub|fma|mad)[.\\w]*f32", compiled.asm["ptx"])
    Path("kernel.cubin").write_bytes(compiled.asm["cubin"])
    read = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", "kernel.cubin"]
    usage = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    print(kernel.__name__, *re.findall("(?:REG|STACK|LOCAL):\\\\d+", usage), *sorted(set(rounded)))
"""


def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [name for name, *_ in lines] == ["fps_on_chip"] * 3 + ["fps_by_tiles"] + ["knn_by_tiles"] * 2 + [
        "knn_by_boxes"
    ] * 2
    for _, registers, *rest in lines:
        assert int(registers.removeprefix("REG:")) <= 128
        # nothing spills out of the registers; each operation rounds by itself, and keeps subnormal numbers
        assert rest == ["STACK:0", "LOCAL:0", "add.rn.f32", "mul.rn.f32", "sub.rn.f32"]
