"""The data of a training, opened again for its model: the same splits, features and labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import bixt3d
from bixt3d.config import Config
from bixt3d.inference.loading import training_split
from bixt3d.training.checkpoint import load_checkpoint, save_model
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.splits import open_splits
from tests.training.tiny import make_config

SIZES = {"clutter": (1, 1, 1), "disc": (1, 0.1, 1), "rod": (0.1, 1, 0.1)}


def write_clouds(root: Path, classes: tuple[str, ...] = tuple(SIZES), count: int = 6) -> Path:
    """Folders of clouds without normals, for a class each."""
    random = np.random.default_rng(0)
    for split, number in (("train", count), ("test", 4)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for place in range(number):
                points = random.normal(size=(40, 3))
                points *= np.array(SIZES[name]) / np.linalg.norm(points, axis=1, keepdims=True)
                np.savetxt(root / split / name / f"{name}{place}.xyz", points)
    return root


def settings(root: Path, run: Path, *overrides: str) -> Config:
    named = (f"data.root={root}", "data.name=folder", f"run.dir={run}", "train.epochs=1")
    return make_config(*named, "train.batch_size=4", *overrides)


@pytest.mark.parametrize("overrides", [("data.fold=2/3",), ("data.val_seed=5",), ()])
def test_the_val_split_is_that_of_the_training(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = settings(write_clouds(tmp_path / "data"), tmp_path / "run", *overrides)
    bixt3d.train(config, device="cpu")
    predictor = bixt3d.Predictor(tmp_path / "run", "cpu")
    wanted = open_splits(config, torch.device("cpu"), ("train", "val", "test"))[0]
    for name, split in wanted.items():
        assert sorted(training_split(predictor, name).names) == sorted(split.names)
    assert not {*training_split(predictor, "val").names} & {*training_split(predictor, "train").names}


def test_normals_are_estimated_as_in_the_training(tmp_path: Path) -> None:
    options = ("data.features=[normal]", "data.estimate_normals=true", "data.up=z")
    root = write_clouds(tmp_path / "data")
    bixt3d.train(settings(root, tmp_path / "run", *options), device="cpu")
    split = training_split(bixt3d.Predictor(tmp_path / "run", "cpu"), "test")
    assert split.features == ("normal",) and split.points.shape[-1] == 6
    rod = split.label.tolist().index(split.classes.index("rod"))
    assert int(split.points[rod, :, :3].std(0).argmax()) == 1  # as in its file: by data.up it would lie


def test_ignored_classes_are_those_of_the_model(tmp_path: Path) -> None:
    bixt3d.train(settings(write_clouds(tmp_path / "abc"), tmp_path / "run", "loss.ignore=[0]"), device="cpu")
    write_clouds(tmp_path / "bc", ("disc", "rod"))
    scored = evaluate_checkpoint(tmp_path / "run", overrides=[f"data.root={tmp_path / 'bc'}"])
    assert len(scored.split) == 8 and scored.seen.counts.sum(1).tolist() == [0, 4, 4]


def test_a_predictor_gives_no_ignored_label(tmp_path: Path) -> None:
    bixt3d.train(settings(write_clouds(tmp_path / "data"), tmp_path / "run", "loss.ignore=[2]"), device="cpu")
    assert bixt3d.Predictor(tmp_path / "run", "cpu").task.ignore == (-1, 2)


def test_a_new_head_ignores_no_label_of_the_old_one(tmp_path: Path) -> None:
    bixt3d.train(settings(write_clouds(tmp_path / "data"), tmp_path / "run", "loss.ignore=[2]"), device="cpu")
    model = bixt3d.load_model(tmp_path / "run", classes=["a", "b", "c"])
    assert bixt3d.Predictor(model, "cpu").task.ignore == (-1,)


def test_clouds_given_in_python_are_not_looked_for(tmp_path: Path) -> None:
    """Their settings may name data that the model has never seen; a file that names none says nothing."""
    config = settings(write_clouds(tmp_path / "data"), tmp_path / "run")
    splits = open_splits(config, torch.device("cpu"), ("train", "test"))[0]
    bixt3d.train(config, train=splits["train"], test=splits["test"], device="cpu")
    predictor = bixt3d.Predictor(tmp_path / "run", "cpu")
    with pytest.raises(ValueError, match="clouds given in Python: give files instead, or a folder by --data"):
        training_split(predictor, "test")
    assert len(training_split(predictor, "test", tmp_path / "data")) == 12
    model, about = load_checkpoint(tmp_path / "run", "cpu")
    save_model(tmp_path / "saved.safetensors", model, {**about, "dataset": ""})
    assert len(training_split(bixt3d.Predictor(tmp_path / "saved.safetensors", "cpu"), "test")) == 12


def test_an_evaluation_names_classes_that_are_not_known(tmp_path: Path) -> None:
    bixt3d.train(settings(write_clouds(tmp_path / "data"), tmp_path / "run"), device="cpu")
    for name in ("clutter", "rods", "Disc"):
        (tmp_path / "other" / "test" / name).mkdir(parents=True)
        known = tmp_path / "data" / "test" / name.lower().removesuffix("s")
        shutil.copytree(known, tmp_path / "other" / "test" / name, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "other" / "test", tmp_path / "other" / "train")
    with pytest.raises(ValueError, match=r"\); not known: rods \(did you mean 'rod'\?\)$"):
        evaluate_checkpoint(tmp_path / "run", overrides=[f"data.root={tmp_path / 'other'}"])


def test_labels_have_the_numbers_of_the_model(tmp_path: Path) -> None:
    bixt3d.train(settings(write_clouds(tmp_path / "abc"), tmp_path / "run"), device="cpu")
    some = write_clouds(tmp_path / "ca", ("rod", "clutter"))
    split = training_split(bixt3d.Predictor(tmp_path / "run", "cpu"), "test", some)
    assert split.classes == tuple(SIZES) and sorted(split.label.tolist()) == [0] * 4 + [2] * 4
