"""Prediction and export with features of points: by name, from arrays and files, and what is refused."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray

import bixt3d
from bixt3d import Predictor, create_model
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.inference.export import export_model
from bixt3d.tasks import Description
from bixt3d.training.checkpoint import save_model
from tests.markers import slow
from tests.training.tiny import CLASSES, NAIVE, awaken

POINTS = 32
Points = NDArray[np.float64]


def save(
    path: Path, *features: str, augment: dict[str, Any] | None = None, divide: float | None = None
) -> Path:
    """A trained classifier of xyz and these features; intensity is divided."""
    torch.manual_seed(0)
    by = {} if divide is None else {"intensity": divide}
    preprocess = Preprocess(POINTS, "stored", 200, features, divide=by)
    args = {"num_classes": 4, "in_dims": preprocess.channels, **NAIVE}
    about = Description(
        *("classification", {"name": "bixt_ti_cls", "args": args}, {"classes": list(CLASSES)}, preprocess),
        config={"augment": augment or {}},
    )
    save_model(path, awaken(create_model("bixt_ti_cls", **args)), about)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "last.safetensors", "color", "intensity")


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, "cpu")


def some_cloud(count: int = POINTS) -> Points:
    """(N, 7): xyz, colours that 8 bits hold, intensity."""
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (count, 3)) / 255
    return np.concatenate([random.normal(size=(count, 3)) * 9, colors, random.random((count, 1))], axis=1)


def write_ply(path: Path, cloud: Points, *, intensity: str = "intensity") -> Path:
    """Fields in another order than a model's; without a name there is no intensity."""
    fields = ["uchar red", "uchar green", "uchar blue", *([f"float {intensity}"] if intensity else [])]
    fields = [*fields[3:], *fields[:3], "float x", "float y", "float z"]
    columns = {"x": 0, "y": 1, "z": 2, "red": 3, "green": 4, "blue": 5, intensity: 6}
    lines = ["ply", "format ascii 1.0", f"element vertex {len(cloud)}"]
    lines += [f"property {field}" for field in fields] + ["end_header"]
    for row in cloud:
        values = [row[columns[field.split()[1]]] for field in fields]
        lines.append(
            " ".join(
                str(round(255 * value)) if "uchar" in field else repr(float(value))
                for field, value in zip(fields, values, strict=True)
            )
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def test_features_reach_the_model_as_they_are(checkpoint: Path, predictor: Predictor) -> None:
    cloud = some_cloud()
    assert predictor.preprocess.features == ("color", "intensity") and predictor.channels == 7
    seen = predictor(cloud)
    told = np.concatenate([unit_sphere(torch.from_numpy(cloud[:, :3])), cloud[:, 3:]], axis=1)
    np.testing.assert_allclose(seen.points, told, atol=1e-6)
    with torch.no_grad():
        logits = bixt3d.load_model(checkpoint, "cpu")(torch.from_numpy(told).float()[None])[0]
    np.testing.assert_allclose(seen.probabilities, logits.softmax(0), atol=1e-6)
    for column in (4, 6):  # each of them is looked at
        other = cloud.copy()
        other[:, column] = 0.5
        assert np.abs(predictor(other).probabilities - seen.probabilities).max() > 1e-5


def test_every_form_of_a_cloud_with_features(predictor: Predictor, tmp_path: Path) -> None:
    cloud = some_cloud(50)
    expected = predictor(cloud)
    np.save(tmp_path / "cloud.npy", cloud)
    np.savetxt(tmp_path / "cloud.xyz", cloud, fmt="%.17g")
    np.savez(tmp_path / "cloud.npz", points=cloud[:, :3], intensity=cloud[:, 6], color=cloud[:, 3:6])
    files = [tmp_path / f"cloud.{kind}" for kind in ("npy", "xyz", "npz")]
    files.append(write_ply(tmp_path / "cloud.ply", cloud))
    files.append(write_ply(tmp_path / "scan.ply", cloud, intensity="scalar_Intensity"))
    for given in (torch.from_numpy(cloud), *files):
        seen = predictor(given)
        np.testing.assert_allclose(seen.points, expected.points, atol=1e-6)
        np.testing.assert_allclose(seen.probabilities, expected.probabilities, atol=1e-5)


def test_colours_of_bytes_are_divided(predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    cloud = some_cloud()
    bright = cloud.copy()
    bright[:, 3:6] *= 255
    with caplog.at_level(logging.INFO):
        np.testing.assert_allclose(predictor(bright).points, predictor(cloud).points, atol=1e-6)
    assert [record.message for record in caplog.records] == ["cloud: colours up to 255 are divided by 255"]
    np.testing.assert_array_equal(bright[:, 3:6], cloud[:, 3:6] * 255)  # the caller's stays


def test_mesh_gives_its_colours(tmp_path: Path) -> None:
    predictor = Predictor(save(tmp_path / "m.safetensors", "normal", "color"), "cpu")
    mesh = trimesh.creation.box()
    red = np.tile(np.array([255, 51, 0, 255], np.uint8), (len(mesh.vertices), 1))
    trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=red).export(tmp_path / "box.ply")
    seen = predictor(tmp_path / "box.ply").points
    np.testing.assert_allclose(np.linalg.norm(seen[:, 3:6], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(seen[:, 6:], np.tile([1, 0.2, 0], (POINTS, 1)), atol=1e-6)


def test_what_lacks_a_feature_is_refused_by_name(predictor: Predictor, tmp_path: Path) -> None:
    ply = write_ply(tmp_path / "rgb.ply", some_cloud(), intensity="")
    with pytest.raises(ValueError, match=r"rgb\.ply: it has no feature intensity; .* this one has color"):
        predictor(ply)
    trimesh.creation.box().export(tmp_path / "box.off")
    with pytest.raises(ValueError, match=r"box\.off: it has no feature color; .* data\.features without it"):
        predictor([ply.with_name("box.off")])
    words = (
        "cloud: expected points (N, 7), xyz and color, intensity, got torch.float64 tensor of shape (32, 3)"
    )
    with pytest.raises(ValueError, match=re.escape(words)):
        predictor(some_cloud()[:, :3])


def test_what_training_dropped_may_be_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    augment = {"normal_dropout": 0.3, "feature_dropout": {"intensity": 0.1, "color": 0.0}}
    path = save(tmp_path / "m.safetensors", "color", "normal", "intensity", augment=augment)
    predictor, cloud = Predictor(path, "cpu"), some_cloud()
    assert predictor.preprocess.optional == ("normal", "intensity")
    zeros = np.zeros((POINTS, 3))
    whole = predictor(np.hstack([cloud[:, :6], zeros, cloud[:, 6:]])).points
    none = predictor(np.hstack([cloud[:, :6], zeros, zeros[:, :1]])).points
    assert np.abs(whole - none).max() > 0.1
    np.testing.assert_array_equal(predictor(cloud[:, :6]).points, none)
    assert caplog.messages == [
        f"cloud: it has no feature {name}; zeros take its place, as in training"
        for name in ("normal", "intensity")
    ]
    ply, bare = write_ply(tmp_path / "a.ply", cloud), write_ply(tmp_path / "b.ply", cloud, intensity="")
    np.testing.assert_allclose(predictor(ply).points, whole, atol=1e-6)
    np.testing.assert_allclose(predictor(bare).points, none, atol=1e-6)
    np.savetxt(tmp_path / "xyz.txt", cloud[:, :3])
    with pytest.raises(ValueError, match=r"xyz\.txt: it has no feature color"):
        predictor(tmp_path / "xyz.txt")
    with pytest.raises(
        ValueError, match=r"cloud: expected points \(N, 10\), xyz and color, normal, intensity"
    ):
        predictor(cloud[:, :3])


def test_what_cannot_be_normals_is_refused_where_they_may_be_missing(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", "normal", augment={"normal_dropout": 0.3})
    np.savetxt(tmp_path / "rgb.txt", some_cloud()[:, :6])
    with pytest.raises(ValueError, match=r"rgb\.txt: feature normal: expected vectors of length 1.*colours"):
        Predictor(path, "cpu")(tmp_path / "rgb.txt")


def test_shipped_parts_need_no_normals() -> None:
    predictor = Predictor("psb_cpu", "cpu")
    xyz = np.random.default_rng(0).normal(size=(600, 3)) * [1, 5, 1]
    bare, zeros = (predictor.segment(one, "Human") for one in (xyz, np.hstack([xyz, 0 * xyz])))
    np.testing.assert_array_equal(bare.parts, zeros.parts)


def test_numbers_that_cannot_be_colours_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    cloud = some_cloud()
    cloud[3, 4] = -0.5
    np.save(tmp_path / "cloud.npy", cloud)
    for given, where in ((cloud, "cloud"), (tmp_path / "cloud.npy", "cloud.npy")):
        with pytest.raises(
            ValueError, match=f"{where}: feature color: expected red, .* from 0 to 1, got -0.5"
        ):
            predictor(given)


@pytest.mark.parametrize("most", [1, 255])
def test_colours_are_no_normals(most: int, tmp_path: Path) -> None:
    predictor = Predictor(save(tmp_path / "m.safetensors", "normal"), "cpu")
    cloud = some_cloud()[:, :6]
    cloud[:, 3:] *= most
    np.savetxt(tmp_path / "cloud.txt", cloud)
    for given, where in ((cloud, "cloud"), (tmp_path / "cloud.txt", r"cloud\.txt")):
        with pytest.raises(
            ValueError, match=f"{where}: feature normal: expected vectors of length 1.*colours"
        ):
            predictor(given)
    ply = write_ply(tmp_path / "rgb.ply", some_cloud())
    with pytest.raises(
        ValueError, match=r"rgb\.ply: it has no feature normal; .* this one has color, intens"
    ):
        predictor(ply)


def test_features_without_a_checkpoint_have_no_names() -> None:
    with pytest.raises(ValueError, match="expected a checkpoint, which names the features of 7 channels"):
        Predictor(create_model("bixt_ti_cls", in_dims=7, **NAIVE), "cpu")
    assert Predictor(create_model("bixt_ti_cls", in_dims=6, **NAIVE), "cpu").preprocess.features == (
        "normal",
    )


@slow
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_export_of_a_model_with_features(form: str, checkpoint: Path, tmp_path: Path) -> None:
    """The file says which features it takes, and gives what `Predictor` gives."""
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    done = export_model(checkpoint, tmp_path / "model", form)
    assert done.inputs == ("points (batch, points, 7) float32",)
    assert done.output == "logits (batch, 4) float32" and done.difference is not None
    points: Any = torch.from_numpy(some_cloud()).float()[None]
    seen = Predictor(checkpoint, "cpu")(points[0])
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(done.path))
        logits = torch.from_numpy(session.run(["logits"], {"points": points.numpy()})[0])
        about = session.get_modelmeta().custom_metadata_map["bixt3d"]
    else:
        files = {"bixt3d.json": ""}
        logits = torch.export.load(done.path, extra_files=files).module()(points).detach()
        about = files["bixt3d.json"]
    np.testing.assert_allclose(logits.softmax(-1)[0], seen.probabilities, atol=1e-5)
    told = json.loads(about)
    assert told["preprocess"]["features"] == ["color", "intensity"] and told["classes"] == list(CLASSES)
    assert Preprocess.from_dict(told["preprocess"]) == Predictor(checkpoint, "cpu").preprocess


def test_divided_features_are_those_of_a_training(tmp_path: Path) -> None:
    """A cloud with raw numbers gives what a model sees of one that was divided by hand."""
    raw = some_cloud()
    raw[:, 6] *= 4095
    by_hand = Predictor(save(tmp_path / "by_hand.safetensors", "color", "intensity"), "cpu")
    divided = Predictor(save(tmp_path / "divided.safetensors", "color", "intensity", divide=4095.0), "cpu")
    assert divided.preprocess.divide == {"intensity": 4095.0}
    expected = by_hand(some_cloud()).probabilities
    assert divided(raw).probabilities == pytest.approx(expected, abs=1e-6)
    assert abs(by_hand(raw).probabilities - expected).max() > 1e-4
    seen = divided.preprocess.normalize(torch.from_numpy(raw))
    torch.testing.assert_close(seen, by_hand.preprocess.normalize(torch.from_numpy(some_cloud())))
