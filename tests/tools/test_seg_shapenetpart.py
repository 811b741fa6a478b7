"""tools/seg_shapenetpart.py as a user runs it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bixt3d import Predictor
from bixt3d.commands.attention import measure
from bixt3d.datasets.readers import read_cloud
from bixt3d.datasets.synthetic.shapes import CATEGORIES
from tests.tools.conftest import Outcome, Workplace

REPORT = {"table.csv", "result.json", "predictions.csv", "part_iou.csv", "worst.png", "report.html"}
CONFIG = """
data:
  name: shapenetpart
  num_points: 64
  order: random
model:
  name: bixt_ti_partseg
  args: {dim: 12, depth: 2, num_heads: 2, num_latents: 4, drop_path: 0.0}
optim:
  lr: 1.0e-2
  warmup_epochs: 1
train:
  epochs: 2
  batch_size: 14
  ema_decay: 0.5
run:
  tensorboard: false
"""


@pytest.fixture(scope="module")
def config(workplace: Workplace) -> Path:
    path = workplace.folder / "parts.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def outcome(workplace: Workplace, config: Path) -> Outcome:
    settings = [f"data.root={workplace.folder / 'data/shapes'}"]
    return workplace.run("seg_shapenetpart", "--cfg", config, "--set", *settings).succeeded()


@pytest.fixture(scope="module")
def run_dir(workplace: Workplace, outcome: Outcome) -> Path:
    return workplace.folder / "runs" / "parts"


def test_training_tells_its_scores_under_both_conventions(outcome: Outcome, run_dir: Path) -> None:
    sizes = "shapenetpart: 70 train, 10 val, 20 test"
    assert re.search(rf"bixt_ti_partseg: [\d,]+ parameters on cpu\n{sizes}", outcome.out)
    assert "class mIoU (pointmlp)" in outcome.out and "test, last epoch:" in outcome.out
    result = json.loads((run_dir / "result.json").read_text())
    assert result["last"]["epoch"] == 2 and 0 < result["last"]["class_miou_pointnet2"] < 1
    lines = [line for line in outcome.err.splitlines() if line.startswith("epoch")]
    assert all(len(line) <= 80 for line in lines)


def test_checkpoint_is_only_evaluated(workplace: Workplace, run_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.glob("*") if path.is_file()}
    done = workplace.run("seg_shapenetpart", "--checkpoint", run_dir / "last", "--picture", "2").succeeded()
    assert before == {path: path.stat().st_mtime_ns for path in run_dir.glob("*") if path.is_file()}
    folder = run_dir / "last_test"
    assert {path.name for path in folder.iterdir()} == {*REPORT, "parts.png"}
    assert (folder / "parts.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((run_dir / "result.json").read_text())["last"]
    seen = json.loads((folder / "result.json").read_text())
    assert {k: seen[k] for k in told if k != "epoch"} == {k: v for k, v in told.items() if k != "epoch"}
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == list(CATEGORIES) and {row[1] for row in rows[1:]} == {"2"}
    assert f"class mIoU (pointnet2)     {100 * told['class_miou_pointnet2']:.2f}%" in done.out
    assert f"class mIoU (pointmlp)      {100 * told['class_miou_pointmlp']:.2f}%" in done.out
    assert max(map(len, done.out.split("\n\n")[0].splitlines())) <= 80


def test_clouds_of_an_evaluation_are_drawn_as_they_were_scored(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have been turned already, so `data.up` turns them no more."""
    from bixt3d import visualize
    from bixt3d.commands.evaluate import draw_parts
    from bixt3d.training.evaluate import evaluate_checkpoint

    drawn: list[visualize.Gallery] = []
    monkeypatch.setattr(visualize, "part_picture", lambda clouds, path: drawn.append(clouds) or path)
    monkeypatch.setattr(Predictor, "answer", lambda self, cloud, category: self.preprocess.up)
    scored = evaluate_checkpoint(run_dir / "last", overrides=["data.up=z"], out=tmp_path)
    draw_parts(str(run_dir / "last"), scored, torch.device("cpu"), 1)
    assert drawn[0].predictor.answer(None, None) == "y"


def test_evaluate_takes_a_segmenter_too(workplace: Workplace, run_dir: Path, tmp_path: Path) -> None:
    done = workplace.run("evaluate", run_dir / "last", "--split", "val", "--out", tmp_path).succeeded()
    assert "val: 10 shapes of shapenetpart" in done.out
    assert {path.name for path in tmp_path.iterdir()} == REPORT


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--set", "data.root=nowhere", "run.dir=runs/new"],
            ["no data set shapenetcore_partanno", "nowhere"],
        ),
        (["--set", "data.order=fps"], ["data.order", "random"]),
        (
            ["--set", "model.args.dimm=3", "data.root=data/shapes", "run.dir=runs/new"],
            ["no argument 'dimm'", "mean 'dim'"],
        ),
        (["--checkpoint", "runs/none", "--split", "test"], ["no checkpoint runs/none"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistake_ends_with_one_line(
    arguments: list[str], words: list[str], workplace: Workplace, config: Path
) -> None:
    workplace.run("seg_shapenetpart", "--cfg", config, *arguments).refused(*words)


@pytest.mark.parametrize(
    "arguments", [["--split", "val"], ["--picture", "2"], ["--checkpoint", "runs/parts", "--resume"]]
)
def test_options_that_do_not_go_together(arguments: list[str], workplace: Workplace) -> None:
    outcome = workplace.run("seg_shapenetpart", *arguments)
    assert outcome.code == 2 and "--checkpoint" in outcome.err and "Traceback" not in outcome.err


def test_predictor_labels_a_mesh(workplace: Workplace, run_dir: Path) -> None:
    predictor = Predictor(run_dir / "last", "cpu")
    mesh = next(path for path in workplace.meshes if path.parent.name == "mug")
    seen = predictor.segment(mesh, "mug")
    assert len(seen.parts) == len(seen.points) == len(seen.names) and seen.points.shape[1] == 6
    assert set(seen.names) <= {"body", "handle", "lid"}


def test_own_files_get_their_parts(workplace: Workplace, run_dir: Path, tmp_path: Path) -> None:
    mesh = next(path for path in workplace.meshes if "chair" in path.name)
    files = [mesh, tmp_path / "gone.off"]
    options = ("--checkpoint", run_dir / "last", "--category", "chair", "--ply", tmp_path / "coloured")
    outcome = workplace.run("predict", *files, *options, "--format", "json")
    assert outcome.code == 1 and "gone.off" in outcome.err and "1 of 2 files failed" in outcome.err
    row, failed = json.loads(outcome.out)
    seen = Predictor(run_dir / "last", "cpu").segment(mesh, "chair")
    assert row["points"] == len(seen.parts) == sum(part["points"] for part in row["parts"])
    assert {part["name"] for part in row["parts"]} == set(seen.names)
    assert failed["file"].endswith("gone.off") and "no file" in failed["error"]
    cloud = read_cloud(tmp_path / "coloured" / f"{mesh.stem}_parts.ply")
    np.testing.assert_array_equal(cloud, seen.points[:, :3])


def test_predict_needs_a_category_that_exists(workplace: Workplace, run_dir: Path, tmp_path: Path) -> None:
    mesh = tmp_path / "shape.off"  # in a folder that is named for none
    shutil.copy(workplace.meshes[0], mesh)
    for options, words in (((), "needs to be told it"), (("--category", "chiar"), "'chair'")):
        workplace.run("predict", mesh, "--checkpoint", run_dir, *options).refused("category", words)
    named = workplace.run("predict", workplace.meshes[0], "--checkpoint", run_dir, "--format", "json")
    assert json.loads(named.succeeded().out)[0]["category"] == workplace.meshes[0].parent.name


def test_attention_is_drawn_and_its_directions_compared(
    workplace: Workplace, run_dir: Path, tmp_path: Path
) -> None:
    mesh = workplace.meshes[0]
    category = mesh.parent.name
    outcome = workplace.run(
        *("view_attention", mesh, "--checkpoint", run_dir, "--category", category),
        *("--latents", "1", "4", "--out", tmp_path / "a.svg"),
    )
    assert "a.svg" in outcome.succeeded().out
    text = (tmp_path / "a.svg").read_text()
    assert "<!-- latent 4 -->" in text and f"<!-- {mesh.name} -->" in text
    beyond = ("--category", category, "--latents", "2", "5", "--out", tmp_path / "c.svg")
    workplace.run("view_attention", mesh, "--checkpoint", run_dir, *beyond).refused(
        "--latents: expected 1 to 4, got 5"
    )
    other = ("--category", category, "--of", "tokens", "--out", tmp_path / "b.svg")
    workplace.run("view_attention", mesh, "--checkpoint", run_dir, *other).succeeded()
    assert (tmp_path / "b.svg").read_text() != text
    outcome = workplace.run(
        *("view_attention", "--symmetry", "--checkpoint", run_dir, "--shapes", "3"),
        *("--out", tmp_path / "s.png"),
    )
    assert f"{run_dir}: 1.000 ± 0.000" in outcome.succeeded().out
    assert (tmp_path / "s.png").stat().st_size > 1000
    diversity = ("--diversity", "--checkpoint", run_dir, run_dir, "--shapes", "3")
    said = workplace.run("view_attention", *diversity).succeeded().out
    layers = re.findall(r"^  layer \d: (-?[\d.]+) ± [\d.]+  ([\d.]+) ± [\d.]+$", said, re.M)
    assert layers and all(-1 <= float(alike) <= 1 and 0 <= float(even) <= 1 for alike, even in layers)
    said = workplace.run("view_attention", "--freedom", "--checkpoint", run_dir, "--shapes", "3").out
    counts = re.findall(
        r"^  layer \d: ([\d,]+) of ([\d,]+)  ([\d,]+) of ([\d,]+)  [\d.]+ to read", said, re.M
    )
    for shared, most_shared, separate, most_separate in [
        [int(number.replace(",", "")) for number in row] for row in counts
    ]:
        assert 0 < shared <= most_shared < separate <= most_separate < 2 * most_shared
    assert counts
    beside = ("--shape", "0", "7", "--of", "both", "--latents", "1", "3", "--out", tmp_path / "c.svg")
    workplace.run("view_attention", "--checkpoint", run_dir, *beside).succeeded()
    text = (tmp_path / "c.svg").read_text()
    captions = re.findall(r"<!-- (\w+, shape \d) · layer 1 · (read by \w+) -->", text)
    assert [caption[1] for caption in captions] == 2 * ["read by latents"] + 2 * ["read by points"]
    assert len(set(captions)) == 4 and text.count("<!-- latent ") == 4
    outcome = workplace.run("view_attention", "--checkpoint", run_dir, "--shape", "99")
    outcome.refused("--shape: expected 0 to 19, got 99")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x.off", "--symmetry", "--checkpoint", "a"), "--freedom measure shapes of the data: give no"),
        (("--checkpoint", "a", "--symmetry", "--shapes", "0"), "expected numbers from 1"),
        (("--checkpoint", "a", "--heads", "0"), "expected numbers from 1"),
        (("--checkpoint", "a", "--diversity", "--of", "tokens"), "--of: for a picture; a measure takes all"),
        (("--checkpoint", "a", "--latents", "2", "0"), "expected numbers from 1"),
        (("--checkpoint", "a", "x.off"), "a file goes before --checkpoint"),
    ],
)
def test_options_of_attention_that_do_not_fit(
    arguments: tuple[str, ...], words: str, workplace: Workplace
) -> None:
    outcome = workplace.run("view_attention", *arguments)
    assert outcome.code == 2 and words in outcome.err


@pytest.mark.parametrize(
    ("count", "shapes", "expected"), [(127, 64, 64), (8, 4, 4), (7, 4, 4), (3, 64, 3), (64, 64, 64)]
)
def test_as_many_shapes_are_measured_as_asked_for(
    count: int, shapes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stub:
        task = SimpleNamespace(per_point=False)

        def number(self, cloud: int, _: object) -> list[int]:
            return [cloud]

    class Shapes:
        points = range(count)

        def __len__(self) -> int:
            return count

    monkeypatch.setattr("bixt3d.inference.loading.training_split", lambda *_: Shapes())
    (seen,) = measure(Stub(), "number", "test", None, shapes)  # type: ignore[arg-type]
    steps = np.diff(seen)
    assert len(seen) == expected and seen[0] == 0 and np.ptp(steps) <= 1


def test_settings_of_the_other_tool(workplace: Workplace, config: Path) -> None:
    """Or a classifier would be trained by the tool for parts, without a word."""
    settings = ("--set", f"data.root={workplace.folder / 'data'}", "run.dir=runs/other")
    parts = workplace.run("seg_shapenetpart", "--cfg", workplace.config, *settings)
    parts.refused("tiny.yaml is for classification: use tools/train_cls.py")
    classes = workplace.run("train_cls", "--cfg", config, *settings)
    classes.refused("parts.yaml is for part segmentation: use tools/seg_shapenetpart.py")
    assert not (workplace.folder / "runs/other").exists()


def test_folder_of_clouds_that_is_a_file(workplace: Workplace, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    mesh = workplace.meshes[0]
    told = ("--checkpoint", run_dir, "--category", mesh.parent.name, "--ply", tmp_path / "taken")
    workplace.run("predict", mesh, *told).refused("taken is a file, no folder")
    told = (*told[:-1], tmp_path / "new", "--format", "json")
    rows = json.loads(workplace.run("predict", mesh, mesh, *told).succeeded().out)
    written = [tmp_path / "new" / f"{mesh.stem}_parts{number}.ply" for number in ("", "_2")]
    assert [row["ply"] for row in rows] == list(map(str, written)) and all(map(Path.is_file, written))
