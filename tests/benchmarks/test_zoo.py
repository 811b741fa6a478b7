"""The pages of shipped weights: they agree with the list, the measurements and the files that they name."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

import bixt3d
from benchmarks import zoo
from benchmarks.models import Spec, Work
from benchmarks.ship import MOST_BYTES
from benchmarks.zoo import BEGIN, CPU, END, ROOT, SPEED, config_of, page, replaced, summary, total_bytes
from bixt3d.training.weights import read_list


def cells(text: str) -> list[dict[str, str]]:
    """The rows of a page's first table, by its head."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_the_page_is_that_of_the_list() -> None:
    assert (ROOT / "docs/weights.md").read_text() == page(read_list(), ROOT)


def test_readme_has_the_table_of_the_list() -> None:
    readme = (ROOT / "README.md").read_text()
    assert replaced(readme, summary(read_list())) == readme


def test_all_weights_are_small_enough_to_travel() -> None:
    assert 0 < total_bytes(read_list()) <= MOST_BYTES


def test_what_the_page_names_is_there() -> None:
    rows = cells((ROOT / "docs/weights.md").read_text())
    assert [row["name"].strip("`") for row in rows] == bixt3d.list_weights()
    for row in rows:
        assert (ROOT / row["config"].strip("`")).is_file() and (ROOT / row["log"].strip("`")).is_dir()
        assert row["what it is for"] and float(row["GMAC"]) > 0
        model = bixt3d.load_model(row["name"].strip("`"), "cpu")
        assert row["parameters"] == f"{sum(value.numel() for value in model.parameters()):,}"


def row_of(name: str, text: str) -> dict[str, str]:
    return next(row for row in cells(text) if row["name"] == f"`{name}`")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout with a speed and an mCE of modelnet40_cpu."""
    (tmp_path / "results/c").mkdir(parents=True)
    entry, told = read_list()["modelnet40_cpu"], json.loads((ROOT / SPEED).read_text())
    spec, points = Spec.parse("modelnet40_cpu"), entry["card"]["preprocess"]["num_points"]
    row = {"model": "modelnet40_cpu", "name": spec.name, "args": spec.args, "num_points": points}
    row["clouds_per_second"] = 123.4
    others = [{**row, "num_points": 7}, {**row, "name": "another", "clouds_per_second": 5.0}]
    (tmp_path / SPEED).write_text(json.dumps({**told, "rows": [*others, row]}))
    model = {"name": "any", "sha256": entry["sha256"], "error": 0.98765}
    suite = {"suite": "modelnet-c", "shapes": 12, "command": "a command", "models": [model]}
    (tmp_path / "results/c/suite.json").write_text(json.dumps(suite))
    return tmp_path


def test_a_measurement_is_of_the_very_weights(place: Path) -> None:
    listed: Any = copy.deepcopy(read_list())
    listed["modelnet40_cpu"]["score"] = {"oa": 0.5, "macc": 0.25}
    text = page(listed, place)
    row, other = row_of("modelnet40_cpu", text), row_of("psb_cpu", text)
    assert (row["score, %"], row["mCE"], row["clouds/s"]) == ("OA 50.00, mAcc 25.00", "0.988", "123")
    assert "on 12 test shapes by `a command`" in text and (other["mCE"], other["clouds/s"]) == ("", "")
    listed["modelnet40_cpu"]["sha256"] = "of another file"
    told = json.loads((place / SPEED).read_text())
    for measured in told["rows"]:
        measured["args"]["dim"] = 7  # of another network
    (place / SPEED).write_text(json.dumps(told))
    text = page(listed, place)
    row = row_of("modelnet40_cpu", text)
    assert (row["mCE"], row["clouds/s"]) == ("", "") and "a command" not in text


def test_readme_without_marks() -> None:
    assert replaced(f"a\n{BEGIN}old{END}b", "new\n") == f"a\n{BEGIN}\nnew\n\n{END}b"
    with pytest.raises(ValueError, match="README.md: expected the marks"):
        replaced("a", "new")


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("python tools/train_cls.py --cfg configs/a.yaml --set x=1", "configs/a.yaml"),
        ("bixt3d train a --set x=1", "configs/a.yaml"),
        ("bixt3d train mine/a.yaml", "mine/a.yaml"),
        ("bixt3d train runs/a --resume", ""),
        ("python my_program.py", ""),
    ],
)
def test_config_of_a_command(command: str, config: str) -> None:
    assert config_of(command) == config


@pytest.mark.parametrize("name", bixt3d.list_weights())
def test_shipped_names_stand_for_their_network(name: str) -> None:
    spec = Spec.parse(f"{name}:threads=1")
    shipped = bixt3d.load_model(name, "cpu")
    assert {key: value.shape for key, value in spec.build().state_dict().items()} == {
        key: value.shape for key, value in shipped.state_dict().items()
    }
    assert spec.ways == {"threads": 1} and spec.name == read_list()[name]["card"]["model"]
    assert Spec.parse(f"{name}:num_latents=3").args["num_latents"] == 3
    points = read_list()[name]["card"]["preprocess"]["num_points"]
    work = Work(spec, "training", "float32", points, 2, CPU)  # with categories and parts of its own
    work.run()
    assert work.steps == 1


def test_every_page_with_the_marks_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / SPEED).write_text((ROOT / SPEED).read_text())
    (tmp_path / "README.md").write_text(f"Above.\n{BEGIN}{END}Below.\n")
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    zoo.write()
    assert (tmp_path / "README.md").read_text() == f"Above.\n{BEGIN}\n{summary(read_list())}\n{END}Below.\n"
    found = re.findall(r"^\| `(\w+)`", (tmp_path / "docs/weights.md").read_text(), re.MULTILINE)
    assert found == bixt3d.list_weights()
