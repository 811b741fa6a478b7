"""Models as files that run without this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bixt3d
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.spheres import unit_sphere
from bixt3d.inference import Predictor
from bixt3d.inference.export import export_model
from bixt3d.inference.graph import RawModel
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.segmenter import PointSegmenter
from bixt3d.tasks import Description
from tests.markers import data_dir, slow
from tests.models.randomize import randomize

SMALL = {"dim": 12, "num_heads": 2, "num_latents": 4, "drop_path": 0.0}
MODELS = {
    "bixt_ti_cls": {"depth": 2, **SMALL},
    "sequential_ti_cls": {"depth": 2, **SMALL},
    "perceiver_ti_cls": {"num_blocks": 2, "self_attends_per_block": 1, **SMALL},
    "bixt_ti_cls_grouping": {"depth": 2, "neighbors": 6, "group_layers": (0,), **SMALL},
    "bixt_ti_cls_hierarchy": {
        **{"embed_dim": 12, "widths": (12, 16), "reductions": (2, 2), "neighbors": 6},
        **SMALL,
    },
    "bixt_nano_cls_local": {
        **{"embed_dim": 12, "widths": (12, 16), "reductions": (1, 2), "depths": (1, 2), "neighbors": 6},
        **SMALL,
    },
    "bixt_ti_partseg": {"depth": 2, "num_parts": 5, "num_categories": 3, **SMALL},
    "bixt_ti_partseg_encdec": {
        **{"embed_dim": 12, "widths": (12, 16), "reductions": (2, 2), "neighbors": 6},
        **{"decoder_widths": (16, 12), "num_parts": 5, "num_categories": 3},
        **SMALL,
    },
    "bixt_nano_partseg_local": {
        **{"embed_dim": 12, "widths": (12, 16), "reductions": (1, 2), "depths": (1, 2), "neighbors": 6},
        **{"decoder_widths": (16, 12), "num_parts": 5, "num_categories": 3},
        **SMALL,
    },
}


def model(name: str) -> PointClassifier | PointSegmenter:
    torch.manual_seed(0)
    made = bixt3d.create_model(name, **MODELS[name])
    randomize(made, 0.2)
    assert isinstance(made, (PointClassifier, PointSegmenter))
    return made.eval()


def inputs(made: PointClassifier | PointSegmenter, batch: int, count: int) -> list[torch.Tensor]:
    points = torch.nn.functional.normalize(torch.randn(batch, count, 3), dim=-1)
    told = [torch.randint(0, 3, (batch,))] if isinstance(made, PointSegmenter) else []
    return [points, *told]


def tells_where_it_was_made(path: Path) -> bool:
    content = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            content = [file.read(name) for name in file.namelist()]
    return any(b"encoder.py" in part or b"site-packages" in part for part in content)


@slow
@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_what_the_model_gives_for_any_batch_and_points(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = model(name)
    done = export_model(made, tmp_path / "m.onnx")
    assert done.difference is not None and done.difference < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]
    assert not tells_where_it_was_made(done.path)
    session = onnxruntime.InferenceSession(str(done.path))
    assert [entry.type for entry in session.get_inputs()][:1] == ["tensor(float)"]
    assert [entry.shape[:2] for entry in session.get_inputs()][0] == ["batch", "points"]
    assert session.get_outputs()[0].shape[0] == "batch"
    for batch, count in ((1, 64), (4, 333), (2, done.least_points)):
        given = inputs(made, batch, count)
        named = {e.name: v.numpy() for e, v in zip(session.get_inputs(), given, strict=True)}
        with torch.no_grad():
            expected = made(unit_sphere(given[0].double()).float(), *given[1:]).numpy()
        np.testing.assert_allclose(session.run(["logits"], named)[0], expected, rtol=1e-3, atol=1e-4)
        for wrong in (-1, 3) if "category" in named else ():
            with pytest.raises(Exception, match="indices element out of data bounds"):
                session.run(None, {**named, "category": np.full_like(named["category"], wrong)})


@slow
def test_onnx_leaves_stray_points_out(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made, preprocess = model("bixt_ti_cls"), Preprocess(64, "fps", 100, normalization="robust")
    made.description = Description("classification", {"name": "", "args": {}}, {}, preprocess)
    session = onnxruntime.InferenceSession(str(export_model(made, tmp_path / "m.onnx").path))
    for count in (40, 90, 150):  # fewer than the network takes, than are stored, and more
        points = inputs(made, 1, count)[0]
        points[:, 3] = 9.0
        seen = preprocess.choose(preprocess.normalize(points[0].double()))
        assert 0.9 < float(seen.norm(dim=-1).max()) < 1.1
        with torch.no_grad():
            expected = made(seen[None]).numpy()
        (logits,) = session.run(["logits"], {"points": points.numpy()})
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@slow
def test_an_export_after_one_of_a_fixed_number_of_points(tmp_path: Path) -> None:
    """The first samples 64 of 200 points; what torch keeps of it must not bind the second to others."""
    first = model("bixt_ti_cls")
    about: dict[str, Any] = {"name": "", "args": {}}
    first.description = Description("classification", about, {}, Preprocess(64, "fps", 200))
    export_model(first, tmp_path / "first.pt2", "torch")
    done = export_model(model("bixt_ti_cls_hierarchy"), tmp_path / "second.pt2", "torch")
    assert done.difference is not None and done.difference < 1e-4


@slow
def test_program_runs_without_this_package(tmp_path: Path) -> None:
    made = model("bixt_ti_partseg")
    names = [f"part {part}" for part in range(5)]
    facts = {
        "classes": ["chair", "mug", "table"],
        "parts_of_category": [[0, 1], [2], [3, 4]],
        "part_names": names,
    }
    made.description = Description(
        "part_segmentation", {"name": "", "args": {}}, facts, Preprocess(64, "random"), config={"secret": 1}
    )
    done = export_model(made, tmp_path / "new" / "m.pt2", "torch")
    assert not tells_where_it_was_made(done.path)
    given = inputs(made, 3, 150)
    torch.save(given, tmp_path / "given.pt")
    program = (
        "import sys, json, torch; sys.modules['bixt3d'] = None; files = {'bixt3d.json': ''};"
        f"program = torch.export.load({str(done.path)!r}, extra_files=files);"
        f"out = program.module()(*torch.load({str(tmp_path / 'given.pt')!r}));"
        f"torch.save(out.detach(), {str(tmp_path / 'out.pt')!r}); print(files['bixt3d.json'])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    with torch.no_grad():
        expected = RawModel(made, Preprocess(64, "random"), per_point=True)(*given)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), expected, rtol=1e-4, atol=1e-5)
    about = json.loads(ran.stdout.splitlines()[-1])
    assert about["inputs"] == ["points", "category"] and about["part_names"] == names
    assert "config" not in about and about["preprocess"]["num_points"] == 64


def test_least_points_are_enough_and_one_less_is_not() -> None:
    for name in MODELS:
        made = model(name)
        least = made.least_points
        with torch.no_grad():
            made(*inputs(made, 1, least))
    for name in ("bixt_ti_cls_grouping", "bixt_ti_cls_hierarchy"):
        made = model(name)
        with pytest.raises(ValueError, match="k: expected"):
            made(*inputs(made, 1, made.least_points - 1))


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format: expected one of onnx, torch, got 'tflite'"):
        export_model(model("bixt_ti_cls"), tmp_path / "m", "tflite")
    with pytest.raises(ValueError, match="expected a checkpoint, a model with a description .* got Linear"):
        export_model(torch.nn.Linear(3, 3), tmp_path / "m.onnx")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        export_model(tmp_path / "none", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("bixt_ti_cls")
    monkeypatch.setattr(
        "bixt3d.inference.export._write_torch", lambda *_: lambda points: torch.ones(len(points), 40)
    )
    with pytest.raises(ValueError, match="differs from the model"):
        export_model(made, tmp_path / "m.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped classifier as ONNX."""
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("exported") / "modelnet40_cpu.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return export_model("modelnet40_cpu", path).path


def any_place_and_order(points: torch.Tensor, seed: int) -> torch.Tensor:
    """Points (N, 3) of a cloud in another order, size and place, float32."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(points), generator=generator)
    return points[order] * 37.5 + torch.tensor([120.0, -40.0, 7.0])


@slow
def test_an_exported_classifier_agrees_with_predictor(shipped: Path) -> None:
    """On raw points in any order; BIXT3D_EXPORT_SHAPES says on how many of ModelNet40's test shapes."""
    import onnxruntime

    test = bixt3d.open_dataset("modelnet40", data_dir(), "test", num_points=1024)
    wanted = int(os.environ.get("BIXT3D_EXPORT_SHAPES", 120))
    places = torch.linspace(0, len(test) - 1, wanted).long().tolist()
    clouds = [any_place_and_order(test.points[place], place) for place in places]
    predictor = Predictor("modelnet40_cpu", "cpu", batch_size=32)
    expected = np.array([answer.index for answer in predictor(clouds)])
    session = onnxruntime.InferenceSession(str(shipped), providers=["CPUExecutionProvider"])
    found = [session.run(None, {"points": cloud.numpy()[None]})[0].argmax() for cloud in clouds]
    agreement, truth = np.mean(found == expected), test.label[places].numpy()
    print(f"{len(clouds)} shapes: {agreement:.2%} of the labels are Predictor's")
    print(f"accuracy {np.mean(found == truth):.2%}, Predictor's {np.mean(expected == truth):.2%}")
    assert agreement >= 0.995


@slow
def test_an_exported_classifier_takes_any_number_of_points(shipped: Path) -> None:
    """More than the training stored, fewer than the model takes, coordinates of a map, several at once."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(shipped), providers=["CPUExecutionProvider"])
    predictor = Predictor("modelnet40_cpu", "cpu")
    for count in (2, 100, 512, 700, 1024, 1025, 5000):
        cloud = torch.randn(count, 3, generator=torch.Generator().manual_seed(count)) * 9 + 1000
        logits = session.run(None, {"points": torch.stack([cloud, cloud * 2]).numpy()})[0]
        shares = torch.from_numpy(logits).softmax(-1).numpy()
        for row, seen in zip(shares, predictor([cloud, cloud * 2]), strict=True):
            np.testing.assert_allclose(row, seen.probabilities, atol=2e-3)


@slow
def test_what_an_onnx_file_says_of_itself(shipped: Path, tmp_path: Path) -> None:
    """Classes, features and up axis by name; loading it warns of nothing."""
    program = (
        "import json, onnxruntime, sys; session = onnxruntime.InferenceSession(sys.argv[1]);"
        "print(json.dumps(session.get_modelmeta().custom_metadata_map))"
    )
    command = [sys.executable, "-c", program, str(shipped)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    said = {name: json.loads(value) for name, value in json.loads(ran.stdout).items()}
    assert len(said["classes"]) == 40 and said["classes"][0] == "airplane"
    assert said["features"] == [] and said["up"] is None
    assert said["bixt3d"]["classes"] == said["classes"] and said["bixt3d"]["least_points"] == 2
    assert said["bixt3d"]["preprocess"]["num_points"] == 512
