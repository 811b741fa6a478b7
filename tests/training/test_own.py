"""`bixt3d.train` with what a user brings: splits, a model, a task, features, names of their own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

import bixt3d
from bixt3d.config import Config, override, to_dict
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.spheres import normalize_split
from bixt3d.datasets.synthetic.shapes import CATEGORIES, write_shapes
from bixt3d.tasks import ClassificationTask, Task
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.guards import Stopped
from tests.training.own import Pooled, SpreadTask, featured, settings
from tests.training.tiny import (
    CALM,
    CLASSES,
    assert_same,
    contents,
    make_split,
    rows_of,
    weights,
)

pytestmark = pytest.mark.usefixtures("registries")


# Splits


def test_given_splits_are_what_is_trained_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = {"train": make_split(), "val": make_split(22, seed=1), "test": make_split(20, seed=2)}
    result = bixt3d.train(settings(run), **splits)
    assert "given clouds: 64 train, 22 val, 20 test" in capsys.readouterr().out
    assert isinstance(result, bixt3d.Result) and result.run_dir == run and result.minutes >= 0
    assert set(result.last) == {"epoch", "oa", "macc"} and result.last["epoch"] == 2
    assert result.best is not None and result.best["epoch"] in (1, 2)
    assert result.to_dict() == json.loads((run / "result.json").read_text())
    assert result.task.classes == CLASSES and not result.model.training
    assert_same(result.model.state_dict(), weights(run / "last.safetensors"))
    # The result's model is ready for use, and so is the file.
    cloud = splits["test"].points[1]
    for model in (result.model, run, run / "last"):
        assert bixt3d.Predictor(model, "cpu")(cloud).label in CLASSES


def test_nothing_is_written_outside_the_run(run: Path) -> None:
    place = run.parent.parent
    (place / "mine.txt").write_text("mine")
    bixt3d.train(settings(run), train=make_split(), test=make_split(20))
    outside = {name for name in contents(place) if not name.startswith("deep/run/")}
    assert outside == {"mine.txt"}


def test_no_data_set_is_made_beside_clouds_of_ones_own(run: Path) -> None:
    root = run.parent.parent / "data"
    bixt3d.train(settings(run, "data.name=shapes", f"data.root={root}"), train=make_split())
    assert not root.exists()


def test_default_folder_of_a_run(run: Path, tmp_path: Path) -> None:
    """Never the one that one stands in."""
    config = override(settings(run), run={"dir": Config().run.dir})
    assert bixt3d.train(config, train=make_split()).run_dir == Path("runs/unnamed")
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({**to_dict(config), "run": {"tensorboard": False}}))
    assert bixt3d.train(path, train=make_split()).run_dir == Path("runs/mine")
    assert {name.rpartition("/")[0] for name in contents(Path.cwd())} == {"runs/unnamed", "runs/mine"}


def test_folder_under_home(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = settings(run, "run.dir=~/runs/mine", "train.epochs=1")
    result = bixt3d.train(config, train=make_split())
    assert result.run_dir == tmp_path / "home" / "runs" / "mine"
    assert (result.run_dir / "result.json").is_file()
    assert list(Path.cwd().iterdir()) == []  # no folder that is called ~
    bixt3d.train(override(config, train={"epochs": 2}), train=make_split(), resume=True)
    assert len(rows_of(result.run_dir)) == 2


def test_a_finished_run_keeps_its_minutes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(run, "train.epochs=1")
    bixt3d.train(config, train=make_split())
    stated = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**stated, "minutes": 12.5}))
    assert bixt3d.train(config, train=make_split(), resume=True).minutes == 12.5
    assert "nothing is left to train: epoch 1 of 1\n" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["minutes"] == 12.5


def test_val_is_cut_from_given_clouds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bixt3d.train(settings(run), train=make_split(80))
    assert "given clouds: 72 train, 8 val\n" in capsys.readouterr().out
    assert result.best is not None and "val_oa" in result.best
    assert not list(run.glob("*_test.csv"))  # nothing was tested


def test_all_given_clouds_are_trained_on_where_settings_say_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bixt3d.train(settings(run, "data.train_split=trainval"), train=make_split(80))
    assert "given clouds: 80 trainval\n" in capsys.readouterr().out
    assert result.best is None and not (run / "best.safetensors").exists()
    assert set(result.last) >= {"epoch", "train_oa", "train_loss"}
    assert set(result.to_dict()) == {"last", "minutes"}


def test_given_val_is_used_beside_trainval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(run, "data.train_split=trainval")
    result = bixt3d.train(config, train=make_split(), val=make_split(22, seed=1))
    assert "given clouds: 64 trainval, 22 val\n" in capsys.readouterr().out and result.best is not None


def test_classes_of_one_cloud_hold_none_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clouds = make_split(4)
    bixt3d.train(settings(run, "train.batch_size=2"), train=clouds)
    assert "given clouds: 4 train\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, per_class=4, num_points=64, progress=False)
    return folder


def of_shapes(run: Path, root: Path, *overrides: str) -> Config:
    return settings(run, "data.name=shapes", f"data.root={root}", "train.batch_size=8", *overrides)


def test_own_test_alone(run: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest comes from the settings."""
    own = bixt3d.open_dataset("shapes", shapes, "test")[:7]
    result = bixt3d.train(of_shapes(run, shapes), test=own)
    train, val = (len(bixt3d.open_dataset("shapes", shapes, name)) for name in ("train", "val"))
    assert f": {train} train, {val} val, 7 test\n" in capsys.readouterr().out
    assert round(result.last["oa"] * 7, 6) % 1 == 0
    with pytest.raises(ValueError, match=r"^the training split knows 10 classes \(.*\), test has 4 \(ball, "):
        bixt3d.train(of_shapes(run.parent / "other", shapes), test=make_split(8, 64))


def test_settings_complete_given_clouds(
    run: Path, shapes: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    mine = bixt3d.open_dataset("shapes", shapes, "train")
    bixt3d.train(of_shapes(run, shapes), train=mine)
    val, test = (len(bixt3d.open_dataset("shapes", shapes, name)) for name in ("val", "test"))
    assert f"given clouds: {len(mine)} train, {val} val, {test} test\n" in capsys.readouterr().out
    # Clouds of other classes are not theirs.
    bixt3d.train(of_shapes(run.parent / "other", shapes), train=make_split())
    assert "given clouds: 56 train, 8 val\n" in capsys.readouterr().out
    assert "test of shapes has other classes or features: left out" in caplog.text


def test_settings_that_lack_the_features_leave_the_rest_out(
    run: Path, shapes: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = of_shapes(run, shapes, "data.features=[color, intensity]")
    bixt3d.train(config, train=featured(classes=(*CATEGORIES[:3],)))
    assert " test\n" not in capsys.readouterr().out
    assert "test of shapes is left out: " in caplog.text


def test_clouds_of_any_place_and_size_are_normalised(run: Path) -> None:
    """As the Predictor does it with the same clouds."""
    config = settings(run, "optim.lr=1e-2", "train.epochs=8", "train.ema_decay=0", "augment.shift=0")
    plain = {"train": make_split(), "val": make_split(22, seed=1), "test": make_split(40, seed=2)}
    moved = {
        name: bixt3d.Split(split.points * 300 + 1e4, split.label, CLASSES) for name, split in plain.items()
    }
    first = bixt3d.train(config, **plain)
    second = bixt3d.train(override(config, run={"dir": str(run.parent / "moved")}), **moved)
    assert second.last == pytest.approx(first.last, abs=0.06) and first.last["oa"] > 0.6
    predictor = bixt3d.Predictor(run.parent / "moved" / "last", "cpu")
    found = [answer.index for answer in predictor(list(moved["test"].points))]
    right = np.mean(np.array(found) == moved["test"].label.numpy())
    assert right == pytest.approx(second.last["oa"], abs=1e-6)


@pytest.mark.parametrize("which", ["val", "test"])
def test_splits_must_belong_together(which: str, run: Path) -> None:
    other = bixt3d.Split(make_split(8).points, torch.arange(8) % 2, ("a", "b"))
    with pytest.raises(ValueError, match=rf"^the training split knows 4 classes .*, {which} has 2 \(a, b"):
        bixt3d.train(settings(run), train=make_split(), **{which: other})
    with pytest.raises(ValueError, match=f"^{which}: expected features none, .*, got color, intensity"):
        bixt3d.train(settings(run), train=make_split(), **{which: featured()})
    assert not run.exists()


def test_too_few_points_of_a_given_cloud(run: Path) -> None:
    with pytest.raises(ValueError, match="num_points: expected 1 to 32, as each cloud has, got 33"):
        bixt3d.train(settings(run, "data.num_points=33"), train=make_split())


@pytest.mark.parametrize("whose", ["named", "given", "registered"])
def test_too_few_points_for_the_layers(whose: str, run: Path) -> None:
    config = settings(run, "data.num_points=10", hierarchy=True)
    build = partial(bixt3d.create_model, "bixt_ti_cls_hierarchy")
    model = build(**config.model.args, num_classes=4) if whose == "given" else None
    if whose == "registered":
        bixt3d.register_model("mine", lambda num_classes, args: build(**args, num_classes=num_classes))
        config = override(config, model={"name": "mine", "args": {"args": config.model.args}})
    message = (
        "data.num_points=10 leaves 5 points in a layer and model.args.neighbors is 6: expected "
        "data.num_points of 12 or more, fewer neighbors, or smaller reductions"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        bixt3d.train(config, train=make_split(), model=model)
    assert not run.exists()


def test_too_few_points_are_told_before_data_are_read(run: Path) -> None:
    """There are none here to be read."""
    config = settings(run, "data.num_points=10", "data.name=modelnet40", "data.root=nowhere", hierarchy=True)
    with pytest.raises(ValueError, match="expected data.num_points of 12 or more"):
        bixt3d.train(config)
    wider = override(config, data={"num_points": 16})
    with pytest.raises(FileNotFoundError, match="modelnet40_ply_hdf5_2048"):
        bixt3d.train(wider)


def test_a_run_of_given_clouds_says_so_when_it_goes_on_without_them(run: Path) -> None:
    """Its config.yaml names a data set that was never read."""
    config = settings(run)
    bixt3d.train(config, train=make_split(), test=make_split(20))
    before = contents(run)
    with pytest.raises(ValueError, match=r"trained on clouds given in Python: resume it with bixt3d\.train"):
        bixt3d.train(run / "config.yaml", resume=True)
    with pytest.raises(ValueError, match="trained on clouds given in Python: evaluate it with"):
        evaluate_checkpoint(run)
    assert set(contents(run)) == set(before)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        evaluate_checkpoint(run, overrides=["data.name=folder", "data.root=elsewhere"])


def test_resume_with_own_splits(run: Path) -> None:
    config = settings(run, "train.epochs=4")
    splits = {"train": make_split(), "val": make_split(22, seed=1), "test": make_split(20, seed=2)}
    straight = bixt3d.train(override(config, run={"dir": str(run.parent / "straight")}), **splits)
    bixt3d.train(override(config, train={"epochs": 2}), **splits)
    with pytest.raises(FileExistsError, match="holds a run already"):
        bixt3d.train(config, **splits)
    # The schedule of a run that was planned to be shorter is another; its weights go on all the same.
    result = bixt3d.train(config, **splits, resume=True)
    assert result.last["epoch"] == 4 and len(rows_of(run)) == 4
    assert [row["step"] for row in rows_of(run)] == [row["step"] for row in rows_of(straight.run_dir)]
    with pytest.raises(ValueError, match="cannot resume .* training clouds was 64, now it would be 48"):
        bixt3d.train(
            override(config, train={"epochs": 5}), **{**splits, "train": make_split(48)}, resume=True
        )


class StoppingTask(ClassificationTask):
    """Ends like Ctrl-C at the start of a given step of the first run."""

    left = 5

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        if logits.requires_grad:
            StoppingTask.left -= 1
            if StoppingTask.left == 0:
                raise KeyboardInterrupt
        return super().loss(logits, batch)


def test_resumed_own_run_is_the_straight_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits, model and task of one's own, stopped within an epoch."""
    monkeypatch.setattr(StoppingTask, "left", 0)
    splits = {"train": make_split(), "val": make_split(22, seed=1), "test": make_split(20, seed=2)}

    def train(folder: Path, resume: bool = False) -> bixt3d.Result:
        torch.manual_seed(1)
        config = settings(folder, "train.epochs=3")
        return bixt3d.train(config, **splits, model=Pooled(), task=StoppingTask, resume=resume)

    straight = train(run.parent / "straight")
    StoppingTask.left = 5
    with pytest.raises((KeyboardInterrupt, Stopped)):
        train(run)
    assert len(rows_of(run)) == 1
    again = train(run, resume=True)
    assert rows_of(run) == rows_of(straight.run_dir) and again.last == straight.last
    assert_same(weights(run / "last.safetensors"), weights(straight.run_dir / "last.safetensors"))


# Features


def test_features_are_trained_on(run: Path) -> None:
    changes = ["augment.rotate_degrees=180", "augment.feature_jitter={color: 0.02}", "train.epochs=6"]
    config = settings(run, *changes, "augment.feature_dropout.intensity=0.3", "optim.lr=1e-2")
    result = bixt3d.train(config, train=featured(), val=featured(24, 1), test=featured(48, 2))
    assert result.last["oa"] > 0.9
    described = result.model.description
    assert described.preprocess.features == ("color", "intensity")
    assert described.preprocess.optional == ("intensity",)  # in memory as from its file
    assert described.model["args"]["in_dims"] == 7 and described.facts["classes"] == ["red", "green", "blue"]
    # Colours and echoes go into the model as they are.
    cloud = np.concatenate([np.random.default_rng(3).normal(size=(90, 3)), np.full((90, 4), 0.1)], axis=1)
    cloud[:, 5] = 0.8
    assert bixt3d.Predictor(run, "cpu")(cloud).label == "blue"
    # The training dropped intensity at times, so a cloud may lack it; colours never.
    assert bixt3d.Predictor(run, "cpu")(cloud[:, :6]).label == "blue"
    with pytest.raises(ValueError, match="7"):
        bixt3d.Predictor(run, "cpu")(cloud[:, :4])


def test_divided_features_train_as_if_files_were_divided(run: Path) -> None:
    """Exactly so, as a power of 2 divides without rounding; scores of the checkpoint are those of the run."""

    def scaled(split: bixt3d.Split) -> bixt3d.Split:
        points = split.points.clone()
        points[..., 6] *= 4096
        return replace(split, points=points)

    given = {"train": featured(), "val": featured(24, 1), "test": featured(48, 2)}
    plain = bixt3d.train(settings(run), **given)
    config = settings(run.parent / "divided", "data.divide.intensity=4096")
    result = bixt3d.train(config, **{name: scaled(split) for name, split in given.items()})
    assert result.last == plain.last
    assert_same(weights(run / "last.safetensors"), weights(result.run_dir / "last.safetensors"))
    clouds = [cloud.numpy() for cloud in given["test"].points]
    raw = [cloud.numpy() for cloud in scaled(given["test"]).points]
    answers = bixt3d.Predictor(run, "cpu")(clouds), bixt3d.Predictor(result.run_dir, "cpu")(raw)
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


@pytest.mark.parametrize("by", ["color", "colour"])
def test_what_cannot_be_divided(by: str, run: Path) -> None:
    with pytest.raises(ValueError, match=rf"^data.divide: expected features .*, got {by}"):
        bixt3d.train(settings(run, f"data.divide.{by}=2"), train=featured())
    assert not run.exists()


@pytest.mark.parametrize("change", ["feature_jitter", "feature_dropout"])
def test_changes_of_features_that_are_not_there(change: str, run: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"^augment\.{change}: expected .*\(color, intensity\), got 'colour'"
    ):
        bixt3d.train(settings(run, f"augment.{change}.colour=0.1"), train=featured())
    assert not run.exists()


def test_size_of_the_model_follows_the_features(run: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.args\.in_dims: expected 7, as the data have, got 6"):
        bixt3d.train(settings(run, "model.args.in_dims=6"), train=featured())


# Models


def test_own_model_is_trained_in_place_and_reloads(run: Path) -> None:
    torch.manual_seed(0)
    model = Pooled()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = settings(run, "train.epochs=12", "optim.lr=3e-2", "train.ema_decay=0", *CALM)
    result = bixt3d.train(config, train=make_split(), test=make_split(40, seed=2), model=model)
    assert result.last["oa"] > 0.6
    assert all(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert_same(model.state_dict(), weights(run / "last.safetensors"))
    assert type(result.model) is Pooled and result.model is not model
    with pytest.raises(
        ValueError, match=r"last.safetensors: its model .* bixt3d\.load_model\(path, model=\.\.\.\)"
    ):
        bixt3d.load_model(run / "last", "cpu")
    torch.manual_seed(7)
    other = Pooled()
    again = bixt3d.load_model(run / "last", "cpu", model=other)
    assert again is other and not again.training
    assert_same(again.state_dict(), model.state_dict())
    assert again.description.model == {"name": "", "args": {}}
    cloud = make_split(4, seed=5).points[0]
    assert bixt3d.Predictor(again, "cpu")(cloud).label == bixt3d.Predictor(result.model, "cpu")(cloud).label
    with pytest.raises(ValueError, match="weights of another model .* of another shape"):
        bixt3d.load_model(run / "last", "cpu", model=Pooled(outputs=5))


def test_own_model_of_another_number_of_classes(run: Path) -> None:
    with pytest.raises(ValueError, match=r"^model: expected logits \(16, 4\), one a class, got \(16, 3\)"):
        bixt3d.train(settings(run), train=make_split(), model=Pooled(3))
    model = bixt3d.create_model("bixt_ti_cls", num_classes=3, dim=12, depth=2, num_heads=2, num_latents=4)
    with pytest.raises(ValueError, match="^classes: expected 3 names, one a logit, got 4"):
        bixt3d.train(settings(run.parent / "other"), train=make_split(), model=model)


def test_model_with_a_new_head_keeps_its_description(run: Path) -> None:
    """Fine-tuning: the file that comes out of it rebuilds its model by itself."""
    bixt3d.train(settings(run), train=make_split())
    model = bixt3d.load_model(run / "last", "cpu", classes=["left", "right"])
    split = bixt3d.Split(make_split(32).points, torch.arange(32) % 2, ("left", "right"))
    tuned = run.parent / "tuned"
    bixt3d.train(settings(tuned, "data.num_points=16"), train=split, model=model)
    predictor = bixt3d.Predictor(tuned / "last", "cpu")
    assert predictor.classes == ("left", "right") and predictor.num_points == 16
    assert predictor.model.description.model["args"]["num_classes"] == 2
    assert predictor(split.points[0]).label in ("left", "right")


# Tasks


class Doubled(ClassificationTask):
    name = "doubled"
    asked = 0

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        type(self).asked += 1
        return 2 * super().loss(logits, batch)


@pytest.mark.parametrize("form", ["class", "object", "name", "settings"])
def test_own_task_in_every_form(form: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubled, "asked", 0)
    config, task = settings(run, "train.epochs=1", "optim.lr=1e-30", "optim.min_lr=0"), Doubled()
    bixt3d.register_task("doubled", Doubled)
    if form == "settings":
        result = bixt3d.train(override(config, task="doubled"), train=make_split())
    else:
        given = {"class": Doubled, "object": task, "name": "doubled"}[form]
        result = bixt3d.train(config, train=make_split(), task=given)
    assert type(result.task) is Doubled and Doubled.asked > 0
    assert rows_of(run)[0]["train_loss"] == pytest.approx(2 * np.log(4), rel=1e-4)
    assert task.classes == () and task.config is None  # a copy was told the settings
    assert result.task.classes == CLASSES
    assert bixt3d.load_model(run, "cpu").description.task == "doubled"
    assert bixt3d.Predictor(run, "cpu")(make_split(1).points[0]).label in CLASSES


def test_task_of_another_kind(run: Path) -> None:
    """Neither classes nor a confusion matrix, with a model that has one output."""
    bixt3d.register_task("spread", SpreadTask)
    bixt3d.register_model("pooled", lambda outputs=4, in_dims=3: Pooled(outputs, in_dims))
    config = settings(run, "task=spread", "model.name=pooled", "train.epochs=10", "optim.lr=1e-2")
    config = override(config, model={"args": {}})
    splits = {"train": make_split(), "val": make_split(22, seed=1), "test": make_split(20, seed=2)}
    result = bixt3d.train(config, **splits)
    rows = rows_of(run)
    assert rows[-1]["val_close"] > rows[0]["val_close"] and result.last["close"] > 0.85
    assert result.best is not None and set(result.best) == {"epoch", "close"}
    assert (run / "last_test.csv").read_text().splitlines()[0] == "metric,value"
    model = bixt3d.load_model(run, "cpu")
    described = model.description
    assert described.task == "spread" and set(described.facts) == {"mean", "unit"}
    assert described.model["args"] == {"in_dims": 3, "outputs": 1}
    seen = normalize_split(splits["test"]).points[:1]
    expected = described.facts["mean"] + model(seen).item()
    assert bixt3d.Predictor(run, "cpu")(splits["test"].points[0]) == pytest.approx(expected, abs=1e-5)
    # What it knows of the training clouds is what it goes by on others.
    assert result.task.mean == described.facts["mean"] != SpreadTask().facts(splits["test"])["mean"]


@pytest.mark.parametrize(("task", "kind"), [(3, TypeError), (nn.Linear, TypeError), ("doubld", ValueError)])
def test_no_task(task: Any, kind: type[Exception], run: Path) -> None:
    bixt3d.register_task("doubled", Doubled)
    with pytest.raises(kind, match="expected a subclass of|unknown task 'doubld'; did you mean 'doubled'"):
        bixt3d.train(settings(run), train=make_split(), task=task)
    assert not run.exists()


def test_task_that_defines_too_little_says_what(run: Path) -> None:
    class Empty(Task):
        pass

    with pytest.raises(TypeError, match="^Empty must define start$"):
        bixt3d.train(settings(run), train=make_split(), task=Empty)


# Names


def test_registered_names_in_a_config(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def read(root: Path, split: str) -> bixt3d.Split:
        assert root == Path("nowhere")
        return make_split({"train": 64, "val": 20, "test": 24, "trainval": 84}[split])

    bixt3d.register_dataset("balls", read)
    bixt3d.register_model("pooled", lambda num_classes, in_dims, width=1: Pooled(num_classes, in_dims))
    bixt3d.register_task("doubled", Doubled)
    stated = to_dict(settings(run))
    stated["model"] = {"name": "pooled", "args": {"width": 2}}
    stated["data"] |= {"name": "balls", "num_points": 16}
    (tmp_path / "mine.yaml").write_text(json.dumps({**stated, "task": "doubled"}))
    result = bixt3d.train(tmp_path / "mine.yaml")
    assert "\nballs: 64 train, 20 val, 24 test\n" in capsys.readouterr().out
    assert type(result.model) is Pooled and type(result.task) is Doubled
    described = bixt3d.load_model(run / "last", "cpu").description
    assert described.model == {"name": "pooled", "args": {"num_classes": 4, "in_dims": 3, "width": 2}}
    assert described.dataset == "balls" and described.preprocess.num_points == 16
    trainval = override(settings(run.parent / "all"), data={"name": "balls", "train_split": "trainval"})
    assert bixt3d.train(trainval).best is None
    assert "\nballs: 84 trainval, 24 test\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "data.name=ball",
            "name: expected a data set out of balls, folder, .*, got 'ball'; did you mean 'balls'",
        ),
        ("model.name=poled", r"unknown model 'poled'; did you mean 'pooled'\?; known: .*--plugin FILE.py"),
        (
            "task=classificaton",
            "unknown task 'classificaton'; did you mean 'classification'.*--plugin FILE.py",
        ),
        ("model.args.widht=3", "bixt_ti_cls has no argument 'widht'"),
    ],
)
def test_names_that_nobody_registered(setting: str, message: str, run: Path) -> None:
    bixt3d.register_dataset("balls", lambda root, split: make_split())
    bixt3d.register_model("pooled", Pooled)
    with pytest.raises(ValueError, match=message):
        bixt3d.train(settings(run, "data.name=balls", setting))
    assert not run.exists()


def test_a_reader_that_returns_something_else(run: Path) -> None:
    bixt3d.register_dataset("balls", lambda root, split: (1, 2))  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="data set balls: expected its reader to return a Split, got tuple"):
        bixt3d.train(settings(run, "data.name=balls"))


def test_settings_are_refused_before_anything_is_done(run: Path) -> None:
    config = settings(run)
    object.__setattr__(config.optim, "name", "SGD")
    with pytest.raises(ValueError, match="^optim.name: expected one of adamw, muon, sgd, adam, got 'SGD'"):
        bixt3d.train(config, train=make_split())
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used here"):
            bixt3d.train(settings(run), train=make_split(), device=device)
    with pytest.raises(FileNotFoundError, match="no config file nowhere.yaml"):
        bixt3d.train("nowhere.yaml")
    assert not run.exists()


def test_a_generator_of_the_users_is_left_alone(run: Path) -> None:
    """What a training draws of its own does not depend on what the caller drew before."""
    splits = {"train": make_split(), "val": make_split(22, seed=1)}
    Generator().manual_seed(3)
    first = bixt3d.train(settings(run), **splits)
    torch.rand(5)
    second = bixt3d.train(settings(run.parent / "again"), **splits)
    assert_same(first.model.state_dict(), second.model.state_dict())
