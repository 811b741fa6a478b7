"""Measure part-segmentation models on clouds turned about y or any axis, bent, and without normals.

    python -m benchmarks.turned_parts psb_cpu --root data/psb_benchmark_v0_normal --out results/psb_turned

Every cloud of the split is turned and bent by a draw of its own, the same for all models.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from benchmarks.options import add_runs, parser_of
from benchmarks.table import command_line, environment_line, markdown_table
from benchmarks.trained import labels
from bixt3d.commands.endings import one_line_errors
from bixt3d.config import config_from
from bixt3d.datasets.augment import rotate_up, turn_by
from bixt3d.datasets.damage import bend
from bixt3d.datasets.features import columns_of
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.split import Split
from bixt3d.metrics import predict_parts
from bixt3d.tasks import Task
from bixt3d.tasks.labels import own_points, part_data
from bixt3d.training.checkpoint import find_checkpoint, load_checkpoint
from bixt3d.training.evaluate import evaluate
from bixt3d.training.files import write_csv, write_text
from bixt3d.training.splits import build_task, open_splits

SEED = 0
BENT = 0.9  # the largest share by which a length changes

Way = Callable[[Tensor, Sequence[str]], Tensor]


def generator() -> Generator:
    return Generator().manual_seed(SEED)


def any_turn(points: Tensor, features: Sequence[str]) -> Tensor:
    """Turn each cloud (S, N, C) by a rotation of its own, all as likely: the same every time."""
    w, x, y, z = F.normalize(torch.randn(len(points), 4, generator=generator()), dim=-1).unbind(-1)
    rows = torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        ],
        -1,
    ).view(-1, 3, 3)  # (S, 3, 3), of a unit quaternion
    return turn_by(points, rows, features)


def without_normals(points: Tensor, features: Sequence[str]) -> Tensor:
    """Set the normals of clouds (S, N, C) to zero, as of clouds whose normals are not known."""
    column, changed = columns_of(features).get("normal"), points.clone()
    if column is not None:
        changed[..., column] = 0
    return changed


WAYS: dict[str, Way] = {
    "as they stand": lambda points, _: points,
    "turned about y": lambda points, features: rotate_up(points, 180, generator(), features),
    "turned about any axis": any_turn,
    "bent": lambda points, features: bend(points, BENT, 1.0, generator(), features),
    "without normals": without_normals,
}


def measure(model: torch.nn.Module, split: Split, task: Task, ways: Sequence[str]) -> dict[str, list[float]]:
    """Return by way the class mIoU (pointnet2), the part accuracy, and that of each category, in per cent."""
    found = {}
    for name in ways:
        right = torch.zeros(len(split.categories), 2, dtype=torch.float64)
        turned = replace(split, points=WAYS[name](split.points, split.features))
        seen = evaluate(model, turned, task, 16, watch=partial(_count, right, split), what=name)
        totals = (seen.metrics["class_miou_pointnet2"], seen.metrics["accuracy_pointnet2"])
        found[name] = [100 * value for value in (*totals, *(right[:, 0] / right[:, 1]).tolist())]
    return found


def _count(right: Tensor, split: Split, logits: Tensor, batch: Batch) -> None:
    """Add the share of right points of each cloud to its category's row, and 1 to the clouds beside it."""
    parts, category = part_data(batch)
    hit = predict_parts(logits, category, split.parts_of_category, "pointnet2") == parts  # (B, N)
    counted = (parts >= 0) & own_points(batch)
    share = (hit & counted).sum(1) / counted.sum(1).clamp_min(1)  # (B,)
    right.index_add_(0, category, torch.stack([share, torch.ones_like(share)], 1).double())


def opened(checkpoint: str, split_name: str, root: str | None) -> tuple[torch.nn.Module, Split, Task]:
    """Return a trained model, the split as its evaluation sees it, and its task."""
    model, meta = load_checkpoint(find_checkpoint(checkpoint), torch.device("cpu"))
    config = config_from(meta["config"], [f"data.root={root}"] if root else [])
    task = build_task(config)
    split = open_splits(config, torch.device("cpu"), (split_name,), task=task)[0][split_name]
    task.set_facts(task.facts(split))
    task.bind_model(model)
    return model, split, task


def main() -> None:
    parser = parser_of(__doc__)
    add_runs(parser)
    parser.add_argument("--root", help="data folder; that of the training by default")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument(
        "--categories", nargs="+", default=(), help="those whose accuracy is shown; all if none"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    rows = []
    for checkpoint, label in zip(args.runs, labels(args.runs, args.names), strict=True):
        model, split, task = opened(checkpoint, args.split, args.root)
        shown = [split.categories.index(name) for name in args.categories or split.categories]
        for way, (miou, accuracy, *each) in measure(model, split, task, list(WAYS)).items():
            rows.append(
                [label, way, *(f"{value:.1f}" for value in (miou, accuracy, *(each[i] for i in shown)))]
            )
    head = ["model", "clouds", "class mIoU %", "accuracy %", *(split.categories[i] for i in shown)]
    write_csv([head, *rows], args.out / "table.csv")
    text = f"""# Parts of clouds that stand, lie or bend otherwise

On the {args.split} split, {len(split)} clouds: class mIoU (pointnet2), part accuracy, and that of categories.

{markdown_table(head, rows)}

Turned about y, turned about any axis: each cloud by a rotation of its own, all as likely. Bent: by `bend`, up
to {BENT}. Without normals: zeros in their place, as for a cloud that has none. The same numbers:
[table.csv](table.csv).

`{command_line("benchmarks.turned_parts")}`

{environment_line(torch.device("cpu"))}
"""
    write_text(args.out / "README.md", text)
    print(f"{markdown_table(head, rows)}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
