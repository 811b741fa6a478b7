"""The weights that ship with the project, and how a name becomes a model.

A shipped model says of the stored slice what it said when it was shipped: every logit within `TOLERANCE`, and
every label whose two highest logits were farther apart than rounding can move them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import bixt3d
from benchmarks.ship import MOST_BYTES, SHAPES, TOLERANCE, page, predictions
from bixt3d.config import config_from
from bixt3d.datasets import Split, open_dataset
from bixt3d.models import create_model
from bixt3d.training import splits, weights
from bixt3d.training.checkpoint import find_checkpoint, load_checkpoint, save_model
from tests.markers import data_dir, needs_data
from tests.test_structure import MACHINE_PATH
from tests.training.tiny import CLASSES, HIERARCHY, awaken, make_split

Arrays = dict[str, np.ndarray[Any, Any]]
SHIPPED = bixt3d.list_weights()


def check_slice(stored: Arrays, found: Arrays) -> None:
    """Raise AssertionError unless a model says of the stored shapes what it said before."""
    np.testing.assert_array_equal(found["truth"], stored["truth"])
    np.testing.assert_allclose(found["highest"], stored["highest"], rtol=0, atol=TOLERANCE)
    clear = stored["highest"][..., 0] - stored["highest"][..., 1] > 2 * TOLERANCE
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found["labels"][clear], stored["labels"][clear])
    right, before = (int((one["labels"] == stored["truth"]).sum()) for one in (found, stored))
    assert abs(right - before) <= (~clear).sum()


def read_slice(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def ask_again(
    model: torch.nn.Module, meta: dict[str, Any], root: Path, stored: Arrays, monkeypatch: pytest.MonkeyPatch
) -> Arrays:
    """Open the shapes of the slice as an evaluation opens its split, and ask the model again."""
    sizes = []

    def open_some(*arguments: Any, **options: Any) -> Split:
        whole = open_dataset(*arguments, **options)
        sizes.append(len(whole))
        assert stored["shapes"].max() < len(whole)
        return whole.select(torch.from_numpy(stored["shapes"]))

    monkeypatch.setattr(splits, "open_dataset", open_some)
    config = config_from(meta["config"], [f"data.root={root}"])
    task = splits.build_task(config)
    part = splits.open_splits(config, torch.device("cpu"), ("test",), task=task)[0]["test"]
    task.set_facts(task.facts(part))
    return {**predictions(model, part, task), "of": np.array(sizes[0])}


# The shipped files


def test_files_are_those_of_the_list() -> None:
    listed = weights.read_list()
    names = {file["file"] for entry in listed.values() for file in (entry, entry["predictions"])}
    assert {path.name for path in weights.FOLDER.iterdir()} == {"README.md", *names}
    for name, entry in listed.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name) and entry["file"] == f"{name}.safetensors"
        assert entry["bytes"] <= MOST_BYTES
        for file in (entry, entry["predictions"]):
            weights.check_file(weights.FOLDER / file["file"], file)


def test_cards_are_those_of_the_list() -> None:
    assert (weights.FOLDER / "README.md").read_text() == page(weights.read_list())
    assert not MACHINE_PATH.search(weights.LIST.read_text())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_model_loads_by_name(name: str) -> None:
    with safe_open(find_checkpoint(name), framework="pt") as file:
        assert not MACHINE_PATH.search(str(file.metadata()))
    predictor, card = bixt3d.Predictor(name, "cpu"), weights.read_list()[name]["card"]
    assert {value.dtype for value in predictor.model.parameters()} == {torch.float32}
    assert sum(value.numel() for value in predictor.model.parameters()) == card["parameters"]
    stored = read_slice(weights.FOLDER / f"{name}.predictions.npz")
    assert len(stored["shapes"]) == min(SHAPES, stored["of"]) and stored["of"] == card["splits"]["test"]
    assert stored["truth"].shape == stored["labels"].shape == stored["highest"].shape[:-1]


@needs_data
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_model_says_what_it_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, meta = load_checkpoint(name, "cpu")
    stored = read_slice(weights.FOLDER / f"{name}.predictions.npz")
    root = real_data(meta["config"]["data"]["root"], tmp_path)
    found = ask_again(model, meta, root, stored, monkeypatch)
    if found["of"] != stored["of"] or not np.allclose(found["distance"], stored["distance"], atol=1e-3):
        pytest.skip(f"needs_data: other points than {name} was shipped with, as its card describes them")
    check_slice(stored, found)


def real_data(root: str, place: Path) -> Path:
    """Where the real data lie that a checkpoint calls data/..., unpacked where they are an archive."""
    import tarfile

    name = "" if root == "data" else Path(root).name
    archive = data_dir() / f"{name}.tar.xz"
    if not name or not archive.is_file():
        return data_dir() / name
    with tarfile.open(archive) as file:
        file.extractall(place, filter="data")
    return place / name


# A name becomes a model


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with one tiny model in half precision, listed as tiny_cpu."""
    torch.manual_seed(0)
    args = {"num_classes": 4, **HIERARCHY}
    model = create_model("bixt_ti_cls_hierarchy", **args).train()
    model(make_split(8).points)  # moves the statistics
    meta = {
        "model": {"name": "bixt_ti_cls_hierarchy", "args": args},
        "classes": list(CLASSES),
        "preprocess": {"num_points": 32, "order": "stored", "stored_points": 32},
    }
    path = tmp_path / "shelf" / "tiny_cpu.safetensors"
    save_model(path, awaken(model).half(), meta)
    stated = {"file": path.name, "bytes": path.stat().st_size, "sha256": weights.checksum(path)}
    (tmp_path / "list.json").write_text(json.dumps({"tiny_cpu": stated, "absent": {**stated, "file": "no"}}))
    monkeypatch.setattr(weights, "FOLDER", path.parent)
    monkeypatch.setattr(weights, "LIST", tmp_path / "list.json")
    monkeypatch.chdir(tmp_path)
    return path


def test_a_name_loads_its_file_in_float32(shelf: Path) -> None:
    assert bixt3d.list_weights() == ["absent", "tiny_cpu"]
    assert find_checkpoint("tiny_cpu") == find_checkpoint(Path("tiny_cpu")) == shelf
    model, held = bixt3d.load_model("tiny_cpu", "cpu"), load_file(shelf)
    for name, value in model.state_dict().items():
        half = value.is_floating_point()
        assert held[name].dtype == (torch.float16 if half else torch.int64)
        assert value.dtype == (torch.float32 if half else torch.int64)
        assert torch.equal(value, held[name].to(value.dtype))
    cloud = make_split(1).points[0]
    by_name, by_path = (bixt3d.Predictor(which, "cpu")(cloud) for which in ("tiny_cpu", shelf))
    assert by_name.label in CLASSES
    np.testing.assert_array_equal(by_name.probabilities, by_path.probabilities)


def test_paths_go_before_names(shelf: Path) -> None:
    other = Path("tiny_cpu.safetensors")
    other.write_bytes(shelf.read_bytes())
    assert find_checkpoint("tiny_cpu") == other
    other.unlink()
    Path("tiny_cpu").mkdir()  # of a run that has no weights yet
    assert find_checkpoint("tiny_cpu") == shelf
    (Path("tiny_cpu") / "last.safetensors").write_bytes(shelf.read_bytes())
    assert find_checkpoint("tiny_cpu") == Path("tiny_cpu/last.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint runs/tiny_cpu: looked for") as caught:
        find_checkpoint("runs/tiny_cpu")
    assert "names of weights" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiny_cpuu", "names of weights are absent, tiny_cpu; did you mean 'tiny_cpu'?"),
        ("zzz", "names of weights are absent, tiny_cpu"),
    ],
)
def test_unknown_name(name: str, words: str, shelf: Path) -> None:
    for load in (bixt3d.load_model, bixt3d.Predictor):
        with pytest.raises(FileNotFoundError, match=f"^no checkpoint {name}: .*{re.escape(words)}$"):
            load(name)


def test_file_that_is_not_here(shelf: Path) -> None:
    """As in an installed package."""
    sha256 = weights.checksum(shelf)
    with pytest.raises(FileNotFoundError, match=f"weights/no .*sha256 {sha256}.* from the project's repo"):
        bixt3d.load_model("absent")
    shelf.unlink()
    with pytest.raises(FileNotFoundError, match=r"weights/tiny_cpu\.safetensors"):
        bixt3d.Predictor("tiny_cpu")


@pytest.mark.parametrize("damage", ["one bit", "cut", "other weights"])
def test_damaged_file_is_not_read(damage: str, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(shelf.read_bytes())
    if damage == "one bit":
        content[-3] ^= 1
        shelf.write_bytes(content)
        elsewhere = shelf.parent.parent / "own.safetensors"
        elsewhere.write_bytes(content)
        bixt3d.load_model(elsewhere, "cpu")  # only the checksum can tell
    elif damage == "cut":
        shelf.write_bytes(content[:-1])
    else:
        with safe_open(shelf, framework="pt") as file:
            header = file.metadata()
        save_file({name: value * 0 for name, value in load_file(shelf).items()}, shelf, header)
    monkeypatch.setattr("bixt3d.training.checkpoint.read_checkpoint", lambda path: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"tiny_cpu\.safetensors is not the file that was shipped: it has"):
        bixt3d.load_model("tiny_cpu", "cpu")
    monkeypatch.chdir(shelf.parent)
    for path in ("tiny_cpu", shelf, shelf.with_suffix(""), "./tiny_cpu.safetensors"):
        with pytest.raises(ValueError, match="is not the file that was shipped"):
            bixt3d.load_model(path, "cpu")


# Types of what a file holds


@pytest.fixture
def own(shelf: Path, tmp_path: Path) -> Path:
    """A copy where nothing is listed."""
    path = tmp_path / "own" / shelf.name
    path.parent.mkdir()
    path.write_bytes(shelf.read_bytes())
    return path


def rewrite(path: Path, dtype: torch.dtype, change: dict[str, Any] | None = None, key: str = "") -> None:
    """Store the tensors of a file, whose names hold the key, as another type, under a changed description."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    state = {
        name: value.to(dtype) if key in name and value.is_floating_point() != (key == "tracked") else value
        for name, value in load_file(path).items()
    }
    about = {**json.loads(header["bixt3d"]), **(change or {})}
    save_file(state, path, {"bixt3d": json.dumps(about)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_kind_of_number_is_read_as_float32(dtype: torch.dtype, own: Path) -> None:
    rewrite(own, dtype)
    model = bixt3d.load_model(own, "cpu")
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "key"),
    [
        (torch.int8, ""),
        (torch.bool, "bias"),
        (torch.complex64, "weight"),
        (torch.float8_e4m3fn, ""),
        (torch.float32, "tracked"),
    ],
)
def test_other_types_are_refused(dtype: torch.dtype, key: str, own: Path) -> None:
    rewrite(own, dtype, key=key)
    with pytest.raises(ValueError, match=rf"tiny_cpu\.safetensors: expected .* in torch\..*, got {dtype}"):
        bixt3d.load_model(own, "cpu")


def test_number_beyond_float32_is_refused(own: Path) -> None:
    rewrite(own, torch.float64)
    state = load_file(own)
    state["head.linear.bias"][0] = 1e300
    with safe_open(own, framework="pt") as file:
        header = file.metadata()
    save_file(state, own, header)
    with pytest.raises(ValueError, match=r"head\.linear\.bias holds NaN or infinity"):
        bixt3d.load_model(own, "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "os.system", "args": {}}}, "cannot be built: unknown model 'os.system'"),
        ({"model": {"name": "bixt_ti_cls", "args": {**HIERARCHY, "dim": 2**40}}}, "cannot be built"),
        ({"model": {"name": "bixt_ti_cls", "args": {"depth": 10**9}}}, "cannot be built"),
        ({"classes": ["a", 3]}, "whole description"),
        ({"format": 99}, "expected a description of format 1, got format 99"),
    ],
)
def test_evil_description_of_half_precision_weights_is_refused(
    change: dict[str, Any], message: str, own: Path
) -> None:
    rewrite(own, torch.float16, change)
    with pytest.raises(ValueError, match=rf"tiny_cpu\.safetensors.*{message}"):
        bixt3d.load_model(own, "cpu")


# The check of the slice


def slice_of(highest: list[list[float]], labels: list[int]) -> Arrays:
    return {"highest": np.array(highest), "labels": np.array(labels), "truth": np.zeros(len(labels))}


def test_slice_that_differs_is_noticed() -> None:
    many = [[2.0, 1.0]] * 19
    before = slice_of([*many, [2.0, 2.0 - TOLERANCE]], [0] * 20)
    check_slice(before, slice_of([*many, [2.0 + TOLERANCE / 2, 2.0]], [0] * 19 + [1]))  # a tie
    for after in (
        slice_of([*many, [2.0, 2.0]], [1] + [0] * 19),
        slice_of([*many, [2.0, 2.0 - 3 * TOLERANCE]], [0] * 20),
        {**before, "truth": np.ones(20)},
        slice_of([*many, [np.nan, 2.0]], [0] * 20),
    ):
        with pytest.raises(AssertionError):
            check_slice(before, after)


def test_what_is_made_from_shipped_weights_lies_elsewhere(tmp_path: Path) -> None:
    assert weights.place_beside(weights.FOLDER / "some.safetensors") == Path("runs")
    assert weights.place_beside(tmp_path / "some.safetensors") == tmp_path
