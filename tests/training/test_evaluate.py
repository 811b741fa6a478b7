"""Evaluation of models: every cloud once, the model as it was; and of checkpoints, by what they know."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bixt3d
from bixt3d.config import override, to_dict
from bixt3d.datasets.split import Split
from bixt3d.training import ClassificationTask, evaluate
from bixt3d.training.evaluate import evaluate_checkpoint, scores
from tests.tasks.test_classification import smoothed_loss
from tests.training.own import Pooled, SpreadTask, featured, settings
from tests.training.tiny import make_split

SPLITS = {"train": (64, 0), "val": (22, 1), "test": (20, 2)}


class Reader(nn.Module):
    """Logits that can be read off a cloud's first point; it notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, points: Tensor) -> Tensor:
        self.seen.append(points)
        self.modes.append(self.training)
        assert not torch.is_grad_enabled()
        return self.dropout(points[:, 0])


def uneven() -> Split:
    points = torch.randn(23, 2, 3)
    points[:, 1] = torch.arange(23.0)[:, None]
    return Split(points, torch.arange(23) % 3, ("a", "b", "c"))


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 64])
def test_every_cloud_counts_once_whatever_the_batch(batch_size: int) -> None:
    split, model, task = uneven(), Reader(), ClassificationTask("abc", 0.2)
    seen = evaluate(model, split, task, batch_size)
    assert torch.cat(model.seen)[:, 1, 0].tolist() == list(range(23))
    assert int(seen.counts.sum()) == 23
    logits = split.points[:, 0]
    assert seen.loss == pytest.approx(smoothed_loss(logits.double(), split.label, 0.2), rel=1e-5)
    right = (logits.argmax(1) == split.label).float()
    assert seen.metrics["oa"] == pytest.approx(float(right.mean()))
    per_class = [float(right[split.label == n].mean()) for n in range(3)]
    assert seen.metrics["macc"] == pytest.approx(sum(per_class) / 3)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_statistics_are_left_as_they_were(training: bool) -> None:
    model = Reader().train(training)
    evaluate(model, uneven(), ClassificationTask("abc"), 10)
    assert model.modes == [False] * 3
    assert model.training is training and model.dropout.training is training
    assert model.norm.num_batches_tracked == 0


def test_frozen_part_of_a_model_stays_in_its_mode() -> None:
    model = Reader().train()
    model.norm.eval()
    evaluate(model, uneven(), ClassificationTask("abc"), 10)
    assert model.training and model.dropout.training
    assert not model.norm.training


def test_mode_is_restored_when_the_model_fails() -> None:
    class Broken(Reader):
        def forward(self, points: Tensor) -> Tensor:
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, uneven(), ClassificationTask("abc"), 10)
    assert model.training


@pytest.mark.parametrize("fast", [True, False])
def test_amp_autocasts_where_the_device_is_faster_with_it(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bixt3d.training.device.has_bfloat16", lambda device: fast)

    class Dtype(nn.Linear):
        def forward(self, points: Tensor) -> Tensor:
            out = super().forward(points[:, 0])
            self.dtype = out.dtype
            return out

    model = Dtype(3, 3)
    evaluate(model, uneven(), ClassificationTask("abc"), 8)
    assert model.dtype == torch.float32
    evaluate(model, uneven(), ClassificationTask("abc"), 8, amp=True)
    assert model.dtype == (torch.bfloat16 if fast else torch.float32)


def balls(root: Path, split: str) -> bixt3d.Split:
    count, seed = SPLITS[split]
    return make_split(count, seed=seed)


@pytest.fixture
def known(registries: None) -> None:
    bixt3d.register_dataset("balls", balls)
    bixt3d.register_model("pooled", lambda outputs=4, in_dims=3: Pooled(outputs, in_dims))


def test_scores_are_those_of_the_training(run: Path, known: None, capsys: pytest.CaptureFixture[str]) -> None:
    result = bixt3d.train(settings(run, "data.name=balls"))
    scored = evaluate_checkpoint(run / "last")
    epoch = result.last["epoch"]
    assert {"epoch": epoch, **scored.seen.metrics} == result.last
    assert scored.out == run / "last_test" and len(scored.split) == 20
    assert isinstance(scored.task, ClassificationTask) and scored.task.classes == scored.split.classes
    assert (scored.out / "table.csv").read_bytes() == (run / "last_test.csv").read_bytes()
    stated = json.loads((scored.out / "result.json").read_text())
    assert stated == {"split": "test", "shapes": 20, **scored.seen.metrics}
    said = capsys.readouterr().out
    assert scores(scored.seen, scored.task) in said and f"test: 20 shapes of balls, epoch {epoch}" in said
    evaluate_checkpoint(run / "last", "train")
    assert "the model was trained on these shapes (train)" in capsys.readouterr().out


def test_shapes_of_another_folder_or_data_set(
    run: Path, known: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bixt3d.train(settings(run, "data.name=balls", "data.root=mine", "train.epochs=1"))
    own = evaluate_checkpoint(run).out
    moved = evaluate_checkpoint(run, overrides=["data.root=elsewhere/mine"]).out
    assert own == moved == run / "best_test"
    assert evaluate_checkpoint(run, "train", overrides=["data.root=yours"]).out == run / "best_train_yours"
    said = capsys.readouterr().out
    assert (
        "trained on the split train of mine: if these are its shapes" in said and "these shapes (" not in said
    )
    bixt3d.register_dataset("others", balls)
    scored = evaluate_checkpoint(run, "train", overrides=["data.name=others"])
    assert scored.out == run / "best_train_others"
    assert "trained on" not in capsys.readouterr().out.split("epoch")[-1]


@pytest.mark.parametrize(
    ("asked", "fixed"),
    [
        ("data.features=[color]", "[]"),
        ("model.name=bixt_ti_cls_naive", "bixt_ti_cls"),
        ("model.args.depth=77", ""),
    ],
)
def test_what_a_checkpoint_has_fixed_is_told(
    run: Path, known: None, asked: str, fixed: str, caplog: pytest.LogCaptureFixture
) -> None:
    bixt3d.train(settings(run, "data.name=balls", "train.epochs=1"))
    same = ["data.features=[]", "model.name=bixt_ti_cls", "model.init_from=null", "train.eval_batch_size=3"]
    scored = evaluate_checkpoint(run, overrides=same)
    assert "is not used" not in caplog.text
    assert evaluate_checkpoint(run, overrides=[asked]).seen.metrics == scored.seen.metrics
    assert f"best.safetensors fixes it as {fixed}" in caplog.text.split(f"{re.sub('=.*', '', asked)}=")[-1]


def test_divisors_are_those_of_the_checkpoint(
    run: Path, known: None, caplog: pytest.LogCaptureFixture
) -> None:
    """As other ones would read the features in another unit: told, where they are stated."""

    def read(root: Path, split: str) -> bixt3d.Split:
        points = featured(24, 1).points.clone()
        points[..., 6] *= 4096
        return replace(featured(24, 1), points=points)

    bixt3d.register_dataset("echoes", read)
    plain = ["data.name=echoes", "data.train_split=trainval", "train.epochs=1"]
    config = settings(run, *plain, "data.divide.intensity=4096")
    result = bixt3d.train(config)
    path = run.parent / "plain.yaml"
    path.write_text(json.dumps(to_dict(settings(run, *plain))))
    for cfg, overrides in ((path, []), (None, ["data.divide.intensity=1"]), (None, ["data.divide={}"])):
        scored = evaluate_checkpoint(run / "last", cfg=cfg, overrides=overrides)
        assert scored.seen.metrics["oa"] == result.last["oa"]
    assert "data.divide.intensity=1 is not used: " in caplog.text and "fixes it as 4096.0" in caplog.text


def test_results_with_other_settings_have_a_folder_of_their_own(run: Path, known: None) -> None:
    bixt3d.train(settings(run, "data.name=balls", "train.epochs=1"))
    plain = evaluate_checkpoint(run / "last", overrides=["train.eval_batch_size=3", "loss.ignore=[]"])
    assert plain.out == run / "last_test"
    other = evaluate_checkpoint(run / "last", overrides=["loss.ignore=[0]"])
    assert other.out == run / "last_test_ignore" and other.seen.metrics != plain.seen.metrics
    assert json.loads((other.out / "result.json").read_text())["settings"] == ["loss.ignore=[0]"]


def test_the_folder_of_a_run_takes_no_results(run: Path, known: None) -> None:
    bixt3d.train(settings(run, "data.name=balls", "train.epochs=1"))
    before = (run / "result.json").read_bytes()
    with pytest.raises(ValueError, match=r"got that of a training: take .*last_test"):
        evaluate_checkpoint(run / "last", out=run)
    assert (run / "result.json").read_bytes() == before


def test_failed_evaluation_leaves_no_folder(
    run: Path, known: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bixt3d.train(settings(run, "data.name=balls", "train.epochs=1"))

    def fail(*args: object, **keywords: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setitem(evaluate_checkpoint.__globals__, "evaluate", fail)
    kept = tmp_path / "kept"
    kept.mkdir()
    for out in (tmp_path / "new" / "scores", kept / "scores"):
        with pytest.raises(RuntimeError, match="no memory"):
            evaluate_checkpoint(run, out=out)
    assert kept.is_dir() and not (kept / "scores").exists() and not (tmp_path / "new").exists()


def test_results_under_home(run: Path, known: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bixt3d.train(settings(run, "data.name=balls", "train.epochs=1"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert evaluate_checkpoint(run, out=Path("~/scores")).out == tmp_path / "home" / "scores"
    assert (tmp_path / "home" / "scores" / "result.json").is_file()


def test_other_classes_than_the_data_have(run: Path, known: None) -> None:
    bixt3d.train(settings(run, "data.name=balls", "train.epochs=1"))
    bixt3d.register_dataset("others", lambda root, split: featured().with_features(()))
    with pytest.raises(ValueError, match=r"run/best.* knows 4 classes \(ball, .*, others has 3 \(red, green"):
        evaluate_checkpoint(run, overrides=["data.name=others"])


def test_features_are_those_of_the_checkpoint(run: Path, known: None) -> None:
    """Whatever the settings of the evaluation say, and whatever else the data have."""
    asked: list[Any] = []

    def read(root: Path, split: str, features: Any = None) -> bixt3d.Split:
        asked.append(features)
        return featured(24, 1 if split == "test" else 0).with_features(features)

    bixt3d.register_dataset("colours", read)
    config = settings(run, "data.name=colours", "data.features=[color]", "data.train_split=trainval")
    result = bixt3d.train(config)
    assert set(asked) == {("color",)}
    asked.clear()
    scored = evaluate_checkpoint(run / "last", overrides=["data.features=[intensity]"])
    assert set(asked) == {("color",)} and scored.seen.metrics["oa"] == result.last["oa"]


def test_a_task_goes_by_what_it_knew_in_training(run: Path, known: None) -> None:
    """A mean of its clouds, say, is not that of the clouds that it is tested on."""
    bixt3d.register_task("spread", SpreadTask)
    config = settings(run, "data.name=balls", "task=spread", "model.name=pooled")
    result = bixt3d.train(override(config, model={"args": {}}))
    scored = evaluate_checkpoint(run / "last")
    assert scored.seen.metrics["close"] == pytest.approx(result.last["close"], abs=1e-6)
    assert scored.task.mean == result.task.mean  # type: ignore[attr-defined]
    assert not np.isclose(SpreadTask().facts(scored.split)["mean"], result.task.mean)  # type: ignore[attr-defined]


def test_a_task_that_is_not_registered_here(run: Path, known: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from bixt3d import tasks

    bixt3d.register_task("spread", SpreadTask)
    config = settings(run, "data.name=balls", "task=spread", "model.name=bixt_ti_cls", "train.epochs=1")
    bixt3d.train(override(config, model={"args": {}}))
    monkeypatch.delitem(tasks._TASKS, "spread")
    for use in (evaluate_checkpoint, bixt3d.Predictor):
        with pytest.raises(ValueError, match="unknown task 'spread'.*; known: .*--plugin FILE.py"):
            use(run / "last")
