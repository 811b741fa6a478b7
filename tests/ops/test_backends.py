"""The adapters of pytorch3d and torch_cluster, with stand-ins that choose as the packages do on a CPU."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from bixt3d.ops import farthest_point_sample, knn

PACKAGES = ("pytorch3d", "torch_cluster")


def sample(xyz: Tensor, num_samples: int) -> Tensor:
    """One cloud (N, 3): begin at the first point, go on with the first of the farthest."""
    chosen, nearest = [0], torch.full((len(xyz),), torch.inf)
    while len(chosen) < num_samples:
        nearest = torch.minimum(nearest, (xyz - xyz[chosen[-1]]).square().sum(-1).float())
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def unsorted_neighbors(query: Tensor, points: Tensor, k: int) -> Tensor:
    """(S, 3), (N, 3) -> (S, k): the lowest of equally near points, in any order."""
    squared = (query[:, None] - points).square().sum(-1)  # (S, N)
    return squared.sort(dim=-1, stable=True).indices[:, torch.randperm(k)]


def stand_in_pytorch3d() -> dict[str, ModuleType]:
    package, ops = ModuleType("pytorch3d"), ModuleType("pytorch3d.ops")

    def sample_farthest_points(points: Tensor, K: int, random_start_point: bool) -> tuple[Tensor, Tensor]:
        assert not random_start_point
        index = torch.stack([sample(cloud.float(), K) for cloud in points])  # rounds, as the package does
        return points.gather(1, index[..., None].expand(-1, -1, 3)), index

    def knn_points(query: Tensor, points: Tensor, K: int, return_sorted: bool) -> SimpleNamespace:
        assert not return_sorted  # its sort mixes equal ones
        assert query.dtype == points.dtype == torch.float32, "expected scalar type Float"
        rows = [unsorted_neighbors(q, p, K) for q, p in zip(query, points, strict=True)]
        return SimpleNamespace(idx=torch.stack(rows))

    ops.sample_farthest_points, ops.knn_points = sample_farthest_points, knn_points  # type: ignore[attr-defined]
    return {"pytorch3d": package, "pytorch3d.ops": ops}


def stand_in_torch_cluster() -> dict[str, ModuleType]:
    package = ModuleType("torch_cluster")

    def split(points: Tensor, owner: Tensor) -> tuple[Tensor, ...]:
        return points.split(owner.bincount().tolist())

    def fps(points: Tensor, owner: Tensor, ratio: float, random_start: bool) -> Tensor:
        assert not random_start
        rows, offset = [], 0
        for cloud in split(points, owner):
            rows.append(sample(cloud, math.ceil(ratio * len(cloud))) + offset)
            offset += len(cloud)
        return torch.cat(rows)

    def nearest(points: Tensor, query: Tensor, k: int, owner: Tensor, query_owner: Tensor) -> Tensor:
        rows, offset = [], 0
        for q, p in zip(split(query, query_owner), split(points, owner), strict=True):
            rows.append((unsorted_neighbors(q, p, k) + offset).flatten())
            offset += len(p)
        return torch.stack([torch.arange(len(query)).repeat_interleave(k), torch.cat(rows)])

    package.fps, package.knn = fps, nearest  # type: ignore[attr-defined]
    return {"torch_cluster": package}


STAND_INS: dict[str, Callable[[], dict[str, ModuleType]]] = {
    "pytorch3d": stand_in_pytorch3d,
    "torch_cluster": stand_in_torch_cluster,
}


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package whose stand-in takes its place."""
    for name, module in STAND_INS[request.param]().items():
        monkeypatch.setitem(sys.modules, name, module)
    return str(request.param)


@pytest.fixture
def pytorch3d(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in stand_in_pytorch3d().items():
        monkeypatch.setitem(sys.modules, name, module)


def lattice() -> Tensor:
    axis = torch.arange(4.0)
    points = torch.cartesian_prod(axis, axis, axis)
    return torch.stack([points[torch.randperm(64)] for _ in range(3)])


@pytest.mark.parametrize("start", [0, 1, 5, 63])
def test_ties_of_farthest_points_go_to_the_lowest_index(package: str, start: int) -> None:
    xyz = lattice()
    expected = farthest_point_sample(xyz, 64, start, backend="torch")
    assert farthest_point_sample(xyz, 64, start, backend=package).equal(expected)


@pytest.mark.parametrize("start", [0, 3, 19])
def test_coinciding_points(package: str, start: int) -> None:
    for xyz in (torch.ones(2, 20, 3), torch.randn(2, 5, 3).repeat(1, 4, 1)):
        expected = farthest_point_sample(xyz, 20, start, backend="torch")
        assert farthest_point_sample(xyz, 20, start, backend=package).equal(expected)


def test_each_cloud_from_its_own_start(package: str) -> None:
    xyz = torch.randn(9, 30, 3)
    index = farthest_point_sample(xyz, 8, "random", backend=package)
    assert len(index[:, 0].unique()) > 2
    for cloud, row in zip(xyz, index.tolist(), strict=True):
        assert [row] == farthest_point_sample(cloud[None], 8, row[0], backend="torch").tolist()


@pytest.mark.parametrize("k", [1, 16, 17, 40, 64])
def test_ties_of_neighbours_come_in_order(package: str, k: int) -> None:
    points = lattice()
    for query in (points, points[:, :9] + 0.5):
        assert knn(query, points, k, backend=package).equal(knn(query, points, k, backend="torch"))


@pytest.mark.usefixtures("pytorch3d")
def test_pytorch3d_does_not_round_double_precision() -> None:
    xyz = torch.randn(1, 9, 3, dtype=torch.float64)
    message = r"backend 'pytorch3d' computes in float32 and would round torch.float64 points; convert them"
    with pytest.raises(ValueError, match=message):
        farthest_point_sample(xyz, 3, backend="pytorch3d")
    with pytest.raises(ValueError, match=message):
        knn(xyz.float(), xyz, 3, backend="pytorch3d")


@pytest.mark.parametrize(
    ("broken", "install"),
    [
        ("pytorch3d", "conda install -c conda-forge pytorch3d"),
        ("torch_cluster", "pip install .*torch-cluster"),
    ],
)
@pytest.mark.parametrize("error", ["ImportError('no _C in it')", "OSError('undefined symbol: _C')"])
def test_a_broken_extension_says_how_to_install(
    broken: str, install: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is there, its compiled part is not: the module of operations fails where it imports it."""
    folder = tmp_path / broken
    folder.mkdir()
    (folder / "__init__.py").write_text("" if broken == "pytorch3d" else f"raise {error}")
    (folder / "ops.py").write_text(f"raise {error}")
    for name in [name for name in sys.modules if name.split(".")[0] == broken]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    xyz = torch.randn(1, 9, 3)
    message = rf"backend '{broken}' is not installed \(.*_C.*\); install it with `{install}`"
    for search in (
        lambda: farthest_point_sample(xyz, 3, backend=broken),
        lambda: knn(xyz, xyz, 3, backend=broken),
    ):
        with pytest.raises(ImportError, match=message):
            search()
        for name in [name for name in sys.modules if name.split(".")[0] == broken]:
            del sys.modules[name]


@pytest.mark.parametrize("backend", [*PACKAGES, "triton", "kdtree", "bucket"])
def test_an_exported_program_holds_the_reference(backend: str) -> None:
    """Whether the package is there or not."""

    class Search(torch.nn.Module):
        def forward(self, xyz: Tensor) -> tuple[Tensor, Tensor]:
            chosen = (
                xyz[:, :6]
                if backend == "kdtree"
                else xyz.gather(
                    1, farthest_point_sample(xyz, 6, backend=backend)[..., None].expand(-1, -1, 3)
                )
            )
            return chosen, knn(chosen, xyz, 4, backend="auto" if backend == "bucket" else backend)

    xyz = torch.randn(2, 300, 3)
    program = torch.export.export(Search(), (xyz,), strict=False).module()
    chosen, index = program(xyz)
    assert index.equal(knn(chosen, xyz, 4, backend="torch"))
    if backend != "kdtree":
        expected = farthest_point_sample(xyz, 6, backend="torch")
        assert chosen.equal(xyz.gather(1, expected[..., None].expand(-1, -1, 3)))


def test_compiles_as_one_operation(package: str) -> None:
    xyz = torch.randn(2, 30, 3)
    search = torch.compile(
        lambda xyz: (farthest_point_sample(xyz, 6, backend=package), knn(xyz, xyz, 3, backend=package)),
        backend="aot_eager", fullgraph=True,
    )  # fmt: skip
    anchors, index = search(xyz)
    assert anchors.equal(farthest_point_sample(xyz, 6, backend="torch"))
    assert index.equal(knn(xyz, xyz, 3, backend="torch"))


@pytest.mark.usefixtures("threads")
def test_threads_work_in_inference_mode() -> None:
    """Threads of a pool begin outside of the caller's mode, and may not write its tensors then."""
    step = torch.arange(8.0)
    lattice = torch.cartesian_prod(step, step, step).expand(3, -1, -1)  # (B, N, 3), full of equal distances
    clouds = torch.cat([lattice, torch.randn(3, 100, 3)], dim=1)
    with torch.inference_mode():
        found = knn(clouds, clouds, 9, backend="kdtree")
        chosen = farthest_point_sample(clouds, 50, backend="bucket")
    assert torch.equal(found, knn(clouds, clouds, 9, backend="torch"))
    assert torch.equal(chosen, farthest_point_sample(clouds, 50, backend="torch"))
