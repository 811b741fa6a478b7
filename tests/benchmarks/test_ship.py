"""Shipping runs of tiny models, trained here: files, list, cards, stored slice, and loading by name."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import bixt3d
from benchmarks import ship as shipping
from benchmarks.ship import answer, halved, main, page, portable, ship, spread, training_command
from bixt3d.config import config_from, load_config
from bixt3d.datasets.synthetic.shapes import write_shapes
from bixt3d.training import weights
from bixt3d.training.checkpoint import load_checkpoint, save_model
from bixt3d.training.evaluate import evaluate_checkpoint
from bixt3d.training.experiment import train
from bixt3d.training.splits import build_task, open_splits
from tests.test_structure import MACHINE_PATH
from tests.test_weights import ask_again, check_slice, read_slice
from tests.tools.conftest import CONFIG
from tests.tools.test_seg_shapenetpart import CONFIG as PARTS_CONFIG
from tests.training.tiny import contents

CPU = torch.device("cpu")
ROOTS = {"tiny": "data", "tiny_parts": "data/shapes"}
NOTE = "Shapes that the project makes; Apache-2.0."
WORDS = {"purpose": "tells ten shapes apart", "data": NOTE, "log": "results/modelnet40_cpu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, runs/tiny and runs/tiny_parts, and both shipped into shelf/."""
    place = tmp_path_factory.mktemp("ship")
    write_shapes(place / "data", per_class=10, num_points=256, progress=False)
    for name, text in (("tiny", CONFIG), ("tiny_parts", PARTS_CONFIG)):
        (place / f"{name}.yaml").write_text(text)
        run, root = place / "runs" / name, place / ROOTS[name]
        train(load_config(place / f"{name}.yaml", [f"data.root={root}", f"run.dir={run}"]), device=CPU)
        told = json.loads((run / "environment.json").read_text())
        program = f"{place}/tools/train.py --cfg {place}/{name}.yaml"
        told["command"] = f"{program} --set data.root={root} run.dir={run}"
        (run / "environment.json").write_text(json.dumps(told))
        ship(run, name, WORDS, place / "shelf")
    return place


@pytest.fixture
def shelf(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, in the place of the project's."""
    monkeypatch.setattr(weights, "FOLDER", place / "shelf")
    monkeypatch.setattr(weights, "LIST", place / "shelf" / "weights.json")
    return place / "shelf"


@pytest.mark.parametrize("name", ROOTS)
def test_files_list_and_cards(name: str, shelf: Path) -> None:
    assert bixt3d.list_weights() == list(ROOTS)
    files = {f"{one}{kind}" for one in ROOTS for kind in (".safetensors", ".predictions.npz")}
    assert {path.name for path in shelf.iterdir()} == {"README.md", "weights.json", *files}
    listed = weights.read_list()
    for file in (listed[name], listed[name]["predictions"]):
        weights.check_file(shelf / file["file"], file)
    text = (shelf / "README.md").read_text()
    assert text == page(listed)
    part = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
    told = listed[name]
    facts = [
        told["sha256"],
        *WORDS.values(),
        f"train.py --cfg {name}.yaml`",
        "70 shapes",
        "20 shapes",
        "epoch",
    ]
    facts += [f"{100 * value:.2f} %" for value in (*told["score"].values(), *told["card"]["full"].values())]
    for fact in facts:
        assert fact in part, fact


@pytest.mark.parametrize("name", ROOTS)
def test_nothing_names_this_machine(name: str, place: Path, shelf: Path) -> None:
    with safe_open(shelf / f"{name}.safetensors", framework="pt") as file:
        texts = [str(file.metadata()), (shelf / "README.md").read_text(), weights.LIST.read_text()]
    for text in texts:
        assert str(place) not in text and place.name not in text and not MACHINE_PATH.search(text)


@pytest.mark.parametrize("name", ROOTS)
def test_weights_are_the_runs_in_half_precision(name: str, place: Path, shelf: Path) -> None:
    model, meta = load_checkpoint(name, "cpu")
    full, before = load_checkpoint(place / "runs" / name / "last", "cpu")
    kept = getattr(torch, weights.read_list()[name]["card"]["half"]["kept"])
    expected = full.state_dict()
    for key, value in model.state_dict().items():
        wanted = expected[key]
        assert torch.equal(value, wanted.to(kept).float() if wanted.is_floating_point() else wanted), key
    file, run = shelf / f"{name}.safetensors", place / "runs" / name / "last.safetensors"
    assert 0.4 < file.stat().st_size / run.stat().st_size < 0.9  # the description is as long as it was
    before["config"]["data"]["root"], before["config"]["run"]["dir"] = "data", "runs/unnamed"
    assert meta == before


@pytest.mark.parametrize("name", ROOTS)
def test_score_is_that_of_an_evaluation_by_name(name: str, place: Path, shelf: Path, tmp_path: Path) -> None:
    settings = [f"data.root={place / ROOTS[name]}"]
    scored = evaluate_checkpoint(name, overrides=settings, out=tmp_path)
    assert scored.seen.metrics == weights.read_list()[name]["score"]


@pytest.mark.parametrize("name", ROOTS)
def test_stored_slice_is_said_again(
    name: str, place: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, meta = load_checkpoint(name, "cpu")
    stored = read_slice(shelf / f"{name}.predictions.npz")
    count = stored["truth"].shape
    assert count == ((20,) if name == "tiny" else (20, 128)) and stored["of"] == 20
    found = ask_again(model, meta, place / ROOTS[name], stored, monkeypatch)
    assert set(found) | {"shapes"} == set(stored)
    np.testing.assert_allclose(found["distance"], stored["distance"], atol=1e-5)
    check_slice(stored, found)
    for value in model.parameters():
        value.data.add_(0.01 * torch.randn_like(value))
    with pytest.raises(AssertionError):
        check_slice(stored, ask_again(model, meta, place / ROOTS[name], stored, monkeypatch))


def test_slice_is_what_the_predictor_says(place: Path, shelf: Path) -> None:
    """Cloud by cloud, by another way through the data."""
    stored = read_slice(shelf / "tiny.predictions.npz")
    config = config_from(load_checkpoint("tiny", "cpu")[1]["config"], [f"data.root={place / 'data'}"])
    split = open_splits(config, CPU, ("test",))[0]["test"]
    model = bixt3d.load_model("tiny", "cpu")
    for row, shape in enumerate(stored["shapes"]):
        logits = model(split.points[shape][None])[0]
        assert int(split.label[shape]) == stored["truth"][row]
        np.testing.assert_allclose(logits.topk(2)[0].detach(), stored["highest"][row], atol=1e-5)
        assert int(logits.argmax()) == stored["labels"][row]


@pytest.mark.parametrize("name", ROOTS)
def test_the_type_that_changes_less_is_kept(name: str, place: Path, shelf: Path) -> None:
    half = weights.read_list()[name]["card"]["half"]
    other = {"float16": "bfloat16", "bfloat16": "float16"}[half["kept"]]
    assert half[half["kept"]]["logits"] <= half[other]["logits"]
    model, meta = load_checkpoint(place / "runs" / name / "last", "cpu")
    config = config_from(meta["config"])
    train = open_splits(config, CPU, ("train",))[0]["train"]
    part, task = train.select(spread(train)), build_task(config)
    task.set_facts(task.facts(train))
    exact, rounded = (answer(one, part, task)["logits"] for one in (model, bixt3d.load_model(name, "cpu")))
    seen = (rounded - exact)[torch.isfinite(exact)].abs().mean()
    assert half[half["kept"]]["logits"] == pytest.approx(float(seen), rel=1e-3)
    model.get_parameter("head.linear.bias").data[0] = 1e5  # more than float16 holds
    lost, held = (shipping.change(model, part, task, kind) for kind in (torch.float16, torch.bfloat16))
    assert lost["logits"] == np.inf and held["logits"] < np.inf
    assert halved(model, torch.float16).get_parameter("head.linear.bias").dtype == torch.float16
    assert model.get_parameter("head.linear.bias").dtype == torch.float32  # it is a copy


@pytest.mark.parametrize("fault", ["unfinished", "name", "text", "no text", "no log", "too large", "no data"])
def test_mistakes_leave_the_folder_as_it_was(
    fault: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out, name, root = tmp_path / "run", tmp_path / "out", "tiny", str(place / "data")
    options = ["--data", NOTE]
    shutil.copytree(place / "runs" / "tiny", run)
    shutil.copytree(place / "shelf", out)
    if fault == "unfinished":
        (run / "result.json").unlink()
        words = "expected a finished run, with result.json"
    elif fault == "name":
        name, words = "../Tiny", "--name: expected small letters, digits and _, got '../Tiny'"
    elif fault == "text":
        options, words = ["--data", "a | b"], "one line without |, got 'a | b'"
    elif fault == "no text":
        name, words = "other", "--purpose: expected what it is for, a line for the tables of weights"
    elif fault == "no log":
        options, words = ["--log", "results/nowhere"], "--log: expected a folder of the checkout, such as"
    elif fault == "too large":
        monkeypatch.setattr(shipping, "MOST_BYTES", 1000)
        words = "tiny: expected at most 1,000 bytes"
    else:
        (tmp_path / "empty").mkdir()
        config = json.loads(json.dumps(load_checkpoint(run / "last", "cpu")[1]))
        config["config"]["data"]["name"] = "modelnet40"
        save_model(run / "last.safetensors", bixt3d.load_model(run / "last", "cpu"), {**config})
        root, words = str(tmp_path / "empty"), "modelnet40_ply_hdf5_2048"
    before = contents(out)
    options = [str(run), "--name", name, *options, "--out", str(out), "--root", root, "--replace"]
    monkeypatch.setattr(sys, "argv", ["ship", *options])
    with pytest.raises(SystemExit, match="^error: ") as ended:
        main()
    assert words in str(ended.value) and "\n" not in str(ended.value)
    assert contents(out) == before


def test_shipping_again_replaces_the_entry(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(place / "shelf", out)
    options = [str(place / "runs" / "tiny"), "--name", "tiny", "--data", "Other words.", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["ship", *options])
    with pytest.raises(SystemExit, match="^error: --name: tiny ships already"):
        main()
    assert contents(out) == contents(place / "shelf")
    monkeypatch.setattr(sys, "argv", ["ship", *options, "--replace"])
    main()
    listed, before = (json.loads((folder / "weights.json").read_text()) for folder in (out, place / "shelf"))
    assert list(listed) == list(ROOTS) and listed["tiny_parts"] == before["tiny_parts"]
    words = {key: listed["tiny"]["card"][key] for key in WORDS}
    assert words == {**WORDS, "data": "Other words."}  # what is not said again stays
    assert listed["tiny"]["sha256"] == before["tiny"]["sha256"]
    assert (out / "README.md").read_text() == page(listed)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("tools/train_cls.py --cfg configs/a.yaml", "--cfg configs/a.yaml"),
        (f"{shipping.ROOT}/tools/train_cls.py --cfg {shipping.ROOT}/configs/a.yaml", "--cfg configs/a.yaml"),
        ("tools/train_cls.py --cfg /x/a.yaml --resume --set run.dir=/x/y", "--cfg a.yaml"),
        ("tools/train_cls.py --set data.root=/x --cfg a.yaml", "--cfg a.yaml"),
        (
            "tools/train_cls.py --cfg a.yaml --set data.root=/x train.seed=3 model.init_from=/x/b.pth",
            "--cfg a.yaml --set train.seed=3 model.init_from=b.pth",
        ),
    ],
)
def test_command_without_a_machines_paths(typed: str, expected: str) -> None:
    assert training_command(typed) == f"python tools/train_cls.py {expected}"


def test_command_of_the_verb() -> None:
    assert training_command("/x/bin/bixt3d train a --set run.dir=/x/y --resume") == "bixt3d train a"
    typed = "/x/bixt3d/__main__.py train /x/a.yaml --set train.seed=2"
    assert training_command(typed) == "bixt3d train a.yaml --set train.seed=2"
    meta: dict[str, Any] = {"format": 1, "config": {"data": {}, "run": {}, "model": {"init_from": None}}}
    assert portable(meta, "bixt3d train psb_cpu --set train.seed=2")["config"]["run"]["dir"] == "runs/psb_cpu"


def test_paths_of_a_description_are_those_of_the_experiments_file() -> None:
    config: dict[str, Any] = {
        "data": {"root": "/x/psb", "name": "shapenetpart"},
        "run": {"dir": "/x/runs/a", "tensorboard": True},
        "model": {"init_from": "/x/bixt.pth"},
    }
    meta = {"format": 1, "config": config, "classes": ["a"]}
    told = portable(meta, "python tools/seg_shapenetpart.py --cfg configs/psb_cpu.yaml")
    assert told == {
        "config": {
            "data": {"root": "data/psb_benchmark_v0_normal", "name": "shapenetpart"},
            "run": {"dir": "runs/psb_cpu", "tensorboard": True},
            "model": {"init_from": "bixt.pth"},
        },
        "classes": ["a"],
    }
    assert portable(meta, "python tools/x.py --cfg gone.yaml")["config"]["data"]["root"] == "data"
    assert config["data"]["root"] == "/x/psb"  # it is a copy
