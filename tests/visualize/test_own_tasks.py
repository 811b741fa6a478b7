"""Clouds with what a task of a user's own says of them: in the gallery, the viewer, pictures and pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bixt3d
from bixt3d import Predictor, create_model, tasks
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.visualize import Gallery
from bixt3d.visualize.browse import readable
from bixt3d.visualize.html import write_page
from bixt3d.visualize.pictures import write_pictures
from bixt3d.visualize.scene import PLAIN
from bixt3d.visualize.viewer_state import ViewerState
from tests.models.randomize import randomize
from tests.visualize.clouds import like, read

SIZES = {"dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4}
KINDS = ("low", "tall")


class HeightTask(bixt3d.Task):
    """The answer is a number, of the whole cloud."""

    name = "height"

    def predict(
        self, model: nn.Module, points: Tensor, preprocess: Preprocess, category: Any = None
    ) -> float:
        return float(points[:, 1].max() - points[:, 1].min())


class ShadeTask(bixt3d.Task):
    """The answer is an array with a number a point."""

    name, per_point = "shade", True

    def predict(self, model: nn.Module, points: Tensor, preprocess: Preprocess, category: Any = None) -> Any:
        return preprocess.normalize(points)[:, 1].sigmoid().numpy()

    def view(self, answer: Any, truth: Any = None) -> dict[str, Any]:
        about = {"confidence": answer, "verdict": f"{answer.mean():.0%} bright"}
        if truth is not None:
            about["verdict"] += f", {abs(answer - truth).max():.1f} off"
        return about

    def groups(self, split: bixt3d.Split) -> tuple[tuple[str, ...], Tensor]:
        return ("any",), torch.zeros(len(split), dtype=torch.int64)

    def point_labels(self, split: bixt3d.Split) -> Tensor:
        return split.points[..., 1].sigmoid()


class Still(nn.Module):
    """A model that gives no attention."""

    def forward(self, points: Tensor) -> Tensor:
        return points.mean(1)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tasks, while a test runs."""
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    for task in (HeightTask, ShadeTask):
        bixt3d.register_task(task.name, task)


def predictor(task: str, ours: bool = True) -> Predictor:
    torch.manual_seed(3)
    model: Any = create_model("bixt_ti_cls", num_classes=1, **SIZES) if ours else Still()
    randomize(model)
    facts = {"classes": list(KINDS)} if task == "height" else {}
    model.description = tasks.Description(task, {"name": "", "args": {}}, facts, Preprocess(20))
    return Predictor(model, "cpu")


def split() -> bixt3d.Split:
    points = torch.randn(3, 30, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 4.0, 1.0])
    count = torch.tensor([30, 20, 30])
    return bixt3d.Split(points, torch.tensor([1, 0, 1]), KINDS, names=("a", "b", "c"), count=count)


def test_answer_for_a_whole_cloud() -> None:
    gallery = Gallery.of_split(predictor("height"), split())
    assert gallery.categories == ("tall", "low", "tall")
    for shape, seen in enumerate(gallery):
        own = split().points[shape, : 20 if shape == 1 else 30].numpy()
        np.testing.assert_allclose(seen.points, own, atol=1e-6)
        height = float(own[:, 1].astype(np.float64).max() - own[:, 1].astype(np.float64).min())
        assert seen.verdict == f"predicted {height}" and seen.modes == ("attention", "shape")
        assert seen.prediction is None and seen.truth is None and seen.confidence is None


def test_answer_for_every_point() -> None:
    gallery = Gallery.of_split(predictor("shade", ours=False), split())
    assert gallery.categories == ("any",) * 3
    seen = gallery[1]
    assert seen.points.shape == (20, 3) and seen.modes == ("confidence",)
    normal = bixt3d.datasets.unit_sphere(torch.from_numpy(seen.points))[:, 1]
    np.testing.assert_allclose(seen.confidence, normal.sigmoid(), atol=1e-6)
    truth = split().points[1, :20, 1].sigmoid().numpy()
    off = abs(seen.confidence - truth).max()
    assert seen.verdict == f"{seen.confidence.mean():.0%} bright, {off:.1f} off" and off > 0.05


def test_files(tmp_path: Path) -> None:
    clouds = split().points.numpy()
    for index, cloud in enumerate(clouds):
        np.save(tmp_path / f"{index}.npy", cloud)
    files = sorted(tmp_path.glob("*.npy"))
    for task in ("height", "shade"):
        model = predictor(task, ours=False)
        gallery = Gallery.of_files(model, files)
        for file, cloud, seen in zip(files, clouds, gallery, strict=True):
            assert (seen.title, seen.category) == (file.name, "")
            np.testing.assert_array_equal(seen.points, cloud.astype(np.float64))
            np.testing.assert_array_equal(model.answer(file), model.answer(cloud))


def test_viewer_shows_them() -> None:
    state = ViewerState(Gallery.of_split(predictor("height", ours=False), split()))
    assert state.headline.startswith("a · tall · predicted ") and state.mode == "shape" and state.legend == []
    assert state.points.shape == state.colors.shape == (30, 3)
    state.act("category")
    assert state.place == "2/3" and state.headline.startswith("b · low · predicted ")
    state.act("prediction")
    assert state.message == "this cloud has no prediction; it has 7 shape"
    state = ViewerState(Gallery.of_split(predictor("shade"), split()))
    state.act("confidence")
    assert state.mode == "confidence" and state.headline.startswith("a · any · ")


def test_pictures_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    gallery = Gallery.of_split(predictor("height", ours=False), split())
    first, *_ = write_pictures(gallery, tmp_path / "p", 2)
    assert like(read(first), PLAIN[1]) > 100
    assert capsys.readouterr().out.count("picture: ") == 2
    page = write_page(gallery, tmp_path / "page.html").read_text()
    assert page.count('class="cloud"') == 3


class BrokenTask(HeightTask):
    def predict(
        self, model: nn.Module, points: Tensor, preprocess: Preprocess, category: Any = None
    ) -> float:
        raise ValueError("a line of the task that is wrong")


def test_mistake_of_a_task_is_no_broken_cloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are missing are passed over; a bug of the task is not taken for one."""
    np.save(tmp_path / "b.npy", split().points[0].numpy())
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    gallery = Gallery.of_files(predictor("height", ours=False), files)
    assert [place for place, _ in readable(gallery)] == [1]
    assert capsys.readouterr().out == f"left out: no file {files[0]}\n"
    state = ViewerState(gallery)
    assert state.cloud is None and state.fault == f"no file {files[0]}"
    bixt3d.register_task("height", BrokenTask)
    broken = Gallery.of_files(predictor("height", ours=False), files)
    with pytest.raises(ValueError, match="a line of the task that is wrong"):
        list(readable(broken))
    state = ViewerState(broken)
    state.index = 1
    with pytest.raises(ValueError, match="a line of the task that is wrong"):
        _ = state.cloud


def test_what_the_two_calls_give() -> None:
    cloud = split().points[0].numpy()
    height, shade = predictor("height"), predictor("shade")
    assert height(cloud) == height.answer(cloud) and isinstance(height(cloud), float)
    assert height([cloud, cloud]) == [height(cloud)] * 2
    np.testing.assert_array_equal(shade.segment(cloud), shade.answer(cloud))
    with pytest.raises(ValueError, match="call predictor.segment"):
        shade(cloud)
    with pytest.raises(ValueError, match=r"call predictor\(cloud\)"):
        height.segment(cloud)
