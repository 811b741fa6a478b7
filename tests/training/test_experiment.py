from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bixt3d
from bixt3d.config import Config, config_from
from bixt3d.datasets import Preprocess, Split
from bixt3d.datasets.spheres import normalize_split
from bixt3d.datasets.synthetic.shapes import CATEGORIES, write_shapes
from bixt3d.training.device import pick_device
from bixt3d.training.distributed import Workers, join_workers
from bixt3d.training.experiment import build_model, describe
from bixt3d.training.splits import open_splits
from tests.training.tiny import assert_same, make_config, make_split

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    write_shapes(folder, per_class=4, num_points=64, progress=False)
    return folder


def shapes(root: Path, *overrides: str) -> Config:
    return config_from({"data": {"name": "shapes", "root": str(root), "num_points": 16}}, overrides)


def test_splits_open_as_training_takes_them(root: Path) -> None:
    splits, stored = open_splits(shapes(root), CPU, ("train", "val", "test"))
    assert list(splits) == ["train", "val", "test"]
    assert {split.classes for split in splits.values()} == {CATEGORIES}
    assert all(split.points.shape[1:] == (16, 3) for split in splits.values())
    assert stored == 16  # the first ones: no more are read
    far, stored = open_splits(shapes(root, "data.order=fps"), CPU, ("test",))
    assert stored == 64
    assert torch.equal(far["test"].points[:, 0], splits["test"].points[:, 0])
    assert not torch.equal(far["test"].points, splits["test"].points)


def test_keeping_no_epoch_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for every, said in ((2, 1), (1, 0)):
        caplog.clear()
        config = make_config(
            f"run.dir={tmp_path / str(every)}", f"train.keep_every={every}", "train.epochs=1"
        )
        bixt3d.train(config, train=make_split(), device="cpu")
        told = [text for text in caplog.messages if "keep_every" in text]
        assert len(told) == said and len([*(tmp_path / str(every)).glob("epoch_*")]) == 1 - said
    assert not told


def test_description_tells_what_a_prediction_needs(root: Path) -> None:
    config = shapes(root, "data.order=fps", "model.args.depth=2")
    splits, stored = open_splits(config, CPU, ("val",))
    description = describe(config, splits["val"], stored)
    preprocess: dict[str, Any] = {
        "num_points": 16,
        "order": "fps",
        "stored_points": 64,
        "features": [],
        "channels": 3,
    }
    preprocess |= {"up": None, "estimate_normals": False, "normalization": "max"}
    assert description.to_dict() == {
        "task": "classification",
        "model": {"name": "bixt_ti_cls", "args": {"num_classes": 10, "in_dims": 3, "depth": 2}},
        "classes": list(CATEGORIES),
        "preprocess": preprocess,
        "dataset": "shapes",
        "config": {},
        "metrics": {},
    }
    assert description.preprocess == Preprocess(16, "fps", 64, ())


def test_the_first_points_are_centred_by_all_that_are_stored(registries: None) -> None:
    """As a data set stores them that is in the unit sphere; others are read once more."""
    points = torch.randn(6, 20, 3, generator=torch.Generator().manual_seed(1)) * 3 + 7
    whole = Split(points, torch.arange(6) % 2, ("a", "b"))
    asked: list[int | None] = []

    def read(root: Path, split: str, num_points: int | None = None) -> Split:
        asked.append(num_points)
        return whole if num_points is None else whole.first_points(num_points)

    bixt3d.register_dataset("mine", read)
    config = config_from({"data": {"name": "mine", "root": "nowhere", "num_points": 5}})
    splits, stored = open_splits(config, CPU, ("test",))
    assert torch.equal(splits["test"].points, normalize_split(whole).points[:, :5]) and stored == 20
    whole = normalize_split(whole)
    asked.clear()
    again, stored = open_splits(config, CPU, ("test",))
    assert torch.equal(again["test"].points, splits["test"].points) and asked == [5]


def test_more_points_than_stored(root: Path) -> None:
    for order in ("stored", "fps"):
        with pytest.raises(ValueError, match="65.*64|64.*65"):
            open_splits(shapes(root, "data.num_points=65", f"data.order={order}"), CPU, ("val",))


def test_model_follows_from_its_seed() -> None:
    description = describe(make_config(), make_split(), 32)
    torch.manual_seed(3)
    first = build_model(make_config(), description).state_dict()
    assert_same(first, build_model(make_config(), description).state_dict())
    other = build_model(make_config("train.seed=1"), description).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_start_from_a_file_that_is_none(tmp_path: Path) -> None:
    description = describe(make_config(), make_split(), 32)

    def start_from(path: Path) -> None:
        build_model(make_config(f"model.init_from={path}"), description)

    with pytest.raises(FileNotFoundError, match=r"model\.init_from: no file .*gone\.pth"):
        start_from(tmp_path / "gone.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"model\.init_from: .*text\.pth cannot be read"):
        start_from(tmp_path / "text.pth")
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="some.weight"):
        start_from(tmp_path / "other.pth")
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match=r"tensor\.pth"):
        start_from(tmp_path / "tensor.pth")


def test_a_start_that_is_missing_is_told_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bixt3d.training.experiment.open_all", lambda *_: pytest.fail("data are read"))
    for name in ("gone.pth", "gone"):
        config = make_config(f"run.dir={tmp_path / 'run'}", f"model.init_from={tmp_path / name}")
        with pytest.raises(FileNotFoundError, match=r"model\.init_from: no (file|checkpoint) .*gone"):
            bixt3d.train(config)


def test_resuming_needs_no_start(tmp_path: Path) -> None:
    """The run has its own weights by then, and the file may be gone."""
    config = make_config(f"model.init_from={tmp_path / 'gone.pth'}")
    build_model(config, describe(config, make_split(), 32), resume=True)


def test_start_holds_only_tensors(tmp_path: Path) -> None:
    torch.save({"state_dict": {"latents": 3}}, tmp_path / "odd.pth")
    config = make_config(f"model.init_from={tmp_path / 'odd.pth'}")
    with pytest.raises(ValueError, match=r"odd\.pth"):
        build_model(config, describe(config, make_split(), 32))


@pytest.mark.parametrize(("key", "value"), [("num_classes", 7), ("in_dims", 6)])
def test_arguments_that_the_data_contradict(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"model\.args\.{key}: expected .*got {value}"):
        describe(make_config(f"model.args.{key}={value}"), make_split(), 32)
    agreed = {"num_classes": 4, "in_dims": 3}[key]
    describe(make_config(f"model.args.{key}={agreed}"), make_split(), 32)


def test_device_by_name() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99", ""):
        with pytest.raises(ValueError, match=f"device '{name}' cannot be used here .*--device cpu"):
            pick_device(name)


def test_one_process_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join_workers(CPU)
    assert alone == Workers(0, 1) and alone.first
    value = torch.tensor([3.0])
    assert torch.equal(alone.all_reduce(value), torch.tensor([3.0]))
    alone.barrier()
    assert alone.max(7) == 7
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun with one process
    assert join_workers(CPU) == alone
    assert not Workers(1, 2).first


def test_random_order_keeps_all_points_for_training_and_a_fixed_draw_for_the_rest(root: Path) -> None:
    config = shapes(root, "data.order=random")
    splits, stored = open_splits(config, CPU, ("train", "test"), train="train")
    assert stored == 64 and splits["train"].num_points == 64 and splits["test"].num_points == 16
    again, _ = open_splits(config, CPU, ("test", "train"))
    assert torch.equal(again["test"].points, splits["test"].points)
    assert again["train"].num_points == 16  # nothing draws from it here
