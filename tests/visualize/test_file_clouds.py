"""Clouds of files without a model: their own colours and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bixt3d.visualize import FileClouds
from bixt3d.visualize.browse import readable
from bixt3d.visualize.html import write_page
from bixt3d.visualize.labels import write_ply
from bixt3d.visualize.pictures import write_pictures
from bixt3d.visualize.viewer_state import ViewerState
from tests.visualize.clouds import ball

XYZ = np.random.default_rng(0).normal(size=(60, 3))
BYTES = np.random.default_rng(1).integers(0, 256, (60, 3))
LABEL = np.arange(60) % 3 + 7


def test_folders_are_the_categories(tmp_path: Path) -> None:
    for name in ("scan.xyz", "chair/a.npy", "chair/deep/b.npy", "notes.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, XYZ) if path.suffix == ".npy" else np.savetxt(path, XYZ)
    clouds = FileClouds([tmp_path, tmp_path / "scan.xyz"], up="z")
    assert clouds.titles == ("a.npy", "b.npy", "scan.xyz", "scan.xyz")
    assert clouds.categories == ("chair", "deep", "", "")
    seen = clouds[2]
    assert seen.modes == ("shape",) and seen.verdict == "60 points" and seen.up == "z"
    np.testing.assert_array_equal(seen.points, XYZ)
    flat = XYZ * [5, 4, 0.1]
    np.save(tmp_path / "chair/a.npy", flat)
    assert FileClouds([tmp_path], up="auto")[0].up == "z"
    with pytest.raises(ValueError, match="up: expected one of x, .*auto, or None, got 'north'"):
        FileClouds([tmp_path], up="north")
    with pytest.raises(FileNotFoundError, match="no file or folder .*nowhere"):
        FileClouds([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no clouds to look at in .*empty: expected .*\.ply"):
        FileClouds([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("columns", "modes"),
    [
        ([BYTES], ("color",)),
        ([BYTES / 255], ("color",)),
        ([BYTES, LABEL[:, None]], ("truth", "color")),
        ([XYZ / np.linalg.norm(XYZ, axis=1, keepdims=True)], ("shape",)),
        ([XYZ / np.linalg.norm(XYZ, axis=1, keepdims=True), LABEL[:, None]], ("truth",)),
        ([LABEL[:, None]], ("truth",)),
        ([np.arange(60)[:, None] * 0.37], ("shape",)),  # an intensity, say
        ([np.arange(60)[:, None] * 1000], ("truth",)),
        ([1e9 * XYZ], ("shape",)),  # whatever that is
    ],
)
def test_columns_without_names(columns: list[np.ndarray], modes: tuple[str, ...], tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.xyz", np.concatenate([XYZ, *columns], axis=1), fmt="%.9g")
    seen = FileClouds([tmp_path / "a.xyz"])[0]
    assert seen.modes == modes
    if "color" in modes:
        np.testing.assert_allclose(seen.color, BYTES / 255, atol=1e-6)
    if seen.truth is not None and len(seen.ids) == 3:
        names = np.array(seen.names)[seen.truth]
        np.testing.assert_array_equal(names, [f"label {label}" for label in LABEL])


def test_names_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", points=XYZ, color=BYTES.astype(np.uint8), label=LABEL)
    write_ply(ball(count=60), tmp_path / "b.ply")  # our own: colours, part, confidence
    first, second = FileClouds([tmp_path])
    assert first.modes == ("truth", "color") and second.modes == ("truth", "color")
    np.testing.assert_allclose(first.color, BYTES / 255)
    np.testing.assert_allclose(second.color, ball(count=60).colors("prediction"), atol=1 / 255)
    np.testing.assert_array_equal(second.truth, ball(count=60).prediction)


def test_every_view_shows_them_and_a_bad_file_ends_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", XYZ)
    (tmp_path / "b.ply").write_text("ply\nnothing")
    np.save(tmp_path / "c.npy", np.concatenate([XYZ, BYTES], axis=1))
    clouds = FileClouds([tmp_path])
    assert [place for place, _ in readable(clouds)] == [0, 2]
    assert "left out: " in capsys.readouterr().out
    state = ViewerState(clouds)
    assert state.mode == "shape" and state.colors.shape == (60, 3)
    state.act("next")
    assert state.cloud is None and "b.ply" in state.fault
    state.act("next")
    assert state.mode == "color" and state.title == "c.npy"
    assert len(write_pictures(clouds, tmp_path / "p")) == 2
    page = write_page((cloud for _, cloud in readable(clouds)), tmp_path / "page.html").read_text()
    assert page.count('class="cloud"') == 2


def test_what_is_hidden_is_no_cloud(tmp_path: Path) -> None:
    for name in ("a.npy", "._a.npy", ".bixt3d_cache/b.npy", "chair/.deep/c.npy", "chair/d.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, XYZ)
    assert FileClouds([tmp_path]).titles == ("a.npy", "d.npy")
    assert FileClouds([tmp_path / "._a.npy"]).titles == ("._a.npy",)  # that is named


def test_a_scan_that_nobody_classified_has_no_labels(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    for name, labels in (("bare", np.zeros(50)), ("labelled", np.arange(50) % 3)):
        las = laspy.create()
        las.xyz = np.random.default_rng(0).random((50, 3))
        las.classification = labels.astype(np.uint8)
        las.write(tmp_path / f"{name}.las")
    bare, labelled = FileClouds([tmp_path / "bare.las", tmp_path / "labelled.las"])
    assert bare.truth is None and labelled.truth is not None
