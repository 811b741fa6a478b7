"""`bixt3d list`: what has a name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bixt3d
from bixt3d import cli
from bixt3d.datasets import list_datasets
from bixt3d.tasks import metric_titles
from bixt3d.training.weights import read_list


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    cli.main(["list", *words])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", bixt3d.list_models()),
        ("weights", bixt3d.list_weights()),
        ("configs", bixt3d.list_configs()),
        ("data", list_datasets()),
    ],
)
def test_every_name_has_a_line(what: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = lines(capsys, what)
    assert [line.split()[0] for line in said if line[0] != " "][: len(names)] == names
    assert all(len(line.split()) > 1 for line in said)
    assert max(map(len, said)) <= 80


def test_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    said = lines(capsys)
    assert [line for line in said if line.endswith(":")] == ["models:", "weights:", "configs:", "data:"]


def test_what_is_said_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert "14,794,408 parameters" in next(x for x in lines(capsys, "models") if x.startswith("bixt_ti_cls "))
    weights = lines(capsys, "weights")
    whole = re.sub(r"\n +", " ", "\n".join(weights)).splitlines()  # long ones go on in lines that are set in
    for line, (name, entry) in zip(whole, read_list().items(), strict=False):
        goal = "oa" if "oa" in entry["score"] else "class_miou_pointnet2"
        found = re.fullmatch(rf"{name} +(\w+.*) ([\d.]+)%; (.+)", line)
        assert found and found[1] == metric_titles()[goal] and entry["card"]["purpose"] == found[3]
        assert found[2] == f"{100 * entry['score'][goal]:.2f}"
    root = Path(bixt3d.__file__).parents[1]
    assert (
        weights[-1] == f"in {root / 'weights'}" and lines(capsys, "configs")[-1] == f"in {root / 'configs'}"
    )


def test_models_of_a_plugin(tmp_path: Path, registries: None, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("import bixt3d\nbixt3d.register_model('mine', dict)\n")
    said = lines(capsys, "models", "--plugin", str(tmp_path / "mine.py"))
    assert [line for line in said if line.startswith("mine ")][0].endswith(
        "registered by a plug-in, classification"
    )


def test_list_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["list", "modles"])
    assert end.value.code == 2 and "invalid choice: 'modles'" in capsys.readouterr().err
