"""bixt3d predict: folders, one row a file, labels of points and faces, categories from folders."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import laspy
import numpy as np
import pytest
import torch
import trimesh

from bixt3d import Predictor, cli, create_model
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.tasks import Description
from bixt3d.training.checkpoint import save_model
from tests.inference.test_stream import write_scan
from tests.models.randomize import randomize
from tests.training.tiny import CLASSES, NAIVE, awaken

FACTS = {
    "classes": ["Mug", "table"],
    "parts_of_category": [[0, 1], [2, 3, 4]],
    "part_names": ["body", "handle", "top", "leg", "shelf"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A classifier and a part segmenter."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    args: dict[str, Any] = {"num_classes": 4, **NAIVE}
    about = Description(
        "classification", {"name": "bixt_ti_cls", "args": args}, {"classes": list(CLASSES)}, Preprocess(32)
    )
    save_model(folder / "classes.safetensors", awaken(create_model("bixt_ti_cls", **args)), about)
    args = {"num_parts": 5, "num_categories": 2, "dim": 12, "depth": 2, "num_heads": 2, "num_latents": 4}
    model = create_model("bixt_ti_partseg", **args)
    randomize(model)
    preprocess = Preprocess(32, "random", 200)
    about = Description("part_segmentation", {"name": "bixt_ti_partseg", "args": args}, FACTS, preprocess)
    save_model(folder / "parts.safetensors", model, about)
    return {name: str(folder / f"{name}.safetensors") for name in ("classes", "parts")}


@pytest.fixture
def clouds(tmp_path: Path) -> Path:
    """Clouds in folders of two categories, a file that is damaged, and one that is none."""
    random = np.random.default_rng(0)
    for name in ("MUG/a.npy", "MUG/b.xyz", "table/c.npy", "table/.hidden.npy"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        points = random.normal(size=(50, 3))
        np.save(path, points) if path.suffix == ".npy" else np.savetxt(path, points)
    (tmp_path / "in/table/bad.xyz").write_text("0 0\n")
    (tmp_path / "in/notes.md").write_text("not a cloud")
    trimesh.creation.box().export(tmp_path / "in/table/box.off")
    return tmp_path / "in"


def predict(*words: Any) -> None:
    cli.main(["predict", *map(str, words), "--device", "cpu"])


def test_folder_skips_and_lists_what_a_training_skips(models: Any, clouds: Path, capsys: Any) -> None:
    predict(models["classes"], clouds)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [Path(line.split("  ")[0].strip()).name for line in lines] == [
        "a.npy",
        "b.xyz",
        "box.off",
        "c.npy",
    ]
    first = Predictor(models["classes"], "cpu")(clouds / "MUG/a.npy")
    assert f"{first.label} {first.probabilities.max():.1%}" in lines[0]
    assert f"passed over, no meshes or clouds: {clouds / 'notes.md'} (1 in all)" in said.err
    assert f"skipped: {clouds / 'table/bad.xyz'}" in said.err and "error: " not in said.err
    assert "skipped: 1 of 5 files" in said.err


def test_file_that_is_named_must_be_readable(models: Any, clouds: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="1 of 2 files failed"):
        predict(models["classes"], clouds / "table/bad.xyz", clouds / "MUG/a.npy")
    assert f"error: {clouds / 'table/bad.xyz'}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1 of 1 file failed"):
        (clouds / "alone").mkdir()
        shutil.move(clouds / "table/bad.xyz", clouds / "alone/bad.xyz")
        predict(models["classes"], clouds / "alone")


def test_csv_has_one_row_a_file(models: Any, clouds: Path, capsys: Any) -> None:
    predict(models["classes"], clouds, "--format", "csv", "--top", "2", "--batch-size", "2")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 5
    assert list(rows[0]) == ["file", "class", "probability", "class_2", "probability_2", "error"]
    predictor = Predictor(models["classes"], "cpu")
    for row in rows:
        if row["error"]:
            assert row["file"].endswith("bad.xyz") and row["class"] == ""
            continue
        seen = predictor(row["file"])
        assert row["class"] == seen.label
        assert float(row["probability"]) == pytest.approx(seen.probabilities.max(), abs=2e-5)


def test_axis_that_points_up(models: Any, clouds: Path, capsys: Any) -> None:
    predict(models["classes"], clouds / "MUG", "--up", "-z", "--format", "json", "--top", "1")
    row = json.loads(capsys.readouterr().out)[0]
    seen = Predictor(models["classes"], "cpu", up="-z")(clouds / "MUG/a.npy")
    assert row["classes"][0]["probability"] == pytest.approx(seen.probabilities.max(), abs=2e-5)
    predict(models["classes"], clouds / "MUG/a.npy", "--up", "auto", "--format", "json")
    row = json.loads(capsys.readouterr().out)[0]
    assert row["up"] == Predictor(models["classes"], "cpu", up="auto")(clouds / "MUG/a.npy").up


def test_turns(models: Any, clouds: Path, capsys: Any) -> None:
    predict(models["classes"], clouds / "MUG/a.npy", "--turns", "3", "--format", "json", "--top", "1")
    row = json.loads(capsys.readouterr().out)[0]
    seen = [Predictor(models["classes"], "cpu", turns=turns)(clouds / "MUG/a.npy") for turns in (1, 3)]
    assert row["classes"][0]["probability"] == pytest.approx(seen[1].confidence, abs=2e-5)
    assert abs(seen[0].confidence - seen[1].confidence) > 1e-4
    with pytest.raises(SystemExit) as end:
        predict(models["classes"], clouds, "--turns", "0")
    assert (
        end.value.code == 2 and "--turns: expected a whole number from 1 up, got 0" in capsys.readouterr().err
    )


def test_forms_need_a_folder(models: Any, clouds: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        predict(models["parts"], clouds, "--write", "npy")
    assert (
        end.value.code == 2 and "--write says in which forms --out FOLDER writes" in capsys.readouterr().err
    )


def test_category_is_called_as_the_model_calls_it(models: Any, clouds: Path, capsys: Any) -> None:
    predict(models["parts"], clouds / "MUG/a.npy", "--category", "mUG", "--format", "json")
    assert json.loads(capsys.readouterr().out)[0]["category"] == "Mug"


def test_categories_are_the_folders(models: Any, clouds: Path, tmp_path: Path, capsys: Any) -> None:
    forms = ["ply", "npy", "csv", "mesh"]
    predict(models["parts"], clouds, "--out", tmp_path / "out", "--write", *forms, "--format", "json")
    said = capsys.readouterr()
    rows = {Path(row["file"]).name: row for row in json.loads(said.out)}
    predictor = Predictor(models["parts"], "cpu")
    for name, category, possible in (("a.npy", "Mug", {0, 1}), ("box.off", "table", {2, 3, 4})):
        row = rows[name]
        assert row["category"] == category
        seen = predictor.segment(row["file"], category)
        table = np.load(row["npy"])
        np.testing.assert_array_equal(table["part"], seen.parts)
        np.testing.assert_allclose(table["x"], seen.points[:, 0])
        assert set(table["part"]) <= possible and row["points"] == len(seen.parts)
        assert sum(part["points"] for part in row["parts"]) == row["points"]
        assert Path(row["ply"]).name == f"{Path(name).stem}_parts.ply"
        assert len(Path(row["csv"]).read_text().splitlines()) == 1 + len(seen.parts)
    mesh = trimesh.load(rows["box.off"]["mesh"], process=False)
    assert len(mesh.faces) == 12 and len(mesh.vertices) == 8
    assert "mesh" not in rows["c.npy"] and "bad.xyz" in rows["bad.xyz"]["error"]
    predict(
        models["parts"], clouds / "table", "--out", tmp_path / "faces", "--write", "mesh", "--format", "json"
    )
    rows = {Path(row["file"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert "expected a mesh, for the labels of its faces" in rows["c.npy"]["error"]
    assert [path.name for path in (tmp_path / "faces").glob("*.ply")] == ["box_parts_faces.ply"]


def test_category_in_any_case(models: Any, clouds: Path, tmp_path: Path, capsys: Any) -> None:
    predict(models["parts"], clouds / "MUG/a.npy", "--category", "TABLE", "--ply", tmp_path / "out")
    said = capsys.readouterr()
    assert "50 points" in said.out and ("top" in said.out or "leg" in said.out or "shelf" in said.out)
    assert (tmp_path / "out/a_parts.ply").is_file() and "the labels of 1 cloud are in" in said.err
    shutil.copy(clouds / "MUG/a.npy", tmp_path / "alone.npy")
    todo = "say --category Mug or --category table, or put the file in a folder of that name"
    wanted = f"{tmp_path / 'alone.npy'}: category: this model needs to be told it, one of Mug, table; {todo}"
    with pytest.raises(SystemExit, match=re.escape(wanted)):
        predict(models["parts"], tmp_path / "alone.npy")
    with pytest.raises(SystemExit):  # one of a known folder, one of none
        predict(models["parts"], clouds / "MUG/a.npy", tmp_path / "alone.npy")
    said = capsys.readouterr()
    assert f"error: {wanted}" in said.err and "a.npy" in said.out


def test_broken_file_is_named_before_its_category(models: Any, clouds: Path, capsys: Any) -> None:
    (clouds / "other").mkdir()
    shutil.move(clouds / "table/bad.xyz", clouds / "other/bad.xyz")
    shutil.copy(clouds / "MUG/a.npy", clouds / "other/good.npy")
    predict(models["parts"], clouds)
    said = capsys.readouterr().err
    bad, good = (line for line in said.splitlines() if str(clouds / "other") in line)
    assert bad.startswith("skipped: ") and "bad.xyz" in bad and "category" not in bad
    assert "good.npy: category: this model needs" in good and "or put the file in a folder" in good
    assert "skipped: 2 of 6 files" in said
    with pytest.raises(SystemExit, match=r"good\.npy: category: this model needs"):
        predict(models["parts"], clouds / "other")
    said = capsys.readouterr().err
    assert f"skipped: {clouds / 'other/bad.xyz'}" in said
    with pytest.raises(SystemExit, match="1 of 1 file failed"):
        predict(models["parts"], clouds / "other/bad.xyz")
    with pytest.raises(SystemExit, match="category: expected one of Mug, table, got 'tabel'; did you mean"):
        predict(models["parts"], clouds, "--category", "tabel")


def test_labels_keep_folders_and_those_of_other_files(
    models: Any, clouds: Path, tmp_path: Path, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("MUG", "table"):
        np.save(clouds / folder / "s0.npy", np.random.default_rng(len(folder)).normal(size=(50, 3)))
    predict(models["parts"], clouds, "--out", tmp_path / "all", "--write", "npy")
    found = {str(path.relative_to(tmp_path / "all").as_posix()) for path in (tmp_path / "all").rglob("*.npy")}
    names = ("MUG/a", "MUG/b", "MUG/s0", "table/c", "table/box", "table/s0")
    assert found == {f"{name}_parts.npy" for name in names}
    for _ in range(2):  # again, the same names
        for folder in ("MUG", "table"):
            predict(models["parts"], clouds / folder / "s0.npy", "--out", tmp_path / "one", "--write", "npy")
        found = {path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*.npy")}
        assert found == {"s0_parts.npy", "table/s0_parts.npy"}
    for folder, name in (("MUG", "s0_parts"), ("table", "table/s0_parts")):
        table, points = np.load(tmp_path / f"one/{name}.npy"), np.load(clouds / folder / "s0.npy")
        np.testing.assert_array_equal(table["x"], points[:, 0])
    assert "its labels are named table/s0_parts, as s0_parts is another file's" in caplog.text


def test_options_that_do_not_fit(models: Any, clouds: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="--radius and --step: for models of scenes, .*safetensors is none"):
        predict(models["classes"], clouds, "--radius", "3", "--step", "1")
    with pytest.raises(SystemExit, match="--ply and --category are for part segmenters"):
        predict(models["classes"], clouds, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for words, message in (
        (["--top", "0"], "--top: expected 1 or more, got 0"),
        (["--batch-size", "0"], "--batch-size: expected 1 or more, got 0"),
        (["--ply", "a", "--out", "b"], "give --ply or --out, not both"),
    ):
        with pytest.raises(SystemExit):
            predict(models["parts"], clouds, *words)
        assert message in capsys.readouterr().err


def test_scenes_in_laz_are_written_again_with_other_classifications(tmp_path: Path, capsys: Any) -> None:
    args = {"num_classes": 4, "neighbors": 4}
    model = create_model("bixt_pico_sceneseg_encdec", **args)
    randomize(model)
    facts = {"classes": ["scene"], "parts_of_category": [[1, 2, 3]], "part_names": ["none", *"abc"]}
    built = {"name": "bixt_pico_sceneseg_encdec", "args": args}
    about = Description("scene_segmentation", built, facts, Preprocess(64, "random", up="z"))
    save_model(tmp_path / "scenes.safetensors", model, about)
    write_scan(tmp_path / "in/city.laz", 500)
    np.save(tmp_path / "in/other.npy", np.random.default_rng(0).uniform(0, 30, (200, 3)))
    out, checkpoint = tmp_path / "out", tmp_path / "scenes.safetensors"
    predict(tmp_path / "in", "--checkpoint", checkpoint, "--out", out, "--format", "json", "--radius", 12)
    rows = json.loads(capsys.readouterr().out)
    assert [Path(row.get("las", row.get("ply"))).name for row in rows] == [
        "city_parts.laz",
        "other_parts.ply",
    ]
    labels = np.asarray(laspy.read(out / "city_parts.laz").classification)
    assert {part["part"]: part["points"] for part in rows[0]["parts"]} == {
        int(label): int((labels == label).sum()) for label in np.unique(labels)
    }
    answer = Predictor(checkpoint, "cpu", task_args={"radius": 12}).segment(tmp_path / "in/city.laz")
    assert (labels == answer.parts).all() and sum(part["points"] for part in rows[0]["parts"]) == 500
    predict(checkpoint, tmp_path / "in/city.laz", "--out", out, "--write", "npy")
    assert len(np.load(out / "city_parts.npy")) == 500
    with pytest.raises(SystemExit, match="--write las: expected no other form, a LAS or LAZ file"):
        predict(checkpoint, tmp_path / "in/other.npy", "--out", out, "--write", "las")
