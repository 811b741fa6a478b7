"""Predictor and export of models of a user's own, and of models that were changed; the caller's stay."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import bixt3d
from bixt3d import Predictor, create_model
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.inference.export import export_model
from bixt3d.tasks import Description
from bixt3d.training.checkpoint import save_model
from tests.markers import slow
from tests.training.tiny import CLASSES, NAIVE, awaken, make_config, make_split

POINTS = 32
PARTS = {
    "classes": ["mug", "table"],
    "parts_of_category": [[0, 1], [2, 3, 4]],
    "part_names": ["body", "handle", "top", "leg", "shelf"],
}


class Net(nn.Module):
    """Nothing of this package: a map of each point, and the largest values."""

    def __init__(self, outputs: int = 4, per_point: bool = False) -> None:
        super().__init__()
        self.points, self.out, self.per_point = nn.Linear(3, 16), nn.Linear(16, outputs), per_point
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, category: Tensor | None = None) -> Tensor:
        features = self.drop(self.points(x).relu())  # (B, N, 16)
        if self.per_point:
            assert category is not None
            return self.out(features) + category[:, None, None]  # (B, N, P)
        return self.out(features.amax(1))  # (B, K)


def described(model: Any, task: str = "classification", facts: Any = None, order: str = "stored") -> Any:
    facts = facts or {"classes": list(CLASSES)}
    model.description = Description(task, {"name": "", "args": {}}, facts, Preprocess(POINTS, order))
    return model


def own_classifier() -> Any:
    torch.manual_seed(0)
    return described(Net())


def some_cloud(count: int = POINTS, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, 3)) * 7 + 3


class TestOfAUser:
    def test_classifier_with_a_description(self) -> None:
        model = own_classifier()
        predictor = Predictor(model, "cpu")
        cloud = some_cloud()
        seen = predictor(cloud)
        with torch.no_grad():
            logits = copy.deepcopy(model).eval()(unit_sphere(torch.from_numpy(cloud))[None].float())[0]
        np.testing.assert_allclose(seen.probabilities, logits.softmax(0), atol=1e-6)
        assert seen.label == CLASSES[int(logits.argmax())] and predictor.classes == CLASSES
        assert [one.label for one in predictor([cloud, cloud])] == [seen.label] * 2
        np.testing.assert_array_equal(
            predictor(cloud).probabilities, seen.probabilities
        )  # nothing is dropped

    def test_segmenter_with_a_description(self) -> None:
        torch.manual_seed(0)
        model = described(Net(5, per_point=True), "part_segmentation", PARTS, "random")
        predictor = Predictor(model, "cpu")
        seen = predictor.segment(some_cloud(70), "table")
        assert seen.parts.shape == (70,) and set(seen.names) <= {"top", "leg", "shelf"}
        with pytest.raises(ValueError, match="needs to be told it, one of mug, table"):
            predictor.segment(some_cloud())

    def test_without_attention(self) -> None:
        predictor = Predictor(own_classifier(), "cpu")
        for look in (predictor.attention, predictor.attention_maps, predictor.attention_symmetry):
            with pytest.raises(ValueError, match=r"with \w*attention\w*\(points\), got Net; it returns"):
                look(some_cloud())
        with pytest.raises(ValueError, match=r"forward_features\(points\), got Net; .* \(B, M, D\), whose"):
            predictor.embed(some_cloud())

    @pytest.mark.parametrize("own", [{}, {"task": "classification"}, {"description": {"classes": ["a"]}}])
    def test_that_says_too_little(self, own: dict[str, Any]) -> None:
        model = Net()
        for name, value in own.items():
            setattr(model, name, value)
        with pytest.raises(
            ValueError, match=r"expected .*description.* got (Net|dict)|description: expected"
        ):
            Predictor(model, "cpu")

    def test_names_of_another_number_of_outputs(self) -> None:
        model = own_classifier()
        model.num_outputs = 4
        with pytest.raises(ValueError, match="classes: expected 4 names, one a logit, got 2"):
            Predictor(model, "cpu", classes=["a", "b"])

    def test_task_that_is_not_registered(self) -> None:
        with pytest.raises(
            ValueError, match="unknown task 'counting of mine'.*bixt3d.register_task.*--plugin"
        ):
            Predictor(described(Net(), "counting of mine"), "cpu")

    def test_trained_here(self, tmp_path: Path) -> None:
        model = Net()
        config = make_config("train.epochs=1", "model.args={}", f"run.dir={tmp_path / 'run'}")
        result = bixt3d.train(
            config, model=model, train=make_split(), test=make_split(20, seed=1), device="cpu"
        )
        seen = Predictor(result.model, "cpu")(make_split().points[0])
        assert seen.label in CLASSES
        with pytest.raises(ValueError, match=r"given to bixt3d\.train as an object.*load_model\(path, model"):
            bixt3d.load_model(tmp_path / "run" / "last")
        loaded = bixt3d.load_model(tmp_path / "run" / "last", "cpu", model=Net())
        again = Predictor(loaded, "cpu")(make_split().points[0])
        np.testing.assert_array_equal(again.probabilities, seen.probabilities)

    @slow
    @pytest.mark.parametrize("form", ["onnx", "torch"])
    def test_export(self, form: str, tmp_path: Path) -> None:
        """Inputs have the task's names, whatever the model calls them."""
        if form == "onnx":
            pytest.importorskip("onnxruntime")
        for model, inputs in (
            (own_classifier(), ("points (batch, points, 3) float32",)),
            (
                described(Net(5, per_point=True), "part_segmentation", PARTS, "random"),
                ("points (batch, points, 3) float32", "category (batch,) int64"),
            ),
        ):
            done = export_model(model, tmp_path / "m", form)
            assert done.inputs == inputs and done.difference is not None and done.difference < 1e-5
            if form == "onnx":
                import onnxruntime

                session = onnxruntime.InferenceSession(str(done.path))
                assert [entry.name for entry in session.get_inputs()] == [i.split()[0] for i in inputs]
                about = json.loads(session.get_modelmeta().custom_metadata_map["bixt3d"])
                assert about["inputs"] == [entry.name for entry in session.get_inputs()]


class TestTheCallersModel:
    @pytest.mark.parametrize("work", ["predict", pytest.param("export", marks=slow)])
    @pytest.mark.parametrize("kind", ["ours", "a user's"])
    def test_stays_as_it_is(self, kind: str, work: str, tmp_path: Path) -> None:
        model: Any = own_classifier()
        if kind == "ours":
            model = awaken(create_model("bixt_ti_cls", num_classes=4, **NAIVE))
        model.train()
        frozen = next(iter(model.children())).eval()  # as in a fine-tuning
        for value in frozen.parameters():
            value.requires_grad_(False)
        handle = model.register_forward_hook(lambda *_: None)

        def state() -> Any:
            return [
                (name, id(part), part.training, list(part._forward_hooks), list(part._forward_pre_hooks))
                for name, part in model.named_modules()
            ], [
                (name, id(value), value.device, value.dtype, value.requires_grad, value.grad, value._version)
                for name, value in model.named_parameters()
            ]

        before, weights = state(), copy.deepcopy(model.state_dict())
        if work == "export":
            export_model(model, tmp_path / "m.pt2", "torch")
        else:
            Predictor(model, "cpu", classes=CLASSES)([some_cloud(), some_cloud(50)])
        assert state() == before and handle.id in model._forward_hooks
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())

    def test_goes_on_without_the_predictor(self) -> None:
        model = own_classifier()
        predictor = Predictor(model, "cpu")
        expected = predictor(some_cloud()).probabilities
        with torch.no_grad():
            for value in model.parameters():
                value.add_(1.0)
        np.testing.assert_array_equal(predictor(some_cloud()).probabilities, expected)
        assert predictor.model is not model and predictor.model.description is not None

    def test_stays_where_it_is(self) -> None:
        model = own_classifier()
        predictor = Predictor(model, "meta")
        assert {str(value.device) for value in predictor.model.parameters()} == {"meta"}
        assert {str(value.device) for value in model.parameters()} == {"cpu"}


def checkpoint(path: Path, name: str, facts: dict[str, Any], order: str = "stored", **args: Any) -> Path:
    torch.manual_seed(0)
    args = {**NAIVE, **args}
    task = "part_segmentation" if "partseg" in name else "classification"
    about = Description(task, {"name": name, "args": args}, facts, Preprocess(POINTS, order))
    save_model(path, awaken(create_model(name, **args)), about)
    return path


class TestAnotherHead:
    @pytest.fixture
    def classifier(self, tmp_path: Path) -> Path:
        facts = {"classes": list(CLASSES)}
        return checkpoint(tmp_path / "m.safetensors", "bixt_ti_cls", facts, num_classes=4)

    @pytest.fixture
    def segmenter(self, tmp_path: Path) -> Path:
        sizes = {"num_parts": 5, "num_categories": 2}
        return checkpoint(tmp_path / "p.safetensors", "bixt_ti_partseg", PARTS, "random", **sizes)

    def test_classes_are_the_new_ones(self, classifier: Path, tmp_path: Path) -> None:
        model: Any = bixt3d.load_model(classifier, "cpu", classes=["tree", "stone"])
        awaken(model)
        seen = Predictor(model, "cpu")(some_cloud())
        assert seen.probabilities.shape == (2,) and seen.label in ("tree", "stone")
        save_model(tmp_path / "new.safetensors", model, model.description)
        again = Predictor(tmp_path / "new.safetensors", "cpu")
        assert again.classes == ("tree", "stone")
        np.testing.assert_array_equal(again(some_cloud()).probabilities, seen.probabilities)
        assert Predictor(classifier, "cpu").classes == CLASSES  # the file is as it was

    def test_classes_without_names_are_numbered(self, classifier: Path) -> None:
        model: Any = bixt3d.load_model(classifier, "cpu")
        model.reset_classifier(3)
        seen = Predictor(model, "cpu")(some_cloud())
        assert seen.label == f"class_{seen.index}"
        assert Predictor(model, "cpu").classes == ("class_0", "class_1", "class_2")
        assert model.description.model["args"]["num_classes"] == 3
        assert model.description.preprocess == Preprocess(POINTS)

    @pytest.mark.parametrize(
        ("count", "names", "message"),
        [
            (2, ["a"], "classes: expected 2 names, got 1"),
            (0, [], "num_classes: expected at least 1, got 0"),
            (-1, None, "num_classes: expected at least 1, got -1"),
        ],
    )
    def test_names_of_another_number(self, count: int, names: Any, message: str, classifier: Path) -> None:
        model: Any = bixt3d.load_model(classifier, "cpu")
        with pytest.raises(ValueError, match=message):
            model.reset_classifier(count, names)
        assert Predictor(model, "cpu").classes == CLASSES and model.num_outputs == 4  # nothing has changed

    def test_parts_are_the_new_ones(self, segmenter: Path, tmp_path: Path) -> None:
        model: Any = bixt3d.load_model(segmenter, "cpu", classes=["stem", "leaf", "pot"])
        awaken(model)
        predictor = Predictor(model, "cpu")
        assert predictor.part_names == ("stem", "leaf", "pot") and predictor.classes == ("mug", "table")
        assert predictor.parts_of_category == [[0, 1, 2]] * 2  # any part in any category
        seen = predictor.segment(some_cloud(60), "table")
        assert set(seen.names) <= {"stem", "leaf", "pot"} and seen.parts.max() <= 2
        save_model(tmp_path / "new.safetensors", model, model.description)
        again = Predictor(tmp_path / "new.safetensors", "cpu").segment(some_cloud(60), "table")
        np.testing.assert_array_equal(again.names, seen.names)
        for count, names, message in (
            (2, ["a"], "part_names: expected 2 names, got 1"),
            (-1, None, "num_parts: expected at least 1, got -1"),
        ):
            with pytest.raises(ValueError, match=message):
                model.reset_classifier(count, names)
        assert Predictor(model, "cpu").part_names == predictor.part_names

    def test_model_that_cannot_get_another_head(self, tmp_path: Path) -> None:
        save_model(tmp_path / "own.safetensors", Net(), own_classifier().description)
        with pytest.raises(ValueError, match="classes: expected a model with reset_classifier, got Net"):
            bixt3d.load_model(tmp_path / "own.safetensors", "cpu", classes=["a"], model=Net())


class TestTransposed:
    """Points along the last axis, as models of channels first take them."""

    @pytest.mark.parametrize("kind", ["array", "tensor", "batch", "list", ".npy", ".npz", ".txt"])
    def test_clouds_are_refused(self, kind: str, tmp_path: Path) -> None:
        cloud: Any = some_cloud(40).T
        if kind.startswith("."):
            path = tmp_path / f"cloud{kind}"
            save: Any = {".npy": np.save, ".npz": np.savez, ".txt": np.savetxt}[kind]
            save(path, cloud)
            cloud = path
        elif kind != "array":
            cloud = {"tensor": torch.from_numpy(cloud), "batch": np.stack([cloud] * 2), "list": [cloud]}[kind]
        with pytest.raises(ValueError, match=r"expected points \(N, 3\), got \(3, 40\): transpose it"):
            Predictor(own_classifier(), "cpu")(cloud)

    @pytest.mark.parametrize("channels", [3, 6])
    def test_clouds_with_features_are_refused(self, channels: int) -> None:
        model = create_model("bixt_ti_cls", num_classes=4, in_dims=6, **NAIVE)
        cloud = np.random.default_rng(0).normal(size=(channels, 40))
        with pytest.raises(
            ValueError, match=rf"expected points \(N, 6\), got \({channels}, 40\): transpose it"
        ):
            Predictor(model, "cpu")(cloud)

    def test_few_points_are_no_channels(self) -> None:
        predictor = Predictor(own_classifier(), "cpu")
        assert predictor(some_cloud(3)).label in CLASSES
        assert predictor(np.concatenate([some_cloud(3)] * 5, axis=1)).label in CLASSES  # more columns
