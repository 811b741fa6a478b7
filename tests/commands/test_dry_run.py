"""`bixt3d train --dry-run`: what a training would do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import bixt3d
from bixt3d import cli
from bixt3d.commands import dry_run
from bixt3d.commands.dry_run import spoken
from bixt3d.config import config_from
from bixt3d.datasets import store
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.yaml import parse_yaml

CONFIG = """
data: {name: NAME, root: ROOT, num_points: 48}
model: {name: MODEL, args: {dim: 12, depth: 2, num_heads: 2, num_latents: 4}}
train: {epochs: 3, batch_size: 14, accumulate: 2}
"""


def dry(
    folder: Path, capsys: pytest.CaptureFixture[str], *settings: str, name: str, root: str = "data"
) -> tuple[str, list[str]]:
    """The settings that a dry run prints, and the lines after them."""
    parts = name == "shapenetpart"
    text = CONFIG.replace("NAME", name).replace("ROOT", root)
    text = text.replace("MODEL", "bixt_ti_partseg" if parts else "bixt_ti_cls")
    Path("mine.yaml").write_text(text)
    before = [path for path in sorted(folder.rglob("*")) if ".bixt3d_cache" not in path.parts]
    order = ["data.order=random" if parts else "data.order=stored"]
    cli.main(["train", "mine.yaml", "--dry-run", "--device", "cpu", "--set", *order, *settings])
    assert [path for path in sorted(folder.rglob("*")) if ".bixt3d_cache" not in path.parts] == before
    said, _, rest = capsys.readouterr().out.partition("\n\n")
    return said, rest.splitlines()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_data_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, lines = dry(folder, capsys, "train.epochs=5", name="modelnet40")
    config = config_from(parse_yaml(said))
    assert config == bixt3d.load_config("mine.yaml", ["train.epochs=5"])
    assert lines[:4] == [
        "run      runs/mine",
        "data     modelnet40 is not in data",
        "         get it: bixt3d data get modelnet40 --root data",
        "         made-up points of the official size stand for it below",
    ]
    sizes = config.model.args
    count = sum(value.numel() for value in bixt3d.create_model("bixt_ti_cls", **sizes).parameters())
    assert lines[4] == f"model    bixt_ti_cls: {count:,} parameters on cpu"
    memory = re.fullmatch(r"memory   (\d+\.\d) GiB, of which the clouds are 0\.0", lines[5])
    assert memory and 0.1 < float(memory[1]) < 16
    # 9,840 shapes, of which a tenth is held out, make 8,856 / 14 / 2 steps
    assert re.fullmatch(r"time     about [\d,]+ \w+: 5 epochs of 316 steps of [\d.e-]+ s", lines[6])


@pytest.mark.parametrize(("name", "parts"), [("shapenetpart", 50), ("modelnet40_normal", 0), ("shapes", 0)])
def test_made_up_points_of_other_data(
    name: str, parts: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, lines = dry(folder, capsys, name=name)
    args = config_from(parse_yaml(said)).model.args | {"in_dims": 6}
    args |= {"num_parts": parts} if parts else {"num_classes": 10 if name == "shapes" else 40}
    model = bixt3d.create_model("bixt_ti_partseg" if parts else "bixt_ti_cls", **args)
    count = sum(value.numel() for value in model.parameters())
    assert f": {count:,} parameters on cpu" in lines[-3] and lines[-1].startswith("time ")


@pytest.mark.parametrize(("name", "root"), [("shapes", "data"), ("shapenetpart", "data/shapes")])
def test_data_that_is_there(name: str, root: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes("data", per_class=10, num_points=64, progress=False)
    _, lines = dry(folder, capsys, name=name, root=root)
    assert lines[1].endswith(": 70 train, 10 val, 20 test") and "made-up" not in " ".join(lines)
    assert " 3 epochs of 2 steps of " in lines[-1]


def test_clouds_in_files_take_no_memory(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        place = Path("mine") / ("test" if number % 5 == 0 else "train") / f"class {number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{number}.npy", np.random.default_rng(number).normal(size=(64, 3)))
    assert "files" not in dry(folder, capsys, name="folder", root="mine")[1][-2]
    shutil.rmtree("mine/.bixt3d_cache")
    monkeypatch.setattr(store, "SPILL", 100)
    monkeypatch.setenv("BIXT3D_MEMORY", "200")
    monkeypatch.setattr(dry_run, "GIB", 2**10)
    memory = dry(folder, capsys, name="folder", root="mine")[1][-2]
    size = 60 * 48 * 3 * 4 / 1024  # clouds of as many points as are asked for
    assert memory.endswith(f", of which the clouds are 0.0; {size:.1f} more are read from files")


def test_data_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines = dry(folder, capsys, name="folder", root="mine")
    assert lines[1] == "data     folder is not in mine"
    assert lines[-1].endswith("what the model needs follows from the data, so that is all")


def test_a_run_that_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "runs/mine").mkdir(parents=True)
    (folder / "runs/mine/last.safetensors").touch()
    _, lines = dry(folder, capsys, name="folder", root="mine")
    assert lines[0] == "run      runs/mine, which holds a run already"


def test_mistakes_are_those_of_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        dry(folder, capsys, "model.args.dimm=3", name="shapes")
    assert "no argument 'dimm'" in str(end.value.code)


def test_data_are_those_that_training_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fold, a class that does not count, weights of the classes, and the seed in the folder's name."""
    write_shapes("data", per_class=10, num_points=64, progress=False)
    _, lines = dry(folder, capsys, "data.fold=1/4", "run.dir=runs/{seed}", "train.seed=7", name="shapes")
    assert lines[0] == "run      runs/7" and lines[1].endswith(": 60 train, 20 val, 20 test")
    _, lines = dry(folder, capsys, "loss.ignore=[0]", name="shapes")
    assert lines[1].endswith(": 63 train, 9 val, 18 test")
    with pytest.raises(SystemExit) as end:
        dry(folder, capsys, "loss.class_weights=[1,2]", name="shapes")
    assert "loss.class_weights: expected 10 numbers" in str(end.value.code)


def test_times() -> None:
    assert [spoken(hours) for hours in (0.01, 0.5, 1.99, 2.4, 1234.5)] == [
        *("36 seconds", "30 minutes", "119 minutes", "2 hours", "1,234 hours")
    ]
    assert [spoken(hours) for hours in (1 / 3600, 1 / 60)] == ["1 second", "1 minute"]
