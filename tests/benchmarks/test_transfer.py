"""From scratch against from ImageNet: pairs that differ in the trunk alone, and the table of both."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import transfer
from bixt3d.config import load_config
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.models.encoder import PointModel
from bixt3d.training.experiment import build_model, describe
from bixt3d.training.splits import open_splits
from tests.models.test_official import official_name

CPU = torch.device("cpu")
CONFIG = """
data: {name: shapes, root: ROOT, num_points: 16, train_split: trainval}
model: {name: bixt_ti_cls, args: {dim: 12, depth: 2, num_heads: 2, num_latents: 4, coord_scale: 6.0}}
optim: {lr: 1.0e-2, warmup_epochs: 1}
train: {epochs: 2, batch_size: 8}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    write_shapes(tmp_path / "data", per_class=4, num_points=32, progress=False)
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.replace("ROOT", str(tmp_path / "data")))
    return path


def own_start(settings: Path, seed: int) -> PointModel:
    """The model as the training of this seed starts it from scratch."""
    config = load_config(settings, ["data.train_split=train", f"train.seed={seed}"])
    splits, stored = open_splits(config, CPU, ("train",), train="train")
    model = build_model(config, describe(config, splits["train"], stored))
    assert isinstance(model, PointModel)
    return model


def write_official(model: PointModel, path: Path) -> Path:
    """Write a model's trunk as an official checkpoint, with a head and a patch embedding of its own."""
    state = {official_name(name): value for name, value in model.encoder.trunk.state_dict().items()}
    state |= {"head.weight": torch.rand(1000, 12), "head.bias": torch.rand(1000)}
    state |= {"fc_norm.weight": torch.rand(12), "fc_norm.bias": torch.rand(12)}
    state |= {"patch_embed.proj.weight": torch.rand(12, 3, 4, 4), "patch_embed.proj.bias": torch.rand(12)}
    torch.save({"state_dict": state, "epoch": 300}, path)
    return path


def command(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.transfer", *map(str, options)])
    transfer.main()


def numbers(text: str) -> list[list[str]]:
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def test_pairs_differ_in_the_trunk_alone(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of seed 1's own start gives its pair the same curve, and the pair of seed 2 another."""
    start = write_official(own_start(settings, 1), tmp_path / "start.pth")
    out = tmp_path / "new" / "table.md"
    given = "--cfg", settings, "--init", start, "--device", "cpu", "--out", out
    command(monkeypatch, *given, "--seeds", 1, 2, "--set", "run.dir=elsewhere")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    rows = {(row["seed"], row["start"]): row for row in lines}
    assert set(rows) == {(seed, start) for seed in (1, 2) for start in ("scratch", "ImageNet")}

    def learned(seed: int, start: str) -> dict[str, Any]:
        timed = ("start", "seconds", "clouds_per_second")
        return {key: value for key, value in rows[seed, start].items() if key not in timed}

    assert learned(1, "scratch") == learned(1, "ImageNet")
    assert learned(2, "scratch") != learned(2, "ImageNet")
    text = out.read_text()
    *epochs, minutes = numbers(text)
    assert [row[0] for row in epochs] == ["1", "2"] and minutes[0] == "minutes"
    for column, which in ((1, "scratch"), (2, "ImageNet")):
        scores = [100 * rows[seed, which]["val_oa"] for seed in (1, 2)]
        assert epochs[1][column].startswith(f"{sum(scores) / 2:.2f} ± ")
    assert "over the seeds 1, 2." in text and "`python -m benchmarks.transfer --cfg" in text
    assert not Path("elsewhere").exists()


def test_the_test_split_stays_closed(settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def watch(config: Any, device: Any, names: tuple[str, ...], train: str | None = None) -> Any:
        opened.extend(names)
        return open_splits(config, device, names, train)

    monkeypatch.setattr(transfer, "open_splits", watch)
    start = write_official(own_start(settings, 5), tmp_path / "start.pth")
    command(monkeypatch, "--cfg", settings, "--init", start, "--seeds", 1, "--out", tmp_path / "table.md")
    assert opened == ["train", "val"]
    assert "±" not in (tmp_path / "table.md").read_text()


def test_a_checkpoint_that_does_not_fit_ends_before_any_training(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = write_official(own_start(settings, 1), tmp_path / "start.pth")
    given = "--cfg", settings, "--out", tmp_path / "table.md", "--init"
    with pytest.raises(SystemExit, match=r"^error: the checkpoint does not fit this trunk"):
        command(monkeypatch, *given, start, "--set", "model.args.dim=16")
    with pytest.raises(SystemExit, match=r"^error: model\.init_from: no file .*gone\.pth"):
        command(monkeypatch, *given, tmp_path / "gone.pth")
    assert "{" not in capsys.readouterr().out
    assert not (tmp_path / "table.md").exists()


def row(epoch: int, oa: float | None) -> dict[str, Any]:
    return {"epoch": epoch, "seconds": 30.0} | ({} if oa is None else {"val_oa": oa})


def test_table_of_known_curves() -> None:
    scratch = [[row(1, None), row(2, 0.5), row(3, None), row(4, 0.7)], [row(e, e / 10) for e in (2, 4)]]
    started = [[row(2, 0.6), row(4, 0.9)], [row(2, 0.4), row(4, 0.4)]]
    found = numbers(transfer.summary({"scratch": scratch, "ImageNet": started}, "oa"))
    assert found == [
        ["2", "35.00 ± 21.21", "50.00 ± 14.14", "15.00 ± 7.07"],
        ["4", "55.00 ± 21.21", "65.00 ± 35.36", "10.00 ± 14.14"],
        ["minutes", "1.50 ± 0.71", "1.00 ± 0.00"],
    ]


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 40, 300])
def test_rows_of_a_long_training(count: int) -> None:
    shown = transfer.spread_over(count)
    assert shown[0] == 0 and shown[-1] == count - 1
    assert shown == sorted(set(shown)) and len(shown) == min(count, transfer.MOST_ROWS)
