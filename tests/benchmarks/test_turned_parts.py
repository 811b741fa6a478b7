"""Parts of turned clouds: how they are turned, what is counted, and the page."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks import turned_parts
from bixt3d import Split
from bixt3d.config import config_from
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.training.experiment import train
from bixt3d.training.splits import build_task
from tests.training.tiny import make_config

NORMAL = ("normal",)


def clouds(count: int = 200) -> Tensor:
    points = torch.randn(count, 20, 6, generator=Generator().manual_seed(0))
    return torch.cat([points[..., :3], F.normalize(points[..., 3:], dim=-1)], -1)


def test_any_turn_is_a_rotation_and_reaches_all_sides() -> None:
    points = clouds()
    turned = turned_parts.any_turn(points, NORMAL)
    rows = torch.linalg.lstsq(points[..., :3], turned[..., :3]).solution.mT  # (B, 3, 3)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(3).expand(200, -1, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rows), torch.ones(200), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        torch.einsum("bij,bnj->bni", rows, points[..., 3:]), turned[..., 3:], atol=1e-4, rtol=0
    )
    assert float(rows.mean(0).abs().max()) < 0.15  # no direction is more likely
    assert turned.equal(turned_parts.any_turn(points, NORMAL))


def test_without_normals_has_xyz_alone() -> None:
    points = clouds(2)
    assert turned_parts.without_normals(points, NORMAL).equal(F.pad(points[..., :3], (0, 3)))
    assert turned_parts.without_normals(points[..., :3], ()).equal(points[..., :3])


class UpIsOne(nn.Module):
    """Says part 1 of what is above y = 0, and part 0 of the rest."""

    def forward(self, points: Tensor, category: Tensor) -> Tensor:
        up = (points[..., 1] > 0).float()
        return torch.stack([1 - up, up], -1)


def part_split() -> Split:
    points = clouds(6)[..., :3]
    parts = (points[..., 1] > 0).long()
    parts[0, :5] = 1 - parts[0, :5]  # a quarter of a cloud of the first category is not so
    kinds = torch.tensor([0, 0, 1, 1, 1, 1])
    return Split(
        points,
        kinds,
        ("a", "b"),
        parts=parts,
        category=kinds,
        categories=("a", "b"),
        parts_of_category=((0, 1), (0, 1)),
        part_names=("low", "high"),
    )


def test_what_is_counted() -> None:
    split = part_split()
    task = build_task(
        config_from({"task": "part_segmentation", "data": {"num_points": 20, "order": "random"}})
    )
    task.set_facts(task.facts(split))
    task.bind_model(UpIsOne())
    ways = ("as they stand", "turned about y", "turned about any axis")
    found = turned_parts.measure(UpIsOne(), split, task, ways)
    for way in ways[:2]:  # heights stay
        assert found[way][2:] == pytest.approx([87.5, 100.0])
        assert found[way][1] == pytest.approx(100 * (1 - 5 / 120))
        assert 85 < found[way][0] < 95
    assert max(found[ways[2]]) < 80


def test_page_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shapes(tmp_path / "data", per_class=4, num_points=64, progress=False)
    settings = [
        "data.name=shapenetpart",
        f"data.root={tmp_path / 'data/shapes'}",
        f"run.dir={tmp_path / 'run'}",
    ]
    kind = ["task=part_segmentation", "model.name=bixt_ti_partseg", "data.order=random", "train.epochs=1"]
    train(make_config(*settings, *kind), device=torch.device("cpu"))
    command = ["turned_parts", str(tmp_path / "run"), "--names", "small", "--categories", "chair", "--out"]
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path / "out")])
    turned_parts.main()
    assert "| small | turned about any axis |" in (tmp_path / "out" / "README.md").read_text()
    with open(tmp_path / "out" / "table.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["model", "clouds", "class mIoU %", "accuracy %", "chair"]
    assert [row[1] for row in rows[1:]] == list(turned_parts.WAYS)
    assert all(0 <= float(value) <= 100 for row in rows[1:] for value in row[2:])
