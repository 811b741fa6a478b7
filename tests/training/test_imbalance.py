"""Validation that is drawn, even sampling, early stopping and clouds without labels, in whole trainings."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bixt3d
from bixt3d.config import config_from
from bixt3d.datasets.holdout import cut_train, hold_out_fold
from bixt3d.datasets.loader import CloudLoader
from bixt3d.datasets.split import Split
from bixt3d.training.splits import open_all, open_splits
from tests.training.tiny import (
    CLASSES,
    assert_same,
    make_config,
    make_split,
    make_task,
    make_trainer,
    rows_of,
    weights,
)

CPU = torch.device("cpu")


def uneven(*sizes: int) -> Split:
    label = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    points = make_split(len(label)).points
    return Split(points, label, CLASSES[: len(sizes)])


def drawn(loader: CloudLoader, number: int) -> torch.Tensor:
    return torch.cat([batch.label for batch in loader.epoch(number)])


def test_even_sampling() -> None:
    split = uneven(40, 6, 2)
    loader = CloudLoader(split, 6, shuffle=True, groups=split.label, seed=3)
    for epoch in range(3):
        assert drawn(loader, epoch).bincount().tolist() == [16, 16, 16]
    assert torch.equal(drawn(loader, 1), drawn(loader, 1)) and not torch.equal(
        drawn(loader, 1), drawn(loader, 2)
    )
    plain = CloudLoader(split, 6, shuffle=True, seed=3)
    assert drawn(plain, 0).bincount().tolist() == [40, 6, 2]
    seen = [
        {tuple(cloud.flatten().tolist()) for batch in loader.epoch(epoch) for cloud in batch.points}
        for epoch in range(4)
    ]
    assert all(len(clouds) == 16 + 6 + 2 for clouds in seen)  # of the small classes all, of the large others
    assert len(set.union(*seen)) > 40


def test_even_sampling_in_two_processes() -> None:
    split = uneven(30, 10)
    labels = [
        drawn(CloudLoader(split, 4, shuffle=True, groups=split.label, rank=rank, world_size=2), 0)
        for rank in (0, 1)
    ]
    assert torch.cat(labels).bincount().tolist() == [20, 20]
    assert all(set(of.tolist()) == {0, 1} for of in labels)


def test_a_balanced_run_resumes_exactly(tmp_path: Path) -> None:
    config = make_config("data.balanced=true", "loss.class_weights=[1,2,3,4]", "train.batch_size=8")

    def trainer(folder: str, resume: bool = False) -> Any:
        split = uneven(20, 6, 4, 2)
        return make_trainer(tmp_path / folder, config, resume=resume, train=split, has_val=False)

    trainer("whole").fit()
    first = trainer("parted")
    first._train_epoch(type("Quiet", (), {"received": 0})())
    trainer("parted", resume=True).fit()
    assert_same(*(weights(tmp_path / name / "last.safetensors") for name in ("whole", "parted")))
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parted")


def test_folds_are_alike_and_each_shape_is_held_out_once() -> None:
    label = uneven(23, 11, 7, 3).label
    held = [hold_out_fold(label, fold, 5)[1] for fold in range(1, 6)]
    assert sorted(torch.cat(held).tolist()) == list(range(len(label)))
    for number, size in enumerate((23, 11, 7, 3)):
        counts = [int((label[of] == number).sum()) for of in held]
        assert max(counts) - min(counts) <= 1 and sum(counts) == size
    assert max(map(len, held)) - min(map(len, held)) <= 1
    train, val = hold_out_fold(label, 2, 5)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(label))) and torch.equal(val, held[1])
    assert not torch.equal(hold_out_fold(label, 2, 5, seed=1)[1], val)
    with pytest.raises(ValueError, match="fold: expected 1 to 5, got 6"):
        hold_out_fold(label, 6, 5)


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "1", "a/b", "1/5/5", "-1/5"])
def test_settings_of_folds_that_are_none(fold: str) -> None:
    with pytest.raises(ValueError, match=r"data\.fold: expected such as 1/5"):
        config_from({"data": {"fold": fold}})


def test_a_fold_needs_a_validation_split() -> None:
    with pytest.raises(ValueError, match=r"data\.fold: expected data\.train_split=train"):
        config_from({"data": {"fold": "1/5", "train_split": "trainval"}})


@pytest.mark.usefixtures("registries")
def test_folds_and_seeds_of_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_split(60)

    def read(root: object, split: str) -> Split:
        return cut_train(whole, split) if split != "test" else make_split(8)

    bixt3d.register_dataset("folded", read)

    def parts(**data: Any) -> list[set[float]]:
        stated = {"name": "folded", "num_points": 32, **data}
        config = config_from({"data": stated, "model": {"name": "bixt_ti_cls"}})
        splits, _ = open_splits(config, CPU, ("train", "val"), train="train")
        return [set(splits[name].points[:, 0, 0].tolist()) for name in ("train", "val")]

    plain, other = parts(), parts(val_seed=5)
    assert len(other[1]) == len(plain[1]) and other[1] != plain[1]
    assert other[0] | other[1] == plain[0] | plain[1] and not other[0] & other[1]
    held = [parts(fold=f"{number}/4")[1] for number in (1, 2, 3, 4)]
    assert set.union(*held) == plain[0] | plain[1] and sum(map(len, held)) == 60
    given = config_from({"data": {"fold": "2/4", "num_points": 32, "name": "folded"}})
    splits, _ = open_all(given, CPU, make_task(given), {"train": whole, "test": make_split(8)})
    assert set(splits["val"].points[:, 0, 0].tolist()) == held[1]


def test_clouds_without_a_label_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    label = make_split(24).label.clone()
    label[[1, 5, 7]] = -1
    config = make_config("loss.ignore=[3]", "data.train_split=trainval")
    split = Split(make_split(24).points, label, CLASSES)
    splits, _ = open_all(config, CPU, make_task(config), {"train": split, "test": split})
    assert not {-1, 3} & set(splits["trainval"].label.tolist()) and len(splits["test"]) == 16
    assert "train: 8 of 24 clouds have no label: left out" in caplog.text
    lost = Split(split.points, torch.full((24,), -1), CLASSES)
    with pytest.raises(ValueError, match="train: expected clouds with a label that counts, got 24 without"):
        open_all(config, CPU, make_task(config), {"train": lost, "test": split})


def test_early_stopping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a rate of almost nothing the score never rises after the first epoch."""
    still = ["optim.lr=1e-12", "optim.min_lr=0", "optim.warmup_epochs=0", "train.epochs=9"]
    trainer = make_trainer(tmp_path / "a", make_config(*still, "train.patience=3"))
    trainer.fit()
    assert (trainer.epoch, trainer.best_epoch) == (4, 1) and len(rows_of(tmp_path / "a")) == 4
    assert "no better oa since epoch 1: train.patience is over" in capsys.readouterr().out
    again = make_trainer(tmp_path / "a", make_config(*still, "train.patience=3"), resume=True)
    again.fit()
    assert again.epoch == 4  # it knows when the score rose
    record = (tmp_path / "a/config.yaml").read_bytes()
    changed = make_config(*still, "train.patience=3", "augment.shift=0.5")
    other = make_trainer(tmp_path / "a", changed, resume=True)
    other.fit()
    assert other.is_over and (tmp_path / "a/config.yaml").read_bytes() == record  # as nothing is trained
    longer = make_trainer(tmp_path / "a", make_config(*still, "train.patience=5"), resume=True)
    longer.fit()
    assert longer.epoch == 6
    seldom = make_trainer(tmp_path / "b", make_config(*still, "train.patience=3", "train.eval_every=2"))
    seldom.fit()
    assert (seldom.epoch, seldom.best_epoch) == (6, 2)  # it ends where the score was looked at
    with pytest.raises(ValueError, match=r"train\.patience: expected a validation split"):
        make_trainer(tmp_path / "c", make_config("train.patience=3"), has_val=False)


def test_a_training_leaves_the_callers_random_state(tmp_path: Path) -> None:
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    config = make_config("train.epochs=1", f"run.dir={tmp_path / 'run'}")
    bixt3d.train(config, train=make_split(), test=make_split(8), device="cpu")
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    config = make_config("train.epochs=1", f"run.dir={tmp_path / 'run'}")
    for device in ("mps", "cuda:99", "nowhere"):
        with pytest.raises(ValueError, match=rf"^device '{device}' cannot be used here \(.*\); try") as error:
            bixt3d.train(config, train=make_split(), device=device)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=rf"^device '{device}' cannot be used here"):
            bixt3d.load_model("modelnet40_cpu", device=device)
