"""Search: the nearest by cosine, the query left out, files that cannot be read; its page and command."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from bixt3d import Predictor, cli
from bixt3d.training.evaluate import embed_split
from bixt3d.visualize.search import search, write_search
from tests.inference.test_predictor import save
from tests.training.tiny import make_split


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(save(tmp_path_factory.mktemp("model") / "best.safetensors"), "cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    split = make_split(8, seed=3)
    for number, points in enumerate(split.points.numpy()):
        place = tmp_path / "shapes" / split.classes[int(split.label[number])]
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{number}.npy", points)
    return tmp_path / "shapes"


def test_the_nearest_by_cosine_come_first(predictor: Predictor, folder: Path) -> None:
    files = sorted(folder.rglob("*.npy"))
    query = files[2]
    found = search(predictor, query, files, 4)
    assert query not in [one.file for one in found] and len(found) == 4
    vectors = {file: predictor.embed(file)[0].astype(np.float64) for file in files}
    near = {
        file: float(vectors[query] @ vector / np.linalg.norm(vectors[query]) / np.linalg.norm(vector))
        for file, vector in vectors.items()
        if file != query
    }
    assert [one.file for one in found] == sorted(near, key=lambda file: -near[file])[:4]
    assert [one.similarity for one in found] == pytest.approx(sorted(near.values(), reverse=True)[:4])
    assert len(search(predictor, query, files, 100)) == len(search(predictor, str(query), files, 100)) == 7
    # an array is no file among the others: the same cloud is found, and is as near as can be
    best = search(predictor, np.load(query), files, 1)[0]
    assert best.file == query and best.similarity == pytest.approx(1)


def test_what_cannot_be_read_is_named(
    predictor: Predictor, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted(folder.rglob("*.npy"))
    files[1].write_bytes(b"no array")
    with caplog.at_level(logging.WARNING):
        assert len(search(predictor, files[0], files)) == 6
    assert [record.getMessage().count(str(files[1])) for record in caplog.records] == [1]
    with pytest.raises(ValueError, match="got none that can be read"):
        search(predictor, files[0], [files[1]])
    with pytest.raises(ValueError, match=files[1].name):
        search(predictor, files[1], files)


def test_the_command_prints_and_writes_a_page(
    predictor: Predictor, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save(tmp_path / "best.safetensors")
    query = sorted(folder.rglob("*.npy"))[0]
    words = [
        "search",
        str(query),
        str(folder),
        "--checkpoint",
        str(tmp_path),
        "--top",
        "3",
        "--device",
        "cpu",
    ]
    cli.main([*words, "--html", str(tmp_path / "pages" / "like.html")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "cosine"] and len(lines) == 4
    cli.main([*words, "--format", "json"])
    stated = json.loads(capsys.readouterr().out)
    assert [Path(one["file"]).relative_to(folder).as_posix() for one in stated] == [
        line.split()[0] for line in lines[1:]
    ]
    page = (tmp_path / "pages" / "like.html").read_text()
    assert page.count("<figure>") == 4 and page.count("data:image/png") == 4 and "<script" not in page
    assert f"{stated[0]['cosine']:.3f}" in page
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words[:-4], "--top", "0"])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["search", str(folder), str(query)])
    said = f"QUERY: expected one file, got the folder {folder}; the file comes first"
    assert said in capsys.readouterr().err


def test_thumbnails_stand_as_each_cloud_was_found_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(save(tmp_path / "best.safetensors"), "cpu", up="auto")
    files = sorted(folder.rglob("*.npy"))
    for number, file in enumerate(files):
        np.save(file, np.roll(np.load(file), number, 1))
    axes = {str(file): predictor(file).up for file in files}
    assert len({*axes.values()}) > 1
    found = search(predictor, files[0], files)
    assert {str(one.file): one.up for one in found} == {str(file): axes[str(file)] for file in files[1:]}
    drawn: dict[str, str | None] = {}
    monkeypatch.setattr(
        "bixt3d.visualize.search.card", lambda cloud, *_: drawn.update({cloud.title: cloud.up}) or ""
    )
    write_search(predictor, files[0], found, None, tmp_path / "page.html")
    assert drawn == axes
    stated = Predictor(tmp_path / "best.safetensors", "cpu", up="x")
    assert {one.up for one in search(stated, files[0], files)} == {"x"}


def test_a_split_is_embedded_as_clouds_are(predictor: Predictor) -> None:
    split = make_split(8, seed=3)
    task = predictor.task
    arranged = task.arrange(split)
    rows = embed_split(predictor.model, arranged, 3)
    alone = torch.from_numpy(predictor.embed(list(split.points)))
    assert torch.allclose(rows, alone, atol=1e-5)
    with pytest.raises(ValueError, match="forward_features"):
        embed_split(torch.nn.Linear(3, 3), arranged)


def test_a_segmenter_that_is_told_categories_asks_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = np.random.default_rng(0).normal(size=(600, 6))
    cloud[:, 3:] /= np.linalg.norm(cloud[:, 3:], axis=1, keepdims=True)
    np.save(tmp_path / "cloud.npy", cloud)
    words = ["search", str(tmp_path / "cloud.npy"), str(tmp_path), "--checkpoint", "psb_cpu"]
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words, "--device", "cpu"])
    assert "say --category NAME, of all shapes" in capsys.readouterr().err
