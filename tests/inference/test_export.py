"""Models as files that run without this package."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import bixt3d
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.inference.export import export_model, least_points
from bixt3d.models.classifier import PointClassifier
from bixt3d.models.segmenter import PointSegmenter
from bixt3d.tasks import Description
from tests.markers import slow
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
    "bixt_ti_partseg": {"depth": 2, "num_parts": 5, "num_categories": 3, **SMALL},
    "bixt_ti_partseg_encdec": {
        **{"embed_dim": 12, "widths": (12, 16), "reductions": (2, 2), "neighbors": 6},
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
    for batch, count in ((1, 64), (4, 333), (2, done.least_points)):
        given = inputs(made, batch, count)
        named = {e.name: v.numpy() for e, v in zip(session.get_inputs(), given, strict=True)}
        with torch.no_grad():
            expected = made(*given).numpy()
        np.testing.assert_allclose(session.run(["logits"], named)[0], expected, rtol=1e-3, atol=1e-4)


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
    given = inputs(made, 3, 50)
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
        torch.testing.assert_close(torch.load(tmp_path / "out.pt"), made(*given), rtol=1e-4, atol=1e-5)
    about = json.loads(ran.stdout.splitlines()[-1])
    assert about["inputs"] == ["points", "category"] and about["part_names"] == names
    assert "config" not in about and about["preprocess"]["num_points"] == 64


def test_least_points_are_enough_and_one_less_is_not() -> None:
    for name in MODELS:
        made = model(name)
        least = least_points(made)
        with torch.no_grad():
            made(*inputs(made, 1, least))
    for name in ("bixt_ti_cls_grouping", "bixt_ti_cls_hierarchy"):
        made = model(name)
        with pytest.raises(ValueError, match="k: expected"):
            made(*inputs(made, 1, least_points(made) - 1))


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
    monkeypatch.setattr("bixt3d.inference.export._write_torch", lambda *_: lambda points: made(points) + 1)
    with pytest.raises(ValueError, match="differs from the model"):
        export_model(made, tmp_path / "m.pt2", "torch")
    assert list(tmp_path.iterdir()) == []
