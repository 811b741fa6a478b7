"""Scenes: what training sees, labels for all points of a scene, and metrics over all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bixt3d
from bixt3d import metrics
from bixt3d.config import Config, config_from
from bixt3d.datasets import Preprocess, Split
from bixt3d.datasets.loader import CloudLoader
from bixt3d.inference.export import export_model
from bixt3d.tasks import SceneSegmentationTask, find_task, make_task
from bixt3d.tasks.scene_segmentation import pass_size
from bixt3d.training.distributed import Workers
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.splits import training_loader
from bixt3d.visualize import Gallery

NAMES = ("none", "low", "mid", "high")
AUGMENT = {"shuffle": False, "scale_low": 1.0, "scale_high": 1.0, "shift": 0.0}


class ByHeight(nn.Module):
    """A model that says how high a point is above the ground, in thirds of the column's radius."""

    task = "scene_segmentation"
    num_outputs, in_dims, calls = 4, 3, 0

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, points: Tensor) -> Tensor:
        self.calls += len(points)
        marks = torch.tensor([-9.0, 0.5 / 3, 1.5 / 3, 2.5 / 3])
        return -self.scale * (points[..., 1:2] - marks).abs()


def make_split(scenes: int = 2, points: int = 600, count: Tensor | None = None) -> Split:
    """Ground of 60 x 60 units with things up to 6 high; a label for each two units of height."""
    xyz = torch.rand(scenes, points, 3) * torch.tensor([60.0, 6.0, 60.0])
    xyz[:, : points // 10, 1] = 0
    parts = (xyz[..., 1] / 2).floor().clamp(0, 2).long() + 1
    parts[:, ::7] = -1
    zeros = torch.zeros(scenes, dtype=torch.int64)
    names, table = ("scene",), ((1, 2, 3),)
    return Split(xyz, zeros, names, parts, zeros, names, table, part_names=NAMES, count=count)


def settings(**sections: Any) -> Config:
    given = {
        "data": {"name": "scenes", "num_points": 64, "order": "random", "train_split": "trainval"},
        "augment": AUGMENT,
        "model": {"name": "bixt_pico_sceneseg_encdec", "args": {"neighbors": 4}},
        "task_args": {"radius": 6.0, "draws": 5},
        "optim": {"label_smoothing": 0.0},
        "train": {"batch_size": 2, "epochs": 1, "eval_batch_size": 1},
    }
    for key, values in sections.items():
        given[key] = {**given.get(key, {}), **values} if isinstance(values, dict) else values
    return config_from(given)


def ready(split: Split, model: nn.Module, **sections: Any) -> SceneSegmentationTask:
    task = make_task("scene_segmentation", settings(**sections))
    assert isinstance(task, SceneSegmentationTask)
    task.arrange(split, True)
    task.set_facts(task.facts(split))
    task.bind_model(model)
    return task


def test_training_sees_columns_in_radii_with_their_labels() -> None:
    split = make_split(2, 4000)
    task = ready(split, ByHeight())
    loader = training_loader(task.config, task, split, Workers())
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == 5  # five draws of two scenes, two a batch
    for batch in batches:
        assert batch.points.shape == (2, 64, 3)
        xz = batch.points[..., [0, 2]]
        assert xz.abs().max() < 2 and xz.mean(1).abs().max() < 1e-5
        known = batch.parts >= 0
        thirds = (batch.points[..., 1] * 3).floor().clamp(0, 2)
        assert (thirds == batch.parts - 1)[known].float().mean() > 0.95  # the ground is no sharp number
    again = list(training_loader(task.config, task, split, Workers()).epoch(0))
    assert all(torch.equal(one.points, other.points) for one, other in zip(batches, again, strict=True))
    assert not torch.equal(batches[0].points, list(loader.epoch(1))[0].points)


@pytest.mark.parametrize("radius", [6.0, 500.0])
def test_every_point_gets_the_mean_of_its_columns(radius: float) -> None:
    split, model = make_split(1, 500), ByHeight().eval()
    task = ready(split, model, task_args={"radius": radius})
    with torch.no_grad():
        answer = task.predict(model, split.points[0].double(), Preprocess(64, "random"))
    assert answer.parts.shape == (500,) and answer.points.dtype == np.float64
    if radius == 6.0:
        truth = (split.points[0, :, 1] / 2).floor().clamp(0, 2).long() + 1
        assert (answer.parts == truth.numpy()).mean() > 0.97  # the ground of a column is no sharp number
        assert model.calls > 2 * 500 / 64
    else:
        assert model.calls == 8 and set(answer.parts) == {1}  # one column, all points once
    assert answer.names[3] == NAMES[answer.parts[3]] and 0 < answer.confidence <= 1


def test_evaluation_counts_all_points_once(monkeypatch: pytest.MonkeyPatch) -> None:
    split, model = make_split(3, 300, torch.tensor([300, 200, 300])), ByHeight().eval()
    repeated = torch.arange(300) % 200
    points, parts = split.points.clone(), split.parts.clone()
    points[1], parts[1] = points[1, repeated], parts[1, repeated]
    split = replace(split, points=points, parts=parts)
    task = ready(split, model)
    counts = task.start(torch.device("cpu"))
    with torch.no_grad():
        for batch in CloudLoader(split, 2):
            logits = task.forward(model, batch)
            assert logits.shape == (*batch.points.shape[:2], 4)
            assert task.loss(logits, batch).isfinite()
            counts += task.count(logits, batch)
            assert [len(answer.parts) for answer in task.answers(logits, batch)] == task._own(batch)
    known = [int((split.parts[row, :own] >= 0).sum()) for row, own in enumerate((300, 200, 300))]
    assert int(counts.sum()) == sum(known)
    found = task.metrics(counts)
    assert found == {key: metrics.segmentation(counts)[key] for key in ("oa", "macc", "miou")}
    assert found["miou"] > 0.8 and task.goal == "miou"
    rows = task.table(counts)
    assert rows[0] == ["class", "points", "IoU"] and [row[0] for row in rows[1:]] == ["low", "mid", "high"]
    assert sum(row[1] for row in rows[1:]) == sum(known)
    assert task.confusion(counts)[1] == ("low", "mid", "high")


def test_ignored_labels_are_never_said() -> None:
    split, model = make_split(1, 200), ByHeight().eval()
    task = ready(split, model, loss={"ignore": [3]})
    with torch.no_grad():
        answer = task.predict(model, split.points[0].double(), Preprocess(64, "random"))
    assert set(answer.parts.tolist()) <= {1, 2} and answer.probabilities.min() >= 0.5  # of two labels
    with torch.no_grad():
        (batch,) = CloudLoader(split, 1)
        (evaluated,) = task.answers(torch.zeros(1, 200, 4), batch)
        assert evaluated.probabilities == pytest.approx(0.5)
        counts = task.count(task.forward(model, batch), batch)
    assert counts[3].sum() == counts[:, 3].sum() == counts[0].sum() == 0


def test_a_label_that_does_not_count_takes_nearly_all() -> None:
    """Evaluation, by logarithms, and a prediction, by shares, name the same of what is left."""

    class Elsewhere(ByHeight):
        def forward(self, points: Tensor) -> Tensor:
            return super().forward(points) + torch.tensor([230.0, 0, 0, 0])

    split, model = make_split(1, 300), Elsewhere().eval()
    task = ready(split, model)
    (batch,) = CloudLoader(split, 1)
    with torch.no_grad():
        answer = task.predict(model, split.points[0].double(), Preprocess(64, "random"))
        (evaluated,) = task.answers(task.forward(model, batch), batch)
    assert (answer.parts == evaluated.parts).all() and len(set(answer.parts.tolist())) == 3


def test_class_weights_are_of_points() -> None:
    split, model = make_split(1, 400), ByHeight()
    task = ready(split, model, loss={"class_weights": "balanced"})
    task.look_at_training(split)
    counts = split.parts[split.parts >= 0].bincount(minlength=4)
    weights = task.class_weights
    assert weights[0] == 0 and torch.allclose(weights[1:] * counts[1:], (weights * counts).sum() / 3)


def test_the_axis_that_points_up_changes_nothing_else() -> None:
    split, model = make_split(1, 300), ByHeight().eval()
    task = ready(split, model)
    y_up = split.points[0].double()
    z_up = torch.stack([y_up[:, 0], -y_up[:, 2], y_up[:, 1]], 1)
    with torch.no_grad():
        answers = [
            task.predict(model, y_up, Preprocess(64)),
            task.predict(model, z_up, Preprocess(64, up="z")),
        ]
    assert np.array_equal(answers[0].parts, answers[1].parts)
    assert np.array_equal(answers[1].points, z_up.numpy())


class ByIntensity(ByHeight):
    """The same of the fourth channel."""

    def forward(self, points: Tensor) -> Tensor:
        return super().forward(points[..., [0, 3, 2]])


def test_features_are_divided() -> None:
    split, model = make_split(1, 300), ByIntensity().eval()
    task = ready(split, model)
    points = torch.cat([split.points[0], torch.rand(300, 1)], 1).double()
    raw = points * points.new_tensor([1, 1, 1, 4096])
    plain, divided = (
        Preprocess(64, "random", features=("intensity",), divide=by) for by in ({}, {"intensity": 4096})
    )
    with torch.no_grad():
        answer = task.predict(model, points, plain)
        assert np.array_equal(task.predict(model, raw, divided).parts, answer.parts)
        assert not np.array_equal(task.predict(model, raw, plain).parts, answer.parts)
    assert torch.equal(task.inputs(raw, divided)[0], task.inputs(points, plain)[0])


def test_a_checkpoint_keeps_the_columns_and_a_user_may_change_them(tmp_path: Path, tiny_run: Any) -> None:
    result = tiny_run
    predictor = bixt3d.Predictor(result.run_dir / "last", "cpu")
    assert predictor.task.radius == 6.0 and predictor.task.reach(predictor.preprocess) == 12.0
    cloud = make_split(1, 700).points[0].numpy()
    answer = predictor.segment(cloud)
    assert answer.parts.shape == (700,) and set(answer.parts.tolist()) <= {1, 2, 3}
    wide = bixt3d.Predictor(result.run_dir / "last", "cpu", task_args={"radius": 50.0})
    assert wide.task.radius == 50.0 and predictor.embed(cloud).shape == wide.embed(cloud).shape
    with pytest.raises(ValueError, match=r"task_args: unknown argument 'radios'; did you mean 'radius'"):
        bixt3d.Predictor(result.run_dir / "last", "cpu", task_args={"radios": 50.0})
    shown = Gallery.of_split(predictor, make_split(1))[0]
    assert shown.modes == ("prediction", "truth", "error", "confidence")  # no attention: which column's?
    labelled = make_split(1).parts[0] >= 0
    assert shown.names == NAMES and shown.prediction.shape == shown.truth.shape == (int(labelled.sum()),)
    assert shown.points.shape == (int(labelled.sum()), 3)  # those without a label say nothing of errors
    counts = metrics.confusion_matrix(torch.tensor(shown.prediction), torch.tensor(shown.truth), 4)
    assert shown.verdict == f"IoU {metrics.segmentation(counts)['miou']:.1%}"
    with pytest.raises(ValueError, match="robust is for models of whole clouds, got one for scene_segm"):
        bixt3d.Predictor(result.run_dir / "last", "cpu", normalization="robust")
    with pytest.raises(ValueError, match="one that looks at scenes piece by piece"):
        predictor.attention(cloud)
    with pytest.raises(ValueError, match="which an exported file cannot do: label scenes by"):
        export_model(result.run_dir / "last", tmp_path / "scenes.onnx")
    renamed = bixt3d.load_model(result.run_dir / "last", "cpu", classes=["wet", "dry"])
    again = bixt3d.Predictor(renamed, "cpu")
    assert again.part_names == ("wet", "dry") and len(again.segment(cloud).parts) == 700


@pytest.fixture
def tiny_run(tmp_path: Path) -> Any:
    config = settings(run={"dir": str(tmp_path / "run"), "logger": []})
    result = bixt3d.train(config, train=make_split(), test=make_split(1), device="cpu")
    assert set(result.last) == {"epoch", "oa", "macc", "miou"}
    return result


def test_evaluation_takes_other_columns(tiny_run: Any, registries: None) -> None:
    bixt3d.register_dataset("streets", lambda root, split: make_split(1))
    scored = evaluate_checkpoint(
        tiny_run.run_dir / "last",
        overrides=["data.name=streets", "task_args.radius=50", "task_args.step=0.7"],
    )
    assert (scored.task.radius, scored.task.step) == (50.0, 0.7)  # type: ignore[attr-defined]
    assert scored.out.name == "last_test_streets_radius_step"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"radius": 0}, "radius: expected a number above 0"),
        ({"radius": "wide"}, "radius: expected a number"),
        ({"step": 1.6}, "step: expected a number above 0 and up to 1.414"),
        ({"draws": 0}, "draws: expected a whole number of at least 1"),
        (
            {"radios": 3},
            r"task_args: unknown argument 'radios'; did you mean 'radius'\?; it takes: radius, step",
        ),
    ],
)
def test_arguments_that_cannot_be(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_task("scene_segmentation", **args)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="data.order"):
        make_task("scene_segmentation", settings(data={"order": "stored"}))
    with pytest.raises(ValueError, match="augment.dropout"):
        make_task("scene_segmentation", settings(augment={"dropout": 0.5}))
    with pytest.raises(ValueError, match="data.normalization: expected none for scenes"):
        make_task("scene_segmentation", settings(data={"normalization": "robust"}))
    with pytest.raises(ValueError, match="augment.refit: would undo the unit of a scene's columns"):
        make_task("scene_segmentation", settings(augment={"refit": True}))
    with pytest.raises(ValueError, match="expected data with a part for each point"):
        ready(make_split().without_parts(), ByHeight())


def test_models_of_scenes() -> None:
    names = [name for name in bixt3d.list_models() if "sceneseg" in name]
    assert {"bixt_ti_sceneseg", "bixt_ti_sceneseg_encdec", "bixt_nano_sceneseg_encdec"} <= set(names)
    for name in names:
        model = bixt3d.create_model(name, num_classes=7, in_dims=4).eval()
        assert model.task == "scene_segmentation" and model.num_outputs == 7
    model = bixt3d.create_model("bixt_pico_sceneseg_encdec", num_classes=7)
    assert model(torch.rand(2, 100, 3)).shape == (2, 100, 7)
    assert {stage.sampling for stage in model.encoder.stages.values()} == {"grid"}
    with pytest.raises(ValueError, match="has no argument 'num_parts'"):
        bixt3d.create_model("bixt_ti_sceneseg", num_parts=7)


@pytest.mark.parametrize("size", [7, 64, 4096])
def test_passes_of_a_column_are_alike_and_near_the_size(size: int) -> None:
    for count in [1, size - 1, size, size + 1, int(1.4 * size), int(1.6 * size), 2 * size, 17 * size + 3]:
        each, width = pass_size(count, size)
        passes = [min(each, count - begin) for begin in range(0, count, each)]
        assert each <= width and sum(passes) == count and max(passes) - min(passes) <= len(passes)
        assert width == size if count <= size else 0.6 * size < width <= 1.5 * size + size / 8 + 1
