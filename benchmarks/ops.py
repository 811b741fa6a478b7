"""Measure grouping and search against plain twins and other backends, alternately, in one run.

python -m benchmarks.ops --out results/ops.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import failure, number, writable
from benchmarks.table import command_line, environment_line, markdown_table
from benchmarks.timing import alternate
from bixt3d.commands.endings import one_line_errors
from bixt3d.ops import (
    SearchTree,
    farthest_point_sample,
    grid_sample,
    interpolate,
    knn,
    linear_of_affine_group,
)
from bixt3d.training.device import keep_freed_memory, pick_device

BUILT_FOR_CPUS = ("torch_cluster", "pytorch3d")
# Clouds, and points of each: where `auto` changes its mind, and where the reference's square shows.
SIZES = ((1, 128), (1, 256), (1, 512), (1, 1024), (16, 128), (16, 256), (16, 512), (16, 1024), (1, 16384))
LARGE = 65536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--repeats", type=number, default=9)
    parser.add_argument("--out", type=writable)
    args = parser.parse_args()
    with one_line_errors():
        device = pick_device(args.device)
        keep_freed_memory()
        torch.manual_seed(0)
        rows = [part for measure in (grouping, search, choices) for part in measure(device, args.repeats)]
        text = report(rows, command_line("benchmarks.ops"), device)
        print(text)
        if args.out:
            args.out.write_text(text)


def report(rows: Sequence[Sequence[str]], command: str, device: torch.device) -> str:
    """Return the table, how to read it, and how it was made."""
    head = ["operation", "size", "plain ms", "ours ms", "plain / ours", "spread of the ratio"]
    return (
        f"# Grouping and search against plain twins and other backends\n\n{markdown_table(head, rows)}\n\n"
        "Ours is the default backend. Medians of alternating runs; the spread is the range of the ratio's "
        "middle half.\n\n"
        f"`{command}`\n\n{environment_line(device)}\n"
    )


def compare(
    name: str,
    size: str,
    plain: Callable[[], object],
    ours: Callable[[], object],
    device: torch.device,
    n: int,
) -> list[str]:
    """Time two ways of the same thing in turn, n times, and return their row."""
    found = alternate(plain, ours, device, n)
    times = [f"{found.first:.1f}", f"{found.second:.1f}"]
    return [name, size, *times, f"{found.ratio:.2f}", f"{found.low:.2f} to {found.high:.2f}"]


def grouping(device: torch.device, repeats: int) -> list[list[str]]:
    rows = []
    for pool in (False, True):
        points = torch.randn(16, 512, 3, device=device)
        tokens = torch.randn(16, 512, 64, device=device, requires_grad=True)
        anchors = farthest_point_sample(points, 128)
        index = knn(points.gather(1, anchors[..., None].expand(-1, -1, 3)), points, 24)
        affine = torch.ones(64, device=device), torch.zeros(64, device=device)
        weight = torch.randn(64, 128, device=device, requires_grad=True)

        def run(
            fused: bool,
            pool: bool = pool,
            tokens: Tensor = tokens,
            anchors: Tensor = anchors,
            index: Tensor = index,
            affine: tuple[Tensor, Tensor] = affine,
            weight: Tensor = weight,
        ) -> None:
            out = linear_of_affine_group(
                tokens, tokens, anchors, index, *affine, weight, pool=pool, fused=fused
            )
            torch.autograd.grad(out, [tokens, weight], torch.ones_like(out))

        rows.append(
            compare(
                "linear_of_affine_group: group, then map" + (", then maximum" if pool else ""),
                "16 x 512 -> 128, 24 neighbours, 64 wide, training",
                lambda run=run: run(False),
                lambda run=run: run(True),
                device,
                repeats,
            )
        )
    return rows


def search(device: torch.device, repeats: int) -> list[list[str]]:
    points = torch.randn(16, 1024, 3, device=device)
    query = points[:, :512].contiguous()

    def loop() -> None:
        # The usual loop: a (B, N, 3) difference and a sum at every sample.
        nearest = torch.full(points.shape[:2], torch.inf, device=device)
        chosen = torch.zeros(len(points), dtype=torch.int64, device=device)
        rows = torch.arange(len(points), device=device)
        for _ in range(512):
            squared = ((points - points[rows, chosen][:, None]) ** 2).sum(-1)  # (B, N)
            nearest = torch.minimum(nearest, squared)
            chosen = nearest.argmax(1)

    def sample(backend: str = "auto") -> None:
        farthest_point_sample(points, 512, backend=backend)

    def find(backend: str = "auto") -> None:
        knn(query, points, 24, backend=backend)

    def pairwise() -> None:
        torch.cdist(query, points).topk(24, largest=False)

    size = "16 x 1024 -> 512"
    rows = [
        compare("farthest_point_sample: usual loop", size, loop, sample, device, repeats),
        compare("knn: cdist and topk at once", f"{size}, 24 neighbours", pairwise, find, device, repeats),
    ]
    for backend in ("triton", "torch_cluster", "pytorch3d") if device.type == "cuda" else BUILT_FOR_CPUS:
        for name, ours in (("farthest_point_sample", sample), ("knn", find)):
            title = f"{name}: backend {backend}"
            try:
                rows.append(compare(title, size, partial(ours, backend=backend), ours, device, repeats))
            except Exception as error:  # those of Triton's compiler are of many kinds
                rows.append([title, size, why_not(backend, error), *["-"] * 3])
    return rows


def choices(device: torch.device, repeats: int) -> list[list[str]]:
    """Measure what `auto` takes against the reference, by size, and what else there is for large clouds."""
    rows = []
    for batch, count in SIZES:
        points = torch.randn(batch, count, 3, device=device)
        size = f"{batch} x {count} -> {count // 2}"
        sample = partial(farthest_point_sample, points, count // 2)
        find = partial(knn, points[:, : count // 2].contiguous(), points)
        pairs: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
            ("farthest_point_sample: reference", partial(sample, backend="torch"), sample),
            ("knn: reference, 3 neighbours", partial(find, k=3, backend="torch"), partial(find, k=3)),
            ("knn: reference, 24 neighbours", partial(find, k=24, backend="torch"), partial(find, k=24)),
        ]
        if device.type == "cpu":
            bare = partial(bare_trees, *find.args)
            pairs.append(("knn: bare trees, 24 neighbours", bare, partial(find, k=24)))
        rows += [compare(name, size, *pair, device, repeats) for name, *pair in pairs]
    points = torch.randn(1, LARGE, 3, device=device)
    features, quarter = torch.randn(1, LARGE // 4, 64, device=device), points[:, : LARGE // 4].contiguous()
    tree = SearchTree(quarter)
    for name, plain, ours in (
        (
            "grid_sample: farthest_point_sample",
            partial(farthest_point_sample, points, LARGE // 4),
            partial(grid_sample, points, LARGE // 4),
        ),
        (
            "interpolate: SearchTree built anew",
            lambda: interpolate(points, SearchTree(quarter), features),
            lambda: interpolate(points, tree, features),
        ),
    ):
        rows.append(compare(name, f"1 x {LARGE} -> {LARGE // 4}", plain, ours, device, repeats))
    return rows


def bare_trees(query: Tensor, points: Tensor) -> None:
    """Search with scipy alone, a cloud a thread, in numpy's arrays."""
    from scipy.spatial import cKDTree

    threads, clouds = torch.get_num_threads(), list(zip(query.numpy(), points.numpy(), strict=True))

    def search(cloud: tuple[Any, Any]) -> None:
        tree = cKDTree(cloud[1], balanced_tree=False, compact_nodes=False)
        tree.query(cloud[0], k=24, workers=threads if len(clouds) == 1 else 1)

    if len(clouds) == 1 or threads == 1:
        for cloud in clouds:
            search(cloud)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(search, clouds))


def why_not(backend: str, error: Exception) -> str:
    """Say why a backend has no times. Packages that a user may have are a choice; triton is our own."""
    return "not installed" if isinstance(error, ImportError) and backend != "triton" else failure(error)


if __name__ == "__main__":
    main()
