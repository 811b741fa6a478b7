from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from bixt3d import load_model, open_dataset
from bixt3d.datasets.loader import arrange_split
from bixt3d.datasets.synthetic.shapes import CATEGORIES
from bixt3d.metrics import retrieval
from tests.tools.conftest import Outcome, Trained, Workplace

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def outcome(workplace: Workplace, trained: Trained) -> Outcome:
    return workplace.run("evaluate", trained.run_dir / "last").succeeded()


@pytest.fixture(scope="module")
def confusion(workplace: Workplace, trained: Trained) -> torch.Tensor:
    """Counted here, cloud by cloud."""
    split = arrange_split(open_dataset("shapes", workplace.folder / "data", "test"), 48, "fps")
    model = load_model(trained.run_dir / "last", "cpu")
    counts = torch.zeros(10, 10, dtype=torch.int64)
    with torch.no_grad():
        for cloud, label in zip(split.points, split.label, strict=True):
            counts[label, model(cloud[None])[0].argmax()] += 1
    return counts


def test_scores_are_printed(outcome: Outcome, confusion: torch.Tensor) -> None:
    assert "test: 20 shapes of shapes, epoch 3" in outcome.out
    right = confusion.diagonal()
    assert f"OA    {100 * int(right.sum()) / 20:.2f}%" in outcome.out
    assert f"mAcc  {100 * float((right / confusion.sum(1)).mean()):.2f}%" in outcome.out
    table = re.findall(r"^(\w+) +(\d+) +([\d.]+)%", outcome.out, re.M)
    assert [(name, int(count)) for name, count, _ in table] == [(name, 2) for name in CATEGORIES]
    assert [float(share) for *_, share in table] == [50.0 * int(n) for n in right]


def test_files_lie_beside_the_checkpoint(trained: Trained, outcome: Outcome, confusion: torch.Tensor) -> None:
    folder = trained.run_dir / "last_test"
    with open(folder / "confusion.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == list(CATEGORIES)
    assert [row[0] for row in rows[1:]] == list(CATEGORIES)
    assert torch.equal(torch.tensor([[int(n) for n in row[1:]] for row in rows[1:]]), confusion)
    assert (folder / "confusion.png").read_bytes().startswith(PNG)
    result = json.loads((folder / "result.json").read_text())
    assert result["split"] == "test" and result["shapes"] == 20
    assert result["oa"] == pytest.approx(int(confusion.diagonal().sum()) / 20)
    assert str(folder / "confusion.png") in outcome.out and f"are in {folder}" in outcome.out


def test_every_shape_has_a_row(trained: Trained, outcome: Outcome, confusion: torch.Tensor) -> None:
    folder = trained.run_dir / "last_test"
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for row in rows:
        counts[CATEGORIES.index(row["truth"]), CATEGORIES.index(row["label"])] += 1
        assert (row["right"] == "yes") == (row["truth"] == row["label"])
    assert torch.equal(counts, confusion)
    error = json.loads((folder / "result.json").read_text())["calibration_error"]
    assert 0 <= error <= 1 and f"calibration error  {100 * error:.2f}%" in outcome.out
    page = (folder / "report.html").read_text()
    assert page.count("<figure>") == 20 and f"report: {folder / 'report.html'}" in outcome.out


def test_some_of_the_classes_in_a_folder_of_test_shapes(
    workplace: Workplace, trained: Trained, tmp_path: Path
) -> None:
    """Of meshes, without a train folder: their labels are the model's by name."""
    meshes = [mesh for mesh in workplace.meshes if mesh.parent.name in CATEGORIES[3:6]]
    for mesh in meshes:
        (tmp_path / "own/test" / mesh.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(mesh, tmp_path / "own/test" / mesh.parent.name / mesh.name)
    asked = ["data.name=folder", f"data.root={tmp_path / 'own'}"]
    workplace.run("evaluate", trained.run_dir, "--out", tmp_path / "out", "--set", *asked).succeeded()
    with open(tmp_path / "out/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(meshes) == 6
    assert all(row["truth"] == row["file"].split("/")[0] for row in rows)
    with open(tmp_path / "out/table.csv", newline="") as file:
        table = {row["class"]: row["shapes"] for row in csv.DictReader(file)}
    assert table == {name: "2" if name in CATEGORIES[3:6] else "0" for name in CATEGORIES}


def test_scores_are_those_that_training_told(trained: Trained, outcome: Outcome) -> None:
    told = json.loads((trained.run_dir / "result.json").read_text())["last"]
    seen = json.loads((trained.run_dir / "last_test" / "result.json").read_text())
    assert {key: seen[key] for key in ("oa", "macc")} == {key: told[key] for key in ("oa", "macc")}


def test_other_split_settings_and_folder(workplace: Workplace, trained: Trained, tmp_path: Path) -> None:
    settings = [f"data.root={workplace.folder / 'data'}", "train.eval_batch_size=3"]
    outcome = workplace.run(
        *("evaluate", trained.run_dir, "--split", "val", "--out", tmp_path / "a" / "b"),
        *("--cfg", workplace.config, "--set", *settings),
    ).succeeded()
    assert "val: 10 shapes of shapes" in outcome.out and "trained on these" not in outcome.out
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} == {
        "confusion.csv",
        "confusion.png",
        "predictions.csv",
        "report.html",
        "result.json",
        "table.csv",
        "worst.png",
    }


def test_scores_on_what_was_learned_say_so(workplace: Workplace, trained: Trained, tmp_path: Path) -> None:
    asked = ["evaluate", trained.run_dir, "--out", tmp_path, "--split"]
    for split, words in (("train", "trained on these shapes (train)"), ("trainval", "trained on these")):
        assert words in workplace.run(*asked, split).succeeded().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/trained/beast"], ["no checkpoint", "best.safetensors, last.safetensors"]),
        (["runs/trained/resume.pt"], ["runs/trained/resume.pt", "another format"]),
        (["runs/trained", "--split", "tset"], ["split", "'tset'"]),
        (["runs/trained", "--set", "data.roots=x"], ["unknown key data.roots", "did you mean 'root'?"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistake_ends_with_one_line(
    arguments: list[str], words: list[str], workplace: Workplace, trained: Trained
) -> None:
    workplace.run("evaluate", *arguments).refused(*words)


def test_retrieval_stands_beside_the_accuracy(workplace: Workplace, trained: Trained, tmp_path: Path) -> None:
    told = (
        workplace.run("evaluate", trained.run_dir / "last", "--retrieval", "--out", tmp_path).succeeded().out
    )
    split = arrange_split(open_dataset("shapes", workplace.folder / "data", "test"), 48, "fps")
    model = load_model(trained.run_dir / "last", "cpu")
    with torch.no_grad():
        vectors = model.forward_features(split.points)[0].mean(1)
    wanted = retrieval(vectors, split.label)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["retrieval_map"] == pytest.approx(wanted["map"], abs=1e-4)
    assert f"retrieval mAP  {100 * result['retrieval_map']:.2f}%" in told
    assert "retrieval mAP" in (tmp_path / "report.html").read_text()
